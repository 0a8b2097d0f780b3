r"""Train a depth model and measure it on held-out images.

    python examples/depth.py --out run
    python examples/depth.py --data nyu --root nyu_depth_v2 --captions nyu.db --schedule nyu-25-epochs --flip-test \
        --model stable-diffusion-v1-5/stable-diffusion-v1-5 --captioner blip2 \
        --mixed-precision bf16 --micro-batch 3 --workers 8 --out run
    python -m torch.distributed.run --nproc_per_node 2 examples/depth.py --out run

The first command trains tadp-tiny on rendered scenes. The folder OUT receives metrics.jsonl, checkpoints (call again to
continue), the model with its model card, predictions.png and result.json.
"""

import time
from functools import partial

import torch
from training.data import HELD_OUT_SEED, TRAIN_SEED, captioner_of, mean_depths, scenes, with_captions
from training.loop import fit
from training.model import load_backbone, training_data
from training.options import read_options, run, start
from training.report import compare, enlarge, finish, merge, share

from tadp.datasets import (
    BrightnessContrast,
    CutDepth,
    Gamma,
    HueSaturationValue,
    NYUDepthV2,
    RandomCrop,
    RandomFlip,
)
from tadp.datasets.scenes import MAX_DEPTH_M
from tadp.drawing import depth_picture
from tadp.metrics import DepthMetrics
from tadp.tasks import TADPForDepthEstimation
from tadp.training.schedules import Schedule

SCENES = Schedule(steps=400, batch=16, lr=2e-3, warmup_steps=50)
SCENES_HEAD = {"channels": 16}  # the paper's 192 channels are for a backbone 10 times as wide
CROP_PX = 480
AUGMENTATION = {
    "scenes": [RandomFlip()],
    "nyu": [CutDepth(), RandomFlip(), RandomCrop(CROP_PX), BrightnessContrast(), Gamma(), HueSaturationValue()],
}


def open_data(options):
    """Two functions that open the training data and the held-out data with given captions."""
    if options.data == "scenes":
        return scenes(options.train_scenes, seed=TRAIN_SEED), scenes(options.held_out_scenes, seed=HELD_OUT_SEED)
    on_error = "skip" if options.skip_broken else "raise"
    return (
        lambda captions: NYUDepthV2(options.root, split="train", captions=captions, on_error=on_error),
        lambda captions: NYUDepthV2(options.root, split="test", captions=captions),
    )


def loss(model, part, *, own_class):
    inputs = part.inputs | ({"text": part.batch.rooms} if own_class else {})
    return model(**inputs, depth_m=part.batch.depth_m).loss


def score(model, data, *, test, options, accelerator):
    """The metrics, averaged over images. The sky of rendered scenes, at the maximum depth, is ignored."""
    metric = new_metric(model.max_depth_m, options)
    return figures(compare(model, metric, data, options=options, accelerator=accelerator, **test))


def score_fixed(depth_m, data, *, max_depth_m, options, accelerator):
    """The score of predicting the same depth, or the same depth map, for every image."""
    metric = new_metric(max_depth_m, options)
    for sample in share(data, accelerator, most=options.evaluate_images):
        truth = torch.from_numpy(sample.depth_m)[None]
        metric.update(torch.as_tensor(depth_m, dtype=torch.float32).expand_as(truth), truth)
    return figures(merge(metric).compute())


def new_metric(max_depth_m, options):
    return DepthMetrics(max_depth_m=max_depth_m, crop="eigen" if options.data == "nyu" else None)


def figures(result):
    return {"RMSE (m)": result.rmse, "REL": result.abs_rel, "log10": result.log10, "d1": result.d1}


def main() -> None:
    started = time.perf_counter()
    options = read_options(__doc__, data=AUGMENTATION, scenes=SCENES)
    accelerator = start(options)
    train, held_out = with_captions(open_data(options), options, accelerator)

    max_depth_m = MAX_DEPTH_M if options.data == "scenes" else 10.0
    model = TADPForDepthEstimation(
        load_backbone(options, accelerator, attach_attention=()),  # as in the paper
        max_depth_m=max_depth_m,
        head_options=options.head_options or (SCENES_HEAD if options.data == "scenes" else {}),
        prompt_mode=options.text,
        prompt_classes=train.room_names,
        own_class=options.own_class,
        tune=options.tune,
        window_px=128 if options.data == "scenes" else CROP_PX,
    )
    model.captioner_name = captioner_of(options)
    test = {"flip": options.flip_test}
    scored = partial(score, data=held_out, test=test, options=options, accelerator=accelerator)
    model = fit(
        model,
        training_data(model, train, AUGMENTATION[options.data], options, accelerator),
        loss=partial(loss, own_class=options.own_class),
        evaluate=scored,
        options=options,
        accelerator=accelerator,
    )

    mean, each_pixel = mean_depths(train, farthest_m=max_depth_m)
    trivial = {"mean depth": mean} | ({} if each_pixel is None else {"mean of each pixel": each_pixel})
    fixed = partial(score_fixed, data=held_out, max_depth_m=max_depth_m, options=options, accelerator=accelerator)
    pictures = [
        [
            enlarge(sample.image),
            depth_picture(torch.from_numpy(sample.depth_m)),
            model.predict(sample.image, model.text.of_sample(sample), **test).plot(),
        ]
        for sample in (held_out[index] for index in range(min(options.sheet, len(held_out))))
    ]
    finish(
        model,
        figures=scored(model),
        baselines={name: fixed(depth_m) for name, depth_m in trivial.items()},
        pictures=pictures,
        train=train,
        held_out=held_out,
        started=started,
        options=options,
        accelerator=accelerator,
    )


if __name__ == "__main__":
    run(main)
