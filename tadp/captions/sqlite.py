"""The storage of a caption table on disk: its records in one SQLite file.

We use SQLite's rollback journal. So between two transactions all data is in this one file, which can be copied, and can
be read from a disk that cannot be written to. With `synchronous=EXTRA`, a completed transaction also survives a power
failure.
"""

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from tadp.captions.records import CaptionRecord, Located, Provenance, flaw_of, shown, to_json
from tadp.captions.store import Plan, in_turn
from tadp.captions.strict_json import loads
from tadp.errors import CaptionError, OutputError
from tadp.files.checks import check_whole, refuse_pointer
from tadp.language.unicode_forms import forms

_WAIT_S = 60.0  # how long to wait for another process to finish its transaction
_ASK_AGAIN_S = 0.02  # SQLite's own timeout, kept short: its pauses grow up to 0.1 s, too long next to a busy writer
_PAGE = 1000  # rows per SELECT; reads are kept short so that writers get their turn
_FORMAT = 1
_APPLICATION = 0x74616470  # "tadp", in the file's header
_SCHEMA = (
    "CREATE TABLE provenance (number INTEGER PRIMARY KEY, record TEXT, images INTEGER NOT NULL)",
    "CREATE TABLE captions (id TEXT NOT NULL PRIMARY KEY, captions TEXT NOT NULL, fields TEXT,"
    " provenance INTEGER NOT NULL REFERENCES provenance) WITHOUT ROWID",
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {_FORMAT}",
)
_LARGEST_ROW = 2**24  # bytes; SQLite refuses longer texts
_COLUMNS = "id, captions, fields, provenance"
_CANNOT_WRITE = {
    sqlite3.SQLITE_FULL: "Free some space or choose another folder",
    sqlite3.SQLITE_IOERR: "Free some space or choose another folder",
    sqlite3.SQLITE_READONLY: "There may be no permission: choose another folder",
    sqlite3.SQLITE_PERM: "There may be no permission: choose another folder",
    sqlite3.SQLITE_CANTOPEN: "There may be no permission, or no such folder: choose another",
    sqlite3.SQLITE_BUSY: "Another process is writing to it: try again when it is done",
}

_inherited: list[sqlite3.Connection] = []  # connections of the parent process, which a child must not close either


