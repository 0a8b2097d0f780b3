"""Small intact models and data, built once per run; kinds copy them and damage the copy."""

import os
import shutil
from pathlib import Path

from PIL import Image

ROOT = "HOSTILE_FIXTURES"  # the variable with the folder of the fixtures
PICTURE_FORMATS = ("png", "jpg", "gif", "bmp", "tiff", "webp", "ppm", "avif")


def fixture(name: str) -> Path:
    """An intact fixture, which must not be changed."""
    return Path(os.environ[ROOT], name)


def copy(name: str, folder: Path) -> Path:
    """A copy of a fixture in a folder."""
    source = fixture(name)
    return Path((shutil.copytree if source.is_dir() else shutil.copy)(source, folder / source.name))


def build() -> None:
    """Build all fixtures in the folder that `ROOT` names. Runs in a child, so that the warm process never computes."""
    _pictures(fixture("pictures"))
    for number in range(5):
        fixture("photos").mkdir(exist_ok=True)
        picture((64 + 8 * number, 64)).save(fixture(f"photos/photo-{number}.png"))
    _captions(fixture("captions"))


def picture(size: tuple[int, int] = (72, 64)) -> Image.Image:
    """A small picture in which no two neighbouring pixels are equal."""
    image = Image.new("RGB", size)
    image.putdata([((7 * k) % 256, (k * k) % 256, (13 * k) % 256) for k in range(size[0] * size[1])])
    return image


def _pictures(folder: Path) -> None:
    folder.mkdir()
    for suffix in PICTURE_FORMATS:
        picture().save(folder / f"photo.{suffix}")


def _captions(folder: Path) -> None:
    from tadp.captions import CaptionTable

    folder.mkdir()
    pairs = {f"picture-{k}": (f"a red dog on grass {k}", "a dog") for k in range(20)}
    table = CaptionTable(pairs)
    table.to_json(folder / "captions.json")
    table.to_jsonl(folder / "captions.jsonl")
    table.to_parquet(folder / "captions.parquet")
    with CaptionTable.create(folder / "captions.db") as stored:
        stored.update(pairs)
