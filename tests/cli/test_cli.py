import gc
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from builders_captioner import build_blip
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from running import ENVIRONMENT, plain, tadp_run
from safetensors.torch import load_file

import tadp
from tadp.assets import tiny_folder
from tadp.captioner import Captioner
from tadp.cli import app, terminal
from tadp.cli.terminal import as_option
from tadp.datasets.scenes import Scenes
from tadp.errors import Argument, ImageError
from tadp.images.listing import find_images

COMMANDS = ("extract", "caption", "show", "info")


@pytest.fixture(scope="module")
def blip(tmp_path_factory) -> Path:
    return build_blip(tmp_path_factory.mktemp("blip"))


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """A folder with four images, in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    folder = Path("photos")
    for name, scene in zip(("a/x", "b/x", "b/y", "z"), Scenes(4, seed=3, size=64), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(folder / f"{name}.png")
    return folder


def test_examples_of_the_help_fit_80_columns_and_can_be_pasted(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = [line.rstrip() for line in tadp_run("extract", "--help").output.splitlines()]
    start = next(number for number, line in enumerate(lines) if "stable-diffusion" in line)
    assert lines[start - 1].endswith(" --model stable-diffusion-v1-5/stable-diffusion-v1-5 \\") or lines[
        start
    ].endswith(" \\")
    joined = " ".join("\n".join(lines).replace("\\\n", " ").split())
    assert "-o features --model stable-diffusion-v1-5/stable-diffusion-v1-5 --captioner blip2" in joined


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"), "b/y.png needs more memory than there is"),
        (ImageError("image 0 is too long and narrow."), "b/y.png: image 0 is too long and narrow."),
    ],
)
def test_an_image_that_the_captioner_cannot_describe_does_not_stop_the_others(photos, monkeypatch, error, message):
    images = {Image.open(path).tobytes(): path.name for path in photos.rglob("*.png")}
    batch = Captioner._batch

    def fails(self, pictures):
        if any(images[picture.tobytes()] == "y.png" for picture in pictures):
            raise error
        return batch(self, pictures)

    monkeypatch.setattr(Captioner, "_batch", fails)
    result = tadp_run("caption", photos, "-o", "c.json", "--batch-size", "3", code=1)
    assert message in plain(result.stderr)
    assert sorted(json.loads(Path("c.json").read_text())) == ["a/x", "b/x", "z"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")])
def test_too_little_memory_is_one_line(photos, monkeypatch, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(tadp.TADPBackbone, "forward", fails)
    result = tadp_run("show", photos / "z.png", "--caption", "a dog", code=1)
    assert "error: this needs more memory than there is" in plain(result.stderr)


def test_help_has_no_double_brackets():
    assert "[[" not in tadp_run("prompt", "--help").output


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_and_exit_codes(command):
    text = plain(tadp_run(command, "--help").output)
    assert "Examples:" in text
    assert f"tadp {command}" in text
    assert "Exit codes: 0 success" in text


@pytest.mark.parametrize(
    ("arguments", "unused"),
    [
        ("--help", "torch diffusers transformers PIL"),
        ("extract --help", "torch diffusers transformers PIL"),
        ("--version", "torch diffusers transformers PIL"),
        ("clean c.json -o cleaned.json", "torch diffusers transformers huggingface_hub PIL"),
        ("data labelled", "torchvision diffusers transformers scipy accelerate"),
        ("caption photos/z.png", "diffusers peft scipy.stats tadp.diffusion tadp.backbone tadp.extract"),
        ("info", "diffusers transformers peft scipy accelerate torchvision torch._dynamo tadp.backbone"),
    ],
)
def test_a_command_does_not_import_what_it_does_not_use(photos, arguments, unused):
    Path("c.json").write_text('{"z": {"captions": ["a watercolor of a dog"]}}')
    for number, scene in enumerate(Scenes(4, seed=1, size=64)):
        for folder, picture in (("images", scene.image), ("masks", scene.image[..., 0] // 128)):
            Path("labelled", folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(Path("labelled", folder, f"{number}.png"))
    script = (
        "import sys\nfrom tadp.cli import app\n"
        f"try: app({arguments.split()!r})\nexcept SystemExit as end: print('code', end.code)\n"
        f"print('unused but imported:', sorted({set(unused.split())!r} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=300, env=ENVIRONMENT
    )
    assert "code 0" in done.stdout, done.stdout + done.stderr
    assert "unused but imported: []" in done.stdout
    assert arguments != "--version" or f"tadp {tadp.__version__}" in done.stdout


def test_garbage_collection_is_only_off_while_libraries_are_imported(photos, monkeypatch):
    states = []
    import_module, load = terminal.import_module, Captioner.from_pretrained

    def imported(name):
        states.append(("imports", gc.isenabled()))
        return import_module(name)

    def loaded(*arguments, **options):
        states.append(("loading", gc.isenabled()))
        return load(*arguments, **options)

    monkeypatch.setattr(terminal, "import_module", imported)
    monkeypatch.setattr(Captioner, "from_pretrained", loaded)
    tadp_run("caption", photos / "z.png")
    assert states == [("imports", False), ("loading", True)]
    monkeypatch.delattr(terminal, "import_module")  # an import that fails
    with pytest.raises(NameError):
        terminal.load_captioner("tadp-tiny", None)
    assert gc.isenabled()


def test_garbage_collection_skips_what_was_imported_and_nothing_if_that_was_no_module(tmp_path, monkeypatch):
    (tmp_path / "many_lists.py").write_text("lists = [[number] for number in range(1000)]")
    monkeypatch.syspath_prepend(tmp_path)
    gc.unfreeze()
    with terminal.no_gc():
        pass
    assert gc.get_freeze_count() == 0
    with terminal.no_gc():
        importlib.import_module("many_lists")
    assert gc.get_freeze_count() > 1000
    gc.unfreeze()


def test_the_module_runs_as_the_command_does():
    command = [sys.executable, "-m", "tadp", "extract"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=ENVIRONMENT)
    assert done.returncode == 2
    assert "Usage: tadp extract" in plain(done.stderr)


def test_extract_writes_a_table_and_two_files_an_image_and_resumes(photos):
    result = tadp_run("extract", photos, "-o", "out", "--caption", "a [red] car")
    files = sorted(str(path.relative_to("out")) for path in Path("out").rglob("*") if path.is_file())
    assert files == sorted(f"{name}.{end}" for name in ("a/x", "b/x", "b/y", "z") for end in ("json", "safetensors"))
    assert "photos/a/x.png" in result.output
    assert "64x64" in result.output
    assert "32x8x8" in result.output
    assert "a [red] car" in result.output
    assert "4 done; in out" in result.output
    assert max(map(len, result.output.splitlines())) <= 80
    assert result.stderr == ""
    assert (
        "0 done, 4 done before; in out" in tadp_run("extract", photos, "-o", "out", "--caption", "a [red] car").output
    )
    refused = tadp_run("extract", photos, "-o", "out", "--caption", "", code=1).stderr
    assert refused.startswith("error: out holds 4 of these 4 results")
    assert "--overwrite" in refused
    assert refused.count("\n") == 1
    options = ("--level", "1", "--attention", "0", "--heads", "--overwrite")
    again = tadp_run("extract", photos, "-o", "out", "--caption", "", *options)
    assert "(empty prompt)" in again.output
    tensors = load_file("out/z.safetensors")
    assert set(tensors) == {"map.1", *(f"{kind}.{level}" for kind in ("attention", "heads") for level in (0, 1, 2))}
    torch.testing.assert_close(tensors["heads.1"].mean(dim=0), tensors["attention.1"], rtol=0, atol=1e-6)
    record = json.loads(Path("out/z.json").read_text())
    assert record["words"] == []
    assert record["settings"]["record_attention"] == [0]


def said_by(captioner: Path, image: Path) -> str:
    """The captioner's caption. Its weights are random, so the caption is arbitrary and may be too long."""
    return Captioner.from_pretrained(captioner).describe(image)[0].text


