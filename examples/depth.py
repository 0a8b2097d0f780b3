r"""Train a depth model and measure it on held-out images.

    python examples/depth.py --out run
    python examples/depth.py --data nyu --root nyu_depth_v2 --captions nyu.db --schedule nyu-25-epochs --flip-test \
        --model stable-diffusion-v1-5/stable-diffusion-v1-5 --captioner blip2 \
        --mixed-precision bf16 --micro-batch 3 --workers 8 --out run
    python -m torch.distributed.run --nproc_per_node 2 examples/depth.py --out run

The first command trains tadp-tiny on rendered scenes. The folder OUT receives metrics.jsonl, checkpoints (call again to
continue), the model with its model card, predictions.png and result.json.
"""

from training.options import read_options, run
from training.session import train_and_report

from tadp.datasets import NYUDepthV2
from tadp.datasets.readers.named import SCENE_SEEDS
from tadp.trainer.run_data import scenes
from tadp.trainer.trained_task import DepthTraining

TASK = DepthTraining()
SCENES = TASK.recipes["scenes"].schedule
DATA = ("scenes", "nyu")


def open_data(options):
    """Two functions that open the training data and the held-out data with given captions."""
    if options.data == "scenes":
        counts = {"train": options.train_scenes, "test": options.held_out_scenes}
        return tuple(scenes(count, seed=SCENE_SEEDS[split]) for split, count in counts.items())
    on_error = "skip" if options.skip_broken else "raise"
    return (
        lambda captions: NYUDepthV2(options.root, split="train", captions=captions, on_error=on_error),
        lambda captions: NYUDepthV2(options.root, split="test", captions=captions),
    )


def main() -> None:
    options = read_options(__doc__, data=DATA, scenes=SCENES)
    train_and_report(TASK, open_data(options), options)


if __name__ == "__main__":
    run(main)
