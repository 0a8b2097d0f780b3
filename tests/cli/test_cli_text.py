"""`tadp caption`, `tadp prompt` and `tadp clean`."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from endpoint_server import cleaned, completion, serving
from PIL import Image
from running import ENVIRONMENT, plain, run_function, tadp_run

import tadp
from tadp.assets import tiny_folder
from tadp.captioner import Captioner
from tadp.captions import CaptionTable
from tadp.cli import app
from tadp.datasets.scenes import Scenes
from tadp.text.clip_tokenizer import clip_counter


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    Image.fromarray(Scenes(1, seed=3)[0].image).save("scene.png")
    captions = {"1": {"captions": ["a watercolor painting of a dog"], "class_label": 3}, "2": {"captions": ["a cat"]}}
    Path("captions.json").write_text(json.dumps(captions))
    return tmp_path


def test_each_mode_says_its_words_and_counts_their_tokens(workplace):
    Path("names.txt").write_text("dog\ndining_table\n\n")
    assert "dog dining table" in tadp_run("prompt", "class-names", "--classes", "@names.txt").output
    Path("windows.txt").write_bytes(b"\xef\xbb\xbfdog\r\ndining table\r\n")
    assert (
        tadp_run("prompt", "class-names", "--classes", "@windows.txt")
        .output.splitlines()[1]
        .startswith("dog dining table ")
    )
    null = plain(tadp_run("prompt", "null").output)
    assert "(empty prompt) 2 of 77" in null
    assert "(start and end are one token each)" in null
    assert "dog car 4 of 77" in plain(
        tadp_run("prompt", "oracle", "--classes", "dog,cat,car", "--present", "car,dog").output
    )
    output = tadp_run("prompt", "averaged-eos", "--classes", "dog, cat").output
    assert output.splitlines()[1] == "dog, cat"
    assert output.startswith("2 embeddings of width 96 (no start or end token), each with one attention channel:")
    pieces = tadp_run("prompt", "class-embeddings", "--classes", "red car,dog").output
    assert plain(pieces).endswith("channel: Name Embeddings Tokens red car 2 red, car dog 1 dog")


def test_the_oracle_says_what_precision_and_recall_it_came_to(workplace):
    classes = ",".join(f"class {number}" for number in range(23))
    arguments = ("prompt", "oracle", "--classes", classes, "--present", classes)
    assert "recall is 0.261, requested 0.25; precision is 1.000, requested 1" in plain(
        tadp_run(*arguments, "--recall", 0.25).output
    )
    single = ("prompt", "oracle", "--classes", "dog", "--present", "dog")
    output = plain(tadp_run(*single, "--precision", 0.5, "--recall", 0.5).output)
    assert "(empty prompt)" in output
    assert "recall is 0.000, requested 0.5; precision is undefined because no class is named, requested 0.5" in output
    assert "One image has only a few whole names" in output
    assert "One image has only a few whole names" not in plain(tadp_run(*single).output)


def test_a_modifier_rewrites_what_is_said(workplace):
    caption = tadp.Captioner.from_pretrained("tadp-tiny")("scene.png")[0]
    output = plain(tadp_run("prompt", "caption", "scene.png", "--modifier", "comic:simple").output)
    assert f"a comic style painting of {caption}" in output
    tadp.CaptionModifier("{caption} in the rain").save_pretrained("rain")
    assert f"{caption} in the rain" in plain(tadp_run("prompt", "caption", "scene.png", "--modifier", "rain").output)


def test_a_saved_modifier_brings_its_token(workplace):
    vectors = torch.ones(2, 96)
    tadp.CaptionModifier("a <toy> {caption}", token="<toy>", embedding=vectors).save_pretrained("toy")
    Path("names.txt").write_text("dog")
    result = tadp_run("prompt", "oracle", "--classes", "dog", "--present", "dog", "--modifier", "toy")
    assert "a <toy> dog 6 of 77" in plain(result.output)  # start, a, two vectors, dog, end
    assert not result.stderr


@pytest.mark.parametrize(
    "arguments",
    [("show", "scene.png", "-o", "out.png"), ("extract", "scene.png", "-o", "out")],
    ids=["show", "extract"],
)
def test_a_token_that_is_not_there_is_spelled_out_with_a_warning(workplace, arguments):
    result = tadp_run(*arguments, "--caption", "a <lunar> dog")
    assert plain(result.stderr).count("warning: the text encoder has no token '<lunar>'") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("prompt", "null", "--modifier", "watercolor:textual_inversion"), 2, "<watercolor>, which tadp-tiny does not"),
        (("prompt", "null", "--modifier", "watercolor"), 2, "neither DOMAIN:KIND, e.g. watercolor:simple"),
        (("prompt", "zebra"), 2, "Invalid value for 'MODE': 'zebra' is not one of"),
        (
            ("prompt", "oracle", "--classes", "dog", "--present", "dog", "--recall", "2"),
            2,
            "recall must be from 0 to 1; got 2",
        ),
        (("prompt", "class-names", "--classes", "some.txt"), 2, "some.txt is a file; pass @some.txt for the names"),
        (
            ("prompt", "class-names", "--classes", "@none.txt"),
            1,
            "none.txt cannot be read: No such file or directory. It must",
        ),
        (("caption", "scene.png", "-o", "captions.json"), 1, "to resume a run, use a .db"),
        (("caption", "scene.png", "-o", "out.json", "--mix"), 2, "only a .db can be added to"),
        (("prompt", "class-names"), 2, "--classes"),
        (("prompt", "oracle", "--classes", "dog"), 2, "--present"),
        (("prompt", "caption"), 2, "need images"),
        (("prompt", "null", "many"), 2, "null takes no images; got many"),
        (("clean", "captions.json", "-o", "out.json", "--domain", "sketch"), 2, "need a comma after them: sketch,"),
        (("clean", "captions.json", "-o", "out.json", "--domain", ","), 2, "',' is not a domain"),
        (
            ("prompt", "averaged-eos", "--classes", "dog", "--modifier", "comic:simple"),
            2,
            "a modifier needs words, which averaged-eos does not have",
        ),
        (("prompt", "shout", "--classes", "dog"), 2, "shout"),
        (("prompt", "class-names", "--classes", "@nothing.txt"), 1, "nothing.txt"),
        (("prompt", "null", "--modifier", "moon:simple"), 2, "domains are watercolor, comic, night"),
        (("clean", "nothing.json", "-o", "out.json"), 1, "no such file: nothing.json"),
        (("clean", "captions.json", "-o", "captions.json"), 1, "captions.json already exists"),
        (("clean", "captions.json", "-o", "out.txt"), 2, "suffixes"),
        (("clean", "captions.json", "-o", "out.json", "--endpoint", "http://127.0.0.1:9"), 2, "--language-model"),
        (("clean", "broken.json", "-o", "out.json"), 1, "broken.json, line 2, column 7: this is not JSON"),
        (("clean", "twice.json", "-o", "out.json"), 1, "twice.json, line 2, column 2: the id '1' occurs twice"),
        (("prompt", "null", "--modifier", "nowhere"), 2, "nowhere is neither DOMAIN:KIND"),
    ],
)
def test_wrong_use_is_named(workplace, arguments, code, words):
    Path("some.txt").write_text("dog\ncat\n")
    Path("broken.json").write_text('{"1": {"captions": ["a"]},\n "2": }')
    Path("twice.json").write_text('{"1": {"captions": ["a"]},\n "1": {"captions": ["b"]}}')
    result = tadp_run(*arguments, code=code)
    assert words in plain(result.stderr)
    assert not Path("out.json").exists()


def scene_files(*names: str, seed: int = 5) -> None:
    for name, scene in zip(names, Scenes(len(names), seed=seed, size=64), strict=True):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(name)


def said_by_tadp(path: str) -> str:
    return tadp.Captioner.from_pretrained("tadp-tiny", max_new_tokens=6)(path)[0]


def caption_into(table: str, *paths: str, code: int = 0):
    return tadp_run("caption", *paths, "--max-new-tokens", 6, "-o", table, code=code)


def test_an_image_never_has_the_caption_of_another_of_its_name(workplace):
    scene_files("a/img.png", "b/img.png")
    caption_into("c.db", "a")
    result = caption_into("c.db", "b", code=1)
    assert "the table already has a caption 'img', of a/img.png, and b/img.png is another file" in result.stderr
    assert dict(tadp.CaptionTable.open("c.db")) == {"img": said_by_tadp("a/img.png")}
    assert "would both have the id 'img'" in caption_into("d.db", "a", "b", code=1).stderr
    caption_into("d.db", ".")
    assert list(tadp.CaptionTable.open("d.db")) == ["a/img", "b/img", "scene"]


def test_a_tables_ids_stay_when_images_come_to_the_folder(workplace):
    scene_files("photos/sub/foo.png", "photos/z.png")
    caption_into("c.db", "photos")
    scene_files("photos/x/foo.png", seed=6)
    assert "2 done before" in caption_into("c.db", "photos").output
    table = tadp.CaptionTable.open("c.db")
    assert list(table) == ["sub/foo", "x/foo", "z"]
    assert all(said_by_tadp(f"photos/{name}.png") == caption for name, caption in table.items())
    assert table.record("x/foo").fields == {"source": "photos/x/foo.png"}


def test_a_table_and_its_images_may_move_together(workplace):
    scene_files("old/photos/foo.png")
    caption_into("old/c.db", "old/photos")
    Path("old").rename("new")
    assert "1 done before" in caption_into("new/c.db", "new/photos").output


def test_a_table_of_an_earlier_version_goes_on(workplace):
    from tadp.captions import Provenance

    scene_files("photos/foo.png", "photos/z.png")
    captioner = tadp.Captioner.from_pretrained("tadp-tiny", max_new_tokens=6)
    with tadp.CaptionTable.create("c.db", provenance=Provenance.of(captioner)) as table:
        table.add("foo", "a dog")
    assert "1 done before" in caption_into("c.db", "photos").output
    assert tadp.CaptionTable.open("c.db")["foo"] == "a dog"


def test_captions_in_another_precision_are_of_another_origin(workplace):
    caption_into("c.db", "scene.png")
    result = tadp_run("caption", "scene.png", "--max-new-tokens", 6, "-o", "c.db", "--dtype", "bfloat16", code=1)
    assert "dtype was 'float32' and is 'bfloat16'" in result.stderr
    assert "1 done before" in caption_into("c.db", "scene.png").output


def caption_and_die(how: signal.Signals) -> None:
    """`tadp caption`, stopped by a signal when it describes the third image. It runs in its own process."""
    real, calls = Captioner.describe, []

    def describe(self, images, **options):
        calls.append(images)
        if len(calls) == 3:
            os.kill(os.getpid(), how)
        return real(self, images, **options)

    Captioner.describe = describe
    app(["caption", "photos", "--batch-size", "1", "--max-new-tokens", "6", "-o", "c.json"])


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_a_killed_run_into_json_loses_nothing(workplace, how):
    scene_files(*(f"photos/{name}.png" for name in "abc"))
    done = run_function(caption_and_die, getattr(signal, how))
    assert done.returncode == -getattr(signal, how), done.stderr
    refused = tadp_run("caption", "photos", "-o", "c.json", code=1)
    assert "c.json.part.db was left by a run that did not finish" in refused.stderr
    assert "max-new-tokens was 6 and is 77. Pass --overwrite to replace it" in refused.stderr
    assert "mix" not in refused.stderr
    assert "2 done before" in caption_into("c.json", "photos").output
    expected = {name: {"captions": [said_by_tadp(f"photos/{name}.png")]} for name in "abc"}
    assert json.loads(Path("c.json").read_text()) == expected
    assert not list(Path().glob("c.json.part*"))


def stop_at(monkeypatch, call: int, error: BaseException) -> None:
    """Make the captioner raise an error at a given call."""
    real, calls = tadp.Captioner.describe, []

    def describe(self, images, **options):
        calls.append(images)
        if len(calls) == call:
            raise error
        return real(self, images, **options)

    monkeypatch.setattr(tadp.Captioner, "describe", describe)


def leave_part(*paths: str) -> None:
    """Write a part file of c.json, as a run leaves it that is killed at its end."""
    caption_into("c.json.part.db", *paths)


def test_a_pipe_as_output_is_refused_before_any_image_is_described(workplace, monkeypatch):
    os.mkfifo("c.json")
    stop_at(monkeypatch, 1, AssertionError("an image was described"))
    refused = tadp_run("caption", "scene.png", "-o", "c.json", "--overwrite", code=1)
    assert "c.json is a pipe or a device" in plain(refused.stderr)
    assert not list(Path().glob("c.json.part*"))


def test_captions_of_images_that_are_not_named_again_stay_in_the_part_file(workplace):
    scene_files("photos/a.png", "photos/b.png", "photos/c.png")
    leave_part("photos")
    errors = caption_into("c.json", "photos/a.png").stderr
    assert "c.json.part.db is kept: it has 2 captions of images that were not passed" in errors
    assert list(json.loads(Path("c.json").read_text())) == ["a"]
    assert "3 done before" in caption_into("c.json", "photos", "--overwrite").output
    assert list(json.loads(Path("c.json").read_text())) == ["a", "b", "c"]
    assert not list(Path().glob("c.json.part*"))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), tadp.errors.OutputError("the pipe is broken")])
def test_a_run_that_stops_leaves_the_file_that_it_was_to_replace(workplace, monkeypatch, error):
    scene_files("photos/a.png", "photos/b.png", "photos/c.png")
    caption_into("c.json", "photos")
    whole = Path("c.json").read_bytes()
    arguments = ("photos", "--batch-size", "1", "--overwrite")
    with monkeypatch.context() as patch:
        stop_at(patch, 3, error)
        errors = caption_into("c.json", *arguments, code=130 if isinstance(error, KeyboardInterrupt) else 1).stderr
    message = "c.json is unchanged. The new captions are in c.json.part.db; the same command continues from there"
    assert message in errors
    assert Path("c.json").read_bytes() == whole
    assert "2 done before" in caption_into("c.json", *arguments).output
    assert Path("c.json").read_bytes() == whole
    assert not list(Path().glob("c.json.part*"))


def test_overwrite_drops_a_part_file_of_other_options_or_another_kind(workplace):
    scene_files("photos/a.png")
    for leave in (lambda: leave_part("photos"), lambda: Path("c.json.part.db").write_text("junk" * 200)):
        leave()
        assert "Pass --overwrite to replace it" in tadp_run("caption", "photos", "-o", "c.json", code=1).stderr
        assert Path("c.json.part.db").exists()
        assert "done before" not in tadp_run("caption", "photos", "-o", "c.json", "--overwrite").output
        Path("c.json").unlink()


def test_a_part_file_of_another_file_under_the_same_id_is_neither_used_nor_lost(workplace):
    scene_files("a/img.png", "b/img.png")
    leave_part("a")
    before = Path("c.json.part.db").read_bytes()
    errors = caption_into("c.json", "b", "--overwrite", code=1).stderr
    assert "b/img.png is another file" in errors
    assert "if the file was moved, remove c.json.part.db" in errors
    assert not Path("c.json").exists()
    assert Path("c.json.part.db").read_bytes() == before


def test_two_runs_do_not_write_one_file(workplace, monkeypatch):
    real, second = tadp.Captioner.describe, []

    def describe(self, images, **options):
        if not second:
            second.append(None)
            second.append(caption_into("c.json", "scene.png", code=1).stderr)
        return real(self, images, **options)

    monkeypatch.setattr(tadp.Captioner, "describe", describe)
    caption_into("c.json", "scene.png")
    assert "another run is writing c.json. Wait for it, or choose another name" in second[1]
    assert list(json.loads(Path("c.json").read_text())) == ["scene"]
    assert not list(Path().glob("c.json.part*"))


def test_captions_too_long_for_the_text_encoder_are_named_with_their_count(workplace):
    with pytest.warns(UserWarning, match=r"returned a longer caption for scene\.png than the text encoder takes"):
        long = tadp.Captioner.from_pretrained("tadp-tiny", min_new_tokens=76)("scene.png")[0]
    encoder = tadp.TADPBackbone.from_pretrained("tadp-tiny").text_encoder
    assert encoder is not None
    [count] = encoder.count_tokens([long])
    assert count > 77
    result = tadp_run("caption", "scene.png", "--min-new-tokens", 76)
    assert f"scene.png: the caption has {count} tokens, but the text encoder takes 77." in result.stderr
    assert "but the text encoder takes" not in tadp_run("caption", "scene.png").stderr
    other = tadp_run("caption", "scene.png", "--min-new-tokens", 76, "--text-encoder", "tadp-tiny")
    assert f"scene.png: the caption has {count} tokens" in other.stderr
    assert "unknown model 'none'" in tadp_run("caption", "scene.png", "--text-encoder", "none", code=1).stderr


def test_captions_of_a_captioner_by_itself_are_counted_in_clips_tokens(workplace):
    shutil.copytree(tiny_folder() / "captioner", "captioner")
    long = tadp.Captioner.from_pretrained("captioner", min_new_tokens=76).describe("scene.png")[0]
    assert long.tokens is not None
    assert long.tokens == clip_counter().count_tokens([long.text])[0]
    result = tadp_run("caption", "scene.png", "--model", "captioner", "--min-new-tokens", 76)
    expected = f"scene.png: the caption has {long.tokens} tokens, but the text encoder takes 77."
    assert (expected in result.stderr) == (long.tokens > 77)


def test_extract_finds_the_captions_of_a_table_and_no_other_images(workplace):
    scene_files("photos/sub/foo.png", "photos/foo.png")
    caption_into("c.db", "photos")
    Path("photos/foo.png").unlink()
    tadp_run("extract", "photos", "-o", "out", "--captions", "c.db")
    assert json.loads(Path("out/sub/foo.json").read_text())["caption"] == said_by_tadp("photos/sub/foo.png")
    scene_files("photos/other/foo.png")
    result = tadp_run("extract", "photos", "-o", "out2", "--captions", "c.db", code=1)
    assert "the table lacks 'other/foo'" in result.stderr


def test_clean_keeps_every_image_and_field(workplace):
    result = tadp_run("clean", "captions.json", "-o", "out.json")
    cleaned = json.loads(Path("out.json").read_text())
    assert cleaned == {"1": {"captions": ["a dog"], "class_label": 3}, "2": {"captions": ["a cat"]}}
    assert "2 captions, domain 'watercolor': 1 changed, 0 failed" in result.output


def test_a_single_word_of_ones_own_is_a_domain(workplace):
    write_lines({"id": "a", "captions": ["a sketch of a dog"]})
    tadp_run("clean", "in.jsonl", "-o", "out.jsonl", "--domain", "sketch,")
    assert read_lines()[0]["captions"] == ["a dog"]


def test_an_endpoint_that_is_down_is_one_line_and_loses_nothing(workplace, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    before = Path("captions.json").read_text()
    result = tadp_run(
        "clean",
        "captions.json",
        "-o",
        "out.json",
        "--endpoint",
        "http://127.0.0.1:9/v1",
        "--language-model",
        "x",
        code=1,
    )
    assert "127.0.0.1:9" in result.stderr
    assert "secret-key" not in result.output + result.stderr
    assert Path("captions.json").read_text() == before


RECORD = {"captioner": "blip", "revision": None, "generation": {"num_beams": 5}, "versions": {"tadp": "0.1"}}


def write_lines(*rows: dict[str, object], end: str = "") -> None:
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + end)


def read_lines(path: str = "out.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_clean_keeps_where_captions_came_from_and_adds_itself(workplace):
    write_lines(
        {"id": "a", "captions": ["a watercolor of a dog"], "provenance": RECORD},
        {"id": "b", "captions": ["a bird"], "provenance": RECORD | {"captioner": "other"}},
        {"id": "c", "captions": ["a cat", "a watercolor cat"], "stars": 3},
    )
    assert tadp_run("clean", "in.jsonl", "-o", "out.jsonl").stderr == ""
    by = f"RuleCleaner('watercolor') of tadp {tadp.__version__}"
    generation = {"num_beams": 5, "cleaner": by}
    assert read_lines() == [
        {"id": "a", "captions": ["a dog"], "provenance": RECORD | {"generation": generation}},
        {"id": "b", "captions": ["a bird"], "provenance": RECORD | {"captioner": "other", "generation": generation}},
        {"id": "c", "captions": ["a cat", "a cat"], "stars": 3},
    ]
    tadp_run("clean", "out.jsonl", "-o", "again.jsonl", "--domain", "comic")
    twice = read_lines("again.jsonl")[0]["provenance"]["generation"]["cleaner"]
    assert twice == f"{by}; RuleCleaner('comic') of tadp {tadp.__version__}"
    errors = plain(tadp_run("clean", "in.jsonl", "-o", "out.json").stderr)
    assert "out.json does not say where the captions came from; write a .jsonl or .parquet to keep that." in errors


def test_clean_keeps_where_captions_came_from_in_parquet(workplace):
    pytest.importorskip("pyarrow")
    write_lines({"id": "a", "captions": ["a watercolor of a dog"], "stars": 3, "provenance": RECORD})
    tadp_run("clean", "in.jsonl", "-o", "out.parquet")
    record = CaptionTable.open("out.parquet").record("a")
    assert record.captions == ("a dog",)
    assert record.fields == {"stars": 3}
    assert record.provenance is not None
    assert record.provenance.captioner == "blip"
    assert "RuleCleaner" in record.provenance.generation["cleaner"]


def test_clean_says_which_line_it_leaves_out(workplace):
    write_lines({"id": "a", "captions": ["a watercolor of a dog"]}, end='{"id": "b", "capt')
    result = tadp_run("clean", "in.jsonl", "-o", "out.jsonl", code=1)
    assert "warning: in.jsonl, line 2 is cut off" in plain(result.stderr)
    assert read_lines() == [{"id": "a", "captions": ["a dog"]}]


def test_captions_that_stay_are_named_and_the_exit_code_says_so(workplace):
    write_lines({"id": "a", "captions": ["a watercolor"]}, {"id": "b", "captions": ["a watercolor of a dog"]})
    result = tadp_run("clean", "in.jsonl", "-o", "out.jsonl", code=1)
    assert "not cleaned: 'a watercolor': the caption says nothing else" in plain(result.stderr)
    assert [row["captions"] for row in read_lines()] == [["a watercolor"], ["a dog"]]


def test_an_endpoint_that_fails_on_the_way_is_continued_by_the_same_command(workplace):
    write_lines(*({"id": str(k), "captions": [f"a watercolor painting of {k} dogs"]} for k in range(50)))
    with serving(lambda server, handler, asked: cleaned(asked) if len(server.batches) == 1 else (401, {})) as server:
        arguments = ("clean", "in.jsonl", "-o", "out.jsonl", "--endpoint", server.url, "--language-model", "x")
        result = tadp_run(*arguments, code=1)
        assert "the server answers 401" in plain(result.stderr)
        assert "out.jsonl is not written yet. The new captions are in out.jsonl.part.db" in plain(result.stderr)
        assert not Path("out.jsonl").exists()
        server.behave = lambda server, handler, asked: cleaned(asked)
        tadp_run(*arguments)
    assert server.batches == [20, 20, 20, 10]  # those that were cleaned are not sent again
    assert [row["captions"][0] for row in read_lines()] == [f"{k} dogs" for k in range(50)]
    assert not list(Path().glob("out.jsonl.part*"))


def test_an_answer_with_half_an_emoji_costs_no_other(workplace):
    write_lines(*({"id": str(k), "captions": [f"a watercolor painting of {k} dogs"]} for k in range(3)))

    def behave(server, handler, asked):
        status, body = cleaned(asked)
        text = body["choices"][0]["message"]["content"].replace("1 dogs", "1 dogs \ud83d")
        return status, completion(text)

    with serving(behave) as server:
        arguments = ("clean", "in.jsonl", "-o", "out.jsonl", "--endpoint", server.url, "--language-model", "x")
        assert "cannot be written as UTF-8" in plain(tadp_run(*arguments, code=1).stderr)
    assert [row["captions"][0] for row in read_lines()] == ["0 dogs", "a watercolor painting of 1 dogs", "2 dogs"]


def test_ctrl_c_keeps_what_was_cleaned(workplace):
    """A real signal to a separate process, as a terminal sends it."""
    write_lines(*({"id": str(k), "captions": [f"a watercolor painting of {k} dogs"]} for k in range(50)))

    def behave(server, handler, asked):
        if len(server.batches) == 1:
            return cleaned(asked)
        process.send_signal(signal.SIGINT)
        server.stop.wait(30)
        return None

    with serving(behave) as server:
        arguments = ["clean", "in.jsonl", "-o", "out.jsonl", "--endpoint", server.url, "--language-model", "x"]
        process = subprocess.Popen(
            [sys.executable, "-m", "tadp", *arguments],
            env=ENVIRONMENT,
            stderr=subprocess.PIPE,
            text=True,
            # a shell starts what it puts into the background with Ctrl-C ignored, and this would inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert not Path("out.jsonl").exists()
    with serving(lambda server, handler, asked: cleaned(asked)) as other:
        refused = tadp_run(*arguments[:5], other.url, *arguments[6:], code=1)  # another address is another origin
        assert "out.jsonl.part.db was left by a run that did not finish" in plain(refused.stderr)
    with CaptionTable.open("out.jsonl.part.db") as table:
        assert dict(table) == {f"a watercolor painting of {k} dogs": f"{k} dogs" for k in range(20)}


def test_clean_shows_a_bar_on_a_terminal_alone(workplace, monkeypatch):
    assert "cleaning" not in tadp_run("clean", "captions.json", "-o", "out.json").stderr
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    assert "cleaning: 100%" in tadp_run("clean", "captions.json", "-o", "out.json", "--overwrite").stderr


def test_a_key_in_the_place_of_its_variable_is_not_shown(workplace):
    arguments = ("--endpoint", "http://127.0.0.1:9", "--language-model", "x", "--key-variable", "sk-SECRET123")
    result = tadp_run("clean", "captions.json", "-o", "out.json", *arguments, code=2)
    assert "must be the name of an environment variable" in plain(result.stderr)
    assert "SECRET" not in result.output + result.stderr


def test_clean_names_the_files_it_can_write(workplace):
    Path("some.json").write_text(json.dumps({"a": "a watercolor of a dog"}))
    for name in ("cleaned.csv", "cleaned.db"):
        done = tadp_run("clean", "some.json", "-o", name, code=2)
        assert f"{name} must have one of the suffixes .json, .jsonl, .parquet." in plain(done.stderr)
    assert ".db" not in plain(tadp_run("clean", "some.json", "-o", "some.json", code=1).stderr)


def test_the_note_on_the_embedded_captioner_names_options_that_the_command_has(workplace):
    Image.fromarray(Scenes(1, seed=5)[0].image).save("a.png")
    assert "For photographs, choose another --model." in plain(tadp_run("caption", "a.png").stderr)
    assert "another --model and --captioner." in plain(tadp_run("show", "a.png").stderr)
    Image.effect_noise((64, 64), 80).convert("RGB").save("noise.png")
    assert plain(tadp_run("caption", "noise.png").stderr).count("knows only rendered scenes") == 1