def test_extract_goes_by_tiles_and_refuses_sizes_that_are_no_multiple(photos):
    Image.fromarray(Scenes(1, seed=3, size=160)[0].image).save("large.png")
    options = ("extract", "large.png", "-o", "out", "--caption", "a dog", "--tile", 128, "--overlap", 64)
    assert "1 done; in out" in tadp_run(*options).output
    assert json.loads(Path("out/large.json").read_text())["settings"]["tiling"] == {"tile_px": 128, "overlap_px": 64}
    assert "0 done, 1 done before" in tadp_run(*options).output
    refused = plain(tadp_run(*options[:-4], "--tile", 128, "--overlap", 100, code=2).output)
    assert (
        "Invalid value for --tile: overlap_px must be a multiple of the coarsest stride, 64; got 100. Pass 128."
        in refused
    )


def test_extract_takes_a_captioner_and_names_what_it_cannot_read(photos, blip):
    (photos / "text.jpg").write_text("hello")
    result = tadp_run("extract", "photos/*.*", "-o", "out", "--captioner", blip, "--batch-size", 1, code=1)
    assert "1 done, 1 failed; in out" in result.output
    assert "error: 'photos/text.jpg' is not an image that Pillow can read." in result.stderr
    assert json.loads(Path("out/z.json").read_text())["caption"] == said_by(blip, photos / "z.png")


