"""Caption tables on disk: killed writers, workers, threads, full disks, and other kinds of files."""

import json
import multiprocessing as mp
import os
import pickle
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from caption_writer import SOURCE, caption_of, ids
from running import fork_server

from tadp.captions import CaptionTable
from tadp.errors import CaptionError, OutputError

WRITER = Path(__file__).parents[1] / "support" / "caption_writer.py"
FORKING = "ignore:.*fork:DeprecationWarning"  # Python 3.12 warns if there are threads


def start(table: Path, count: int, batch: int) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(WRITER), str(table), str(count), str(batch)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def whole_lines(output: str) -> list[str]:
    return output[: output.rfind("\n") + 1].splitlines()


def check_whole(path: Path) -> None:
    """Check with SQLite itself that the file is undamaged and that the counts in the table are right."""
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    (stored,) = database.execute("SELECT coalesce(sum(images), 0) FROM provenance").fetchone()
    assert database.execute("SELECT count(*) FROM captions").fetchone() == (stored,)
    database.close()


@pytest.fixture
def filled(tmp_path) -> Path:
    path = tmp_path / "filled.db"
    with CaptionTable.create(path, provenance=SOURCE) as table:
        table.update({image_id: caption_of(image_id) for image_id in ids(500)})
    return path


# Kills


@pytest.mark.parametrize("batch", [1, 40])
def test_nothing_is_lost_and_nothing_twice_when_the_writer_is_killed(tmp_path, batch):
    path, count, generator = tmp_path / "table.db", 60 * batch, random.Random(batch)
    written: list[str] = []
    kills = stored = 0
    for _ in range(100):
        writer = start(path, count, batch)
        assert writer.stdout is not None
        assert writer.stdout.readline() == f"left {count - stored}\n"
        for _ in range(generator.randrange(1, 12) * batch):
            line = writer.stdout.readline()
            written += [line.strip()] if line.endswith("\n") else []
        time.sleep(generator.random() * 0.005)
        writer.kill()
        rest, _ = writer.communicate()
        written += whole_lines(rest)
        kills += writer.returncode == -9
        with CaptionTable.open(path) as table:  # this undoes a killed writer's incomplete transaction
            assert table.captions(written) == [caption_of(image_id) for image_id in written]
            stored = len(table)
        if stored == count:
            break
    assert kills >= 3
    assert len(written) == len(set(written))  # no image was captioned twice
    with CaptionTable.open(path) as table:
        assert dict(table.items()) == {image_id: caption_of(image_id) for image_id in ids(count)}
        assert table.provenances == {SOURCE: count}
    check_whole(path)


def test_a_transaction_cut_in_the_middle_is_undone(filled, tmp_path):
    """The file and its journal are in the state in which a process leaves them that dies between two writes."""
    victim = sqlite3.connect(filled, isolation_level=None)
    victim.execute("PRAGMA cache_size = 1")  # half of the transaction reaches the file before its end
    victim.execute("BEGIN IMMEDIATE")
    victim.execute("UPDATE captions SET captions = '[\"broken\"]'")
    victim.execute("UPDATE provenance SET images = 7")
    for name in ("filled.db", "filled.db-journal"):
        shutil.copy(tmp_path / name, tmp_path / name.replace("filled", "killed"))
    victim.execute("ROLLBACK")
    victim.close()
    assert b"broken" in (tmp_path / "killed.db").read_bytes()
    with CaptionTable.open(tmp_path / "killed.db") as table:
        assert dict(table.items()) == {image_id: caption_of(image_id) for image_id in ids(500)}
    check_whole(tmp_path / "killed.db")


def test_a_file_that_was_made_and_not_begun_is_gone_on_with(tmp_path):
    (tmp_path / "table.db").touch()
    with pytest.raises(CaptionError, match=r"table\.db is empty; it holds no caption table"):
        CaptionTable.open(tmp_path / "table.db")
    with CaptionTable.create(tmp_path / "table.db") as table:
        table.add("a", "one")


