r"""Train a detector and measure it on held-out images. Needs pip install 'tadp[detection,train]'.

    python examples/detection.py --out run
    python examples/detection.py --data voc --root VOCdevkit --captions voc.db --schedule voc-detection-10-epochs \
        --model stable-diffusion-v1-5/stable-diffusion-v1-5 --captioner blip2 \
        --mixed-precision bf16 --workers 8 --out run
    python -m torch.distributed.run --nproc_per_node 2 examples/detection.py --out run

The first command trains tadp-tiny on rendered scenes. The folder OUT receives metrics.jsonl, checkpoints (call again to
continue), the model with its model card, predictions.png and result.json.
"""

from torch.utils.data import ConcatDataset
from training.options import read_options, run
from training.session import train_and_report

from tadp.datasets import PascalVOCDetection
from tadp.datasets.readers.named import SCENE_SEEDS
from tadp.trainer.run_data import scenes
from tadp.trainer.trained_task import DetectionTraining

TASK = DetectionTraining()
SCENES = TASK.recipes["scenes"].schedule
DATA = ("scenes", "voc")


class Joined(ConcatDataset):
    """Several data sets with the same classes, joined."""

    def __init__(self, parts):
        super().__init__(parts)
        self.class_names = self.box_class_names = parts[0].class_names
        self.image_ids = [image_id for part in parts for image_id in part.image_ids]
        self.image_paths = {image_id: path for part in parts for image_id, path in part.image_paths.items()}


def open_data(options):
    """Two functions that open the training data and the held-out data with given captions."""
    if options.data == "scenes":
        counts = {"train": options.train_scenes, "test": options.held_out_scenes}
        return tuple(scenes(count, seed=SCENE_SEEDS[split]) for split, count in counts.items())
    on_error = "skip" if options.skip_broken else "raise"

    def train(captions):
        return Joined(
            [
                PascalVOCDetection(options.root / year, split="trainval", captions=captions, on_error=on_error)
                for year in ("VOC2012", "VOC2007")
            ]
        )

    return train, lambda captions: PascalVOCDetection(options.root / "VOC2007", split="test", captions=captions)


def main() -> None:
    options = read_options(__doc__, data=DATA, scenes=SCENES)
    train_and_report(TASK, open_data(options), options)


if __name__ == "__main__":
    run(main)
