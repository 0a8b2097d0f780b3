"""The interface of the storage behind a caption table, and its implementation in memory."""

import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

from tadp.captions.records import CaptionRecord, Located, Provenance, differences, shown
from tadp.errors import Argument, CaptionError
from tadp.language.unicode_forms import composed

_turn = threading.RLock()


@runtime_checkable
class Store(Protocol):
    """The storage behind a caption table."""

    def get(self, ids: Sequence[str]) -> dict[str, CaptionRecord]:
        """Return the records of the ids that are stored."""
        ...

    def ids(self) -> Iterator[str]:
        """Iterate over all ids."""
        ...

    def records(self) -> Iterator[CaptionRecord]:
        """Iterate over all records, in the order of `ids`."""
        ...

    def provenances(self) -> dict[Provenance | None, int]:
        """Return the number of images of each provenance."""
        ...

    def write(self, records: Sequence[Located], *, replace: bool, mix: bool) -> int:
        """Store records up to the first that must be refused, and return how many are new."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


@dataclass
class Plan:
    """The changes that records make to a table: new records, replaced ones, and the first that must be refused.

    The keys of records are their ids in Unicode's form NFC, so that an id in another form is the same image.
    """

    fresh: dict[str, CaptionRecord] = field(default_factory=dict)
    changed: dict[str, CaptionRecord] = field(default_factory=dict)
    error: CaptionError | None = None

    @classmethod
    def of(
        cls,
        records: Sequence[Located],
        existing: dict[str, CaptionRecord],
        present: set[Provenance | None],
        *,
        replace: bool,
        mix: bool,
    ) -> "Plan":
        plan, present = cls(), set(present)
        for where, record in records:
            key = composed(record.id)
            known = plan.fresh.get(key) or plan.changed.get(key) or existing.get(record.id)
            if known is not None and _is_same(known, record):
                continue
            if known is not None and not replace:
                plan.error = CaptionError(where + _conflict(known, record))
                break
            different = present - {record.provenance}
            if different and not mix:
                plan.error = CaptionError(where, *mixing(next(iter(different)), record.provenance))
                break
            present.add(record.provenance)
            if known is not None:  # an id keeps the Unicode form in which it was stored
                record = CaptionRecord(known.id, record.captions, record.fields or known.fields, record.provenance)
            (plan.fresh if known is None or key in plan.fresh else plan.changed)[key] = record
        return plan

    def shifts(self, existing: dict[str, CaptionRecord]) -> Counter[Provenance | None]:
        """Return how many images each provenance gains, or loses if negative."""
        counts = Counter(record.provenance for record in (*self.fresh.values(), *self.changed.values()))
        before = {record.id: record.provenance for record in existing.values()}
        counts.subtract(before[record.id] for record in self.changed.values())
        return counts


def _is_same(known: CaptionRecord, record: CaptionRecord) -> bool:
    return known.captions == record.captions and (not record.fields or record.fields == known.fields)


def _conflict(known: CaptionRecord, record: CaptionRecord) -> str:
    what, old, new = "caption", known.captions, record.captions
    if old == new:
        what, old, new = "field", known.fields, record.fields
    elif len(old) == len(new) == 1:
        (old,), (new,) = old, new
    return (
        f"the image {shown(record.id)} already has another {what}: {shown(old)}; got {shown(new)}. "
        "Pass replace=True to replace it, or leave one out."
    )


def mixing(known: Provenance | None, new: Provenance | None) -> list[str | Argument]:
    """Explain, as parts of a message, why captions of another provenance than the table's are refused."""
    return [
        "a table holds captions of one origin unless it allows more: ",
        *differences(known, new),
        ". Keep them in separate tables, or pass ",
        Argument("mix", True),
        " where this table is created.",
    ]


class MemoryStore:
    """Records in a dictionary, in the order of adding; as tuples, which take less memory."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[tuple[str, ...], Mapping[str, Any] | None, Provenance | None]] = {}
        self._spelled: dict[str, str] = {}  # ids as they were added, by their form NFC, if they are not in ASCII
        self._images: Counter[Provenance | None] = Counter()

    def get(self, ids: Sequence[str]) -> dict[str, CaptionRecord]:
        stored = {image_id: self._spelled.get(composed(image_id), image_id) for image_id in ids}
        return {image_id: self._record(row) for image_id, row in stored.items() if row in self._rows}

    def ids(self) -> Iterator[str]:
        return iter(list(self._rows))

    def records(self) -> Iterator[CaptionRecord]:
        return map(self._record, self.ids())

    def provenances(self) -> dict[Provenance | None, int]:
        return {source: count for source, count in self._images.items() if count}

    def write(self, records: Sequence[Located], *, replace: bool, mix: bool) -> int:
        with in_turn():
            existing = self.get([record.id for _, record in records])
            plan = Plan.of(records, existing, set(self.provenances()), replace=replace, mix=mix)
            self._images.update(plan.shifts(existing))
            for record in (*plan.fresh.values(), *plan.changed.values()):
                self._rows[record.id] = (record.captions, record.fields or None, record.provenance)
                if not record.id.isascii():
                    self._spelled[composed(record.id)] = record.id
        if plan.error is not None:
            raise plan.error
        return len(plan.fresh)

    def _record(self, image_id: str) -> CaptionRecord:
        captions, fields, provenance = self._rows[image_id]
        return CaptionRecord(image_id, captions, dict(fields or {}), provenance)

    def close(self) -> None:
        """Do nothing, since nothing is stored in a file."""


@contextmanager
def in_turn() -> Iterator[None]:
    """Allow one statement or transaction at a time in this process, and none during a fork."""
    _guard_forks()
    with _turn:
        yield


@lru_cache(maxsize=1)
def _guard_forks() -> None:
    """Make forks wait until the current statement ends.

    Otherwise, a child would inherit SQLite's record of locks that it does not hold, and our lock without a holder that
    releases it.
    """
    if os.name == "posix":
        os.register_at_fork(before=_turn.acquire, after_in_parent=_turn.release, after_in_child=_turn.release)
