"""The data sets of a study, and their augmentation."""

from tadp import datasets

from .settings import Settings

TRAIN_SEED, TEST_SEED = 101, 102  # for rendered scenes; tadp-tiny was trained on seed 0 and selected on seed 1


def open_data(settings: Settings, split: str):
    """The training or test images: rendered scenes, or a data set of the paper."""
    if settings.data == "scenes":
        count, seed = (settings.train, TRAIN_SEED) if split == "train" else (settings.test, TEST_SEED)
        return datasets.RenderedScenes(count or 1000, seed)
    if settings.root is None:
        raise ValueError(f"{settings.data} needs the folder of the data set: root.")
    kind, train, test = {
        "voc": (datasets.PascalVOC, "trainaug", "val"),
        "ade20k": (datasets.ADE20K, "training", "validation"),
        "nyu": (datasets.NYUDepthV2, "train", "test"),
    }[settings.data]
    return kind(settings.root, split=train if split == "train" else test)


def augmentation(settings: Settings) -> list:
    """The paper's transforms for training images."""
    crop = datasets.RandomCrop(settings.crop_px)
    if settings.data == "nyu":
        return [datasets.RandomFlip(), crop]
    resize = datasets.RandomResize((0.5, 2.0), **({"size": 512, "longest": 2048} if settings.data == "ade20k" else {}))
    return [resize, crop, datasets.RandomFlip(), datasets.PadTo(settings.crop_px)]