def test_between_two_calls_all_is_in_the_one_file(filled, tmp_path):
    with CaptionTable.create(filled, provenance=SOURCE) as table:
        table.add("new", "a dog")
        shutil.copy(filled, tmp_path / "copy.db")  # while the writer is still open
        assert [path.name for path in tmp_path.iterdir() if "journal" in path.name or "wal" in path.name] == []
    assert CaptionTable.open(tmp_path / "copy.db")["new"] == "a dog"


# Several at once


class Captions:
    """A data set as users write it: it holds a table, which is sent to the workers."""

    def __init__(self, path: Path):
        self.table = CaptionTable.open(path)
        self.ids = list(self.table)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[int, str, str]:
        return os.getpid(), self.ids[index], self.table[self.ids[index]]


@pytest.mark.parametrize("context", ["fork", "forkserver"])  # what a fork server starts shares nothing, like a spawn
@pytest.mark.filterwarnings(FORKING)
def test_data_loader_workers_share_a_table(filled, context):
    from torch.utils.data import DataLoader

    fork_server()

    data = Captions(filled)
    loader = DataLoader(data, batch_size=10, num_workers=2, multiprocessing_context=context, collate_fn=list)
    for _ in range(2):  # the second epoch has new workers
        seen = [sample for batch in loader for sample in batch]
        assert [(image_id, caption) for _, image_id, caption in seen] == [
            (image_id, caption_of(image_id)) for image_id in sorted(ids(500))
        ]
        assert len({process for process, _, _ in seen} - {os.getpid()}) == 2
    assert len(data.table) == 500  # the parent's connection still works


def add_some(table: CaptionTable, name: str, count: int) -> None:
    for number in range(count):
        table.add(f"{name}-{number}", f"a dog {number}")


@pytest.mark.filterwarnings(FORKING)
def test_a_forked_process_writes_through_a_connection_of_its_own(tmp_path):
    with CaptionTable.create(tmp_path / "table.db") as table:
        table.add("parent", "a cat")
        inherited = table._store._connection
        workers = [mp.get_context("fork").Process(target=add_some, args=(table, name, 20)) for name in "ab"]
        for worker in workers:
            worker.start()
        add_some(table, "c", 20)
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0, 0]
        assert table._store._connection is inherited
        assert len(table) == 61
    check_whole(tmp_path / "table.db")


def test_processes_add_to_one_file(tmp_path):
    path = tmp_path / "table.db"
    writers = [start(path, 200, 10) for _ in range(3)]
    outputs = [writer.communicate()[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0], outputs
    with CaptionTable.open(path) as table:
        assert dict(table.items()) == {image_id: caption_of(image_id) for image_id in ids(200)}
    check_whole(path)


@pytest.mark.parametrize("on_disk", [False, True])
def test_threads_share_a_table(tmp_path, on_disk):
    table = CaptionTable.create(tmp_path / "table.db") if on_disk else CaptionTable()

    def work(name: str) -> None:
        for number in range(0, 60, 3):
            table.update([(f"{name}-{number + k}", f"{name} {number + k}") for k in range(3)])
            assert table[f"{name}-{number}"] == f"{name} {number}"
            assert len(list(table)) >= number + 3

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, "abcd"))
    assert len(table) == 240
    table.close()


@pytest.mark.filterwarnings(FORKING)
def test_a_fork_waits_for_a_transaction_of_another_thread(tmp_path):
    """Otherwise a child could rely on locks it does not hold, or wait for a lock that nobody releases."""
    table = CaptionTable.create(tmp_path / "table.db")
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            table.update([(f"{number}-{k}", "a dog") for k in range(20)])
            number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for name in "abcdefgh":
            worker = mp.get_context("fork").Process(target=add_some, args=(table, name, 2))
            worker.start()
            worker.join(120)
            code = worker.exitcode
            worker.kill()  # otherwise one that waits forever would block the test
            assert code == 0
    finally:
        stop.set()
        thread.join()
    assert table.missing(f"{name}-{number}" for name in "abcdefgh" for number in range(2)) == []
    table.close()
    check_whole(tmp_path / "table.db")


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_table_is_pickled(filled, on_disk, monkeypatch, tmp_path):
    table = CaptionTable.open(filled) if on_disk else CaptionTable()
    if not on_disk:
        table.merge(filled)
    monkeypatch.chdir(filled.parent)
    relative = CaptionTable.open(filled.name)
    data = pickle.dumps(table), pickle.dumps(relative)
    assert len(data[1]) < 1000  # the file's name, not its content
    monkeypatch.chdir(tmp_path.parent)
    for restored in map(pickle.loads, data):
        assert dict(restored.items()) == {image_id: caption_of(image_id) for image_id in ids(500)}


