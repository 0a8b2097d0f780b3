"""Files of captions: damaged, and with entries that are something else."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from .cases import Kind, RefusedError, family, tadp
from .damage import DAMAGES, damage
from .fixtures import copy, fixture


def read(path: Path) -> dict[str, str]:
    from tadp.captions import CaptionTable

    with CaptionTable.open(path) as table:
        return dict(table.items())


def read_damaged(suffix: str, sort: str, folder: Path, rng: Random) -> dict[str, str]:
    return read(damage(copy(f"captions/captions.{suffix}", folder), sort, rng))


UNFINISHED = {("jsonl", sort) for sort in ("empty", "cut in half", "first 16 bytes")}  # its writer was killed


def is_part(captions: dict[str, str]) -> bool:
    return captions.items() <= read(fixture("captions/captions.jsonl")).items()


@family("caption files: damage")
def caption_files() -> Iterator[Kind]:
    for suffix in ("json", "jsonl", "parquet"):
        for sort in DAMAGES:
            right = is_part if (suffix, sort) in UNFINISHED else None  # read with a warning
            yield Kind(f"{suffix}, {sort}", partial(read_damaged, suffix, sort), rf"captions\.{suffix}", right)


ENTRIES: dict[str, str] = {  # an entry in place of {"captions": ["a dog"]}, as JSON
    "number": "3",
    "null": "null",
    "list of numbers": "[1, 2]",
    "no caption": '{"captions": []}',
    "caption is null": '{"captions": null}',
    "caption is a number": '{"captions": [7]}',
    "caption is an object": '{"captions": {"en": "a dog"}}',
    "caption is empty": '{"captions": [""]}',
    "caption is white space": '{"captions": [" \\n "]}',
    "half a surrogate pair": '{"captions": ["\\ud800"]}',
    "no key captions": '{"text": ["a dog"]}',
    "NaN": '{"captions": ["a dog"], "score": NaN}',
    "5,000 digits": '{"captions": ["a dog"], "score": ' + "9" * 5000 + "}",
    "key twice": '{"captions": ["a dog"], "captions": ["a cat"]}',
    "2,000 levels": '{"captions": ["a dog"], "deep": ' + "[" * 2000 + "]" * 2000 + "}",
    "100,000 levels": '{"captions": ["a dog"], "deep": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "not JSON": "{captions: ['a dog']}",
    "control character": '{"captions": ["a \x01 dog"]}',
    "cut off": '{"captions": ["a do',
}


def read_entry(suffix: str, sort: str, folder: Path, rng: Random) -> dict[str, str]:
    path, entry = folder / f"captions.{suffix}", ENTRIES[sort]
    if suffix == "json":
        path.write_text('{"one": {"captions": ["a cat"]}, "two": ' + entry + "}")
    else:
        row = f'{{"id": "two", {entry[1:]}' if entry.startswith("{") else f'{{"id": "two", "captions": {entry}}}'
        path.write_text('{"id": "one", "captions": ["a cat"]}\n' + row + '\n{"id": "three", "captions": ["a cow"]}\n')
    return read(path)


IDS: dict[str, Any] = {
    "id is empty": "", "id is white space": "  ", "id is a number": 3, "id is null": None, "id is a list": ["a"],
    "id is an object": {}, "id is true": True,
}  # fmt: skip


def read_id(sort: str, folder: Path, rng: Random) -> dict[str, str]:
    path = folder / "captions.jsonl"
    path.write_text(json.dumps({"id": IDS[sort], "captions": ["a cat"]}) + "\n")
    return read(path)


@family("caption files: entries")
def caption_entries() -> Iterator[Kind]:
    for suffix in ("json", "jsonl"):
        for sort in ENTRIES:
            yield Kind(f"{suffix}, {sort}", partial(read_entry, suffix, sort), names=rf"captions\.{suffix}")
    for sort in IDS:
        yield Kind(f"jsonl, {sort}", partial(read_id, sort), names=r"captions\.jsonl")


TABLES: dict[str, tuple[str, ...]] = {  # statements that change a table on disk
    "table is a view": ("ALTER TABLE captions RENAME TO real", "CREATE VIEW captions AS SELECT * FROM real"),
    "endless view": ("DROP TABLE captions", "CREATE VIEW captions AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL "
        "SELECT id + 1 FROM n) SELECT id, 'a' AS captions, NULL AS fields, NULL AS provenance FROM n"),
    "trigger": ("CREATE TRIGGER t AFTER INSERT ON captions BEGIN DELETE FROM captions; END",),
    "no table": ("DROP TABLE captions",),
    "another table": ("DROP TABLE captions", "CREATE TABLE captions (a, b)"),
    "newer format": ("PRAGMA user_version = 999",),
    "another program's": ("PRAGMA application_id = 12345",),
    "captions are not JSON": ("UPDATE captions SET captions = 'a dog'",),
    "captions are a number": ("UPDATE captions SET captions = 7",),
    "captions are a blob": ("UPDATE captions SET captions = zeroblob(100)",),
    "captions are 500 MB": ("UPDATE captions SET captions = zeroblob(500000000) WHERE id = 'picture-3'",),
    "captions are an empty list": ("UPDATE captions SET captions = '[]'",),
    "captions are a list of numbers": ("UPDATE captions SET captions = '[1]'",),
    "fields are not an object": ("UPDATE captions SET fields = '[1]'",),
    "fields are not JSON": ("UPDATE captions SET fields = '{'",),
    "provenance is unknown": ("UPDATE captions SET provenance = 99",),
    "id is a blob": ("UPDATE captions SET id = zeroblob(3) WHERE id = 'picture-3'",),
    "id is empty": ("UPDATE captions SET id = '' WHERE id = 'picture-3'",),
    "id is white space": ("UPDATE captions SET id = ' ' WHERE id = 'picture-3'",),
    "id is not UTF-8": ("UPDATE captions SET id = CAST(x'ff41' AS TEXT) WHERE id = 'picture-3'",),
    "id is 50 MB": ("UPDATE captions SET id = printf('%.*c', 50000000, 'a') WHERE id = 'picture-3'",),
    "caption is white space": ("UPDATE captions SET captions = '[\"  \"]'",),
    "half a surrogate pair": ("UPDATE captions SET captions = '[\"\\ud800\"]'",),
    "captions are not UTF-8": ("UPDATE captions SET captions = CAST(x'5b22ff225d' AS TEXT)",),
    "fields have NaN": ("UPDATE captions SET fields = '{\"a\": NaN}'",),
    "fields have a key twice": ("UPDATE captions SET fields = '{\"a\": 1, \"a\": 2}'",),
    "a provenance is 50 MB": ("UPDATE provenance SET record = zeroblob(50000000)",),
    "number of images is negative": ("UPDATE provenance SET images = -5",),
    "index of an expression": ("CREATE INDEX i ON captions (abs(captions))",),
}  # fmt: skip


def read_table(sort: str, folder: Path, rng: Random) -> dict[str, str]:
    path = copy("captions/captions.db", folder)
    database = sqlite3.connect(path, isolation_level=None)
    for statement in TABLES[sort]:
        try:
            database.execute(statement)
        except sqlite3.Error as error:
            raise AssertionError(f"{statement}: {error}") from error
    database.close()
    return read(path)


def parquet_of(columns: dict[str, list[Any]], **types: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        import pyarrow
        from pyarrow import parquet

        arrays = {name: pyarrow.array(values, types.get(name)) for name, values in columns.items()}
        parquet.write_table(pyarrow.table(arrays), path)

    return write


PARQUETS: dict[str, Callable[[Path], None]] = {
    "no id": parquet_of({"captions": [["a"]]}),
    "no captions": parquet_of({"id": ["a"], "text": ["a dog"]}),
    "id is a number": parquet_of({"id": [1], "captions": [["a"]]}),
    "id is null": parquet_of({"id": [None, "b"], "captions": [["a"], ["b"]]}),
    "captions are numbers": parquet_of({"id": ["a"], "captions": [[1]]}),
    "captions are null": parquet_of({"id": ["a"], "captions": [None]}),
    "captions have a null": parquet_of({"id": ["a"], "captions": [["a", None]]}),
    "captions are bytes": parquet_of({"id": ["a"], "captions": [b"a dog"]}),
    "fields are not JSON": parquet_of({"id": ["a"], "captions": [["a"]], "fields": ["{"]}),
    "provenance is not JSON": parquet_of({"id": ["a"], "captions": [["a"]], "provenance": ["{"]}),
    "id twice": parquet_of({"id": ["a", "a"], "captions": [["a dog"], ["a cat"]]}),
}


def read_parquet(sort: str, folder: Path, rng: Random) -> dict[str, str]:
    path = folder / "captions.parquet"
    PARQUETS[sort](path)
    return read(path)


@family("caption tables and Parquet")
def caption_tables() -> Iterator[Kind]:
    for sort in TABLES:
        yield Kind(f"db, {sort}", partial(read_table, sort), r"captions\.db")
    for sort in PARQUETS:
        yield Kind(f"parquet, {sort}", partial(read_parquet, sort), r"captions\.parquet")
    for sort in DAMAGES:
        yield Kind(f"db, {sort}", partial(read_damaged, "db", sort), r"captions\.db")


# Texts that a captioner or a person may have written; cleaning and extraction must come back in time.
TEXTS = {
    "2,000 spaces": "a" + " " * 2000 + "dog",
    "20,000 spaces": "a" + " " * 20_000 + "dog",
    "20,000 commas": "a dog" + "," * 20_000 + "b",
    "20,000 articles": "a " * 20_000,
    "20,000 times of": "a painting " + "of " * 20_000,
    "20,000 hyphens": "water" + "-" * 20_000 + "color",
    "20,000 quotes": "'" * 20_000,
    "20,000 newlines": "\n" * 20_000 + "a dog",
    "20,000 digits and stops": "1." * 10_000,
    "one word of 100,000 letters": "a" * 100_000,
    "combining characters": "a" + "\u0301" * 20_000,
    "right to left": "\u202e a dog \u202c" * 100,
    "zero-width": "\u200b" * 5000 + "a dog",
    "emoji": "\U0001f469\u200d\U0001f469\u200d\U0001f467" * 500,
    "escape sequences": "\x1b[2J\x1b]0;title\x07a dog",
    "braces": "a {dog} {0} {caption} {{}}",
    "percent signs": "a %s dog %(x)s %n",
    "markup": "[red]a dog[/red] [link=file:///etc]x[/link]",
}


def cleaned(text: str, folder: Path, rng: Random) -> Any:
    path = folder / "captions.jsonl"
    path.write_text(json.dumps({"id": "one", "captions": [text]}) + "\n")
    try:
        tadp("clean", path, "-o", folder / "out.jsonl")
    except RefusedError as refusal:
        if "not cleaned" not in refusal.args[1] or len(refusal.args[1]) > 1500:  # kept as it is, and reported
            raise
    return json.loads((folder / "out.jsonl").read_text())["id"]


def clean_in_python(text: str, folder: Path, rng: Random) -> Any:
    from tadp.cleaning import RuleCleaner

    return len(RuleCleaner("watercolor").clean([text]).after)


def with_modifier(text: str, folder: Path, rng: Random) -> Any:
    from tadp import CaptionModifier

    return len(CaptionModifier("a watercolor painting of a {caption}")([text]))


@family("texts")
def texts() -> Iterator[Kind]:
    for name, text in TEXTS.items():
        names = r"caption|characters"
        yield Kind(f"tadp clean, {name}", partial(cleaned, text), names, "one".__eq__, seconds=4)
        yield Kind(f"RuleCleaner, {name}", partial(clean_in_python, text), names, (1).__eq__, seconds=4)
        yield Kind(f"CaptionModifier, {name}", partial(with_modifier, text), names, (1).__eq__, seconds=4)
