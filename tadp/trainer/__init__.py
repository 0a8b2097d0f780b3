"""Train a model on a data set of your own: from the labelled images to a measured model, in one call.

    run = train("segmentation", data="export", output="run", captioner="blip2", steps=600)
    run.figures, run.report  # figures on the held-out images, and the path of report.md
    run.model.predict("photo.jpg")

The command `tadp train` does the same. Needs the extra `train`.

Every name of this package is imported when it is first used, which also imports torch. `TrainOptions` does not need
torch.
"""

from typing import TYPE_CHECKING

from tadp._lazy import lazy

if TYPE_CHECKING:
    from tadp.trainer.dry_run import Estimate as Estimate
    from tadp.trainer.dry_run import estimate as estimate
    from tadp.trainer.encoded_data import EncodedData as EncodedData
    from tadp.trainer.train_options import TrainOptions as TrainOptions
    from tadp.trainer.training_run import TrainingRun as TrainingRun
    from tadp.trainer.training_run import train as train

_HOMES = {
    "EncodedData": "encoded_data",
    "Estimate": "dry_run",
    "TrainOptions": "train_options",
    "TrainingRun": "training_run",
    "estimate": "dry_run",
    "train": "training_run",
}
__all__ = ["EncodedData", "Estimate", "TrainOptions", "TrainingRun", "estimate", "train"]
__getattr__, __dir__ = lazy(__name__, _HOMES, names=__all__)
