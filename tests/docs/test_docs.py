"""The code blocks and commands of README and docs run, and CI runs the test command of the README."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from builders_captioner import build_blip2
from builders_families import build_family
from builders_single_file import whole, write, write_configs
from diffusers import AutoencoderTiny
from PIL import Image
from running import ENVIRONMENT, tadp_run

import tadp
from tadp.datasets import RenderedScenes
from tadp.datasets.scenes import CLASSES, Scenes

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
HUB = {"stable-diffusion-v1-5/stable-diffusion-v1-5": "tadp-tiny"}

# Replacements on the page about base models; the file's own base model is a small one.
BASES = {
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
    "madebyollin/taesdxl": "taesdxl",
    '"v1-5-pruned-emaonly.safetensors"': '"v1-5-pruned-emaonly.safetensors", base_model="small"',
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """The files that pages use: photos, captions.json, exports, a recording and a small BLIP-2."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "photos").mkdir()
    for number in range(2):
        Image.fromarray(Scenes(2, seed=4)[number].image).save(folder / "photos" / f"{number}.png")
    Image.fromarray(Scenes(1, seed=4)[0].image).save(folder / "photo.jpg")
    (folder / "docs" / "images").mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "images" / "scene.png", folder / "docs" / "images")
    captions = {"0": {"captions": ["a watercolor painting of a dog"]}}
    (folder / "given" / "captions.json").parent.mkdir()
    (folder / "given" / "captions.json").write_text(json.dumps(captions))
    build_blip2(folder / "blip2")
    export(folder / "export")
    cvat_masks(folder / "cvat")
    recording(folder / "recording")
    return folder


@pytest.fixture
def workplace(files, tmp_path, monkeypatch) -> Path:
    """The working directory, with a copy of `files`."""
    monkeypatch.chdir(shutil.copytree(files, tmp_path, dirs_exist_ok=True))
    return tmp_path


@pytest.mark.filterwarnings("ignore:the captioner 'blip2'")  # a random captioner repeats itself
@pytest.mark.filterwarnings("ignore:the part 'val' of the split has no")  # the export of own-data.md has six images
@pytest.mark.filterwarnings("error:the captioner 'tadp-tiny' knows only")
@pytest.mark.parametrize(  # the blocks about pushing need a hub; tests/support/hub_client.py runs them
    "page", [p for p in PAGES if blocks(p, "python") and p.name != "publish.md"], ids=lambda p: p.name
)
def test_python_blocks_run(page, workplace, monkeypatch):
    namespace: dict = {}
    if page.name in ("export.md", "add-a-base-model.md"):  # torch.export cannot trace the type checker
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    if page.name == "base-models.md":
        build_base_models(workplace)
    for block in blocks(page, "python"):
        for hub_id, local in (HUB | BASES).items():
            block = block.replace(hub_id, local)
        exec(compile(block, str(page), "exec"), namespace)


def commands(page: Path) -> list[str]:
    return [line for block in blocks(page, "bash") for line in block.splitlines() if line.startswith("tadp ")]


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda p: p.name)
def test_tadp_commands_run(page, workplace):
    if "my-model" in page.read_text(encoding="utf-8"):
        save_small_model(workplace / "my-model")
    for command in commands(page):
        tadp_run(*shlex.split(command, comments=True)[1:])


