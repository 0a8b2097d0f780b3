"""A run of the extraction: read the images of a list, caption them, compute their features, and write the files."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tadp.backbone import TADPBackbone
from tadp.captioner import Captioner
from tadp.captions.image_ids import ImageList, caption_of
from tadp.diffusion.noise import noise_settings
from tadp.errors import Argument, CaptionError, ImageError, OutputError
from tadp.extract.outputs import FileResults
from tadp.extract.reading_ahead import ReadImage, read_ahead, read_file
from tadp.extract.saved_tensors import SavedTensors, check_space, expected_bytes
from tadp.extract.store_results import StoreResults, store_ids
from tadp.extract.store_writer import read_store
from tadp.features import Features, Word
from tadp.files.atomic import is_about_name, writable_folder
from tadp.files.checks import is_out_of_memory
from tadp.files.fingerprint import fingerprint
from tadp.files.inference import in_evaluation
from tadp.files.run_lock import only_run
from tadp.images.reading import to_tensor
from tadp.images.tiles import grid
from tadp.text.conditioning import Conditioning

Pixels = Tensor | np.ndarray


@dataclass(frozen=True)
class Outcome:
    """What `extract_images` did with one image.

    Attributes:
        image: Path of the image.
        name: Path of the image's two result files, relative to the output folder and without ".safetensors" or
            ".json". In a feature store, it is the image's id.
        status: "done" if the results were computed in this run, "skipped" if they existed before, or "failed". In a
            feature store, results are on the disk when their shard is full, or when the run ends.
        record: Content of the result's JSON file, or its record in the feature store; None if the image failed.
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
    saved: SavedTensors | None = None,
    shards: bool = False,
    shard_mb: int = 256,
    retry_failed: bool = False,
) -> Iterator[Outcome]:
    """Compute the features of images and write them to files. A run continues where an earlier run stopped.

    An image is skipped if the output folder has complete results of the same image with the same settings. If it has
    results of another image or with other settings under the same name, the run stops before it starts, unless
    `overwrite` is set. All features in a store have the same settings, so other settings need another folder.

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
        saved: The form in which the tensors are saved, to use less disk space; None saves everything.
        shards: Whether to write a feature store, which `FeatureStore.open` reads, instead of two files per image. The
            ids of images are those of `path_ids`.
        shard_mb: Largest size of a shard of the store in MB (10**6 bytes), 256 by default. A shard is in memory until
            it is written.
        retry_failed: Whether to try images again that failed in an earlier run into the store. An image that has
            changed since is always tried again.

    Yields:
        One outcome per image, first for the images that were done before, then for the others in their order.
        A folder or a link that cannot be read also has an outcome, which is "failed".

    Raises:
        ImageError: If one of the paths leads to no image, or two images would have the same id in a store. An image
            that cannot be read raises no error; its outcome is "failed".
        MissingExtraError: If `shards` is set and pyarrow is not installed: pip install 'tadp[parquet]'.
        OutputError: If the output folder cannot be written to, its disk has too little space for the results, another
            run writes to it, it disappears during the run, or it has results from other settings and `overwrite` is not
            set.
        CaptionError: If `captions` is a single text that is too long and `truncate` is not set.
        ValueError: If a level does not exist, a number is below 1, or the tiles' side is not a multiple of the coarsest
            level's stride.
    """
    for name, number in (("batch_size", batch_size), ("max_side_px", max_side_px), ("shard_mb", shard_mb)):
        if number is not None and number < 1:
            raise ValueError(f"{name} must be 1 or more; got {number}.")
    levels = backbone.chosen_levels(sorted(set(levels)) if levels else None)
    tiling: dict[str, Any] | None = None
    if tile_px is not None:
        tiling = {"tile_px": tile_px, "overlap_px": overlap_px}
        grid((tile_px, tile_px), **tiling, multiple=max(backbone.strides))  # checks the sizes
    text = backbone.encode_text(captions, truncate=truncate) if isinstance(captions, str) else None
    images, folder, saved = ImageList.of(paths), Path(output), saved or SavedTensors()
    settings = _settings(backbone, captions, model, revision, levels, max_side_px, tiling, saved)
    ids = store_ids(images) if shards else images.names
    if not shards and read_store(folder) is not None:
        raise OutputError(
            f"{folder} is a feature store. Choose another folder, or pass ", Argument("shards", True), "."
        )
    writable_folder(folder)
    with only_run(folder, is_folder=True) as lock:
        results = (
            StoreResults(folder, ids, settings, shard_mb=shard_mb, check=lock.check)
            if shards
            else FileResults(folder, ids, settings)
        )
        run = _Run(
            in_evaluation(backbone),
            results=results,
            ids=images.ids_in(captions) if isinstance(captions, Mapping) else {},
            captions=captions,
            text=text,
            levels=levels,
            saved=saved,
            max_side_px=max_side_px,
            tiling=tiling,
            batch_size=batch_size,
        )
        for path, error in images.unreadable.items():
            yield Outcome(path, path.as_posix(), "failed", error=error)
        yield from run.all_outcomes(check=lock.check, overwrite=overwrite, retry_failed=retry_failed)