def test_a_model_that_brings_a_captioner_uses_it(photos, blip, tmp_path):
    model = shutil.copytree(tiny_folder(), tmp_path / "model", ignore=shutil.ignore_patterns("captioner"))
    refused = plain(tadp_run("extract", photos, "-o", "out", "-m", model, code=2).output)
    assert "has no captioner of its own. Pass --caption TEXT" in refused
    shutil.copytree(blip, model / "captioner")
    tadp_run("extract", photos / "z.png", "-o", "out", "-m", model)
    settings = json.loads(Path("out/z.json").read_text())["settings"]
    assert settings["captions"]["captioner"] == str(model / "captioner")


def test_caption_prints_and_writes_the_authors_layout(photos, blip):
    (photos / "text.jpg").write_text("hello")
    result = tadp_run("caption", photos, "--model", blip, "--max-new-tokens", 6, "-o", "c.json", code=1)
    captions = json.loads(Path("c.json").read_text())
    assert list(captions) == ["a/x", "b/x", "y", "z"]
    expected = Captioner.from_pretrained(blip, max_new_tokens=6)(photos / "z.png")[0]
    assert captions["z"] == {"captions": [expected]}
    assert f"photos/z.png: {expected}\n" in result.stdout
    assert "text.jpg" in result.stderr
    assert "c.json already exists" in tadp_run("caption", photos, "--model", blip, "-o", "c.json", code=1).stderr


def test_caption_keeps_what_it_has_when_interrupted(photos, blip, monkeypatch):
    real, calls = Captioner.describe, []

    def describe(self, images, **options):
        calls.append(images)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, images, **options)

    monkeypatch.setattr(Captioner, "describe", describe)
    arguments = ("caption", photos, "-m", blip, "--batch-size", 1, "--max-new-tokens", 4, "-o", "c.json")
    errors = tadp_run(*arguments, code=130).stderr
    assert "interrupted" in errors
    assert "c.json is not written yet. The new captions are in c.json.part.db; the same command continues" in errors
    assert not Path("c.json").exists()
    monkeypatch.setattr(Captioner, "describe", real)
    assert "2 done before" in tadp_run(*arguments).output
    assert list(json.loads(Path("c.json").read_text())) == ["a/x", "b/x", "y", "z"]
    assert not list(Path().glob("c.json.part*"))


