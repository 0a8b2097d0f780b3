"""Folders of images to files of features: resumable, and safe to kill at any moment.

    for outcome in extract_images(backbone, "photos", "features", captions=captioner, model="tadp-tiny"):
        print(outcome.name, outcome.status)

For the image `photos/pets/rex.jpg` it writes `features/pets/rex.safetensors`, with `map.0`, `map.1` … (finest first,
each (C, h, w)) and `attention.<level>` (L, h, w), and then `features/pets/rex.json`: the caption, its tokens and words,
strides, channels, and the settings that made them. Both appear whole or not at all; an image counts as done when its
JSON is there, and that is written last.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import escape, has_magic
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from tadp import __version__
from tadp.backbone import TADPBackbone
from tadp.captioner import Captioner
from tadp.errors import CaptionError, ImageError, OutputError
from tadp.features import Features
from tadp.files import replace_file
from tadp.images import list_images, to_pil, to_tensor
from tadp.text import Conditioning

_SAMPLES = 4096  # of each weight, for a model's fingerprint


@dataclass(frozen=True)
class Outcome:
    """What became of one image.

    Attributes:
        image: Its path.
        name: Its results' name below the output folder, without ".safetensors" or ".json".
        status: "done" now, "skipped" because it was done before, or "failed".
        record: What its JSON holds; None if it failed.
        error: Why it failed.
        truncated: The caption was longer than the text encoder takes, and was cut.
    """

    image: Path
    name: str
    status: Literal["done", "skipped", "failed"]
    record: Mapping[str, Any] | None = None
    error: ImageError | CaptionError | None = None
    truncated: bool = False


def extract_images(
    backbone: TADPBackbone,
    paths: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    captions: str | Captioner | Mapping[str, str],
    model: str,
    revision: str | None = None,
    levels: Sequence[int] | None = None,
    max_side_px: int | None = None,
    batch_size: int = 8,
    overwrite: bool = False,
) -> Iterator[Outcome]:
    """Write the features of images, and go on where an earlier run stopped.

    An image is skipped if its results are there, whole, from the same picture, with the same settings. Results from
    another picture or other settings stop the run before it starts, unless `overwrite`.

    Args:
        backbone: It says which attention is recorded, and in which dtype all is computed and written.
        paths: Image files, folders and patterns, as `tadp.images.list_images` takes them.
        output: The folder to write to. It mirrors the folders of the images.
        captions: One text for all images ("" is the empty prompt), a captioner, or captions by image id, such as a
            `CaptionTable`, where ids are those of `caption_ids`. What a captioner or a table says beyond the text
            encoder's limit is cut, with a warning; a text given here is refused. An image that the table lacks fails.
        model: What the backbone was loaded from, for the record.
        revision: Its branch, tag or commit, for the record.
        levels: Which maps to write; None is all.
        max_side_px: Images with a longer side are shrunk to it first; None takes them as they are.
        batch_size: Images read and captioned at once; those of one size go through the backbone together.
        overwrite: Make results from other settings anew.

    Yields:
        One outcome an image, as it becomes known: first those done before, then the others in order.

    Raises:
        ImageError: If a path leads to no image. One that can't be read is an outcome, not an error.
        OutputError: If the folder cannot be written, or has results from other settings.
        CaptionError: If the text is too long.
        ValueError: If a level does not exist, or a number is under 1.
    """
    for what, number in (("batch_size", batch_size), ("max_side_px", max_side_px)):
        if number is not None and number < 1:
            raise ValueError(f"{what} must be 1 or more; got {number}.")
    levels = _known_levels(backbone, levels)
    text = backbone.encode_text(captions) if isinstance(captions, str) else None
    names = output_names(paths)
    folder = writable_folder(Path(output))
    settings = _settings(backbone, captions, model, revision, levels, max_side_px)
    ids = caption_ids(names)
    table = {image: captions.get(ids[image]) for image in names} if isinstance(captions, Mapping) else {}
    done, in_the_way = _done_before(names, folder, settings, table)
    if in_the_way and not overwrite:
        name, why = next(iter(in_the_way.items()))
        raise OutputError(
            f"{folder} holds {len(in_the_way)} of these {len(names)} results, made otherwise: for {name}, {why}. "
            "Pass another folder, or overwrite=True (--overwrite)."
        )
    for image, record in done.items():
        yield Outcome(image, names[image], "skipped", record)
    todo = [image for image in names if image not in done]
    for start in range(0, len(todo), batch_size):
        pixels: dict[Path, Tensor] = {}
        for image in todo[start : start + batch_size]:
            try:
                if isinstance(captions, Mapping) and table[image] is None:
                    raise CaptionError(f"{image} has no caption: the table lacks {ids[image]!r}.")
                pixels[image] = _read(image, max_side_px)
            except (ImageError, CaptionError) as error:
                yield Outcome(image, names[image], "failed", error=error)
        if isinstance(captions, Captioner):
            texts = dict(zip(pixels, captions(list(pixels.values())) if pixels else [], strict=True))
        else:
            texts = {image: table.get(image, captions) for image in pixels}
        for group in _by_size(pixels):
            yield from _extract_group(
                backbone, {image: pixels[image] for image in group}, [str(texts[image]) for image in group], text,
                names=names, folder=folder, settings=settings, levels=levels,
            )  # fmt: skip


def output_names(paths: str | Path | Sequence[str | Path]) -> dict[Path, str]:
    """The images that paths lead to, each with a name for its results that no other has.

    A name is the path below the folder given, without its suffix: "pets/rex" for "photos/pets/rex.jpg" of the folder
    "photos". Of several paths, it is the path below the folder they share. Where two names of a folder would be one
    (rex.jpg and rex.png), both keep their suffix.

    Raises:
        ImageError: If a path leads to no image.
    """
    listed = [paths] if isinstance(paths, str | Path) else list(paths)
    root = os.path.commonpath([_root(path) for path in listed]) if listed else "."
    images = {os.path.abspath(image): image for image in list_images(listed)}  # noqa: PTH100  ".." must go, links stay
    relative = {image: Path(os.path.relpath(absolute, root)) for absolute, image in images.items()}
    # Some file systems do not tell "Rex" from "rex".
    taken = Counter(str(path.with_suffix("")).casefold() for path in relative.values())
    full = {str(path).casefold() for path in relative.values() if path.suffix}
    names = {}
    for image, path in relative.items():
        stem = path.with_suffix("")
        unique = taken[str(stem).casefold()] == 1 and str(stem).casefold() not in full
        names[image] = (stem if unique else path).as_posix()
    return names


def caption_ids(names: Mapping[Path, str]) -> dict[Path, str]:
    """An id for each image in a caption file: its name without suffix, or the name of its results if two share that.

    Args:
        names: From `output_names`.
    """
    stems, full = Counter(image.stem for image in names), {image.name for image in names if image.suffix}
    return {
        image: image.stem if stems[image.stem] == 1 and image.stem not in full else name
        for image, name in names.items()
    }


def _root(path: str | Path) -> str:
    """The folder that the images of one path are seen from."""
    path = Path(path)
    if path.is_dir():
        return os.path.abspath(path)  # noqa: PTH100
    if not path.exists() and has_magic(str(path)):
        while has_magic(str(path)):
            path = path.parent
        return os.path.abspath(path)  # noqa: PTH100
    return os.path.abspath(path.parent)  # noqa: PTH100


def fingerprint(backbone: TADPBackbone) -> str:
    """A short name for a backbone's weights, from some thousand values of each: a retrained model has another."""
    digest = hashlib.sha256()
    for name, weight in sorted(backbone.state_dict().items()):
        flat = weight.detach().flatten()
        sample = flat[:: max(1, -(-len(flat) // _SAMPLES))].cpu().float()
        digest.update(f"{name} {tuple(weight.shape)} ".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def _known_levels(backbone: TADPBackbone, levels: Sequence[int] | None) -> tuple[int, ...]:
    count = len(backbone.feature_info)
    for level in levels or ():
        if not 0 <= level < count:
            strides = ", ".join(map(str, backbone.feature_info.reduction))
            raise ValueError(f"unknown level {level}; this U-Net has levels 0 to {count - 1} (strides {strides}).")
    return tuple(sorted(set(levels))) if levels else tuple(range(count))


def writable_folder(folder: Path) -> Path:
    """The folder, made if it is not there.

    Raises:
        OutputError: If it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}. Choose another.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"no permission to write in {folder}. Choose another folder, or chmod u+w {folder}.")
    return folder


def _settings(
    backbone: TADPBackbone,
    captions: str | Captioner | Mapping[str, str],
    model: str,
    revision: str | None,
    levels: tuple[int, ...],
    max_side_px: int | None,
) -> dict[str, Any]:
    """All that decides the numbers, as JSON has it."""
    if isinstance(captions, str):
        source = {"text": captions}
    elif isinstance(captions, Captioner):
        source = {"captioner": captions.name, **captions.generation}
    else:
        source = {"table": True}  # the caption itself is compared, image by image
    settings = {
        "model": model,
        "revision": revision,
        "weights": fingerprint(backbone),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        **backbone.options,
        "captions": source,
        "levels": levels,
        "max_side_px": max_side_px,
    }
    return json.loads(json.dumps(settings))


def _done_before(
    names: dict[Path, str], folder: Path, settings: dict[str, Any], table: Mapping[Path, str | None]
) -> tuple[dict[Path, dict[str, Any]], dict[str, str]]:
    """Records of the images that need no work; and the names of results that another run left there, each with why."""
    done, in_the_way = {}, {}
    for image, name in names.items():
        record = _whole_record(folder, name)
        if record is None:
            continue
        changed = [key for key in settings if record["settings"].get(key) != settings[key]]
        if changed:
            key = changed[0]
            in_the_way[name] = f"{key} was {_brief(record['settings'].get(key))} and is {_brief(settings[key])}"
        elif image in table and record["caption"] != table[image]:
            in_the_way[name] = f"caption was {_brief(record['caption'])} and is {_brief(table[image])}"
        elif record["image_sha256"] != _file_digest(image):
            in_the_way[name] = f"the picture was another one ({record['image']})"
        else:
            done[image] = record
    return done, in_the_way


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"


def _whole_record(folder: Path, name: str) -> dict[str, Any] | None:
    """The record of results that are complete; None if anything of them is missing or cut short."""
    try:
        record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        size = (folder / f"{name}.safetensors").stat().st_size
    except (OSError, ValueError):
        return None
    wanted = {"settings", "image", "image_sha256", "file_bytes", "caption"}
    if not isinstance(record, dict) or not wanted <= record.keys() or not isinstance(record["settings"], dict):
        return None
    return record if record["file_bytes"] == size else None


def _file_digest(image: Path) -> str | None:
    try:
        with image.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _read(image: Path, max_side_px: int | None) -> Tensor:
    """(3, H, W) in [0, 1]."""
    if max_side_px is None:
        return to_tensor(image)[0]
    return to_tensor(shrink(to_pil(image), max_side_px))[0]


def shrink(picture: Image.Image, max_side_px: int) -> Image.Image:
    """The picture, shrunk if its longer side is over the limit; never under 8 pixels."""
    scale = max_side_px / max(picture.size)
    if scale >= 1:
        return picture
    return picture.resize([max(round(side * scale), 8) for side in picture.size], Image.Resampling.LANCZOS)


def _by_size(pixels: dict[Path, Tensor]) -> list[list[Path]]:
    groups: dict[torch.Size, list[Path]] = {}
    for image, one in pixels.items():
        groups.setdefault(one.shape, []).append(image)
    return list(groups.values())


def _extract_group(
    backbone: TADPBackbone,
    pixels: dict[Path, Tensor],
    captions: list[str],
    text: Conditioning | None,
    *,
    names: dict[Path, str],
    folder: Path,
    settings: dict[str, Any],
    levels: tuple[int, ...],
) -> Iterator[Outcome]:
    """One pass over images of one size, and their files."""
    truncated = [False] * len(captions)
    if text is None:
        encoder = backbone.text_encoder
        if encoder is not None:
            truncated = [count > encoder.max_length for count in encoder.count_tokens(captions)]
        text = backbone.encode_text(captions, truncate=True)
    with torch.inference_mode():
        features = backbone(torch.stack(list(pixels.values())), text)
    shared = text.expand(len(pixels))
    for number, image in enumerate(pixels):
        record = {
            "image": str(image),
            "image_sha256": _file_digest(image),
            "image_size": list(features.image_size),
            "caption": captions[number],
            "tokens": shared.tokens and list(shared.tokens[number]),
            "words": shared.words and [word._asdict() for word in shared.words[number]],
            "strides": [backbone.feature_info.reduction[level] for level in levels],
            "channels": [features.maps[level].shape[1] for level in levels],
            "settings": settings,
            "tadp": __version__,
        }
        written = _write(folder / names[image], _tensors(features, number, levels), record)
        yield Outcome(image, names[image], "done", written, truncated=truncated[number])


def _tensors(features: Features, number: int, levels: tuple[int, ...]) -> dict[str, Tensor]:
    tensors = {f"map.{level}": features.maps[level][number] for level in levels}
    if features.attention is not None:
        for level in features.attention.levels:
            tensors[f"attention.{level}"] = features.attention.at(level)[number]
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def _write(target: Path, tensors: dict[str, Tensor], record: dict[str, Any]) -> dict[str, Any]:
    """The tensors, then the record that makes them count."""
    tensor_file = target.with_name(target.name + ".safetensors")
    record_file = target.with_name(target.name + ".json")
    with replace_file(tensor_file) as partial:
        partial.write_bytes(save(tensors))  # save_file would make a file that its owner alone may read
        record = record | {"file_bytes": partial.stat().st_size}
        # From here to the new record nothing counts as done, so that an old record never vouches for new tensors.
        record_file.unlink(missing_ok=True)
    with replace_file(record_file) as partial:
        lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in record.items()]
        partial.write_text("{\n " + ",\n ".join(lines) + "\n}\n", encoding="utf-8")
    for file in (tensor_file, record_file):
        _remove_leftovers(file)
    return record


def _remove_leftovers(file: Path) -> None:
    """Delete what killed runs left half-written of this file (see `tadp.files.replace_file`)."""
    for partial in file.parent.glob(f".{escape(file.name)}.*.part"):
        process = re.search(r"\.(\d+)\.part$", partial.name)
        if process and os.name == "posix" and not _is_running(int(process[1])):
            partial.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 asks and does nothing
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True
