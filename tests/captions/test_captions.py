"""Caption tables return what was added, in every format, and refuse anything wrong."""

import json
import pickle
import sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tadp.captions import CaptionRecord, CaptionTable, Provenance
from tadp.captions.image_ids import ImageList, path_ids
from tadp.errors import CaptionError, MissingExtraError, OutputError, UnknownIdError

AUTHORS = {
    "2007_000033": {"captions": ["a large airplane on the ground"], "class_label": 1},
    "79182947": {"captions": ["two trains", "trains parked\nnext to each other"], "class_label": 19},
    "a/b/c d.jpg": {
        "captions": ["un chien à côté d'une voiture 🐕 👩‍👩‍👧"],
        "by": {"who": "x", "marks": [1, 2.5, None]},
    },
    "שלום/é.png": {"captions": ["כלב על הדשא", 'a "quoted" one \\ {caption} \u2028 \x00 end']},
}
BLIP2 = Provenance("Salesforce/blip2-opt-2.7b", "59a1ef6", {"min_new_tokens": 20, "prompt": None}, {"tadp": "0.1.0"})
OTHER = Provenance("Salesforce/blip2-opt-2.7b", "59a1ef6", {"min_new_tokens": 40, "prompt": None}, {"tadp": "0.1.0"})
FORMATS = {"json": "to_json", "jsonl": "to_jsonl", "parquet": "to_parquet"}


@pytest.fixture
def authors(tmp_path) -> Path:
    path = tmp_path / "authors.json"
    path.write_text(json.dumps(AUTHORS), encoding="utf-8")
    return path


@pytest.fixture(params=["memory", "disk"])
def table(request, tmp_path) -> CaptionTable:
    """An empty table of either kind; on disk the file is table.db."""
    return CaptionTable() if request.param == "memory" else CaptionTable.create(tmp_path / "table.db")


def content(table: CaptionTable) -> dict[str, dict]:
    return {record.id: {"captions": list(record.captions), **record.fields} for record in table.records()}


def text(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# Reading


def test_the_authors_json_is_read(authors):
    table = CaptionTable.from_json(authors)
    assert table["2007_000033"] == "a large airplane on the ground"
    assert table.all("79182947") == ("two trains", "trains parked\nnext to each other")
    assert table.record("2007_000033").fields == {"class_label": 1}
    assert content(table) == AUTHORS
    assert list(table) == list(AUTHORS)
    assert len(table) == 4
    assert table.provenances == {None: 4}


@pytest.mark.parametrize("suffix", [*FORMATS, "db"])
def test_every_format_gives_back_what_went_in(authors, tmp_path, suffix):
    source = CaptionTable.from_json(authors)
    path = tmp_path / f"copy.{suffix}"
    if suffix == "db":
        with CaptionTable.create(path) as copy:
            assert copy.merge(source) == 4
    else:
        getattr(source, FORMATS[suffix])(path)
    table = CaptionTable.open(path)
    assert content(table) == AUTHORS
    assert list(table) == (sorted(AUTHORS) if suffix == "db" else list(AUTHORS))
    assert {image_id: table[image_id] for image_id in AUTHORS} == dict(table.items()) == dict(table)
    assert list(table.values()) == [table[image_id] for image_id in table]
    assert next(table.records()) == table.record(next(iter(table)))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "db"])
def test_provenance_is_kept_an_image(tmp_path, suffix):
    mixed = CaptionTable(provenance=BLIP2)
    mixed.update([("a", "one"), ("b", "two")])
    other = CaptionTable(provenance=OTHER)
    other.add("c", "three")
    unknown = CaptionTable()
    unknown.add("d", "four")
    path = tmp_path / f"mixed.{suffix}"
    with CaptionTable.create(path if suffix == "db" else tmp_path / "all.db", mix=True) as table:
        assert [table.merge(source) for source in (mixed, other, unknown)] == [2, 1, 1]
        if suffix != "db":
            getattr(table, FORMATS[suffix])(path)
    read = CaptionTable.open(path)
    assert read.provenances == {BLIP2: 2, OTHER: 1, None: 1}
    assert [read.record(image_id).provenance for image_id in "abcd"] == [BLIP2, BLIP2, OTHER, None]


def test_json_lines_are_lines_of_their_own(tmp_path):
    """Each line is complete (id, captions, fields, provenance), so lines can be removed or read by other programs."""
    table = CaptionTable(provenance=BLIP2)
    table.update({"a": ["one", "uno"], "b": "two"})
    table.to_jsonl(tmp_path / "all.jsonl")
    lines = (tmp_path / "all.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    assert json.loads(lines[0]) == {
        "id": "a",
        "captions": ["one", "uno"],
        "provenance": {
            "captioner": "Salesforce/blip2-opt-2.7b",
            "revision": "59a1ef6",
            "generation": {"min_new_tokens": 20, "prompt": None},
            "versions": {"tadp": "0.1.0"},
        },
    }
    single = CaptionTable.open(text(tmp_path / "one.jsonl", lines[1]))
    assert list(single.records()) == [CaptionRecord("b", ("two",), {}, BLIP2)]