def _settings(
    backbone: TADPBackbone,
    captions: str | Captioner | Mapping[str, str],
    model: str,
    revision: str | None,
    levels: tuple[int, ...],
    max_side_px: int | None,
    tiling: Mapping[str, int] | None,
    saved: SavedTensors,
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
    if saved.settings() is not None:
        settings["saved"] = saved.settings()
    if backbone.options.noise_samples:
        settings["scheduler"] = noise_settings(backbone.passes.scheduler, kind=backbone.family.noise_kind)
    return json.loads(json.dumps(settings))


@dataclass(frozen=True)
class _Run:
    """A run with its settings, which are the same for all images, and its steps."""

    backbone: TADPBackbone
    results: FileResults | StoreResults
    ids: Mapping[Path, str]  # ids in the caption table by image
    captions: str | Captioner | Mapping[str, str]
    text: Conditioning | None  # the encoded `captions`, if that is one text
    levels: tuple[int, ...]
    saved: SavedTensors
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
            return dict.fromkeys(self.results.names, captions)
        return {image: caption_of(captions, self.ids[image]) for image in self.results.names}

    def all_outcomes(self, *, check: Callable[[], None], overwrite: bool, retry_failed: bool) -> Iterator[Outcome]:
        """Process the images that are not done; `check` raises if the folder is no longer there.

        Raises:
            OutputError: If there are results from other settings and `overwrite` is false, or too little disk space.
        """
        names, planned = self.results.names, self.results.plan(self.known, retry_failed=retry_failed)
        if planned.in_the_way and not overwrite:
            name, why = next(iter(planned.in_the_way.items()))
            raise OutputError(
                f"{self.results.folder} holds {len(planned.in_the_way)} of these {len(names)} results with other "
                f"settings: for {name}, {why}. Pass another folder, or ",
                Argument("overwrite", True),
                ".",
            )
        finished = {*planned.done, *planned.failed}
        todo = [image for image in names if image not in finished]
        options = {"backbone": self.backbone, "levels": self.levels, "max_side_px": self.max_side_px}
        check_space(self.results.folder, expected_bytes(todo, self.saved, **options))
        for image in planned.done:
            yield Outcome(image, names[image], "skipped", self.results.record(image))
        for image, reason in planned.failed.items():
            error = ImageError(
                f"{reason} This was in an earlier run; to try again, pass ", Argument("retry_failed", True), "."
            )
            yield Outcome(image, names[image], "failed", error=error)
        # An image in tiles may be large, so only one of them is read ahead.
        pictures = read_ahead(
            todo, partial(read_file, max_side_px=self.max_side_px), ahead=1 if self.tiling else self.batch_size
        )
        try:
            with closing(pictures):
                while batch := dict(islice(pictures, self.batch_size)):
                    yield from self.batch(batch)
                    check()
        except OutputError:
            raise
        except BaseException:  # also if the caller stops
            self.results.close()
            raise
        self.results.close()

    def batch(self, images: dict[Path, Future[ReadImage]]) -> Iterator[Outcome]:
        """Caption images at once, compute their features, and write their results. `images` is emptied."""
        pixels: dict[Path, Pixels] = {}
        digests: dict[Path, str | None] = {}
        for image in list(images):
            result = images.pop(image)  # a pass needs the memory of what was read
            try:
                if self.known.get(image, "") is None:
                    raise CaptionError(f"{image} has no caption: the table lacks {self.ids[image]!r}.")
                picture = result.result()
                digests[image] = picture.digest
                pixels[image] = picture.pixels if self.tiling else to_tensor(picture.pixels)[0]
            except (ImageError, CaptionError) as error:
                is_large = is_out_of_memory(error.__cause__ or error)
                yield self._failed(image, _too_large(image) if is_large else error)
            except (MemoryError, OSError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                yield self._failed(image, _too_large(image))
            picture = result = None
        captions: dict[Path, Any] = {image: str(self.known.get(image)) for image in pixels}
        if isinstance(self.captions, Captioner) and pixels:
            captions = self._described(self.captions, pixels)
            for image in [image for image in pixels if isinstance(captions[image], ImageError)]:
                del pixels[image]
                yield self._failed(image, captions.pop(image))
        for group in [[image] for image in pixels] if self.tiling else _by_size(pixels):
            pictures = {image: pixels[image] for image in group}
            yield from self._pass(pictures, [captions[image] for image in group], digests)

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

    def _pass(
        self, pixels: Mapping[Path, Pixels], captions: list[str], digests: Mapping[Path, str | None]
    ) -> Iterator[Outcome]:
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
                    yield from self._pass({image: pixels[image]}, [captions[number]], digests)
            return
        shared, broken = text.expand(len(pixels)), features.broken()
        with torch.inference_mode():
            features = self.saved.prepared(features, levels=self.levels)
        for number, image in enumerate(pixels):
            if number in broken:
                yield self._failed(image, ImageError(f"{image} has no usable features: {broken[number]}"))
                continue
            record = {"image": str(image), "image_sha256": digests[image]}
            record |= self._record(captions[number], features, shared, number)
            try:
                written = self.results.write(image, record, features, number)
            except OutputError as error:
                if not is_about_name(error):
                    raise
                yield self._failed(image, ImageError(*error.args))
                continue
            yield Outcome(image, self.results.names[image], "done", written, truncated=truncated[number])

    def _failed(self, image: Path, error: ImageError | CaptionError) -> Outcome:
        self.results.fail(image, error)
        return Outcome(image, self.results.names[image], "failed", error=error)

    def _features(self, pixels: list[Pixels], text: Conditioning) -> Features:
        levels = sorted({*self.levels, *self.backbone.options.attention_levels})
        if self.tiling is None:
            return self.backbone(torch.stack([torch.as_tensor(image) for image in pixels]), text, levels=levels)
        size = self.batch_size
        return self.backbone.tiled(pixels[0], text, **self.tiling, batch_size=size, device="cpu", levels=levels)

    def _record(self, caption: str, features: Features, text: Conditioning, number: int) -> dict[str, Any]:
        tokens = None if text.tokens is None else text.tokens[number]
        words = None if text.words is None else text.words[number]
        if self.saved.names and features.attention is not None and features.attention.spans is not None:
            tokens, words = features.attention.tokens[number], features.attention.spans[number]
        return {
            "image_size": list(features.image_size),
            "caption": caption,
            "tokens": None if tokens is None else list(tokens),
            "words": None if words is None else [_word(word) for word in words],
            "strides": [self.backbone.strides[level] * self.saved.pool for level in self.levels],
            "channels": [features.by_level[level].shape[1] for level in self.levels],
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


def _by_size(pixels: dict[Path, Pixels]) -> list[list[Path]]:
    groups: dict[tuple[int, ...], list[Path]] = {}
    for path, image in pixels.items():
        groups.setdefault(tuple(image.shape), []).append(path)
    return list(groups.values())
