"""A run of the extraction: read the images of a list, caption them, compute their features, and write the files."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tadp._version import __version__
from tadp.backbone import TADPBackbone
from tadp.captioner import Captioner
from tadp.captions.image_ids import ImageList, caption_of
from tadp.diffusion.noise import noise_settings
from tadp.errors import Argument, CaptionError, ImageError, OutputError
from tadp.extract.outputs import done_before, file_digest, write_result
from tadp.features import Features, Word
from tadp.files.atomic import is_about_name, remove_leftovers, writable_folder
from tadp.files.checks import is_out_of_memory
from tadp.files.fingerprint import fingerprint
from tadp.files.inference import in_evaluation
from tadp.files.run_lock import only_run
from tadp.images.reading import to_pil, to_tensor
from tadp.images.tiles import grid
from tadp.text.conditioning import Conditioning

Pixels = Tensor | np.ndarray


@dataclass(frozen=True)
class Outcome:
    """What `extract_images` did with one image.

    Attributes:
        image: Path of the image.
        name: Path of the image's two result files, relative to the output folder and without ".safetensors" or
            ".json".
        status: "done" if the results were written in this run, "skipped" if they existed before, or "failed".
        record: Content of the result's JSON file; None if the image failed.
        error: The error because of which the image failed; None if it did not fail.
        truncated: Whether the caption was too long for the text encoder and was cut.
    """

    image: Path
    name: str
    status: Literal["done", "skipped", "failed"]
    record: Mapping[str, Any] | None = None
    error: ImageError | CaptionError | None = None
    truncated: bool = False


def extract_images(
    backbone: TADPBackbone,
    paths: str | Path | Sequence[str | Path] | ImageList,
    output: str | Path,
    *,
    captions: str | Captioner | Mapping[str, str],
    model: str,
    revision: str | None = None,
    levels: Sequence[int] | None = None,
    max_side_px: int | None = None,
    tile_px: int | None = None,
    overlap_px: int = 128,
    batch_size: int = 8,
    truncate: bool = False,
    overwrite: bool = False,
) -> Iterator[Outcome]:
    """Compute the features of images and write them to files. A run continues where an earlier run stopped.

    An image is skipped if the output folder has complete results of the same image with the same settings. If it has
    results of another image or with other settings under the same name, the run stops before it starts, unless
    `overwrite` is set.

    Args:
        backbone: The backbone to run. Its options determine the levels whose attention is written; its dtype is also
            the dtype of the files. With the option `sample_posterior`, features are random: `torch.manual_seed` before
            the call gives the same features in a whole run, but not in one that continues an earlier run.
        paths: Image files, folders and glob patterns, in any form that `tadp.images.list_images` accepts, or an
            `ImageList`.
        output: The folder to write to. It gets the same subfolders as the images.
        captions: The text of the images: one text for all of them ("" is the empty prompt), a captioner, or a mapping
            from image id to caption, such as a `CaptionTable`, with the ids of `path_ids` or `caption_ids`. Captions
            from a captioner or a mapping that are too long for the text encoder are cut, with a warning. A single text
            that is too long is refused, unless `truncate` is set. An image without a caption in the mapping fails.
        model: The name under which the backbone was loaded. It is written to the record of each image.
        revision: The model's branch, tag or commit, for the record; None if none was requested.
        levels: Levels of the maps to write, 0 is the finest; None is all levels. A pass ends after the last layer that
            they and the written attention need.
        max_side_px: Largest length of an image's longer side in pixels. Larger images are first shrunk to it; None
            keeps every image's size.
        tile_px: Side in pixels of the tiles into which an image is divided (see `TADPBackbone.tiled`); all its tiles
            use the image's caption. None runs the whole image in one pass. With tiles, the whole image is never in
            memory as floats.
        overlap_px: Number of pixels by which neighbouring tiles overlap, 128 by default.
        batch_size: Number of images that are read and captioned together; those of the same size are one batch of the
            backbone. With tiles, it is the number of tiles per batch. 8 by default.
        truncate: Whether to cut a single text that is too long, with a warning, instead of refusing it.
        overwrite: Whether to replace results of other images or from other settings.

    Yields:
        One outcome per image, first for the images that were done before, then for the others in their order.
        A folder or a link that cannot be read also has an outcome, which is "failed".

    Raises:
        ImageError: If one of the paths leads to no image. An image that cannot be read raises no error; its outcome is
            "failed".
        OutputError: If the output folder cannot be written to, another run writes to it, it disappears during the run,
            or it has results from other settings and `overwrite` is not set.
        CaptionError: If `captions` is a single text that is too long and `truncate` is not set.
        ValueError: If a level does not exist, a number is below 1, or the tiles' side is not a multiple of the coarsest
            level's stride.
    """
    for name, number in (("batch_size", batch_size), ("max_side_px", max_side_px)):
        if number is not None and number < 1:
            raise ValueError(f"{name} must be 1 or more; got {number}.")
    levels = backbone.chosen_levels(sorted(set(levels)) if levels else None)
    tiling: dict[str, Any] | None = None
    if tile_px is not None:
        tiling = {"tile_px": tile_px, "overlap_px": overlap_px}
        grid((tile_px, tile_px), **tiling, multiple=max(backbone.strides))  # checks the sizes
    text = backbone.encode_text(captions, truncate=truncate) if isinstance(captions, str) else None
    images = ImageList.of(paths)
    run = _Run(
        in_evaluation(backbone),
        names=images.names,
        folder=writable_folder(Path(output)),
        ids=images.ids_in(captions) if isinstance(captions, Mapping) else {},
        captions=captions,
        text=text,
        settings=_settings(backbone, captions, model, revision, levels, max_side_px, tiling),
        levels=levels,
        max_side_px=max_side_px,
        tiling=tiling,
        batch_size=batch_size,
    )
    with only_run(run.folder, is_folder=True) as lock:
        for path, error in images.unreadable.items():
            yield Outcome(path, path.as_posix(), "failed", error=error)
        yield from run.all_outcomes(check=lock.check, overwrite=overwrite)


def _settings(
    backbone: TADPBackbone,
    captions: str | Captioner | Mapping[str, str],
    model: str,
    revision: str | None,
    levels: tuple[int, ...],
    max_side_px: int | None,
    tiling: Mapping[str, int] | None,
) -> dict[str, Any]:
    """Everything that determines the results, as JSON values, so that another run can compare its own settings."""
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
        **backbone.options.to_dict(),
        "captions": source,
        "levels": levels,
        "max_side_px": max_side_px,
        "tiling": tiling,
    }
    if backbone.options.noise_samples:
        settings["scheduler"] = noise_settings(backbone.passes.scheduler, kind=backbone.family.noise_kind)
    return json.loads(json.dumps(settings))


@dataclass(frozen=True)
class _Run:
    """A run with its settings, which are the same for all images, and its steps."""

    backbone: TADPBackbone
    names: Mapping[Path, str]  # names of the results by image
    folder: Path
    ids: Mapping[Path, str]  # ids in the caption table by image
    captions: str | Captioner | Mapping[str, str]
    text: Conditioning | None  # the encoded `captions`, if that is one text
    settings: dict[str, Any]
    levels: tuple[int, ...]
    max_side_px: int | None
    tiling: dict[str, Any] | None
    batch_size: int

    @cached_property
    def known(self) -> dict[Path, str | None]:
        """The captions that need no captioner, by image; None for an image that a table lacks."""
        if isinstance(self.captions, Captioner):
            return {}
        captions = self.captions
        if isinstance(captions, str):
            return dict.fromkeys(self.names, captions)
        return {image: caption_of(captions, self.ids[image]) for image in self.names}

    def all_outcomes(self, *, check: Callable[[], None], overwrite: bool) -> Iterator[Outcome]:
        """Process the images that are not done; `check` raises if the folder is no longer there.

        Raises:
            OutputError: If there are results from other settings and `overwrite` is false.
        """
        for folder in {(self.folder / name).parent for name in self.names.values()}:
            remove_leftovers(folder)
        done, in_the_way = done_before(self.names, self.folder, settings=self.settings, captions=self.known)
        if in_the_way and not overwrite:
            name, why = next(iter(in_the_way.items()))
            raise OutputError(
                f"{self.folder} holds {len(in_the_way)} of these {len(self.names)} results with other settings: for "
                f"{name}, {why}. Pass another folder, or ",
                Argument("overwrite", True),
                ".",
            )
        for image, record in done.items():
            yield Outcome(image, self.names[image], "skipped", record)
        todo = [image for image in self.names if image not in done]
        for start in range(0, len(todo), self.batch_size):
            yield from self.batch(todo[start : start + self.batch_size])
            check()

    def batch(self, images: Sequence[Path]) -> Iterator[Outcome]:
        """Read and caption images at once, and write their results."""
        pixels: dict[Path, Pixels] = {}
        for image in images:
            try:
                if self.known.get(image, "") is None:
                    raise CaptionError(f"{image} has no caption: the table lacks {self.ids[image]!r}.")
                pixels[image] = _read(image, self.max_side_px, is_stored=self.tiling is not None)
            except (ImageError, CaptionError) as error:
                is_large = error.__cause__ is not None and is_out_of_memory(error.__cause__)
                yield self._failed(image, _too_large(image) if is_large else error)
            except (MemoryError, OSError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                yield self._failed(image, _too_large(image))
        captions: dict[Path, Any] = {image: str(self.known.get(image)) for image in pixels}
        if isinstance(self.captions, Captioner) and pixels:
            captions = self._described(self.captions, pixels)
            for image in [image for image in pixels if isinstance(captions[image], ImageError)]:
                del pixels[image]
                yield self._failed(image, captions.pop(image))
        for group in [[image] for image in pixels] if self.tiling else _by_size(pixels):
            yield from self._pass({image: pixels[image] for image in group}, [captions[image] for image in group])

    def _described(self, captioner: Captioner, pixels: Mapping[Path, Pixels]) -> dict[Path, Any]:
        """The caption of each image, or the error of an image that the captioner cannot describe."""
        try:
            return dict(zip(pixels, captioner(list(pixels.values())), strict=True))
        except ImageError as error:
            if len(pixels) == 1:
                return dict.fromkeys(pixels, ImageError(f"{next(iter(pixels))}: ", *error.args))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if len(pixels) == 1:
                return {image: _too_large(image) for image in pixels}
        return {image: self._described(captioner, {image: pixels[image]})[image] for image in pixels}

    def _pass(self, pixels: Mapping[Path, Pixels], captions: list[str]) -> Iterator[Outcome]:
        """Run the backbone on images of one size, or on one image in tiles, and write their files."""
        encoder, text, truncated = self.backbone.text_encoder, self.text, [False] * len(captions)
        if encoder is not None:
            truncated = [count > encoder.max_length for count in encoder.count_tokens(captions)]
        if text is None:
            text = self.backbone.encode_text(captions, truncate=True)
        try:
            with torch.inference_mode():
                features = self._features(list(pixels.values()), text)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            features = None
        if features is None:  # outside of the except block, which holds the memory of the failed attempt
            if len(pixels) == 1:
                yield from (self._failed(image, _too_large(image)) for image in pixels)
            else:
                for number, image in enumerate(pixels):
                    yield from self._pass({image: pixels[image]}, [captions[number]])
            return
        shared, broken = text.expand(len(pixels)), features.broken()
        for number, image in enumerate(pixels):
            if number in broken:
                yield self._failed(image, ImageError(f"{image} has no usable features: {broken[number]}"))
                continue
            record = self._record(image, captions[number], features, shared, number)
            try:
                written = write_result(
                    self.folder / self.names[image], _tensors(features, number, self.levels), record=record
                )
            except OutputError as error:
                if not is_about_name(error):
                    raise
                yield self._failed(image, ImageError(*error.args))
                continue
            yield Outcome(image, self.names[image], "done", written, truncated=truncated[number])

    def _failed(self, image: Path, error: ImageError | CaptionError) -> Outcome:
        return Outcome(image, self.names[image], "failed", error=error)

    def _features(self, pixels: list[Pixels], text: Conditioning) -> Features:
        levels = sorted({*self.levels, *self.backbone.options.attention_levels})
        if self.tiling is None:
            return self.backbone(torch.stack([torch.as_tensor(image) for image in pixels]), text, levels=levels)
        size = self.batch_size
        return self.backbone.tiled(pixels[0], text, **self.tiling, batch_size=size, device="cpu", levels=levels)

    def _record(self, image: Path, caption: str, features: Features, text: Conditioning, number: int) -> dict[str, Any]:
        return {
            "image": str(image),
            "image_sha256": file_digest(image),
            "image_size": list(features.image_size),
            "caption": caption,
            "tokens": text.tokens and list(text.tokens[number]),
            "words": text.words and [_word(word) for word in text.words[number]],
            "strides": [self.backbone.strides[level] for level in self.levels],
            "channels": [features.by_level[level].shape[1] for level in self.levels],
            "settings": self.settings,
            "tadp": __version__,
        }


def _word(word: Word) -> dict[str, Any]:
    return {"text": word.text, "start": word.start, "stop": word.stop}


def _too_large(image: Path) -> ImageError:
    return ImageError(
        f"{image} needs more memory than there is. Process it in tiles, ",
        Argument("tile_px", 512),
        ", or shrink it, ",
        Argument("max_side_px", 1024),
        ".",
    )


def _read(image: Path, max_side_px: int | None, *, is_stored: bool) -> Pixels:
    """The pixels of an image, as `tadp.images.read_image` reads it: (3, H, W) in [0, 1], or (H, W, 3) with 8 bits."""
    picture = to_pil(image)
    levels = np.asarray(picture if max_side_px is None else shrink(picture, max_side_px))
    return levels if is_stored else to_tensor(levels)[0]


def shrink(picture: Image.Image, max_side_px: int) -> Image.Image:
    """The picture, shrunk if its longer side is over the limit. No side becomes shorter than 8 pixels."""
    scale = max_side_px / max(picture.size)
    if scale >= 1:
        return picture
    return picture.resize([max(round(side * scale), 8) for side in picture.size], Image.Resampling.LANCZOS)


def _by_size(pixels: dict[Path, Pixels]) -> list[list[Path]]:
    groups: dict[tuple[int, ...], list[Path]] = {}
    for path, image in pixels.items():
        groups.setdefault(tuple(image.shape), []).append(path)
    return list(groups.values())


def _tensors(features: Features, number: int, levels: tuple[int, ...]) -> dict[str, Tensor]:
    tensors = {f"map.{level}": features.by_level[level][number] for level in levels}
    if features.attention is not None:
        for level in features.attention.levels:
            tensors[f"attention.{level}"] = features.attention.at(level)[number]
        tensors |= {f"heads.{level}": heads[number] for level, heads in features.attention.head_maps.items()}
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