@pytest.mark.skipif(os.name != "posix", reason="needs SIGINT")
def test_ctrl_c_ends_extract_with_130_and_keeps_what_is_done(photos):
    for k in range(60):
        shutil.copy(photos / "z.png", photos / f"z{k}.png")
    command = [
        sys.executable,
        "-m",
        "tadp",
        "extract",
        "photos",
        "-o",
        "out",
        "--caption",
        "a cat",
        "--batch-size",
        "1",
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        # A test run in the background of a shell ignores SIGINT, and its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 240
    while len(list(Path("out").rglob("*.json"))) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    done = len(list(Path("out").rglob("*.json")))
    assert 0 < done < 64
    # The signal may come between writing an image's record and counting it.
    assert f"{done} done; in out" in output or f"{done - 1} done; in out" in output
    assert "interrupted; finished work is kept." in errors
    assert "Traceback" not in errors
    assert not list(Path("out").rglob(".*"))


def test_show_draws_a_sheet(photos):
    result = tadp_run("show", photos / "z.png", "--caption", "a red car and a tree")
    assert "wrote z.words.png" in result.output
    with Image.open("z.words.png") as picture:
        assert picture.format == "PNG"
    tadp_run(
        "show", photos / "z.png", "--caption", "a red car and a tree", "--all-words", "--level", 2, "-o", "a/z.jpg"
    )
    with Image.open("a/z.jpg") as other:
        assert other.format == "JPEG"
        assert other.size != picture.size


def test_show_writes_a_page_with_names_layers_and_levels(photos):
    tadp_run("show", photos / "z.png", "--caption", "a red car", "--name", "car", "--layer", "all", "-o", "z.html")
    page = Path("z.html").read_text(encoding="utf-8")
    assert '{"text":"car","found":true},{"text":"car","found":true}]' in page  # the word and the name
    assert "data:image/png" in page
    layer = "up_blocks.3.attentions.1.transformer_blocks.0.attn2"
    assert '"layers":["down_blocks.0.attentions.0.transformer_blocks.0.attn2",' in page
    tadp_run("show", photos / "z.png", "--caption", "a red car", "--layer", layer, "--level", 0, "-o", "z.htm")
    small = Path("z.htm").read_text(encoding="utf-8")
    assert f'"layers":["{layer}"]' in small
    assert '"level":1' not in small


def test_a_model_that_computes_some_levels_is_shown_and_extracted_at_these(photos):
    tadp.TADPBackbone.from_pretrained("tadp-tiny", levels=(1, 3)).save_pretrained("coarse")
    levels = [line.split()[:3] for line in tadp_run("info", "coarse").output.splitlines()[1:4]]
    assert levels == [["Level", "Stride", "Channels"], ["1", "16", "64"], ["3", "64", "128"]]
    tadp_run("extract", photos, "-o", "out", "--model", "coarse", "--caption", "a car")
    assert set(load_file("out/z.safetensors")) == {"map.1", "map.3", "attention.1"}
    for option in ("--level", "--attention"):
        refused = tadp_run("extract", photos, "-o", "x", "--model", "coarse", "--caption", "", option, 2, code=2).stderr
        assert "unknown level 2; the levels are 1 (stride 16)" in plain(refused)
    tadp_run("show", photos / "z.png", "--model", "coarse", "--caption", "a red car", "--level", 2, "-o", "coarse.png")
    tadp_run("show", photos / "z.png", "--caption", "a red car", "--level", 2, "-o", "all.png")
    assert Path("coarse.png").read_bytes() == Path("all.png").read_bytes()


def test_show_takes_a_captioner(photos, blip):
    result = tadp_run("show", photos / "z.png", "--captioner", blip, "-o", "z.webp")
    assert result.stdout.splitlines()[0] == said_by(blip, photos / "z.png")


def test_info_tells_levels_parts_and_numbers(photos):
    text = tadp_run("info").output
    for row in (r"0 +8 +32 +yes +up_blocks\.3\.attentions\.1", r"1 +16 +64 \+ 77 +attached", r"3 +64 +128 +no"):
        assert re.search(row, text), row
    for line in ("Scaling factor", "Text length     77 tokens", "Timestep        0"):
        assert line in text
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    millions = sum(parameter.numel() for parameter in backbone.unet.parameters()) / 1e6
    assert re.search(rf"U-Net +{millions:.3g} M", text)
    size = sum(file.stat().st_size for file in (tiny_folder() / "unet").glob("*.safetensors")) / 1e6
    assert f"{size:.3g} MB" in text
    assert max(len(line) for line in text.splitlines() if "Folder" not in line) <= 80


def test_info_reads_no_weights(photos, tmp_path):
    model = shutil.copytree(
        tiny_folder(), tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors", "captioner")
    )
    text = tadp_run("info", model).output
    assert "not here" in text
    assert "none of its own" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("extract", "nothing", "-o", "out", "--caption", "x"),
            "'nothing' is not a file or folder, and no file matches it",
        ),
        (("extract", "empty", "-o", "out", "--caption", "x"), "'empty' holds no image"),
        (("extract", "photos", "-o", "photos/z.png", "--caption", "x"), "cannot make the folder photos/z.png"),
        (("extract", "photos", "-o", "/proc/out", "--caption", "x"), "cannot make the folder /proc/out"),
        (("extract", "photos", "-o", "out", "-m", "nomodel", "--caption", "x"), "unknown model 'nomodel'"),
        (("extract", "photos", "-o", "out", "--caption", "cat " * 90), "takes 77. Shorten it or pass --truncate."),
        (("show", "photos/z.png", "--caption", "cat " * 90), "takes 77. Shorten it or pass --truncate."),
        (("prompt", "class-embeddings", "--classes", "cat " * 90), "takes 77. Shorten it.\n"),
        (("show", "photos/z.png", "--caption", "x", "-m", "half"), "pass --variant fp16."),
        (("extract", "photos", "-o", "out", "--captioner", "nomodel"), "unknown model 'nomodel'"),
        (("caption", "photos", "-m", "empty"), "no config.json in empty"),
        (("caption", "photos/none/*.png"), "is not a file or folder, and no file matches it"),
        (("show", "cut.jpg", "--caption", "x"), "'cut.jpg' is damaged or cut short"),
        (("show", "text.jpg", "--caption", "x"), "'text.jpg' is not an image that Pillow can read"),
        (("show", "nothing.png", "--caption", "x"), "no such file: 'nothing.png'"),
        (("show", "photos", "--caption", "x"), "'photos' is a folder"),
        (("show", "photos/z.png", "--caption", "x", "-o", "text.jpg/x.png"), "cannot write text.jpg/x.png"),
        (("info", "empty"), "no unet/ in empty"),
    ],
)
def test_what_goes_wrong_is_one_line_and_exit_code_1(photos, monkeypatch, arguments, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    Path("empty").mkdir()
    half = Path(shutil.copytree(tiny_folder(), "half", ignore=shutil.ignore_patterns("captioner"))) / "unet"
    (half / "diffusion_pytorch_model.safetensors").rename(half / "diffusion_pytorch_model.fp16.safetensors")
    Path("text.jpg").write_text("hello")
    with Image.open("photos/z.png") as picture:
        picture.resize((300, 300)).save("photos/z.jpg")
    Path("cut.jpg").write_bytes(Path("photos/z.jpg").read_bytes()[:2000])
    result = tadp_run(*arguments, code=1)
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("extract", "photos"), "Missing option '--output'"),
        (("extract", "-o", "out"), "Missing argument"),
        (
            ("extract", "photos", "-o", "out", "--caption", "x", "--captioner", "y"),
            "--caption or --captioner, not both",
        ),
        (
            ("extract", "photos", "-o", "out", "--caption", "x", "--level", "7"),
            "unknown level 7; the levels are 0 (stride",
        ),
        (
            ("extract", "photos", "-o", "out", "--caption", "x", "--attention", "3"),
            "for --attention: unknown level 3",
        ),
        (("extract", "photos", "-o", "out", "--caption", "x", "--dtype", "int8"), "--dtype"),
        (("extract", "photos", "-o", "out", "--caption", "x", "--batch-size", "0"), "--batch-size"),
        (("extract", "photos", "-o", "out", "--caption", "x", "--device", "quantum"), "'quantum' cannot be used"),
        (
            ("caption", "photos", "--min-new-tokens", "20", "--max-new-tokens", "10"),
            "20 is more than --max-new-tokens 10",
        ),
        (("show", "photos/z.png", "--caption", "x", "--level", "3"), "for --level: unknown level 3"),
        (("show", "photos/z.png", "--caption", " . "), "show needs a caption with words"),
        (("show", "photos/z.png", "--caption", "x", "-o", "z.txt"), "the suffix of z.txt must be one of .png"),
        (("show", "photos/z.png", "--caption", "x", "-o", "photos/z.png"), "photos/z.png is the image itself"),
        (("show", "photos/z.png", "--caption", "x", "--name", "x"), "only an HTML file shows names and heads; got z."),
        (("show", "photos/z.png", "--caption", "x", "--name", "-", "-o", "z.html"), "must have a letter or digit; got"),
        (
            ("show", "photos/z.png", "--caption", "x", "--level", "1", "--layer", "mid", "-o", "z.html"),
            "unknown layer 'mid'; the layers of the shown levels are down_blocks.1.",
        ),
        (("caption", "photos", "--max-new-tokens", "500"), "--max-new-tokens must be at most 128 for 'tadp-tiny'"),
        (("prompt", "class-names", "--classes", "a,b,a"), "class names must be unique; 'a' is class 0 and 2"),
        (("clean", "c.json", "-o", "d.json", "--endpoint", "nowhere", "--language-model", "m"), "for --endpoint: the"),
        (("nonsense",), "No such command 'nonsense'"),
    ],
)
def test_wrong_usage_is_exit_code_2(photos, arguments, message):
    Path("c.json").write_text('{"z": {"captions": ["a dog"]}}')
    assert message in plain(tadp_run(*arguments, code=2).output)