def test_a_waiting_writer_says_who_it_waits_for(filled, monkeypatch):
    monkeypatch.setattr("tadp.captions.sqlite._WAIT_S", 0.05)
    other = sqlite3.connect(filled, isolation_level=None)
    with CaptionTable.create(filled, provenance=SOURCE) as table, CaptionTable.open(filled) as reader:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OutputError, match=r"database is locked\. Another process is writing to it"):
            table.add("a", "one")
        with pytest.raises(CaptionError, match=r"filled\.db has been locked by a writer for"):
            reader["a"]
        other.execute("ROLLBACK")
        assert table.add("a", "one")
    other.close()


# Trouble with the disk


@pytest.mark.parametrize("limit_kb", [50, 80])
def test_a_full_disk_loses_nothing(filled, limit_kb):
    """The system does not let files grow, like a full disk: the table or its journal."""
    before = dict(CaptionTable.open(filled).items())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with CaptionTable.create(filled, provenance=SOURCE) as table:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_kb * 1024, hard))
            with pytest.raises(OutputError, match=r"cannot write .*filled\.db: .*Free some space.*is still there"):
                table.update({f"new-{number}": "a caption of a dog " * 20 for number in range(1000)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert dict(table.items()) == before
        assert table.add("new-1", "a dog")  # space is available again
    assert len(CaptionTable.open(filled)) == 501
    check_whole(filled)


def test_a_full_disk_by_sqlites_own_word(filled):
    with CaptionTable.create(filled, provenance=SOURCE) as table:
        with table._store._database() as database:
            database.execute("PRAGMA max_page_count = 30")
        with pytest.raises(OutputError, match=r"database or disk is full\. Free some space or choose another folder"):
            table.update({f"new-{number}": "a caption of a dog " * 20 for number in range(1000)})
        assert len(table) == len(list(table)) == 500


@pytest.fixture
def nobody():
    """A folder for tests without permissions. They run as another user, since root may write anywhere."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_nobody(call):
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        call()
    finally:
        os.seteuid(user)


def test_without_permission_reading_works_and_writing_says_so(filled, nobody):
    shutil.copy(filled, nobody / "table.db")
    (nobody / "table.db").chmod(0o444)
    nobody.chmod(0o555)

    def check() -> None:
        with CaptionTable.open(nobody / "table.db") as table:
            assert len(list(table)) == 500
        table = CaptionTable.create(nobody / "table.db", provenance=SOURCE)
        with pytest.raises(OutputError, match=r"cannot write .*table\.db: attempt to write a readonly database"):
            table.add("a", "one")
        table.close()
        with pytest.raises(OutputError, match=r"cannot write .*new\.db: unable to open database file.*permission"):
            CaptionTable.create(nobody / "new.db")
        with pytest.raises(OutputError, match=r"cannot make the folder .*sub: Permission denied"):
            CaptionTable.create(nobody / "sub" / "new.db")

    as_nobody(check)
    nobody.chmod(0o755)
    assert len(CaptionTable.open(nobody / "table.db")) == 500


def test_something_in_the_way_is_named(tmp_path, filled):
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*folder\.db: there is a folder of that name"):
        CaptionTable.create(tmp_path / "folder.db")
    with pytest.raises(OutputError, match=r"cannot make the folder .*filled\.db"):
        CaptionTable.create(filled / "new.db")


def test_a_table_for_reading_is_not_written_to(filled):
    table = CaptionTable.open(filled)
    with pytest.raises(
        OutputError, match=r"filled\.db was opened for reading. To add to it, open it with CaptionTable\.create"
    ):
        table.add("a", "one")
    table.close()
    with pytest.raises(ValueError, match=r"filled\.db is closed. Open it again"):
        table["a"]


# Files that are something else


def test_other_files_are_refused_and_left_alone(tmp_path):
    (tmp_path / "text.db").write_text("this is a text of more than sixteen letters\n" * 50)
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE captions (x)")
    other.commit()
    other.close()
    for name, message in (
        ("text.db", "cannot be read as a caption table"),
        ("other.db", "SQLite file of another program"),
    ):
        before = (tmp_path / name).read_bytes()
        for call in (CaptionTable.open, CaptionTable.create, CaptionTable().merge):
            with pytest.raises(CaptionError, match=message):
                call(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before


def test_a_table_of_a_newer_format_is_refused(filled):
    database = sqlite3.connect(filled)
    database.execute("PRAGMA user_version = 2")
    database.close()
    with pytest.raises(
        CaptionError, match=r"is a caption table of format 2; this version of tadp knows 1\. Use a newer version"
    ):
        CaptionTable.open(filled)


def test_a_damaged_file_is_named(filled):
    data = bytearray(filled.read_bytes())
    data[4096 * 3 :] = b"\xff" * (len(data) - 4096 * 3)
    filled.write_bytes(data)
    with CaptionTable.open(filled) as table, pytest.raises(CaptionError, match=r"filled\.db cannot be read.*damaged"):
        list(table.records())


# Size


def test_opening_does_not_load(tmp_path):
    """A separate process measures only the opening; a row takes about 130 bytes."""
    path, count = tmp_path / "table.db", 40_000
    with CaptionTable.create(path) as table:
        table.update((f"{number:07d}", f"a picture of object {number} " + "and so on " * 8) for number in range(count))
    program = """
import sys, resource
from tadp.captions import CaptionTable
CaptionTable.create(sys.argv[2]).add("a", "one")  # loads all code
CaptionTable.open(sys.argv[2])["a"]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
table = CaptionTable.open(sys.argv[1])
result = len(table), table["0034321"][:25]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, *result)
"""
    command = [sys.executable, "-c", program, str(path), str(tmp_path / "small.db")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    grown_kb, images, *caption = done.stdout.split()
    assert path.stat().st_size > 5_000_000
    assert int(grown_kb) < 2000
    assert int(images) == count
    assert " ".join(caption) == "a picture of object 34321"


# Ids in another Unicode form

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize(("first", "second"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_an_id_in_another_unicode_form_is_the_same_image(tmp_path, where, first, second):
    table = CaptionTable() if where == "memory" else CaptionTable.create(tmp_path / "a.db")
    with table:
        assert table.add(first, "a room", fields={"seats": 4})
        for form in (first, second):
            assert form in table
            assert table[form] == table.get(form) == table.captions([form])[0] == "a room"
            assert not table.add(form, "a room")
        assert table.missing([second, "b"]) == ["b"]
        with pytest.raises(CaptionError, match="already has another caption"):
            table.add(second, "a bar")
        with pytest.raises(CaptionError, match="already has another caption"):
            table.update({second: "a bar", "b": "a cat"})
        table.add(second, "a bar", replace=True)
        assert list(table) == [first]
        assert table.record(second).fields == {"seats": 4}
        assert len(table) == 1
        merged = CaptionTable({second: "a bar"})
        assert merged.merge(table, replace=True) == 0
        assert merged.record(first).fields == {"seats": 4}


def test_a_file_with_both_forms_of_an_id_is_refused_only_if_they_differ(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        f'{{"id": "{COMPOSED}", "captions": ["a"]}}\n{{"id": "{DECOMPOSED}", "captions": ["a"]}}\n', "utf-8"
    )
    assert list(CaptionTable.open(path)) == [COMPOSED]
    path.write_text(
        f'{{"id": "{COMPOSED}", "captions": ["a"]}}\n{{"id": "{DECOMPOSED}", "captions": ["b"]}}\n', "utf-8"
    )
    with pytest.raises(CaptionError, match="already has another caption"):
        CaptionTable.open(path)


def test_a_table_from_before_that_holds_both_forms_is_read_exactly(tmp_path):
    with CaptionTable.create(tmp_path / "a.db") as table:
        table.update({COMPOSED: "composed", "b": "decomposed"})
    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute("UPDATE captions SET id = ? WHERE id = 'b'", (DECOMPOSED,))
    database.close()
    with CaptionTable.open(tmp_path / "a.db") as table:
        assert table.captions([COMPOSED, DECOMPOSED]) == ["composed", "decomposed"]


# Files that others made


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (["CREATE VIEW more AS SELECT * FROM captions"], r"has a view, 'more'"),
        (["CREATE TRIGGER t AFTER INSERT ON captions BEGIN DELETE FROM captions; END"], r"has a trigger, 't'"),
        (
            ["DROP TABLE captions", "CREATE VIEW captions AS SELECT 'a' AS id, randomblob(1e9) AS captions"],
            r"has a view, 'captions'",
        ),
        (
            ["DROP TABLE captions", "CREATE TABLE captions (id, captions, fields, provenance)"],
            r"has another table 'captions' than a caption table",
        ),
        (
            ["UPDATE captions SET captions = '[1]'"],
            r"image '.*': no caption table has such a row: its captions are \[1\]",
        ),
        (["UPDATE captions SET captions = 'a dog'"], r"no caption table has such a row: JSONDecodeError"),
        (
            ["UPDATE captions SET captions = NULL WHERE 0", "UPDATE captions SET provenance = 9"],
            r"such a row: KeyError",
        ),
        (["UPDATE captions SET fields = '[]'"], r"such a row: its fields are \[\]"),
        (
            ["UPDATE captions SET captions = ?"],
            r"such a row: a caption has 200000 characters, of which at most .* 'aaa",
        ),
        (["UPDATE captions SET captions = '[\" \"]'"], r"such a row: a caption is empty"),
        (["UPDATE captions SET captions = '[\"\\ud800\"]'"], r"such a row: a caption cannot be written as UTF-8"),
        (["UPDATE captions SET captions = CAST(x'5b22ff225d' AS TEXT)"], r"cannot be read as a caption table: .*UTF-8"),
        (
            ["UPDATE captions SET captions = zeroblob(20000000) WHERE id = (SELECT max(id) FROM captions)"],
            r"cannot be read .* too big",
        ),
        (["UPDATE captions SET fields = '{\"a\": NaN}'"], r"such a row: CaptionError: its fields: NaN is not JSON"),
        (
            ["UPDATE captions SET id = '' WHERE id = (SELECT max(id) FROM captions)"],
            r"image '': .* such a row: its id is empty",
        ),
        (
            ["UPDATE captions SET id = x'00' WHERE id = (SELECT max(id) FROM captions)"],
            r"such a row: its id is not a text",
        ),
        (
            ["UPDATE provenance SET images = -1"],
            r"has a provenance that cannot be read: images must be 0 or more; got -1",
        ),
        (["CREATE INDEX i ON captions (abs(captions))"], r"has an index, 'i'"),
        (["UPDATE provenance SET record = '7'"], r"has a provenance that cannot be read"),
    ],
)
def test_tables_with_sql_or_rows_of_another_kind_are_refused(filled, statements, message):
    database = sqlite3.connect(filled)
    for statement in statements:
        values = (json.dumps(["a" * 200_000]),) * statement.count("?")
        database.execute(statement, values)
    database.commit()
    database.close()
    with pytest.raises(CaptionError, match=rf"filled\.db.*{message}"):
        list(CaptionTable.open(filled).records())


def test_a_pipe_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "table.db")
    with pytest.raises(CaptionError, match=r"table\.db"):
        CaptionTable.open(tmp_path / "table.db")
    with pytest.raises(OutputError, match=r"table\.db: it is a pipe or a device"):
        CaptionTable.create(tmp_path / "table.db")


def test_a_long_caption_is_refused(tmp_path):
    (tmp_path / "long.jsonl").write_text(json.dumps({"id": "a", "captions": ["a dog " * 2_000_000]}))
    start = time.monotonic()
    with pytest.raises(CaptionError, match=r"long\.jsonl, line 1: a caption of 'a' has 12000000 characters"):
        CaptionTable.open(tmp_path / "long.jsonl")
    assert time.monotonic() - start < 5
