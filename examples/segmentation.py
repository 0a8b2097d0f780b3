r"""Train a segmentation model and measure it on held-out images.

    python examples/segmentation.py --out run
    python examples/segmentation.py --data ade20k --root ADEChallengeData2016 --captions ade20k.db \
        --schedule ade20k-8k --model stable-diffusion-v1-5/stable-diffusion-v1-5 \
        --captioner blip2 --mixed-precision bf16 --micro-batch 4 --workers 8 --out run
    python -m torch.distributed.run --nproc_per_node 2 examples/segmentation.py --out run

The first command trains tadp-tiny on rendered scenes. The folder OUT receives metrics.jsonl, checkpoints (call again to
continue), the model with its model card, predictions.png and result.json.
"""

import time
from functools import partial

import torch
from training.data import HELD_OUT_SEED, TRAIN_SEED, captioner_of, largest_class, scenes, with_captions
from training.loop import fit
from training.model import load_backbone, training_data
from training.options import read_options, run, start
from training.report import compare, enlarge, finish, merge, share
from training.text_options import fit_length, prompted

from tadp import datasets
from tadp.datasets import PadTo, PhotometricDistortion, RandomCrop, RandomFlip, RandomResize, Resize
from tadp.drawing import class_picture
from tadp.metrics import MeanIoU
from tadp.tasks import TADPForSemanticSegmentation
from tadp.training.schedules import Schedule

SCENES = Schedule(steps=600, batch=16, lr=2e-3, warmup_steps=50)
SCENES_HEAD = {"fpn_channels": 64, "channels": 64}  # the paper's 256 channels are for a backbone 10 times as wide
CROP_PX = 512
CROP = [RandomCrop(CROP_PX, cat_max_ratio=0.75), RandomFlip(), PhotometricDistortion(), PadTo(CROP_PX)]
AUGMENTATION = {
    "scenes": [RandomFlip()],
    "voc": [RandomResize((0.5, 2.0)), *CROP],
    "ade20k": [RandomResize((0.5, 2.0), size=512, longest=2048), *CROP],
    "cityscapes": [Resize(720, longest=1280), *CROP],
}
SHORT_SIDE_PX = {"ade20k": 512, "cityscapes": 512}  # of test images


def open_data(options):
    """Two functions that open the training data and the held-out data with given captions."""
    on_error = "skip" if options.skip_broken else "raise"
    if options.data == "scenes":
        return scenes(options.train_scenes, seed=TRAIN_SEED), scenes(options.held_out_scenes, seed=HELD_OUT_SEED)
    kind, train, held_out = {
        "voc": (datasets.PascalVOC, "trainaug", "val"),
        "ade20k": (datasets.ADE20K, "training", "validation"),
        "cityscapes": (datasets.Cityscapes, "train", "val"),
    }[options.data]
    return (
        lambda captions: kind(options.root, split=train, captions=captions, on_error=on_error),
        lambda captions: kind(options.root, split=held_out, captions=captions),
    )


def build_model(backbone, class_names, options):
    names = prompted(class_names, options)
    model = TADPForSemanticSegmentation(
        fit_length(backbone, names, options),
        class_names=class_names,
        head="smp_fpn" if options.data == "voc" else "fpn",  # as in the released code
        head_options=options.head_options or (SCENES_HEAD if options.data == "scenes" else {}),
        prompt_mode=options.text,
        prompt_classes=names,
        tune=options.tune,
        loss="focal" if options.data == "voc" else "cross_entropy",  # as in the released code
        window_px=128 if options.data == "scenes" else CROP_PX,
    )
    model.captioner_name = captioner_of(options)
    return model


def predict_options(options):
    return {"flip": options.flip_test, "short_side_px": SHORT_SIDE_PX.get(options.data)}


def loss(model, part):
    return model(**part.inputs, masks=part.batch.masks).loss


def labelled_pixels(batch):
    return int((batch.masks != datasets.IGNORE_LABEL).sum())


def score(model, data, *, options, accelerator):
    metric = MeanIoU(len(model.class_names), class_names=model.class_names)
    test = predict_options(options)
    return figures(compare(model, metric, data, options=options, accelerator=accelerator, **test))


def score_constant(label, data, *, class_names, options, accelerator):
    """The score of predicting the same class everywhere."""
    metric = MeanIoU(len(class_names), class_names=class_names)
    for sample in share(data, accelerator, most=options.evaluate_images):
        mask = torch.from_numpy(sample.mask)[None]
        metric.update(torch.full_like(mask, label), mask)
    return figures(merge(metric).compute())


def figures(result):
    return {"mIoU": result.miou, "pixel accuracy": result.pixel_accuracy}


def picture_rows(model, data, *, count, **test):
    """Image, ground truth and prediction for the first samples."""
    return [
        [
            enlarge(sample.image),
            class_picture(sample.image, torch.from_numpy(sample.mask), model.class_names),
            model.predict(sample.image, model.text.of_sample(sample), **test).plot(),
        ]
        for sample in (data[index] for index in range(min(count, len(data))))
    ]


def main() -> None:
    started = time.perf_counter()
    options = read_options(__doc__, data=AUGMENTATION, scenes=SCENES)
    accelerator = start(options)
    train, held_out = with_captions(open_data(options), options, accelerator)

    together = {"options": options, "accelerator": accelerator}
    model = build_model(load_backbone(**together), train.class_names, options)
    scored = partial(score, data=held_out, **together)
    augmented = training_data(model, train, AUGMENTATION[options.data], **together)
    model = fit(model, augmented, loss=loss, weight=labelled_pixels, evaluate=scored, **together)

    constant = largest_class(train, len(train.class_names))
    trivial = score_constant(constant, held_out, class_names=train.class_names, **together)
    finish(
        model,
        figures=scored(model),
        baselines={f"{train.class_names[constant]} everywhere": trivial},
        pictures=picture_rows(model, held_out, count=options.sheet, **predict_options(options)),
        train=train,
        held_out=held_out,
        started=started,
        **together,
    )


if __name__ == "__main__":
    run(main)