def test_a_full_disk_is_one_line_and_what_was_done_is_counted(photos, monkeypatch):
    real, calls = Path.write_bytes, []

    def write_bytes(path, data):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    result = tadp_run("extract", photos, "-o", "out", "--caption", "a cat", "--batch-size", 1, code=1)
    assert "2 done; in out" in result.output
    assert "No space left on device" in result.stderr
    assert result.stderr.count("\n") == 1


def test_extract_takes_its_captions_from_a_file_and_notices_when_one_changes(photos):
    words = {"a/x": "a red car", "b/x": "a dog", "y": "a tree on grass"}
    Path("c.json").write_text(json.dumps({key: {"captions": [text]} for key, text in words.items()}))
    result = tadp_run("extract", photos, "-o", "out", "--captions", "c.json", code=1)
    assert "photos/z.png has no caption: the table lacks 'z'" in plain(result.stderr)
    assert json.loads(Path("out/b/y.json").read_text())["caption"] == "a tree on grass"
    assert "3 done before" in tadp_run("extract", photos, "-o", "out", "--captions", "c.json", code=1).output
    Path("c.json").write_text(json.dumps({key: {"captions": [text + "!"]} for key, text in words.items()}))
    changed = tadp_run("extract", photos, "-o", "out", "--captions", "c.json", code=1).stderr
    assert "caption was" in changed
    assert "--captions" in plain(
        tadp_run("extract", photos, "-o", "out", "--captions", "c.json", "--caption", "x", code=2).stderr
    )