class SqliteStore:
    """Caption records in one SQLite file, in the order of their ids.

    A connection belongs to the process that opened it. A worker process, forked or spawned, opens its own connection at
    first use. Once `write` has returned, its records are on disk. If the process is killed during `write`, either all
    of its records are on disk or none.
    """

    def __init__(self, path: Path, *, is_writable: bool):
        self._path, self._is_writable = Path(os.path.abspath(path)), is_writable  # noqa: PTH100  keeps links
        self._connection: tuple[int, sqlite3.Connection] | None = None  # with the id of the process it belongs to
        self._is_closed = False
        self._known: dict[int, Provenance | None] = {}  # rows of the table `provenance`
        refuse_pointer(path, CaptionError)
        if is_writable:
            _create_folder(path)
        with self._database() as database:
            if is_writable:
                _create_tables(database, self._path)
            else:
                _check(database, self._path)

    def get(self, ids: Sequence[str]) -> dict[str, CaptionRecord]:
        with self._database() as database:
            return self._get(database, ids)

    def ids(self) -> Iterator[str]:
        return (row[0] for row in self._pages("id"))

    def records(self) -> Iterator[CaptionRecord]:
        for row in self._pages(_COLUMNS):
            yield self._record(row)

    def provenances(self) -> dict[Provenance | None, int]:
        with self._database() as database:
            return {source: images for source, images in self._provenances(database).values() if images}

    def write(self, records: Sequence[Located], *, replace: bool, mix: bool) -> int:
        if not self._is_writable:
            raise OutputError(
                f"{self._path} was opened for reading. To add to it, open it with "
                f"CaptionTable.create({str(self._path)!r}), which keeps its content."
            )
        with self._database() as database, _transaction(database):
            known = self._provenances(database)
            existing = self._get(database, [record.id for _, record in records])
            present = {source for source, images in known.values() if images}
            plan = Plan.of(records, existing, present, replace=replace, mix=mix)
            numbers = {source: number for number, (source, _) in known.items()}
            for source, shift in plan.shifts(existing).items():
                if source not in numbers:
                    numbers[source] = max(numbers.values(), default=0) + 1
                    row = (numbers[source], None if source is None else to_json(source.as_dict()))
                    _run(database, "INSERT INTO provenance VALUES (?, ?, 0)", row)
                _run(database, "UPDATE provenance SET images = images + ? WHERE number = ?", (shift, numbers[source]))
            database.executemany(
                f"INSERT OR REPLACE INTO captions ({_COLUMNS}) VALUES (?, ?, ?, ?)",
                (_row(record, numbers) for record in (*plan.fresh.values(), *plan.changed.values())),
            )
        if plan.error is not None:
            raise plan.error
        return len(plan.fresh)

    def close(self) -> None:
        self._is_closed = True
        self._release()

    def __del__(self) -> None:
        if "_is_closed" in self.__dict__:
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_connection": None}

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """Hold this process's connection exclusively, and turn SQLite's errors into errors that say what to do."""
        if self._is_closed:
            raise ValueError(f"the caption table {self._path} is closed. Open it again: CaptionTable.open(path).")
        with in_turn():
            try:
                if self._connection is None or self._connection[0] != os.getpid():
                    self._release()
                    self._connection = (os.getpid(), _connect(self._path, is_writable=self._is_writable))
                yield self._connection[1]
            except sqlite3.Error as error:
                _raise_clearly(error, self._path, is_writing=self._is_writable)

    def _release(self) -> None:
        if self._connection is not None:
            process, connection = self._connection
            if process == os.getpid():
                connection.close()
            else:
                _inherited.append(connection)
            self._connection = None

    def _get(self, database: sqlite3.Connection, ids: Sequence[str]) -> dict[str, CaptionRecord]:
        records = {}
        for start in range(0, len(ids), _PAGE // 4):  # every SQLite takes 999 parameters, up to three per id
            pairs = [(form, image_id) for image_id in ids[start : start + _PAGE // 4] for form in forms(image_id)]
            page = list(dict.fromkeys(form for form, _ in pairs))
            marks = ",".join("?" * len(page))
            rows = _run(database, f"SELECT {_COLUMNS} FROM captions WHERE id IN ({marks})", page).fetchall()
            records_by_id = {row[0]: self._record(row) for row in rows}
            for form, image_id in pairs:
                if form in records_by_id:
                    records.setdefault(image_id, records_by_id[form])
        return records

    def _pages(self, columns: str) -> Iterator[tuple]:
        query = f"SELECT {columns} FROM captions WHERE id {{}} ? ORDER BY id LIMIT {_PAGE}"
        last, comparison = "", ">="  # an empty id is refused, not left out
        while True:
            with self._database() as database:
                rows = _run(database, query.format(comparison), (last,)).fetchall()
            if not rows:
                return
            for row in rows:
                if flaw := flaw_of(row[0]) if isinstance(row[0], str) else "is not a text":
                    raise self._damaged(row[0], f"its id {flaw}")
            if any(row[0] <= last for row in (rows[0], rows[-1])):
                raise self._damaged(rows[-1][0], "the ids are not in their order")
            yield from rows
            last, comparison = rows[-1][0], ">"

    def _record(self, row: tuple[str, str, str | None, int]) -> CaptionRecord:
        image_id, captions, fields, number = row
        if number not in self._known:
            with self._database() as database:
                self._known = {key: source for key, (source, _) in self._provenances(database).items()}
        try:
            texts, source = json.loads(captions), self._known[number]
            extra = loads(fields.encode(), "its fields", is_line=True) if fields else {}
        except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
            raise self._damaged(image_id, f"{type(error).__name__}: {error}") from error
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise self._damaged(image_id, f"its captions are {shown(texts)}")
        for flaw in filter(None, map(flaw_of, texts)):
            raise self._damaged(image_id, f"a caption {flaw}")
        if not isinstance(extra, dict):
            raise self._damaged(image_id, f"its fields are {shown(extra)}")
        return CaptionRecord(image_id, tuple(texts), extra, source)

    def _damaged(self, image_id: Any, why: str) -> CaptionError:
        return CaptionError(
            f"{self._path}, image {shown(image_id)}: no caption table has such a row: {why.rstrip('.')}. The file is "
            "damaged, or was changed by another program; use a backup."
        )

    def _provenances(self, database: sqlite3.Connection) -> dict[int, tuple[Provenance | None, int]]:
        rows = _run(database, "SELECT number, record, images FROM provenance").fetchall()
        try:
            return {
                number: (
                    None if text is None else Provenance.from_dict(json.loads(text)),
                    check_whole(images, name="images", minimum=0),
                )
                for number, text, images in rows
            }
        except (CaptionError, TypeError, ValueError, RecursionError) as error:
            raise CaptionError(
                f"{self._path} has a provenance that cannot be read: {str(error).rstrip('.')}. It is damaged; use a "
                "backup."
            ) from error


def _run(database: sqlite3.Connection, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
    """Execute a statement, and wait while another process holds the lock."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            return database.execute(statement, values)
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF  # the higher bits are details; 0 for the module's own errors


def _row(record: CaptionRecord, numbers: dict[Provenance | None, int]) -> tuple[str, str, str | None, int]:
    fields = to_json(record.fields) if record.fields else None
    return record.id, to_json(record.captions), fields, numbers[record.provenance]


def is_sqlite(path: Path) -> bool:
    """Whether a file begins like an SQLite database."""
    with in_turn():  # closing a file drops the locks that this process has on it
        try:
            if not path.is_file():  # reading from a pipe may never end
                return False
            with path.open("rb") as file:
                return file.read(16) == b"SQLite format 3\x00"
        except OSError:
            return False


def _connect(path: Path, *, is_writable: bool) -> sqlite3.Connection:
    # A reader asks for "rw" too, since it may have to undo what a killed writer left. Without permission, SQLite falls
    # back to reading.
    address = f"{path.as_uri()}?mode={'rwc' if is_writable else 'rw'}"
    connection = sqlite3.connect(address, uri=True, timeout=_ASK_AGAIN_S, isolation_level=None, check_same_thread=False)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST_ROW)
    _run(connection, "PRAGMA trusted_schema = OFF")
    if is_writable:
        _run(connection, "PRAGMA synchronous = EXTRA")
        _run(connection, "PRAGMA cache_size = -65536")  # 64 MiB: a large transaction stays in memory to its end
    else:
        _run(connection, "PRAGMA query_only = ON")
    return connection


def _create_folder(path: Path) -> None:
    if path.is_dir():
        raise OutputError(f"cannot write {path}: there is a folder of that name. Choose another name.")
    if path.exists() and not path.is_file():
        raise OutputError(f"cannot write {path}: it is a pipe or a device. Choose another name.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {path.parent}: {error.strerror}. Choose another.") from error


def _create_tables(database: sqlite3.Connection, path: Path) -> None:
    """Create the tables in a new file, and leave an existing caption table as it is."""
    if _is_empty(database):
        with _transaction(database):
            if _is_empty(database):  # another process may have been first
                for statement in _SCHEMA:
                    _run(database, statement)
    _check(database, path)


def _check(database: sqlite3.Connection, path: Path) -> None:
    (application,) = _run(database, "PRAGMA application_id").fetchone()
    (number,) = _run(database, "PRAGMA user_version").fetchone()
    if application != _APPLICATION:
        what = "is empty" if _is_empty(database) else "is an SQLite file of another program"
        raise CaptionError(
            f"{path} {what}; it holds no caption table. Use CaptionTable.create with an unused name to make one."
        )
    if number != _FORMAT:
        raise CaptionError(
            f"{path} is a caption table of format {number}; this version of tadp knows {_FORMAT}. Use a newer version."
        )
    # A view, a trigger or an index of an expression would run the SQL in the file. SQLite's own indexes have none.
    tables = dict(_run(database, "SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall())
    query = "SELECT type, name FROM sqlite_master WHERE type != 'table' AND (type != 'index' OR sql IS NOT NULL)"
    foreign = _run(database, query).fetchall()
    if foreign:
        kind, name = foreign[0]
        article = "an" if kind == "index" else "a"
        raise CaptionError(f"{path} has {article} {kind}, {shown(name)}, which no caption table has. Use another file.")
    for statement in _SCHEMA[:2]:
        name = statement.split()[2]
        if tables.get(name) != statement:
            raise CaptionError(
                f"{path} has another table {name!r} than a caption table: {shown(tables.get(name))}. Use another file."
            )


def _is_empty(database: sqlite3.Connection) -> bool:
    return _run(database, "SELECT count(*) FROM sqlite_master").fetchone() == (0,)


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Run everything inside as one transaction."""
    with database:  # rolls back after an exception
        _run(database, "BEGIN IMMEDIATE")
        yield
        _run(database, "COMMIT")  # unlike the connection's own commit, this waits for locks


def _raise_clearly(error: sqlite3.Error, path: Path, *, is_writing: bool) -> NoReturn:
    """Raise an error that says what to do, in place of SQLite's."""
    code = _code(error)
    is_damaged = code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_TOOBIG) or (
        str(error).startswith("Could not decode")  # not UTF-8
    )
    if is_damaged:
        raise CaptionError(
            f"{path} cannot be read as a caption table: {error}. It is another kind of file, or damaged; use a backup."
        ) from error
    if is_writing and code in _CANNOT_WRITE:
        raise OutputError(
            f"cannot write {path}: {error}. {_CANNOT_WRITE[code]}; everything written before is still there."
        ) from error
    if code == sqlite3.SQLITE_BUSY:
        raise CaptionError(
            f"{path} has been locked by a writer for {_WAIT_S:.0f} seconds. Try again when it is done."
        ) from error
    raise CaptionError(
        f"cannot read {path}: {error}. If a writer was killed, open the file once where its folder can be written to."
    ) from error
