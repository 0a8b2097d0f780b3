r"""Train a segmentation model and measure it on held-out images.

    python examples/segmentation.py --out run
    python examples/segmentation.py --data ade20k --root ADEChallengeData2016 --captions ade20k.db \
        --schedule ade20k-8k --model stable-diffusion-v1-5/stable-diffusion-v1-5 \
        --captioner blip2 --mixed-precision bf16 --micro-batch 4 --workers 8 --out run
    python -m torch.distributed.run --nproc_per_node 2 examples/segmentation.py --out run

The first command trains tadp-tiny on rendered scenes. The folder OUT receives metrics.jsonl, checkpoints (call again to
continue), the model with its model card, predictions.png and result.json.
"""

from training.options import read_options, run
from training.session import train_and_report

from tadp import datasets
from tadp.datasets.readers.named import SCENE_SEEDS
from tadp.trainer.run_data import scenes
from tadp.trainer.trained_task import SegmentationTraining

TASK = SegmentationTraining()
SCENES = TASK.recipes["scenes"].schedule
DATA = ("scenes", "voc", "ade20k", "cityscapes")


def open_data(options):
    """Two functions that open the training data and the held-out data with given captions."""
    on_error = "skip" if options.skip_broken else "raise"
    if options.data == "scenes":
        counts = {"train": options.train_scenes, "test": options.held_out_scenes}
        return tuple(scenes(count, seed=SCENE_SEEDS[split]) for split, count in counts.items())
    kind, train, held_out = {
        "voc": (datasets.PascalVOC, "trainaug", "val"),
        "ade20k": (datasets.ADE20K, "training", "validation"),
        "cityscapes": (datasets.Cityscapes, "train", "val"),
    }[options.data]
    return (
        lambda captions: kind(options.root, split=train, captions=captions, on_error=on_error),
        lambda captions: kind(options.root, split=held_out, captions=captions),
    )


def main() -> None:
    options = read_options(__doc__, data=DATA, scenes=SCENES)
    train_and_report(TASK, open_data(options), options)


if __name__ == "__main__":
    run(main)