def export(folder: Path) -> None:
    """Save boxes in scenes, as a labelling tool exports them for YOLO."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    (folder / "data.yaml").write_text(f"names: {json.dumps(list(CLASSES))}")
    for sample in RenderedScenes(6, seed=4):
        height, width = sample.image_size
        boxes = sample.boxes.boxes / torch.tensor([width, height, width, height])
        rows = zip(sample.boxes.labels.tolist(), boxes.tolist(), strict=True)
        lines = [f"{label} {(a + c) / 2} {(b + d) / 2} {c - a} {d - b}" for label, (a, b, c, d) in rows]
        Image.fromarray(sample.image).save(folder / "images" / f"{sample.image_id}.png")
        (folder / "labels" / f"{sample.image_id}.txt").write_text("\n".join(lines))


def cvat_masks(folder: Path) -> None:
    """Save masks of scenes as CVAT exports them ("Segmentation mask 1.1"): a colour per class, as in labelmap.txt."""
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    scenes = RenderedScenes(6, seed=4)
    palette = np.array([(20 * label, 10, 200 - 10 * label) for label in range(len(scenes.class_names))], np.uint8)
    palette[0] = 0
    colors = [",".join(map(str, color)) for color in palette.tolist()]
    lines = [f"{name}:{color}::" for name, color in zip(scenes.class_names, colors, strict=True)]
    (folder / "labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", *lines]))
    (folder / "ImageSets/Segmentation/default.txt").write_text("\n".join(scenes.image_ids))
    for sample in scenes:
        Image.fromarray(sample.image).save(folder / "JPEGImages" / f"{sample.image_id}.jpg")
        Image.fromarray(palette[sample.mask]).save(folder / "SegmentationClass" / f"{sample.image_id}.png")


def recording(folder: Path) -> None:
    """Save images and depth in millimetres, as the software of depth cameras does."""
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True)
    for sample in RenderedScenes(6, seed=4):
        Image.fromarray(sample.image).save(folder / "rgb" / f"{sample.image_id}.png")
        depth = (1000 * sample.depth_m).astype(np.uint16)
        Image.fromarray(depth).save(folder / "depth" / f"{sample.image_id}.png")


def build_base_models(folder: Path) -> None:
    """Save a random SDXL and a tiny VAE to replace the hub's, a small model in one file, and its configurations."""
    write(whole("sd1"), folder / "v1-5-pruned-emaonly.safetensors")
    write_configs("sd1", folder / "small")
    build_family("SDXL", folder / "sdxl")
    AutoencoderTiny(encoder_block_out_channels=(8,) * 4, num_encoder_blocks=(1,) * 4).save_pretrained(
        folder / "taesdxl"
    )


def save_small_model(folder: Path) -> None:
    """Save an untrained segmentation model, like the one that the pages train."""
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    names = ["background", *CLASSES]
    model = tadp.TADPForSemanticSegmentation(backbone, class_names=names, head="linear", tune="nothing", window_px=128)
    model.captioner_name = "tadp-tiny"
    model.save_pretrained(folder)


def test_the_quickstart_writes_its_pictures(tmp_path):
    command = [sys.executable, str(ROOT / "examples" / "quickstart.py"), "--out", str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    assert "level 3, stride 64" in process.stdout
    last = process.stdout.splitlines()[-1]
    assert f"open {tmp_path / 'scene-1.html'} in a browser" in last
    assert "<title>" in (tmp_path / "scene-1.html").read_text(encoding="utf-8")
    for name in ("scene-1", "scene-2"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert min(picture.size) > 100
    shown = ROOT / "docs" / "images" / "predictions.png"  # README's picture is the one that the script writes
    assert "(docs/images/predictions.png)" in (ROOT / "README.md").read_text(encoding="utf-8")
    with Image.open(tmp_path / "predictions.png") as written, Image.open(shown) as stored:
        assert written.size == stored.size
        difference = np.asarray(written, np.float32) - np.asarray(stored, np.float32)
    assert np.abs(difference).mean() < 0.5  # of 255; another processor may change a few pixels


def test_ci_runs_the_readme_test_command():
    commands = [line for block in blocks(ROOT / "README.md", "bash") for line in block.splitlines()]
    test_command = next(line for line in commands if "&& pytest" in line)
    assert test_command.split(" && ")[-1] == (ROOT / ".ci" / "run").read_text().splitlines()[-1].split(" && ")[-1]
    assert test_command.split(" && ")[0] in (ROOT / ".ci" / "run").read_text().replace(
        "--quiet --disable-pip-version-check ", ""
    )


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