def test_files_of_others_are_read(tmp_path):
    import pyarrow
    from pyarrow import parquet

    plain = text(tmp_path / "plain.json", '{"a": "one", "b": ["two", "zwei"]}')
    assert content(CaptionTable.open(plain)) == {"a": {"captions": ["one"]}, "b": {"captions": ["two", "zwei"]}}
    lines = text(
        tmp_path / "x.ndjson", '\ufeff{"id": "a", "caption": "one", "score": 0.5}\r\n\n{"id": "b", "caption": "b"}'
    )
    assert content(CaptionTable.open(lines)) == {"a": {"captions": ["one"], "score": 0.5}, "b": {"captions": ["b"]}}
    columns = {"id": ["a", "b"], "caption": ["one", "two"], "score": [0.5, None], "fields": [3, None]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    assert content(CaptionTable.open(tmp_path / "x.parquet")) == {
        "a": {"captions": ["one"], "score": 0.5, "fields": 3},
        "b": {"captions": ["two"]},
    }


def test_a_table_on_disk_is_known_by_its_content(tmp_path):
    with CaptionTable.create(tmp_path / "table.db") as table:
        table.add("a", "one")
    renamed = (tmp_path / "table.db").rename(tmp_path / "captions.of-voc #1?100%")
    assert CaptionTable.open(renamed)["a"] == "one"
    merged = CaptionTable()
    assert merged.merge(renamed) == 1


def test_an_unknown_id_names_those_that_look_alike(table):
    table.update({"2007_000033": "a", "2007_000042": "b", "cat.jpg": "c"})
    with pytest.raises(
        UnknownIdError, match=r"^the caption table \(.*, 3 images\) has no image '2007_00003'.*'2007_000033'"
    ) as e:
        table["2007_00003"]
    assert isinstance(e.value, KeyError)
    assert isinstance(e.value, ValueError)
    with pytest.raises(UnknownIdError, match=r"no image 'zebra', nor 1 more.*table\.missing\(ids\) lists"):
        table.captions(["cat.jpg", "zebra", "quagga"])
    assert table.get("zebra", "") == ""
    assert table.get("zebra") is None
    assert table.get("cat.jpg", "") == "c"
    assert "zebra" not in table
    assert "cat.jpg" in table


def test_captions_come_in_the_order_asked(table):
    many = {
        f"{number:05d}": f"caption {number}" for number in range(2500)
    }  # more than one page, and more than one query
    assert table.update(many) == 2500
    requested = ["02000", "00001", "02000", *sorted(many, reverse=True)]
    assert table.captions(requested) == [many[image_id] for image_id in requested]
    assert list(table) == list(many)
    assert table.missing([*requested, "x", "y", "x"]) == ["x", "y"]
    assert table.captions([]) == []


def test_an_open_table_sees_what_another_process_adds(tmp_path):
    with CaptionTable.create(tmp_path / "table.db") as writer:
        reader = CaptionTable.open(tmp_path / "table.db")
        assert len(reader) == 0
        writer.add("a", "one")
        assert reader["a"] == "one"
        iterator = iter(reader)
        writer.update({f"b{number}": "two" for number in range(3000)})  # during an iteration
        assert len(list(iterator)) == 3001


# Adding


def test_a_table_begins_with_what_it_is_given():
    table = CaptionTable({"a": "a dog", "b": ["a cat", "a pet"]})
    assert dict(table) == {"a": "a dog", "b": "a cat"}
    assert table.all("b") == ("a cat", "a pet")
    assert repr(table) == "<CaptionTable in memory, images: 2>"
    shown = table._repr_html_()
    assert "CaptionTable in memory, images: 2<" in shown
    assert shown.count("<td") == 4


def test_assignment_is_refused_and_names_the_way_in(table):
    with pytest.raises(TypeError, match=r"use add\(id, captions\)"):
        table["x"] = "a dog"
    assert "x" not in table


def test_a_closed_table_is_still_shown(tmp_path):
    table = CaptionTable.create(tmp_path / "t.db")
    table.add("a", "a dog")
    assert repr(table).endswith("t.db, images: 1>")
    table.close()
    assert repr(table).endswith("t.db, closed>")
    assert table._repr_html_() is None


def test_the_same_caption_twice_is_fine_and_another_is_not(table):
    assert table.add("a", ["one", "uno"], fields={"class_label": 3}) is True
    assert table.add("a", ["one", "uno"]) is False
    assert table.add("a", ["one", "uno"], fields={"class_label": 3}) is False
    with pytest.raises(
        CaptionError, match=r"'a' already has another caption: \('one', 'uno'\); got \('one',\).*replace=True"
    ):
        table.add("a", "one")
    with pytest.raises(
        CaptionError, match=r"'a' already has another field: \{'class_label': 3\}; got \{'class_label': 4\}"
    ):
        table.add("a", ["one", "uno"], fields={"class_label": 4})
    assert content(table) == {"a": {"captions": ["one", "uno"], "class_label": 3}}
    assert table.add("a", "two", replace=True) is False
    assert content(table) == {"a": {"captions": ["two"], "class_label": 3}}
    assert len(table) == 1


def test_a_record_that_is_changed_changes_no_table(table):
    table.add("a", "one", fields={"class_label": 3})
    table.record("a").fields["class_label"] = 4
    next(table.records()).fields["class_label"] = 5
    assert content(table) == {"a": {"captions": ["one"], "class_label": 3}}


def test_the_number_of_images_is_right_after_anything(table):
    table.update([("a", "1"), ("b", "2"), ("a", "1")])
    table.update({"b": "3", "c": "4"}, replace=True)
    with pytest.raises(CaptionError, match="'a' already has another caption"):
        table.update([("d", "5"), ("a", "6"), ("e", "7")])
    assert len(table) == len(list(table)) == 4
    assert dict(table) == {"a": "1", "b": "3", "c": "4", "d": "5"}


def test_what_came_before_a_mistake_is_kept(table):
    def pairs():
        yield "a", "one"
        yield "b", "two"
        raise MemoryError("the captioner is out of memory")

    with pytest.raises(MemoryError, match="out of memory"):
        table.update(pairs())
    assert dict(table) == {"a": "one", "b": "two"}
    with pytest.raises(CaptionError, match="caption of 'd' is empty"):
        table.update([("c", "three"), ("d", " "), ("e", "five")])
    assert list(table) == ["a", "b", "c"]


def test_a_slow_source_is_written_along_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr("tadp.captions.filling._CHUNK_S", -1.0)  # any wait counts as too long
    seen = []
    with CaptionTable.create(tmp_path / "table.db") as table:

        def pairs():
            for number in range(4):
                seen.append(len(table))
                yield str(number), "a dog"

        table.update(pairs())
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("bad", [7, None, Path("a.jpg"), b"a", 1.5])
def test_an_id_must_be_a_string(table, bad, no_type_checker):
    table.add("7", "a dog")
    for call in (
        lambda: table.add(bad, "a"),
        lambda: table[bad],
        lambda: bad in table,
        lambda: table.get(bad),
        lambda: table.captions([bad]),
        lambda: table.missing([bad]),
        lambda: table.update([(bad, "a")]),
    ):
        with pytest.raises(TypeError, match="an image id must be a string; got"):
            call()
    assert list(table) == ["7"]


def test_a_string_is_no_list_of_ids(table, no_type_checker):
    for call in (table.captions, table.missing):
        with pytest.raises(TypeError, match="ids must be a list of strings; got the string 'abc'"):
            call("abc")


def test_numpy_strings_are_strings(table):
    table.update(zip(np.array(["a", "b"]), np.array(["one", "two"]), strict=True))
    assert table[np.str_("b")] == "two"
    assert {type(value) for value in (*table, *table.values())} == {str}


@pytest.mark.parametrize(
    ("captions", "error", "message"),
    [
        (5, TypeError, "captions of 'a' must be a string or a list of strings; got int 5"),
        (None, TypeError, "must be a string or a list of strings; got NoneType"),
        (["one", 5], TypeError, "a caption of 'a' must be a string; got int 5"),
        (b"one", TypeError, "got bytes"),
        ([], CaptionError, "'a' has no caption; give it at least one"),
        ("", CaptionError, r"a caption of 'a' is empty: ''.*table\.get\(id, ''\)"),
        ([" \n"], CaptionError, "a caption of 'a' is empty"),
        ("half \ud83d", CaptionError, "a caption of 'a' cannot be written as UTF-8, because of character 5"),
    ],
)
def test_a_caption_must_be_text(table, captions, error, message, no_type_checker):
    with pytest.raises(error, match=message):
        table.add("a", captions)
    assert len(table) == 0


def test_ids_and_fields_must_be_storable(table, no_type_checker):
    with pytest.raises(CaptionError, match="an image id is empty"):
        table.add("", "a dog")
    with pytest.raises(CaptionError, match="an image id cannot be written as UTF-8"):
        table.add("caf\udce9.jpg", "a dog")
    for fields in ({"box": object()}, {"score": float("nan")}, {3: 4}, {"name": "\ud800"}, [1]):
        with pytest.raises(TypeError, match="the fields of 'a' must be"):
            table.add("a", "a dog", fields=fields)
    with pytest.raises(CaptionError, match="cannot be called 'captions'"):
        table.add("a", "a dog", fields={"captions": "b"})
    assert len(table) == 0


@pytest.mark.parametrize("pair", ["ab", ("a", "one", {"class_label": 1}), ("a",), 5])
def test_update_takes_pairs(table, pair, no_type_checker):
    with pytest.raises(TypeError, match="update takes pairs of an id and its captions; got"):
        table.update([("x", "a dog"), pair])
    assert list(table) == ["x"]


def test_a_long_caption_is_stored_whole(table):
    """The text encoder checks lengths; a table stores captions of any length."""
    caption = "a dog and " * 2000
    table.add("a", caption)
    assert table["a"] == caption


# Provenance


def test_two_provenances_do_not_mix_unasked(tmp_path):
    with CaptionTable.create(tmp_path / "t.db", provenance=BLIP2) as table:
        table.add("a", "one")
    with pytest.raises(
        CaptionError,
        match=r"t\.db: a table holds captions of one origin.*: min_new_tokens was 20 and is 40\. .*mix=True",
    ):
        CaptionTable.create(tmp_path / "t.db", provenance=OTHER)
    with CaptionTable.create(tmp_path / "t.db") as table:
        with pytest.raises(
            CaptionError, match=r"the table's are by 'Salesforce/blip2-opt-2\.7b', the new ones of unknown origin"
        ):
            table.add("b", "two")
        assert table.add("a", "one") is False
    with CaptionTable.create(tmp_path / "t.db", provenance=BLIP2) as table:
        table.add("b", "two")
        other = CaptionTable(provenance=OTHER)
        other.update({"b": "two", "c": "three"})
        with pytest.raises(CaptionError, match="min_new_tokens was 20 and is 40"):
            table.merge(other)
        assert table.provenances == {BLIP2: 2}
    with CaptionTable.create(tmp_path / "t.db", provenance=OTHER, mix=True) as table:
        table.update({"c": "three"})
        table.update({"a": "eins"}, replace=True)
        assert table.provenances == {BLIP2: 1, OTHER: 2}
        assert table.record("a").provenance == OTHER


def test_a_table_in_memory_does_not_mix_either():
    table = CaptionTable(provenance=BLIP2)
    table.add("a", "one")
    unknown = CaptionTable()
    unknown.add("b", "two")
    with pytest.raises(CaptionError, match="the new ones of unknown origin"):
        table.update(unknown)
    assert list(table) == ["a"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"captioner": "other"}, "captioner was 'Salesforce/blip2-opt-2.7b' and is 'other'$"),
        ({"revision": None}, "revision was '59a1ef6' and is None$"),
        ({"versions": {"tadp": "0.2.0"}}, "tadp was '0.1.0' and is '0.2.0'$"),
        ({"generation": {"min_new_tokens": 20}}, "prompt was None and is not recorded$"),
    ],
)
def test_any_difference_counts_and_is_named(change, message):
    from tadp.captions.records import differences

    changed = Provenance(**(BLIP2.as_dict() | change))
    assert changed != BLIP2
    with pytest.raises(CaptionError, match=message):
        raise CaptionError(*differences(BLIP2, changed))