def test_a_long_caption_is_cut_where_that_is_asked_for_and_said_once(photos):
    long = "a red car " * 40
    result = tadp_run("extract", photos, "-o", "out", "--caption", long, "--truncate")
    assert result.stderr.count("its end was cut") == 1
    shown = tadp_run("show", photos / "z.png", "--caption", long, "--truncate", "-o", "z.words.png")
    assert f"{photos / 'z.png'}: the caption is too long for the text encoder; its end was cut" in shown.stderr


def test_an_argument_is_spelled_as_the_option_that_a_command_has():
    commands: Any = typer.main.get_command(app)
    for argument, command, spelled in (
        (Argument("truncate", True), "extract", "--truncate"),
        (Argument("truncate", True), "caption", "truncate=True"),
        (Argument("variant", "fp16"), "show", "--variant fp16"),
        (Argument("max_new_tokens"), "caption", "--max-new-tokens"),
        (Argument("recall", 0), "prompt", "--recall 0"),
        (Argument("scale_latents", False), "convert", "--no-scale-latents"),
        (Argument("allow_unused", ["pattern*"]), "convert", "--allow-unused 'pattern*'"),
        (Argument("base_model", ...), "predict", "--base-model …"),
        (Argument("image_size"), "export", "--size"),
        (Argument("images"), "extract", "images"),
    ):
        assert as_option(argument, commands.commands[command]) == spelled
    assert as_option(Argument("truncate", True), None) == "truncate=True"


