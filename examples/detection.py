r"""Train a detector and measure it on held-out images. Needs pip install 'tadp[detection,train]'.

    python examples/detection.py --out run
    python examples/detection.py --data voc --root VOCdevkit --captions voc.db --schedule voc-detection-10-epochs \
        --model stable-diffusion-v1-5/stable-diffusion-v1-5 --captioner blip2 \
        --mixed-precision bf16 --workers 8 --out run
    python -m torch.distributed.run --nproc_per_node 2 examples/detection.py --out run

The first command trains tadp-tiny on rendered scenes. The folder OUT receives metrics.jsonl, checkpoints (call again to
continue), the model with its model card, predictions.png and result.json.
"""

import time
from functools import partial

import torch
from training.data import HELD_OUT_SEED, TRAIN_SEED, Joined, captioner_of, scenes, with_captions
from training.loop import fit
from training.model import load_backbone, training_data
from training.options import read_options, run, start
from training.report import compare, finish, merge, share
from training.text_options import fit_length, prompted

from tadp.datasets import PascalVOCDetection, RandomFlip, Resize
from tadp.drawing import box_picture
from tadp.images.boxes import Boxes, Detections
from tadp.metrics import VOCDetection
from tadp.tasks import TADPForObjectDetection
from tadp.training.schedules import Schedule

SCENES = Schedule(steps=300, batch=8, lr=2e-3, warmup_steps=50)
SCENES_HEAD = {"channels": 32, "hidden_channels": 128}  # the paper's 256 and 1024 are for a backbone 10 times as wide
IMAGE_PX = 512
AUGMENTATION = {"scenes": [RandomFlip()], "voc": [Resize((IMAGE_PX, IMAGE_PX))]}


def open_data(options):
    """Two functions that open the training data and the held-out data with given captions."""
    if options.data == "scenes":
        return scenes(options.train_scenes, seed=TRAIN_SEED), scenes(options.held_out_scenes, seed=HELD_OUT_SEED)
    on_error = "skip" if options.skip_broken else "raise"

    def train(captions):
        return Joined(
            [
                PascalVOCDetection(options.root / year, split="trainval", captions=captions, on_error=on_error)
                for year in ("VOC2012", "VOC2007")
            ]
        )

    return train, lambda captions: PascalVOCDetection(options.root / "VOC2007", split="test", captions=captions)


def build_model(backbone, class_names, options):
    names = prompted(class_names, options)
    model = TADPForObjectDetection(
        fit_length(backbone, names, options),
        class_names=class_names,
        head_options=options.head_options or (SCENES_HEAD if options.data == "scenes" else {}),
        prompt_mode=options.text,
        prompt_classes=names,
        tune=options.tune,
        image_px=128 if options.data == "scenes" else IMAGE_PX,
    )
    model.captioner_name = captioner_of(options)
    return model


def loss(model, part):
    return model(**part.inputs, boxes=part.batch.boxes).loss


def score(model, data, *, options, accelerator):
    metric = VOCDetection(model.class_names, rule="voc07")
    return figures(compare(model, metric, data, options=options, accelerator=accelerator))


def score_random(train, data, *, options, accelerator):
    """The score of predicting the boxes of a random training image, with random confidences."""
    metric = VOCDetection(train.box_class_names, rule="voc07")
    generator = torch.Generator().manual_seed(options.seed + accelerator.process_index)
    for sample in share(data, accelerator, most=options.evaluate_images):
        boxes = train[int(torch.randint(len(train), (), generator=generator))].boxes
        predicted = Detections(boxes.boxes, boxes.labels, torch.rand(len(boxes), generator=generator))
        metric.update([predicted], [sample.boxes])
    return figures(merge(metric).compute())


def figures(result):
    return {"mAP50": result.map50}


def picture_rows(model, data, *, count):
    """Image, ground truth and prediction for the first samples."""
    nothing = Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    return [
        [
            box_picture(sample.image, nothing, model.class_names),
            box_picture(sample.image, sample.boxes, model.class_names),
            model.predict(sample.image, model.text.of_sample(sample)).plot(),
        ]
        for sample in (data[index] for index in range(min(count, len(data))))
    ]


def main() -> None:
    started = time.perf_counter()
    options = read_options(__doc__, data=AUGMENTATION, scenes=SCENES)
    accelerator = start(options)
    train, held_out = with_captions(open_data(options), options, accelerator)

    model = build_model(load_backbone(options, accelerator), train.box_class_names, options)
    scored = partial(score, data=held_out, options=options, accelerator=accelerator)
    model = fit(
        model,
        training_data(model, train, AUGMENTATION[options.data], options, accelerator),
        loss=loss,
        evaluate=scored,
        options=options,
        accelerator=accelerator,
    )

    finish(
        model,
        figures=scored(model),
        baselines={"boxes of a random image": score_random(train, held_out, options=options, accelerator=accelerator)},
        pictures=picture_rows(model, held_out, count=options.sheet),
        train=train,
        held_out=held_out,
        started=started,
        options=options,
        accelerator=accelerator,
    )


if __name__ == "__main__":
    run(main)