def test_the_provenance_of_a_captioner():
    import transformers

    import tadp

    captioner = tadp.Captioner.from_pretrained("tadp-tiny", min_new_tokens=3)
    provenance = Provenance.of(captioner)
    assert provenance.captioner == "tadp-tiny"
    assert provenance.revision is None
    assert provenance.generation == captioner.generation
    assert provenance.generation["min_new_tokens"] == 3
    assert provenance.versions == {"tadp": tadp.__version__, "transformers": transformers.__version__}
    assert Provenance.from_dict(json.loads(json.dumps(provenance.as_dict()))) == provenance
    assert pickle.loads(pickle.dumps(provenance)) == provenance


def test_the_revision_comes_from_whatever_describes_itself():
    who = SimpleNamespace(name="someone/blip", revision="abc", generation={"num_beams": 5})
    provenance = Provenance.of(who)
    assert (provenance.captioner, provenance.revision) == ("someone/blip", "abc")
    assert provenance != Provenance.of(SimpleNamespace(**vars(who) | {"revision": "def"}))


def test_a_provenance_must_be_storable(no_type_checker):
    with pytest.raises(CaptionError, match="the captioner's name is empty"):
        Provenance(" ")
    with pytest.raises(TypeError, match="captioner and revision must be strings"):
        Provenance("a", 5)
    with pytest.raises(TypeError, match="a provenance's generation must be values that JSON can hold"):
        Provenance("a", generation={"seed": object()})


