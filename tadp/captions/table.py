"""`CaptionTable`: a mapping from image id to caption, in memory or on disk."""

from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from contextlib import suppress
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from tadp.captions import formats
from tadp.captions.filling import CHUNK, Image, fill, id_and_captions, write_in_chunks
from tadp.captions.records import CaptionRecord, Located, Provenance, check_id, new_record, sequence_of_ids, shown
from tadp.captions.sqlite import SqliteStore, is_sqlite
from tadp.captions.store import MemoryStore, Store, mixing
from tadp.errors import CaptionError, UnknownIdError
from tadp.files.checks import refuse_pointer
from tadp.web.markup import rows_as_html

SUFFIXES = (".db", ".sqlite", ".sqlite3")  # of tables on disk

_NEAR_IDS = 5000  # tables up to this size are searched for similar ids


class CaptionTable(Mapping[str, str]):
    """Captions by image id: a mapping from id to the image's first caption, with methods to add, merge and export.

    A table is in memory, or on disk in one SQLite file with the suffix .db. On disk, once `add`, `update`, `merge` or
    `fill` has returned, its captions are stored, whatever happens to the process afterwards. If a call is killed, the
    captions of its finished transactions, of at most 50,000 images and about a second each, are kept. Threads and
    worker processes can share a table, and several processes can add to one file. A pickled table opens the file again.

    Args:
        pairs: Captions to start with, a mapping or pairs of image id and captions, as in `update`.
        provenance: Where the captions that are added come from; None if that is not known.
        mix: Whether the table may contain captions of different provenances.

    Example:
        >>> table = CaptionTable({"2007_000032": "two planes on a runway"})
        >>> table.add("2007_000033", ["a large airplane on the ground", "a plane"], fields={"class_label": 1})
        True
        >>> table["2007_000033"], table.all("2007_000033")[1], "2007_000042" in table
        ('a large airplane on the ground', 'a plane', False)

    Source:
        TADP Sec. 4.1, and the caption files of its released code, {image_id: {"captions": [...]}}.
    """

    def __init__(
        self,
        pairs: Mapping[str, str | Sequence[str]] | Iterable[tuple[str, str | Sequence[str]]] = (),
        *,
        provenance: Provenance | None = None,
        mix: bool = False,
    ):
        self._provenance, self._mix = provenance, mix
        self._store: Store = MemoryStore()
        self._name = "in memory"
        self.update(pairs)

    @classmethod
    def from_json(cls, path: str | Path) -> "CaptionTable":
        """Read JSON in the format of the paper's authors, {id: {"captions": [...], "class_label": 1}}, into memory.

        Raises:
            CaptionError: If there is no such file, if it is broken (the message gives line and column), if an id occurs
                twice, or if an entry has no captions.
        """
        return cls._read(Path(path), formats.read_json(Path(path)))

    @classmethod
    def open(cls, path: str | Path) -> "CaptionTable":
        """Open any caption file for reading.

        A table on disk (.db) is not loaded: entries are read when they are needed. JSON (.json), JSON Lines (.jsonl,
        .ndjson) and Parquet (.parquet) are read into memory; if a file is too large for that, `merge` it once into a
        table on disk. Captions added to a table in memory are not written back to the file.

        Raises:
            CaptionError: If there is no such file, or it is not a caption file or broken; the message says where.
            MissingExtraError: If it is a Parquet file and pyarrow is not installed (pip install 'tadp[parquet]').
        """
        path = Path(path)
        if not path.is_file():
            if path.exists():
                kind = "folder; pass a file in it" if path.is_dir() else "pipe or a device; pass a file"
                raise CaptionError(f"{path} is a {kind}.")
            raise CaptionError(f"no such file: {path}.")
        refuse_pointer(path, CaptionError)
        if path.suffix.lower() in SUFFIXES or is_sqlite(path):
            return cls._on_disk(SqliteStore(path, is_writable=False), path)
        return cls._read(path, formats.read(path))

    @classmethod
    def create(cls, path: str | Path, *, provenance: Provenance | None = None, mix: bool = False) -> "CaptionTable":
        """Open a table on disk for adding, and create the file if it does not exist.

        Args:
            path: A file with the suffix .db, .sqlite or .sqlite3.
            provenance: Where the captions that are added come from; None if that is not known.
            mix: Whether the table may contain captions of different provenances.

        Raises:
            CaptionError: If the file is not a caption table, or has captions of another provenance and `mix` is false.
            OutputError: If the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() not in SUFFIXES:
            raise CaptionError(
                f"a table on disk must have the suffix {' or '.join(SUFFIXES)}; got {path}. Create "
                f"{path.with_suffix('.db')}, and export it to other formats at the end: to_json, to_jsonl, to_parquet."
            )
        table = cls._on_disk(SqliteStore(path, is_writable=True), path, provenance=provenance, mix=mix)
        different = [source for source in table.provenances if source != provenance]
        if different and provenance is not None and not mix:
            table.close()
            raise CaptionError(f"{path}: ", *mixing(different[0], provenance))
        return table

    @classmethod
    def _on_disk(
        cls, store: SqliteStore, path: Path, *, provenance: Provenance | None = None, mix: bool = False
    ) -> "CaptionTable":
        table = cls(provenance=provenance, mix=mix)
        table._store, table._name = store, str(path)
        return table

    @classmethod
    def _read(cls, path: Path, records: Iterable[Located]) -> "CaptionTable":
        table = cls(mix=True)  # a file with several provenances is read as it is
        table._write(records, replace=False)
        table._name, table._mix = str(path), False
        return table

    def __getitem__(self, image_id: str) -> str:
        return self.record(image_id).captions[0]

    def __setitem__(self, image_id: str, caption: str) -> None:
        raise TypeError("use add(id, captions) to put captions into a table; it does not overwrite others silently.")

    def all(self, image_id: str) -> tuple[str, ...]:
        """Return all captions of an image.

        Raises:
            UnknownIdError: If the table does not hold the image.
        """
        return self.record(image_id).captions

    def record(self, image_id: str) -> CaptionRecord:
        """Return everything that the table stores about an image: captions, fields and provenance.

        Raises:
            TypeError: If `image_id` is not a string.
            UnknownIdError: If the table does not contain the image; the message names similar ids.
        """
        check_id(image_id)
        records = self._store.get([image_id])
        if not records:
            raise self._unknown([image_id])
        return records[image_id]

    def records(self) -> Iterator[CaptionRecord]:
        """Iterate over all records, which are read as they are needed."""
        return self._store.records()

    def captions(self, ids: Iterable[str]) -> list[str]:
        """Return the first caption of each image, in the order of `ids`.

        Raises:
            TypeError: If an id is not a string.
            UnknownIdError: If the table lacks some of the images.
        """
        listed = sequence_of_ids(ids)
        records = self._store.get(listed)
        if absent := [image_id for image_id in listed if image_id not in records]:
            raise self._unknown(absent)
        return [records[image_id].captions[0] for image_id in listed]

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Return the ids that the table does not hold, each once, in the order of `ids`: the images left to caption."""
        absent: dict[str, None] = {}
        source = iter(ids if not isinstance(ids, str) else sequence_of_ids(ids))
        while chunk := sequence_of_ids(islice(source, CHUNK)):
            records = self._store.get(chunk)
            absent |= {image_id: None for image_id in chunk if image_id not in records}
        return list(absent)

    def items(self) -> ItemsView[str, str]:
        return _Items(self)

    def values(self) -> ValuesView[str]:
        return _Values(self)

    def get(self, image_id: str, default: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        check_id(image_id)
        records = self._store.get([image_id])
        return records[image_id].captions[0] if records else default

    def __contains__(self, image_id: object) -> bool:
        check_id(image_id)
        return bool(self._store.get([str(image_id)]))

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids, sorted on disk and in the order of adding in memory."""
        return self._store.ids()

    def __len__(self) -> int:
        return sum(self._store.provenances().values())

    def __repr__(self) -> str:
        count = "closed"
        with suppress(ValueError, OSError):  # a closed table can be shown too
            count = f"images: {len(self)}"
        return f"<CaptionTable {self._name}, {count}>"

    def _repr_html_(self) -> str | None:
        """The first 20 captions as a table, which notebooks show; None if this table is closed."""
        with suppress(ValueError, OSError):
            return rows_as_html(("id", "caption"), islice(_Items(self), 20), title=repr(self)[1:-1])

    @property
    def provenances(self) -> dict[Provenance | None, int]:
        """The number of images of each provenance; None stands for unknown provenance."""
        return self._store.provenances()

    def add(
        self,
        image_id: str,
        captions: str | Sequence[str],
        *,
        fields: Mapping[str, Any] | None = None,
        replace: bool = False,
    ) -> bool:
        """Store the captions of one image. Each call is a transaction; `update` is faster for many images.

        Args:
            image_id: Id of the image, any text such as "2007_000033" or "a/b/c.jpg".
            captions: One caption or several.
            fields: Further information to store, such as {"class_label": 1}, as JSON values by name.
            replace: Whether other captions of this image may be replaced. Its fields stay unless `fields` is passed.

        Returns:
            Whether the image is new in the table. Adding the same captions again changes nothing.

        Raises:
            TypeError: If the id or a caption is not a string, or a field cannot be written as JSON.
            CaptionError: If `captions` is empty, a caption is empty, the image already has other captions and `replace`
                is false, or the table has captions of another provenance and `mix` is false.
            OutputError: If the file cannot be written; its content is unchanged.
        """
        record = new_record(image_id, captions, fields, provenance=self._provenance)
        return bool(self._store.write([("", record)], replace=replace, mix=self._mix))

    def update(
        self,
        pairs: Mapping[str, str | Sequence[str]] | Iterable[tuple[str, str | Sequence[str]]],
        *,
        replace: bool = False,
    ) -> int:
        """Store the captions of many images.

        Pairs from a slow iterator are written about once a second. If a pair is wrong or the iterator raises an error,
        all pairs before it are stored.

        Args:
            pairs: A mapping or pairs of image id and captions, or another table, which is merged.
            replace: Whether a caption from `source` replaces a different caption that this table has for the image.

        Returns:
            The number of images that are new in the table.

        Raises:
            TypeError: If an id or a caption is not a string.
            CaptionError: If an image has no caption or an empty one, if it already has other captions and `replace` is
                false, or if the table has captions of another provenance and `mix` is false.
            OutputError: If the file cannot be written.
        """
        if isinstance(pairs, CaptionTable):
            return self.merge(pairs, replace=replace)
        source = pairs.items() if isinstance(pairs, Mapping) else pairs
        records = (("", new_record(*id_and_captions(pair), provenance=self._provenance)) for pair in source)
        return self._write(records, replace=replace)

    def merge(self, source: "CaptionTable | str | Path", *, replace: bool = False) -> int:
        """Copy all captions, fields and provenance from another table, or row by row from a caption file.

        Args:
            source: A table, or any caption file that `open` reads. JSON Lines and Parquet may be larger than memory.
            replace: Whether other captions of these images may be replaced.

        Returns:
            The number of images that are new in the table.

        Raises:
            CaptionError: If the file cannot be read, or a row is wrong (see `open` and `add`); all rows before it are
                stored.
            OutputError: If the table's file cannot be written.
        """
        if not isinstance(source, CaptionTable):
            path = Path(source)
            if path.suffix.lower() not in SUFFIXES and not is_sqlite(path):
                return self._write(formats.read(path), replace=replace)
            source = CaptionTable.open(path)
        return self._write((("", record) for record in source.records()), replace=replace)

    def fill(
        self,
        images: Mapping[str, Image] | Iterable[tuple[str, Image]],
        captioner: Callable[[list[Image]], Sequence[str]],
        *,
        batch_size: int = 8,
        progress: bool = False,
    ) -> int:
        """Caption the images that the table does not contain, batch by batch.

        The captions of each batch are stored at once, so a run that was stopped can resume where it was. An image for
        which the captioner returns an empty caption stays missing, and a warning names the first such image.

        Args:
            images: Images or their paths by id, a mapping or pairs. Only images that are missing reach the captioner.
            captioner: A `tadp.Captioner`, or a function from a list of images to a list of as many captions.
            batch_size: Number of images per batch, 1 or more.
            progress: Whether to show a progress bar.

        Returns:
            The number of images that are new in the table.

        Raises:
            ValueError: If `batch_size` is below 1.
            CaptionError: If an id occurs twice in `images`, or the captioner does not return one caption per image.
            OutputError: If the file cannot be written.

        Example:
            >>> table = CaptionTable()
            >>> table.fill({"a.jpg": "the image a", "b.jpg": "the image b"}, lambda images: [f"{x}!" for x in images])
            2
            >>> table["b.jpg"]
            'the image b!'
        """
        return fill(
            images, captioner, is_known=self.__contains__, update=self.update, batch_size=batch_size, progress=progress
        )

    def _write(self, records: Iterable[Located], *, replace: bool) -> int:
        return write_in_chunks(self._store, records, replace=replace, mix=self._mix)

    def to_json(self, path: str | Path) -> None:
        """Write JSON in the format of the paper's authors, with one image per line. Provenance is not written.

        Raises:
            ValueError: If the suffix is not .json.
            OutputError: If the file cannot be written; an existing file is unchanged.
        """
        formats.write_json(Path(path), self.records())

    def to_jsonl(self, path: str | Path) -> None:
        """Write JSON Lines: {"id": …, "captions": […]}, with the further fields and the provenance in each line.

        Raises:
            ValueError: If the suffix is not .jsonl or .ndjson.
            CaptionError: If a field is named "id" or "provenance".
            OutputError: If the file cannot be written; an existing file is unchanged.
        """
        formats.write_jsonl(Path(path), self.records())

    def to_parquet(self, path: str | Path) -> None:
        """Write Parquet with the columns id, captions (lists of strings), fields and provenance (JSON, or null).

        Raises:
            ValueError: If the suffix is not .parquet.
            MissingExtraError: If pyarrow is not installed: pip install 'tadp[parquet]'.
            OutputError: If the file cannot be written; an existing file is unchanged.
        """
        formats.write_parquet(Path(path), self.records())

    def close(self) -> None:
        """Release the file. A table in memory stays usable."""
        self._store.close()

    def __enter__(self) -> "CaptionTable":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _unknown(self, absent: list[str]) -> UnknownIdError:
        first, count = absent[0], len(self)
        message = f"the caption table ({self._name}, {count} images) has no image {shown(first)}"
        if len(absent) > 1:
            message += f", nor {len(absent) - 1} more of the requested ones"
        near = get_close_matches(first, list(self)) if count <= _NEAR_IDS else []
        advice = f"Did you mean {', '.join(map(repr, near))}?" if near else "table.missing(ids) lists the missing ids."
        return UnknownIdError(f"{message}. {advice}")


class _Items(ItemsView[str, str]):
    """Ids and first captions, read page by page."""

    _mapping: CaptionTable

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((record.id, record.captions[0]) for record in self._mapping.records())


class _Values(ValuesView[str]):
    """First captions, read page by page."""

    _mapping: CaptionTable

    def __iter__(self) -> Iterator[str]:
        return (record.captions[0] for record in self._mapping.records())
