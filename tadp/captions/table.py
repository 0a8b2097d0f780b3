"""`CaptionTable`: a mapping from image id to caption, in memory or on disk."""

from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
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

SUFFIXES = (".db", ".sqlite", ".sqlite3")  # of a table on disk

_NEAR_IDS = 5000  # tables up to this size are searched for ids that look alike


class CaptionTable(Mapping[str, str]):
    """Captions by image id: a mapping from id to the first caption, which can do a little more.

    A table is in memory, or on disk in one SQLite file with the suffix .db. On disk, what `add`, `update`, `merge` or
    `fill` returned from is there, whatever happens to the process after; a call that was killed has left whole
    transactions, each at most 50,000 images and about a second long. Threads, forked and spawned workers may share a
    table, and several processes may add to one file; a pickled table opens the file anew.

    Args:
        pairs: Ids and captions to begin with, as `update` takes them.
        provenance: Where captions that are added come from; None if that is not known.
        mix: Allow captions of several provenances in this table.

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
        """Read the authors' JSON, {id: {"captions": [...], "class_label": 1}}, into memory.

        Raises:
            CaptionError: If there is no such file, it is broken (the message has line and column), an id stands twice,
                or an entry has no captions.
        """
        return cls._read(Path(path), formats.read_json(Path(path)))

    @classmethod
    def open(cls, path: str | Path) -> "CaptionTable":
        """Open any caption file for reading.

        A table on disk (.db) is not loaded: an entry is read when it is asked for. JSON (.json), JSON Lines (.jsonl,
        .ndjson) and Parquet (.parquet) are read into memory; one too large for that goes through `merge` into a table
        on disk, once. What is added to a table in memory stays there.

        Raises:
            CaptionError: If there is no such file, it is of another kind, or it is broken; the message says where.
            MissingExtraError: If it is Parquet and pyarrow is not installed: pip install 'tadp[parquet]'.
        """
        path = Path(path)
        if not path.is_file():
            raise CaptionError(f"{path} is a folder; pass a file in it." if path.is_dir() else f"no such file: {path}.")
        if path.suffix.lower() in SUFFIXES or is_sqlite(path):
            return cls._on_disk(SqliteStore(path, is_writable=False), path)
        return cls._read(path, formats.read(path))

    @classmethod
    def create(cls, path: str | Path, *, provenance: Provenance | None = None, mix: bool = False) -> "CaptionTable":
        """Open a table on disk for adding; make the file if it is not there, and go on with it if it is.

        Args:
            path: A file with the suffix .db, .sqlite or .sqlite3.
            provenance: As the class takes it.
            mix: As the class takes it.

        Raises:
            CaptionError: If the file is something else, or has captions of another provenance and `mix` is false.
            OutputError: If it cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() not in SUFFIXES:
            raise CaptionError(
                f"a table that is added to on disk has the suffix {' or '.join(SUFFIXES)}; got {path}. Create "
                f"{path.with_suffix('.db')}, and write other kinds from it at the end: to_json, to_jsonl, to_parquet."
            )
        table = cls._on_disk(SqliteStore(path, is_writable=True), path, provenance=provenance, mix=mix)
        others = [one for one in table.provenances if one != provenance]
        if others and provenance is not None and not mix:
            table.close()
            raise CaptionError(f"{path}: ", *mixing(others[0], provenance))
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
        table = cls(mix=True)  # a file that is mixed already is read as it is
        table._write(records, replace=False)
        table._name, table._mix = str(path), False
        return table

    def __getitem__(self, image_id: str) -> str:
        return self.record(image_id).captions[0]

    def __setitem__(self, image_id: str, caption: str) -> None:
        raise TypeError("captions go into a table by add(id, captions), which refuses to lose others unasked.")

    def all(self, image_id: str) -> tuple[str, ...]:
        """All captions of an image.

        Raises:
            UnknownIdError: If the table does not hold it.
        """
        return self.record(image_id).captions

    def record(self, image_id: str) -> CaptionRecord:
        """All that the table holds of an image: captions, fields, provenance.

        Raises:
            TypeError: If the id is no string.
            UnknownIdError: If the table does not hold it; the message names ids that look alike.
        """
        check_id(image_id)
        found = self._store.get([image_id])
        if not found:
            raise self._unknown([image_id])
        return found[image_id]

    def records(self) -> Iterator[CaptionRecord]:
        """All records, in the order of iteration, read as they are needed."""
        return self._store.records()

    def captions(self, ids: Iterable[str]) -> list[str]:
        """The first caption of each image, in the order asked.

        Raises:
            TypeError: If an id is no string.
            UnknownIdError: If the table lacks some.
        """
        listed = sequence_of_ids(ids)
        found = self._store.get(listed)
        if absent := [image_id for image_id in listed if image_id not in found]:
            raise self._unknown(absent)
        return [found[image_id].captions[0] for image_id in listed]

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Those ids that the table does not hold, each once, in the order given: what is left to caption."""
        left: dict[str, None] = {}
        source = iter(ids if not isinstance(ids, str) else sequence_of_ids(ids))
        while some := sequence_of_ids(islice(source, CHUNK)):
            found = self._store.get(some)
            left |= {image_id: None for image_id in some if image_id not in found}
        return list(left)

    def items(self) -> ItemsView[str, str]:
        return _Items(self)

    def values(self) -> ValuesView[str]:
        return _Values(self)

    def get(self, image_id: str, default: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        check_id(image_id)
        found = self._store.get([image_id])
        return found[image_id].captions[0] if found else default

    def __contains__(self, image_id: object) -> bool:
        check_id(image_id)
        return bool(self._store.get([str(image_id)]))

    def __iter__(self) -> Iterator[str]:
        """Ids: sorted on disk, in the order of adding in memory."""
        return self._store.ids()

    def __len__(self) -> int:
        return sum(self._store.provenances().values())

    def __repr__(self) -> str:
        try:
            count = f"images: {len(self)}"
        except (ValueError, OSError):  # a closed table is shown too
            count = "closed"
        return f"<CaptionTable {self._name}, {count}>"

    @property
    def provenances(self) -> dict[Provenance | None, int]:
        """Where the captions came from, with the number of images of each; None stands for unknown."""
        return self._store.provenances()

    def add(
        self,
        image_id: str,
        captions: str | Sequence[str],
        *,
        fields: Mapping[str, Any] | None = None,
        replace: bool = False,
    ) -> bool:
        """Keep the captions of one image. A transaction each: `update` is faster for many.

        Args:
            image_id: Any text, "2007_000033" or "a/b/c.jpg".
            captions: One caption or several.
            fields: What else to keep, such as {"class_label": 1}.
            replace: Put them in the place of other captions of this image; its fields stay unless new ones are given.

        Returns:
            Whether the image is new. The same captions again change nothing.

        Raises:
            TypeError: If id or caption is no string, or a field is not of JSON.
            CaptionError: If there is no caption or an empty one, the image has others, or those of the table are
                of another provenance.
            OutputError: If it cannot be written; what was there is untouched.
        """
        record = new_record(image_id, captions, fields, provenance=self._provenance)
        return bool(self._store.write([("", record)], replace=replace, mix=self._mix))

    def update(
        self,
        pairs: Mapping[str, str | Sequence[str]] | Iterable[tuple[str, str | Sequence[str]]],
        *,
        replace: bool = False,
    ) -> int:
        """Keep the captions of many images.

        A slow iterator is written about once a second. Where something is wrong with a pair, or the iterator raises,
        all pairs before are kept.

        Args:
            pairs: Ids and captions, or another table, which is merged.
            replace: As in `add`.

        Returns:
            How many images are new.

        Raises:
            TypeError: As in `add`.
            CaptionError: As in `add`.
            OutputError: As in `add`.
        """
        if isinstance(pairs, CaptionTable):
            return self.merge(pairs, replace=replace)
        items = pairs.items() if isinstance(pairs, Mapping) else pairs
        records = (("", new_record(*id_and_captions(pair), provenance=self._provenance)) for pair in items)
        return self._write(records, replace=replace)

    def merge(self, source: "CaptionTable | str | Path", *, replace: bool = False) -> int:
        """Take over another table, or a caption file row by row, with all captions, fields and provenance.

        Args:
            source: A table, or a file as `open` takes it. JSON Lines and Parquet may be larger than memory.
            replace: As in `add`.

        Returns:
            How many images are new.

        Raises:
            CaptionError: As in `open` and `add`; what came before the row in question is kept.
            OutputError: As in `add`.
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
        """Caption the images that the table does not hold, batch by batch.

        After a batch its captions are kept, so a run that was stopped goes on where it was. An image about which the
        captioner says nothing stays missing, and a warning names it.

        Args:
            images: Ids and images, or paths, of which only missing ones reach the captioner.
            captioner: From a list of images to as many captions; a `tadp.Captioner`.
            batch_size: Images at once.
            progress: Show a progress bar.

        Returns:
            How many images are new.

        Raises:
            ValueError: If `batch_size` is under 1.
            CaptionError: If an id stands twice among the images, or the captioner does not return a caption an image.
            OutputError: As in `add`.

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
        """Write the authors' JSON, an image a line. It has no place for provenance.

        Raises:
            ValueError: If the suffix is not .json.
            OutputError: If it cannot be written; a file that was there is untouched.
        """
        formats.write_json(Path(path), self.records())

    def to_jsonl(self, path: str | Path) -> None:
        """Write JSON Lines: {"id": …, "captions": […]}, other fields beside them, provenance in each line.

        Raises:
            ValueError: If the suffix is not .jsonl or .ndjson.
            CaptionError: If a field is named "id" or "provenance".
            OutputError: As in `to_json`.
        """
        formats.write_jsonl(Path(path), self.records())

    def to_parquet(self, path: str | Path) -> None:
        """Write Parquet: id, captions (list of strings), fields and provenance (JSON objects, or null).

        Raises:
            ValueError: If the suffix is not .parquet.
            MissingExtraError: If pyarrow is not installed: pip install 'tadp[parquet]'.
            OutputError: As in `to_json`.
        """
        formats.write_parquet(Path(path), self.records())

    def close(self) -> None:
        """Let go of the file. A table in memory goes on as it was."""
        self._store.close()

    def __enter__(self) -> "CaptionTable":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _unknown(self, absent: list[str]) -> UnknownIdError:
        first, count = absent[0], len(self)
        message = f"the caption table ({self._name}, {count} images) has no image {shown(first)}"
        if len(absent) > 1:
            message += f", nor {len(absent) - 1} more of those asked for"
        near = get_close_matches(first, list(self)) if count <= _NEAR_IDS else []
        advice = f"Did you mean {', '.join(map(repr, near))}?" if near else "table.missing(ids) lists what it lacks."
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