# Broken files


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            '{"a": {"captions": ["one"]},\n "b": {"captions": ["two"},\n}',
            r"x\.json, line 2, column 26: this is not JSON",
        ),
        ("", r"x\.json, line 1, column 1: this is not JSON"),
        ('{"a": {"captions": ["one"]}, "b": {"cap', r"line 1, column 36: this is not JSON \(Unterminated string"),
        (b'{\n"a": {"captions": ["caf\xe9"]}}', r"x\.json, line 2, column 24: this is not UTF-8"),
        (
            '{"a": {"captions": ["x"]}, "b": "y", "a": {"captions": ["z"]}}',
            r"x\.json, line 1, column 38: the id 'a' occurs twice",
        ),
        (
            '{"a": {"captions": ["x"], "captions": ["z"]}}',
            r"x\.json, line 1, column 2: the name 'captions' occurs twice",
        ),
        ('{"a": {"captions": ["x"], "score": NaN}}', r"x\.json, line 1, column 2: NaN is not JSON"),
        (
            '{"a": "x",\n "b": {"captions": ["x"], "score": [-Infinity]}}',
            r"x\.json, line 2, column 2: -Infinity is not",
        ),
        ('{"a": "x",\n\n  "a": "x"}', r"x\.json, line 3, column 3: the name 'a' occurs twice"),
        ('[{"a": NaN}]', r"x\.json: NaN is not JSON"),
        ('{\n"a": "x",\n"b": 5}', r"x\.json, line 3, column 1: captions of 'b' must be a string or a list"),
        ('{\n"a": "x",\n"b": ["x", 5]}', r"x\.json, line 3, column 1: a caption of 'b' must be a string; got int 5"),
        ('{\n"a": "x",\n"b\\u0061": [" "]}', r"x\.json, line 3, column 1: a caption of 'ba' is empty"),
        ('{\n"a": "x",\n"": "x"}', r"x\.json, line 3, column 1: an image id is empty"),
        ('{\n"a": "x",\n"b": {"text": "x"}}', r"x\.json, line 3, column 1: the entry 'b': there is neither 'captions'"),
        (
            '{"a": {"captions": ["x"], "score": 1e999}}',
            r"x\.json, line 1, column 2: the fields of 'a' must be values that JSON can hold",
        ),
        (
            '{"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": "a dog"}]}',
            r"x\.json is in COCO's format, .* table.add\(str\(annotation\['image_id'\]\), captions\)",
        ),
        ('["a dog"]', r"x\.json must hold an object .*got \['a dog'\]"),
        ('{"a": {"captions": []}}', r"x\.json, line 1, column 2: the image 'a' has no caption"),
        ('{"a": {"captions": ["one", 2]}}', r"x\.json, line 1, column 2: a caption of 'a' must be a string; got int 2"),
        (
            '{"a": {"captions": 2}}',
            r"x\.json, line 1, column 2: captions of 'a' must be a string or a list of strings; got int 2",
        ),
        (
            '{"a": {"label": 2}}',
            r"column 2: the entry 'a': there is neither 'captions' nor 'caption'; the fields are 'label'\. Give",
        ),
        ('{"a": {"captions": ["\\ud800"]}}', r"x\.json, line 1, column 2: a caption of 'a' cannot be written as UTF-8"),
        ('{"": {"captions": ["one"]}}', r"x\.json, line 1, column 2: an image id is empty"),
        ("[" * 100_000, r"x\.json: maximum recursion depth"),
    ],
)
def test_broken_json_is_named(tmp_path, broken, message):
    with pytest.raises(CaptionError, match=message):
        CaptionTable.from_json(text(tmp_path / "x.json", broken))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ('{"id": "b", "captions": ["one",}\n', r"x\.jsonl, line 2, column 32: this is not JSON"),
        ("captions\n", r"x\.jsonl, line 2, column 1: this is not JSON"),
        ("captions", r"x\.jsonl, line 2, column 1: this is not JSON"),
        (b'{"id": "b", "captions": ["caf\xe9"]}\n', r"x\.jsonl, line 2, column 30: this is not UTF-8"),
        ("[1]\n", r"x\.jsonl, line 2: a line must be an object .*got \[1\]"),
        ('{"captions": ["one"]}\n', r"x\.jsonl, line 2: there is no 'id'; the fields are 'captions'. Name the"),
        ('{"id": 7, "captions": ["one"]}\n', r"x\.jsonl, line 2: an image id must be a string; got int 7. Pass '7'"),
        (
            '{"id": "a", "captions": ["another"]}\n',
            r"x\.jsonl, line 2: the image 'a' already has another caption: 'one'",
        ),
        (
            '{"id": "b", "captions": ["x"], "provenance": 5}\n',
            r"line 2: a provenance must be an object with captioner, .*got 5",
        ),
        ('{"id": "b", "captions": ["x"], "provenance": "web"}\n', r"line 2: provenance, column 1: this is not JSON"),
        ('{"id": "b", "captions": ["x"], "id": "c"}\n', r"line 2: the name 'id' occurs twice"),
    ],
)
def test_a_broken_line_is_named(tmp_path, broken, message):
    line = b'{"id": "a", "captions": ["one"]}\n'
    path = text(tmp_path / "x.jsonl", line + (broken.encode() if isinstance(broken, str) else broken))
    with pytest.raises(CaptionError, match=message):
        CaptionTable.open(path)
    with CaptionTable.create(tmp_path / "x.db") as table:
        with pytest.raises(CaptionError, match=message):
            table.merge(path)
        assert dict(table) == {"a": "one"}


