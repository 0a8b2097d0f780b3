"""Names that are not UTF-8, links that lead nowhere or elsewhere, and formats that are not read."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageOps

from .cases import Kind, family, tadp
from .fixtures import copy, described, features, predicted

ODD = "caf\udce9"  # a byte that is not UTF-8
NOT_UTF8 = "is not UTF-8"


def in_odd_folder(name: str, read: Callable[[Path], Any], folder: Path, rng: Random) -> Any:
    return read(copy(name, folder).rename(folder / ODD))


def write_odd(command: tuple[str, ...], inputs: tuple[str, ...], folder: Path, rng: Random) -> bool:
    """Run a command twice whose output, or input, has a name that is not UTF-8."""
    for name in inputs:
        copy(name, folder)
    for path in folder.glob("**/0.png"):
        path.rename(path.with_name(f"{ODD}.png"))
    outputs = [tadp(*command) for _ in (1, 2)]
    return all(outputs)


def _modifier(path: Path) -> Any:
    from tadp import CaptionModifier

    return CaptionModifier.from_pretrained(path)


def _lora(path: Path) -> Any:
    from .fixtures import fixture

    return features(fixture("sd"), lora=path)


@family("names that are not UTF-8")
def odd_names() -> Iterator[Kind]:
    for name, read in (
        ("sd", features), ("saved", features), ("blip", described), ("segmentation", predicted),
        ("modifier", _modifier), ("lora", _lora),
    ):  # fmt: skip
        yield Kind(f"folder of {name}", partial(in_odd_folder, name, read), names=NOT_UTF8)
    tune = ("--steps", "2", "--batch-size", "1", "--side-px", "64", "-m", "sd")
    for name, words, inputs in (
        ("tadp convert", ("convert", "vpd.pth", "-o", ODD, "--base-model", "sd"), ("vpd.pth", "sd")),
        ("tadp personalize", ("personalize", "dreambooth", "photos", "--lora-rank", "2", "-o", ODD, *tune),
         ("photos", "sd")),
        ("tadp train", ("train", "segmentation", "--data", "labelled", "-o", ODD, "--model", "sd"), ("labelled", "sd")),
    ):  # fmt: skip
        yield Kind(f"output of {name}", partial(write_odd, words, inputs), names=NOT_UTF8, seconds=30)
    for name, words, inputs in (
        ("extract", ("extract", "photos", "-o", ODD, "--caption", "a"), ("photos",)),
        ("data", ("data", "labelled", "-o", ODD), ("labelled",)),
        ("caption to .db", ("caption", "photos", "-o", f"{ODD}.db"), ("photos",)),
        ("caption to .parquet", ("caption", "photos", "-o", f"{ODD}.parquet", "--overwrite"), ("photos",)),
        ("show", ("show", "photos/photo-0.png", "--caption", "a dog", "-o", f"{ODD}.png"), ("photos",)),
    ):  # fmt: skip
        yield Kind(f"output of tadp {name}", partial(write_odd, words, inputs), right=bool, seconds=30)


def linked(link: str, target: str, read: Callable[[Path], Any], folder: Path, rng: Random) -> Any:
    """Read a data set of masks in which one entry is a link."""
    copy("labelled", folder)
    (folder / "labelled" / link).symlink_to(target)
    return read(folder / "labelled")


def _open(path: Path) -> list[Any]:
    from tadp import datasets

    return list(datasets.open(path))


def _inspect(path: Path) -> Any:
    from tadp.inspection import inspect

    return inspect(path, cache_dir=path.parent / "kept")


def links_to_each_other(read: Callable[[Path], Any], folder: Path, rng: Random) -> Any:
    images = copy("labelled", folder) / "images"
    for number in range(12):
        (images / str(number)).mkdir()
        for other in range(12):
            (images / str(number) / f"to-{other}").symlink_to(images / str(other))
    return read(images.parent)


def coco_outside(name: str, folder: Path, rng: Random) -> Any:
    images = copy("labelled", folder) / "images"
    Image.new("RGB", (36, 24)).save(folder / "private.png")
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
    content = {"images": [{"id": 1, "file_name": name}], "annotations": [row], "categories": [{"id": 1, "name": "x"}]}
    (images / "instances.json").write_text(json.dumps(content))
    return _open(images)


def another_partial_folder(entry: str, folder: Path, rng: Random) -> bool:
    """Load a model next to a complete partial folder with a link; whether what it leads to is still there."""
    model, elsewhere = copy("modifier", folder), folder / "elsewhere"
    (elsewhere / entry).mkdir(parents=True)
    (elsewhere / entry / "modifier.json").write_text("mine")
    partial_folder = model / ".part-tadp-01234567.1.2-abc"
    partial_folder.mkdir()
    (partial_folder / "complete").touch()
    (partial_folder / entry).symlink_to(elsewhere / entry)
    _modifier(model)
    return (elsewhere / entry / "modifier.json").read_text() == "mine"


def card_picture(form: str, folder: Path, rng: Random) -> Any:
    from tadp.files.model_card import split_picture

    ImageOps.grayscale(Image.effect_noise((32, 32), 9)).save(folder / "card.png", format=form)
    return split_picture({"picture": folder / "card.png"})


@family("links and formats")
def links() -> Iterator[Kind]:
    for name, read in (("open", _open), ("inspect", _inspect)):
        for link, target in (("images/more", "/mnt/nowhere"), ("masks/more", "/mnt/nowhere"), ("images/self", "self")):
            yield Kind(f"{name}, {link} leads nowhere", partial(linked, link, target, read), names=link)
        yield Kind(f"{name}, folders link to each other", partial(links_to_each_other, read), names="images")
        loop = partial(linked, "images/again", ".", read)
        yield Kind(
            f"{name}, a loop", loop, right=lambda data: (len(data) if isinstance(data, list) else data.images) == 6
        )
    for name in ("../../private.png", "0.png/../../../private.png", "..\\..\\private.png"):
        yield Kind(f"COCO json with {name}", partial(coco_outside, name), names="instances.json.*outside")
    for entry in ("new", "old", "gone"):
        yield Kind(f"partial folder, {entry} is a link", partial(another_partial_folder, entry), right=bool)
    for form in ("EPS", "PDF", "ICO"):
        yield Kind(f"picture of a card in {form}", partial(card_picture, form), names="card.png")
