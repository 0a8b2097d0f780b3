"""`FeatureStore`: the stored features of a data set, as a data set of PyTorch."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from tadp.errors import DatasetError, MissingDataError, UnknownIdError
from tadp.extract import manifest
from tadp.extract.shards import Place, Shard
from tadp.extract.store_index import FAILED, StoreIndex, key_of_id
from tadp.extract.store_writer import FORMAT, SHARDS, STORE, read_store
from tadp.features import AttentionMaps, Features, Word
from tadp.language.unicode_forms import composed

_MAPPED = 256  # shards that are mapped at once in each process


@dataclass(frozen=True, eq=False)
class StoredFeatures:
    """The stored features of one image, or of a batch of images of the same size.

    Attributes:
        ids: The ids of the B images; a single one for an item of a store.
        captions: Their captions.
        features: Their maps and attention, with B images each, which a head takes as it takes those of a backbone.
        has_grid: Whether all maps were resized to a fixed grid. Then a batch may have images of different sizes, and
            `features.image_size` is that of the first.
    """

    ids: tuple[str, ...]
    captions: tuple[str, ...]
    features: Features
    has_grid: bool = False

    def __repr__(self) -> str:
        return f"StoredFeatures({', '.join(self.ids)}; {self.features})"

    @classmethod
    def stack(cls, items: "Sequence[StoredFeatures]") -> "StoredFeatures":
        """Make one batch of several, as the `collate_fn` of a `DataLoader`.

        Raises:
            ValueError: If the images differ in size, and were not stored with a fixed grid.
        """
        sizes = sorted({"x".join(map(str, item.features.image_size)) for item in items})
        if len(sizes) > 1 and not items[0].has_grid:
            raise ValueError(
                f"a batch must have images of one size; got {', '.join(sizes)}. Extract with a fixed grid (--grid), "
                "use store.where to choose images of one size, or pass batch_size=1."
            )
        return cls(
            tuple(image_id for item in items for image_id in item.ids),
            tuple(caption for item in items for caption in item.captions),
            _stacked([item.features for item in items]),
            items[0].has_grid,
        )


class FeatureStore(Dataset[StoredFeatures]):
    """Features that `tadp extract --shards` has stored: `store[0]` is an image's by number, `store["pets/rex"]` by id.

    Maps are memory-mapped: only those that are used are read from the disk. Worker processes can share a store, whether
    they are forked or spawned. A store that is being written shows the images that were complete when it was opened.

    Attributes:
        folder: The folder of the store.
        settings: How the features were made: model, levels, dtype, and so on.
    """

    def __init__(self, folder: Path, index: StoreIndex, settings: dict[str, Any], subset: np.ndarray | None = None):
        self.folder, self.settings = folder, settings
        self._index, self._subset = index, subset
        self._shards: OrderedDict[str, Shard] = OrderedDict()

    @classmethod
    def open(cls, folder: str | Path) -> "FeatureStore":
        """Open a store.

        Args:
            folder: The folder that `tadp extract --shards -o` wrote.

        Raises:
            MissingDataError: If the folder is not a store.
            DatasetError: If the manifest is damaged, or the store is of a newer version of tadp.
            MissingExtraError: If pyarrow is not installed: pip install 'tadp[parquet]'.
        """
        folder = Path(folder).absolute()
        manifest.pyarrow()
        description = read_store(folder)
        if description is None:
            raise MissingDataError(
                f"{folder} is not a feature store: it lacks {STORE}, or that file is damaged. Pass a folder that "
                "`tadp extract --shards` wrote."
            )
        if description["feature_store"] != FORMAT:
            raise DatasetError(
                f"{folder} is a feature store of format {description['feature_store']}; this version of tadp knows "
                f"{FORMAT}. Use a newer version."
            )
        return cls(folder, StoreIndex.open(folder), description["settings"])

    def __len__(self) -> int:
        return len(self._index.locations) if self._subset is None else len(self._subset)

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.folder)!r}, {len(self)} images)"

    def __getitem__(self, key: int | str) -> StoredFeatures:
        """The features of an image, by its number or its id.

        Raises:
            IndexError: If there is no such number.
            UnknownIdError: If there is no image with this id, or it failed; the message then has the reason.
            DatasetError: If the shard of the image is damaged; `MissingDataError` if it is missing.
        """
        if isinstance(key, str):
            return _item(*self._read(self._position(key)))
        number = range(len(self))[key]
        return _item(*self._read(number if self._subset is None else int(self._subset[number])))

    def __contains__(self, image_id: object) -> bool:
        try:
            return isinstance(image_id, str) and self._position(image_id) >= 0
        except UnknownIdError:
            return False

    def __iter__(self) -> Iterator[StoredFeatures]:
        return (self[number] for number in range(len(self)))

    def ids(self) -> list[str]:
        """The ids of the images, in the order of their numbers."""
        names = np.full(len(self._index.locations), None, dtype=object)
        for positions, batch in self._batches(("id",)):
            names[positions] = batch["id"].to_pylist()
        return list(names if self._subset is None else names[self._subset])

    def where(self, condition: Any) -> "FeatureStore":
        """Return the part of the store whose rows in the manifest fulfil a condition.

        Args:
            condition: An expression of pyarrow about columns of the manifest, such as `field("height") >= 512` or
                `field("id").isin(ids)`, with `from pyarrow.compute import field`.

        Raises:
            ValueError: If the condition names a column that the manifest lacks.
        """
        arrow, _ = manifest.pyarrow()
        positions_by_batch = [np.zeros(0, dtype=np.int64)]
        try:
            positions_by_batch += [positions for positions, _ in self._batches(manifest.COLUMNS, condition)]
        except arrow.ArrowInvalid as error:
            raise ValueError(f"{str(error).splitlines()[0]}. The columns are {', '.join(manifest.COLUMNS)}.") from error
        subset = np.sort(np.concatenate(positions_by_batch))
        if self._subset is not None:
            subset = self._subset[np.isin(self._subset, subset)]
        return FeatureStore(self.folder, self._index, self.settings, subset)

    def manifest_files(self) -> list[str]:
        """The Parquet files of the manifest, for pyarrow, DuckDB and pandas."""
        return [str(self.folder / manifest.FOLDER / name) for name in self._index.parts]

    def failures(self) -> dict[str, str]:
        """Why images failed, by id."""
        return {image_id: reason for _, image_id, reason in self._index.failures(self.folder).values()}

    def verify(self) -> Iterator[str]:
        """Read all shards, and yield a sentence about each that is missing or differs from what was written."""
        places: dict[str, list[Place]] = {name: [] for name in self._index.shards}
        columns = ("shard", "row", "offset", "record_bytes", "bytes", "crc32")
        for _, batch in self._batches(columns):
            for row in batch.to_pylist():
                place = Place(row["row"], row["offset"], row["record_bytes"], row["bytes"], row["crc32"])
                places[row["shard"]].append(place)
        for name, own in places.items():
            try:
                if own:
                    yield from Shard(self.folder / SHARDS / name).damages(sorted(own, key=lambda place: place.row))
            except DatasetError as error:
                yield str(error)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_shards": OrderedDict(), "_index": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._index = StoreIndex.open(self.folder)

    def _position(self, image_id: str) -> int:
        number = int(self._index.find(np.array([key_of_id(image_id)], np.uint64))[0])
        position = FAILED if number < 0 else self._index.positions[number]
        if position != FAILED:
            stored = self._record(int(position))["id"]
            if composed(stored) != composed(image_id):
                raise UnknownIdError(f"no image {image_id!r} in {self.folder}; there is {stored!r}.")
            if self._subset is None or np.isin(position, self._subset):
                return int(position)
            raise UnknownIdError(f"{image_id!r} is not in this part of {self.folder}.")
        reason = "" if number < 0 else self.failures().get(image_id)
        raise UnknownIdError(
            f"{image_id!r} in {self.folder} has no features, because it failed: {reason}"
            if reason
            else f"no image {image_id!r} in {self.folder}. store.ids() lists the ids."
        )

    def _read(self, position: int) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        name, offset, record_bytes = self._index.place(position)
        return self._shard(name).read(offset, record_bytes)

    def _record(self, position: int) -> dict[str, Any]:
        name, offset, record_bytes = self._index.place(position)
        return self._shard(name).record(offset, record_bytes)

    def _shard(self, name: str) -> Shard:
        if name not in self._shards:
            self._shards[name] = Shard(self.folder / SHARDS / name)
            if len(self._shards) > _MAPPED:
                self._shards.popitem(last=False)
        self._shards.move_to_end(name)
        return self._shards[name]

    def _batches(self, columns: Sequence[str], condition: Any = None) -> Iterator[tuple[np.ndarray, Any]]:
        """Rows of the manifest that are done and count, with their positions."""
        arrow, _ = manifest.pyarrow()
        for name in self._index.parts:
            part = manifest.Part(self.folder / manifest.FOLDER / name)
            for batch in part.batches(tuple({*columns, "shard", "row"})):
                rows = arrow.Table.from_batches([batch])
                rows = rows if condition is None else rows.filter(condition)
                if not len(rows):
                    continue
                row_numbers = rows["row"].fill_null(0).to_numpy()
                positions = self._index.positions_of(rows["shard"].combine_chunks(), row_numbers)
                yield positions[positions >= 0], rows.filter(arrow.array(positions >= 0))


def _item(record: dict[str, Any], tensors: dict[str, torch.Tensor]) -> StoredFeatures:
    """Features of one image, from what its row in a shard has."""
    by_kind: dict[str, dict[int, torch.Tensor]] = {"map": {}, "attention": {}, "heads": {}}
    for name, tensor in tensors.items():
        kind, _, level = name.partition(".")
        by_kind[kind][int(level)] = tensor[None]
    attention, cells = None, {int(level): tuple(covered) for level, covered in record["cells"].items()}
    if by_kind["attention"]:
        words = record["words"]
        spans = words and tuple(Word(word["text"], word["start"], word["stop"]) for word in words)
        length = next(iter(by_kind["attention"].values())).shape[1]
        attention = AttentionMaps(
            by_kind["attention"],
            (tuple(record["tokens"] or [""] * length),),
            None if spans is None else (spans,),
            by_kind["heads"],
            cells,
        )
    maps = dict(sorted(by_kind["map"].items()))
    features = Features(tuple(maps.values()), attention, tuple(record["image_size"]), levels=tuple(maps), cells=cells)
    return StoredFeatures((record["id"],), (record["caption"],), features, record["has_grid"])


def _stacked(items: Sequence[Features]) -> Features:
    """Features of several images as those of one batch."""
    first, attention = items[0], None
    parts = [item.attention for item in items if item.attention is not None]
    if parts:
        spans = [part.spans for part in parts]
        attention = AttentionMaps(
            {level: torch.cat([part.at(level) for part in parts]) for level in parts[0].levels},
            tuple(tokens for part in parts for tokens in part.tokens),
            None if None in spans else tuple(words for image in spans for words in image or ()),
            {level: torch.cat([part.head_maps[level] for part in parts]) for level in parts[0].head_maps},
            parts[0].cells,
        )
    maps = tuple(torch.cat(level_maps) for level_maps in zip(*(item.maps for item in items), strict=True))
    return Features(maps, attention, first.image_size, levels=first.levels, cells=first.cells)