def test_a_last_line_that_was_cut_is_left_out_with_a_warning(tmp_path):
    """The warning comes wherever the line is cut, and only then."""
    whole = json.dumps({"id": "b", "captions": ["zwei é"], "n": {"m": [True]}}, ensure_ascii=False).encode()
    before = b'{"id": "a", "captions": ["one"]}\n'
    for length in range(1, len(whole)):
        path = text(tmp_path / "x.jsonl", before + whole[:length])
        with pytest.warns(UserWarning, match=r"x\.jsonl, line 2 is cut off"):
            table = CaptionTable.open(path)
        assert table.missing(["a", "b"]) == ["b"]
    for end in (b"", b"\n"):
        assert "b" in CaptionTable.open(text(tmp_path / "x.jsonl", before + whole + end))


def test_the_same_line_twice_is_one_image(tmp_path):
    assert len(CaptionTable.open(text(tmp_path / "x.jsonl", '{"id": "a", "captions": ["one"]}\n' * 2))) == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": [1, 2], "caption": ["one", "two"]}, r"x\.parquet, row 1: an image id must be a string; got int 1"),
        (
            {"id": ["a", None], "caption": ["one", "two"]},
            r"x\.parquet, row 2: there is no 'id'; the fields are 'caption'",
        ),
        ({"id": ["a", "b"], "caption": ["one", None]}, r"x\.parquet, row 2: there is neither 'captions' nor 'caption'"),
        (
            {"id": ["a", "a"], "caption": ["one", "two"]},
            r"x\.parquet, row 2: the image 'a' already has another caption",
        ),
        ({"id": ["a"], "caption": ["one"], "fields": ["{"]}, r"x\.parquet, row 1, column fields.*: this is not JSON"),
        ({"id": ["a"], "caption": ["one"], "provenance": ["{}"]}, r"x\.parquet, row 1: a provenance must be an object"),
    ],
)
def test_a_broken_row_is_named(tmp_path, columns, message):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    with pytest.raises(CaptionError, match=message):
        CaptionTable.open(tmp_path / "x.parquet")