def test_a_run_lists_a_folder_once_and_decodes_an_image_once(photos, monkeypatch):
    listed, opened, decoded = [], [], []
    open_image, load_prepare = Image.open, PngImageFile.load_prepare
    monkeypatch.setattr("tadp.captions.image_ids.find_images", lambda path: listed.append(path) or find_images(path))
    monkeypatch.setattr(
        PngImageFile, "load_prepare", lambda image: decoded.append(image.fp.name) or load_prepare(image)
    )
    monkeypatch.setattr(
        Image, "open", lambda path, *rest, **more: opened.append(path) or open_image(path, *rest, **more)
    )
    model = tadp.TADPForDepthEstimation(
        tadp.TADPBackbone.from_pretrained("tadp-tiny"), tune="nothing", window_px=64, head_options={"channels": 8}
    )
    model.attach_captioner("tadp-tiny").save_pretrained("model")
    tadp_run("caption", photos, "--max-new-tokens", 4, "-o", "c.db")
    runs = [
        ("extract", photos, "-o", "out", "--captions", "c.db"),
        ("extract", photos, "-o", "described"),
        ("extract", photos, "-o", "tiled", "--caption", "x", "--tile", 64, "--overlap", 0),
        ("caption", photos, "--max-new-tokens", 4, "-o", "other.db"),
        ("caption", photos, "--max-new-tokens", 4, "-o", "c.json"),
        ("predict", "depth", photos, "-m", "model", "-o", "depth"),
    ]
    for arguments in runs:
        listed.clear()
        opened.clear()
        decoded.clear()
        tadp_run(*arguments)
        assert listed == [str(photos)], arguments
        images = sorted(map(str, photos.rglob("*.png")))
        assert sorted(map(str, decoded)) == images, arguments
        # tadp extract also reads the headers, for the size of the results that it prints and of those that are missing
        opens = 3 if arguments[0] == "extract" else 1
        assert sorted(map(str, opened)) == sorted(images * opens), arguments


def test_a_caption_table_goes_on_where_it_was(photos, blip):
    arguments = ("caption", photos, "-m", blip, "--max-new-tokens", 4, "-o", "c.db")
    tadp_run("caption", "photos/*/y.png", "photos/*.png", "-m", blip, "--max-new-tokens", 4, "-o", "c.db")
    with tadp.CaptionTable.open("c.db") as table:
        assert sorted(table) == ["b/y", "z"]
    assert "2 done before" in tadp_run(*arguments).output
    assert "--mix" not in tadp_run(*arguments).output
    refused = tadp_run("caption", photos, "-m", blip, "--max-new-tokens", 5, "-o", "c.db", code=1)
    assert "--max-new-tokens was 4 and is 5" in refused.stderr
    assert "or pass --mix where" in refused.stderr
    tadp_run("caption", photos, "-m", blip, "--max-new-tokens", 5, "-o", "c.db", "--mix")
    assert "suffixes" in plain(tadp_run("caption", photos, "-m", blip, "-o", "c.txt", code=2).stderr)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_commands_print_what_they_can(encoding):
    program = (
        "from rich.console import Console; from tadp.cli.app import app; "
        "app.command(name='say')(lambda: Console().print(f'a {chr(0x2192)} {chr(0xdcff)} b')); app(['say'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=ENVIRONMENT | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )
    arrow = "\u2192" if encoding == "utf-8" else r"\u2192"
    assert done.stdout.decode(encoding).strip() == rf"a {arrow} \udcff b"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a file that is always full")
@pytest.mark.parametrize(
    ("stream", "code", "message"),
    [("> /dev/full", 1, "the output cannot be read or written: No space left on device"), (">&-", 0, "")],
)
def test_a_full_or_closed_output_stream_gives_no_traceback(stream, code, message):
    program = (
        "import typer; from tadp.cli.app import app; from tadp.cli.terminal import progress\n"
        "@app.command(name='say')\ndef say():\n    with progress():\n        typer.echo('a dog')\napp(['say'])"
    )
    done = subprocess.run(
        f"'{sys.executable}' -c \"{program}\" {stream}", shell=True, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
