"""Results in a feature store: what it has of the images of a run, and what the run adds to it."""

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tadp.captions.image_ids import ImageList
from tadp.errors import DatasetError, ImageError
from tadp.extract.outputs import Planned, file_digest, image_difference
from tadp.extract.saved_tensors import tensors_of
from tadp.extract.shards import Shard
from tadp.extract.store_index import FAILED, key_of_id
from tadp.extract.store_writer import SHARDS, StoreWriter
from tadp.features import Features
from tadp.language.unicode_forms import composed


def store_ids(images: ImageList) -> dict[Path, str]:
    """The id of each image in a store, which does not depend on which other images there are.

    Raises:
        ImageError: If two images have the same id, or ids that differ only in case or in their Unicode form.
    """
    first: dict[str, Path] = {}
    ids = {}
    for image, image_id in images.below.items():
        ids[image] = image_id.encode("utf-8", "backslashreplace").decode()
        earlier = first.setdefault(composed(ids[image]).casefold(), image)
        if earlier != image:
            raise ImageError(
                f"{earlier} and {image} would have the ids {ids[earlier]!r} and {ids[image]!r}, but "
                "ids must differ in more than case and Unicode form. Rename one of them, or pass a folder above both."
            )
    return ids


class StoreResults:
    """Results in a feature store.

    Args:
        folder: The folder of the store, which exists.
        names: The id of each image.
        settings: Everything that determines the features, as JSON values.
        shard_mb: Largest size of a shard in MB.
        check: A function that raises if the folder is no longer there.
    """

    def __init__(
        self,
        folder: Path,
        names: Mapping[Path, str],
        settings: dict[str, Any],
        *,
        shard_mb: int,
        check: Callable[[], None],
    ):
        self.folder, self.names = folder, names
        self._has_grid = bool((settings.get("saved") or {}).get("grid"))
        self._writer = StoreWriter(folder, settings, shard_mb=shard_mb, check=check)
        self._mapped: dict[str, Shard] = {}

    @cached_property
    def _numbers(self) -> dict[Path, int]:
        """The number of each image in the index, or -1."""
        keys = np.array([key_of_id(image_id) for image_id in self.names.values()], np.uint64)
        return dict(zip(self.names, self._writer.index.find(keys).tolist(), strict=True))

    def plan(self, captions: Mapping[Path, str | None], *, retry_failed: bool) -> Planned:
        """Compare the store with the images and captions of this run. The settings are the same.

        Raises:
            ImageError: If an id differs only in case from one in the store.
        """
        planned, index = Planned(), self._writer.index
        reasons = {key: reason for key, (_, _, reason) in index.failures(self.folder).items()}
        for image, number in self._numbers.items():
            if number < 0:
                continue
            digest = file_digest(image)
            if index.positions[number] == FAILED:
                is_same = int(index.contents[number]) == int((digest or "0")[:16], 16)
                if is_same and not retry_failed:
                    planned.failed[image] = reasons[int(index.keys[number])]
                continue
            try:
                record = self.record(image)
            except DatasetError:  # its shard is missing or damaged, so it is computed again
                continue
            name = self.names[image]
            if composed(record["id"]) != composed(name):
                raise ImageError(
                    f"{image} has the id {name!r}, and {self.folder} has {record['id']!r}. Ids must differ in more "
                    "than case; rename the image."
                )
            if digest is None:  # an image that cannot be read is not done: reading it gives the reason
                continue
            planned.add(image, name, image_difference(record, digest, captions.get(image, record["caption"])))
        return planned

    def record(self, image: Path) -> dict[str, Any]:
        """The record of an image that is done."""
        name, offset, record_bytes = self._writer.index.place(int(self._writer.index.positions[self._numbers[image]]))
        if name not in self._mapped:
            self._mapped = {name: Shard(self.folder / SHARDS / name)}  # images of a shard follow each other
        return self._mapped[name].record(offset, record_bytes)

    def write(self, image: Path, record: dict[str, Any], features: Features, number: int) -> dict[str, Any]:
        """Add an image, one of the batch that has the features, and return its record."""
        further = {"levels": list(features.by_level), "cells": features.cells, "has_grid": self._has_grid}
        return self._writer.write(self.names[image], record | further, tensors_of(features, number))

    def fail(self, image: Path, error: Exception) -> None:
        """Record in the manifest that an image failed."""
        self._writer.fail(self.names[image], source=str(image), digest=file_digest(image), reason=str(error))

    def close(self) -> None:
        """Write what is left in memory."""
        self._writer.close()