def test_columns_that_json_cannot_hold_are_left_out_with_a_warning(tmp_path):
    import pyarrow
    from pyarrow import parquet

    second = datetime(2020, 1, 1)
    columns = {
        "id": pyarrow.array(["a", "b"]).dictionary_encode(),
        "caption": pyarrow.array(["one", "two"]),
        "class_label": pyarrow.array([1, 2]),
        "tags": pyarrow.array([["x"], ["y"]]),
        "nested": pyarrow.array([{"at": second}, None]),
        "png": pyarrow.array([b"png", b"png"]),
        "at": pyarrow.array([second, second]),
        "price": pyarrow.array([Decimal("1.5"), None]),
        "took": pyarrow.array([1, 2], type=pyarrow.duration("ns")),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    with pytest.warns(
        UserWarning, match=r"JSON cannot hold the values in 'at', 'nested', 'png', 'price', 'took' \(type"
    ):
        table = CaptionTable.open(tmp_path / "x.parquet")
    assert content(table) == {
        "a": {"captions": ["one"], "class_label": 1, "tags": ["x"]},
        "b": {"captions": ["two"], "class_label": 2, "tags": ["y"]},
    }


def test_numbers_that_are_not_finite_are_left_out_with_a_warning(tmp_path):
    import pyarrow
    from pyarrow import parquet

    odd = float("nan")
    columns = {"id": ["a", "b", "c"], "caption": ["one"] * 3, "score": [0.5, odd, float("inf")]}
    columns |= {"box": [[1.0, 2.0], [1.0, None], [odd, 2.0]], "deep": [{"x": [odd]}, {"x": [1.0]}, None]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    with pytest.warns(
        UserWarning, match=r"JSON cannot hold the values in '(score|box|deep)' \(not finite, first in row"
    ) as caught:
        table = CaptionTable.open(tmp_path / "x.parquet")
    assert [str(warning.message).split("'")[1] for warning in caught] == [
        "deep",
        "score",
        "box",
    ]  # one warning per column
    assert [record.fields for record in table.records()] == [
        {"score": 0.5, "box": [1.0, 2.0]},
        {"box": [1.0, None], "deep": {"x": [1.0]}},
        {},
    ]


def test_a_foreign_column_called_fields_is_a_field(tmp_path):
    import pyarrow
    from pyarrow import parquet

    columns = {"id": ["a", "b"], "caption": ["one", "two"], "fields": ["wheat, barley", "3"]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    table = CaptionTable.open(tmp_path / "x.parquet")
    assert [record.fields for record in table.records()] == [{"fields": "wheat, barley"}, {"fields": "3"}]
    table.to_parquet(tmp_path / "y.parquet")
    assert content(CaptionTable.open(tmp_path / "y.parquet")) == content(table)


def test_a_column_that_stands_twice_is_refused(tmp_path):
    import pyarrow
    from pyarrow import parquet

    columns = [pyarrow.array(["a"]), pyarrow.array(["one"]), pyarrow.array(["two"])]
    parquet.write_table(pyarrow.table(columns, names=["id", "caption", "caption"]), tmp_path / "x.parquet")
    with pytest.raises(CaptionError, match=r"x\.parquet has two columns 'caption'. Leave one out"):
        CaptionTable.open(tmp_path / "x.parquet")


@pytest.mark.parametrize("kind", ["duration", "binary"])
def test_captions_that_are_no_text_are_named_with_their_row(tmp_path, kind):
    import pyarrow
    from pyarrow import parquet

    values = {"duration": pyarrow.array([1], type=pyarrow.duration("ns")), "binary": pyarrow.array([b"one"])}
    parquet.write_table(pyarrow.table({"id": ["a"], "caption": values[kind]}), tmp_path / "x.parquet")
    with pytest.raises(CaptionError, match=r"x\.parquet"):
        CaptionTable.open(tmp_path / "x.parquet")


def test_a_damaged_parquet_file_is_named(tmp_path):
    with pytest.raises(CaptionError, match=r"x\.parquet cannot be read as Parquet"):
        CaptionTable.open(text(tmp_path / "x.parquet", "nothing of the sort"))
    table = CaptionTable()
    table.update({str(number): f"a dog {number}" for number in range(1000)})
    table.to_parquet(tmp_path / "x.parquet")
    whole = (tmp_path / "x.parquet").read_bytes()
    with pytest.raises(CaptionError, match=r"x\.parquet cannot be read as Parquet"):
        CaptionTable.open(text(tmp_path / "x.parquet", whole[:-100]))


def test_a_parquet_file_may_have_a_name_that_is_not_utf8(tmp_path):
    path = tmp_path / "caf\udce9.parquet"
    CaptionTable({"a": "a dog"}).to_parquet(path)
    assert dict(CaptionTable.open(path)) == {"a": "a dog"}


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    table = CaptionTable()
    with pytest.raises(MissingExtraError, match=r"pip install 'tadp\[parquet\]'"):
        table.to_parquet(tmp_path / "x.parquet")
    with pytest.raises(MissingExtraError, match=r"pip install 'tadp\[parquet\]'"):
        CaptionTable.open(text(tmp_path / "x.parquet", ""))


def test_what_is_no_caption_file_is_refused(tmp_path):
    for call in (CaptionTable.open, CaptionTable.from_json, CaptionTable().merge):
        with pytest.raises(CaptionError, match=r"no such .*nowhere\.json"):
            call(tmp_path / "nowhere.json")
    with pytest.raises(CaptionError, match="is a folder; pass a file in it"):
        CaptionTable.open(tmp_path)
    with pytest.raises(
        CaptionError, match=r"unknown kind of caption file: .*x\.csv\. The suffix may be \.db, \.json, "
    ):
        CaptionTable.open(text(tmp_path / "x.csv", "a,b"))
    with pytest.raises(CaptionError, match=r"must have the suffix \.db .*got .*x\.jsonl. Create .*x\.db"):
        CaptionTable.create(tmp_path / "x.jsonl")


def test_names_taken_in_json_lines_are_refused_there(tmp_path):
    table = CaptionTable.from_json(text(tmp_path / "x.json", '{"a": {"captions": ["one"], "id": 5}}'))
    with pytest.raises(CaptionError, match="'a' has a field 'id', but that name is reserved in JSON Lines"):
        table.to_jsonl(tmp_path / "x.jsonl")
    assert not (tmp_path / "x.jsonl").exists()
    table.to_parquet(tmp_path / "x.parquet")
    assert content(CaptionTable.open(tmp_path / "x.parquet")) == {"a": {"captions": ["one"], "id": 5}}


def test_a_suffix_must_say_the_format(tmp_path):
    for method in FORMATS.values():
        with pytest.raises(ValueError, match=r"the file must have the suffix \..*got .*x\.db"):
            getattr(CaptionTable(), method)(tmp_path / "x.db")


def test_an_empty_table_is_written_and_read(tmp_path):
    for suffix, method in FORMATS.items():
        getattr(CaptionTable(), method)(tmp_path / f"x.{suffix}")
        assert len(CaptionTable.open(tmp_path / f"x.{suffix}")) == 0


@pytest.mark.parametrize("method", FORMATS.values())
def test_a_failed_export_leaves_the_old_file(tmp_path, method):
    path = tmp_path / f"x.{dict(map(reversed, FORMATS.items()))[method]}"
    getattr(CaptionTable(), method)(path)
    old = path.read_bytes()
    table = CaptionTable()
    table.add("a", "one")
    folder = tmp_path / "folder" / path.name
    folder.mkdir(parents=True)
    with pytest.raises(OutputError, match="cannot write"):
        getattr(table, method)(folder)
    broken = CaptionTable()
    broken.records = lambda: (_ for _ in [CaptionRecord("a", ("\ud800",))])
    with pytest.raises(ValueError, match=r"surrogates"):
        getattr(broken, method)(path)
    assert path.read_bytes() == old
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", path.name]


# Filling


def test_fill_captions_what_is_missing_batch_by_batch(table):
    seen = []

    def captioner(images: list[str]) -> list[str]:
        seen.append(images)
        return [f"a picture of {image}" for image in images]

    table.add("b", "there before")
    images = {letter: letter.upper() for letter in "abcdef"}
    assert table.fill(images, captioner, batch_size=2) == 5
    assert seen == [["A", "C"], ["D", "E"], ["F"]]
    assert dict(table) == {"b": "there before"} | {letter: f"a picture of {letter.upper()}" for letter in "acdef"}
    assert table.fill(iter(images.items()), captioner) == 0
    assert len(seen) == 3


def test_fill_keeps_the_batches_before_a_failure_and_goes_on(table):
    def captioner(images: list[str]) -> list[str]:
        if "c" in images and not repaired:
            raise OSError("cannot read c")
        return [f"a {image}" for image in images]

    repaired = False
    with pytest.raises(OSError, match="cannot read c") as error:
        table.fill({letter: letter for letter in "abcd"}, captioner, batch_size=2)
    assert error.value.__notes__ == ["This happened in a batch of 2 images with ids ['c', 'd']."]
    assert list(table) == ["a", "b"]
    repaired = True
    assert table.fill({letter: letter for letter in "abcd"}, captioner, batch_size=2) == 2


def test_fill_leaves_out_what_the_captioner_is_silent_about(table):
    with pytest.warns(
        UserWarning, match="an empty caption for 1 images, the first of which is 'b'; they are still missing"
    ):
        assert table.fill({"a": 1, "b": 2}, lambda images: [" " * (number - 1) or "a dog" for number in images]) == 1
    assert table.missing(["a", "b"]) == ["b"]


def test_fill_refuses_what_is_no_caption_an_image(table, no_type_checker):
    for captions, message in ((["one"], "got 1 captions for 2"), ("ab", "got the string 'ab' for 2")):
        with pytest.raises(CaptionError, match=message):
            table.fill({"a": 1, "b": 2}, lambda images, captions=captions: captions)
    with pytest.raises(TypeError, match="captions of 'a' must be a string or a list of strings; got int 5"):
        table.fill({"a": 1}, lambda images: [5])
    with pytest.raises(ValueError, match="batch_size must be 1 or more; got 0"):
        table.fill({}, lambda images: images, batch_size=0)
    assert len(table) == 0


@pytest.mark.parametrize("batch_size", [2, 3])  # the repeated id is in the same batch, or in two batches
def test_fill_refuses_an_id_that_stands_twice_and_keeps_the_batches_before(table, batch_size):
    table.add("done", "there before")
    pairs = [(letter, letter) for letter in ("a", "b", "c", "d", "c", "e")]
    with pytest.raises(CaptionError, match=r"the id 'c' occurs twice among the images\. Leave one out"):
        table.fill(pairs, lambda images: [f"a {image}" for image in images], batch_size=batch_size)
    assert "e" not in table
    assert {"a", "b"} <= set(table)
    with pytest.raises(CaptionError, match="the id 'done' occurs twice"):
        table.fill([("done", 1), ("done", 2)], lambda images: ["new"] * len(images))
    assert table["done"] == "there before"


def test_fill_takes_the_captioner_of_the_package(tmp_path):
    from tadp import Captioner
    from tadp.datasets.scenes import Scenes

    captioner = Captioner.from_pretrained("tadp-tiny")
    scenes = {f"scene-{number}": scene.image for number, scene in enumerate(Scenes(3, seed=1))}
    with CaptionTable.create(tmp_path / "scenes.db", provenance=Provenance.of(captioner)) as table:
        assert table.fill(scenes, captioner, batch_size=2) == 3
    assert list(CaptionTable.open(tmp_path / "scenes.db").values()) == captioner(list(scenes.values()))


@pytest.mark.parametrize(
    "line", ['{"id":"c", captions: oops}', '{"id" "c"}', '{"id":"c"} and more', '{"id":tru, "captions":["a"]}']
)
def test_a_last_line_that_is_broken_before_its_end_is_no_killed_writers(tmp_path, line):
    path = tmp_path / "x.jsonl"
    path.write_text('{"id":"a","captions":["a dog"]}\n' + line)
    with pytest.raises(CaptionError, match=r"x\.jsonl, line 2"):
        CaptionTable.open(path)


def test_a_last_line_cut_anywhere_is_left_out(tmp_path):
    path = tmp_path / "x.jsonl"
    first = b'{"id":"a","captions":["a dog"]}\n'
    last = '{"id":"c\\u00e9","captions":["café 🐶"],"fine":true,"none":null,"number":-1.5e-3,"box":[-2,-0.5]}'.encode()
    for length in range(1, len(last)):
        path.write_bytes(first + last[:length])
        with pytest.warns(UserWarning, match=r"line 2 is cut off"):
            assert list(CaptionTable.open(path)) == ["a"]


def test_images_without_ids_are_refused(table, no_type_checker):
    with pytest.raises(TypeError, match=r"got 'photos/cat.jpg' among them. Give each image an id: \{path.stem: path"):
        table.fill(["photos/cat.jpg"], len)


def test_two_images_whose_names_are_one_in_unicode_have_no_ids(tmp_path):
    for name in ("caf\u00e9.png", "cafe\u0301.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    with pytest.raises(CaptionError, match=r"would both have the id 'caf"):
        path_ids(tmp_path)


@pytest.mark.parametrize("kind", [dict, CaptionTable])
def test_images_are_found_in_captions_of_another_unicode_form(tmp_path, kind):
    Image.new("RGB", (8, 8)).save(tmp_path / "caf\u00e9.png")
    captions = kind({"cafe\u0301": "a room"})
    ids = ImageList.of(tmp_path).ids_in(captions)
    assert [captions[image_id] for image_id in ids.values()] == ["a room"]
