"""`examples/publish.py` converts, checks and pushes made-up files in the authors' naming to a Hub over HTTP."""

import json
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch
import yaml
from loopback_hub import loopback_hub
from release_files import original_of, output_of

from tadp import CaptionModifier, TADPBackbone, TADPForDepthEstimation, TADPForSemanticSegmentation
from tadp.datasets import RenderedScenes

SCRIPT = Path(__file__).parents[2] / "examples" / "publish.py"


def run_all(folder: Path) -> None:
    """Run the script with each list of options in commands.json, in one process, and keep what it prints."""
    sys.path.insert(0, str(SCRIPT.parent))
    printed = {}
    for name, options in json.loads((folder / "commands.json").read_text()).items():
        sys.argv = [str(SCRIPT), *options]
        out = StringIO()
        try:
            with redirect_stdout(out):
                runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as end:
            print(end, file=out)
        printed[name] = out.getvalue()
    (folder / "printed.json").write_text(json.dumps(printed))


@pytest.fixture(scope="module")
def published(model_source, tmp_path_factory):
    """The hub, the folder, and what each run of the script printed."""
    folder = tmp_path_factory.mktemp("publish")
    forms = ("tadp depth", "vpd depth", "tadp segmentation", "tadp pascal", "tadp detection")
    files = {form: original_of(form, model_source).save(folder / f"{form.replace(' ', '_')}.pth") for form in forms}
    torch.save({"<toy>": torch.arange(8.0)}, folder / "learned_embeds.bin")
    names = RenderedScenes(1).class_names
    lora = TADPForSemanticSegmentation(TADPBackbone.from_pretrained("tadp-tiny"), class_names=names, tune="lora")
    with torch.no_grad():
        for name, parameter in lora.backbone.unet.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    lora.save_pretrained(folder / "trained", model_card_kwargs={"data": "no scenes", "metrics": {"mIoU": 0.25}})

    base, scenes = ["--base-model", "stable/base"], ["--data", "scenes", "--count", "2"]
    classes = ["--classes", ",".join(original_of("tadp detection", model_source).options["class_names"])]
    depth = [str(files["tadp depth"]), "me/depth", *base, "--out", str(folder / "depth"), *scenes]
    commands = {
        "dry run": [*depth, "--dry-run"],
        "depth": [*depth, "--trained-on", "NYU", "--license", "mit", "--notes", "Not ours."],
        "other file": [str(files["vpd depth"]), "me/other", *base, "--out", str(folder / "depth")],
        "vpd": [str(files["vpd depth"]), "me/vpd", *base, "--out", str(folder / "vpd"), "--private"],
        "pascal": [str(files["tadp pascal"]), "me/pascal", *base, "--out", str(folder / "pascal")],
        "segmentation": [
            str(files["tadp segmentation"]), "me/segmentation", *base, "--out", str(folder / "segmentation"),
        ],
        "detection": [
            str(files["tadp detection"]), "me/detection", *base, *classes, "--out", str(folder / "detection"),
        ],
        "classes": [str(files["tadp segmentation"]), "me/never", *base, *scenes, "--out", str(folder / "segmentation")],
        "token": [str(folder / "learned_embeds.bin"), "me/toy", "--base-model", "stable/base"],
        "trained": [str(folder / "trained"), "me/trained", *scenes],
    }  # fmt: skip
    (folder / "commands.json").write_text(json.dumps(commands))
    with loopback_hub() as hub:
        whole = {path.relative_to(model_source).as_posix(): path.read_bytes() for path in model_source.rglob("*.*")}
        hub.add("stable/base", whole)
        code = f"import sys; sys.path[:0] = {sys.path!r}; import test_publish, pathlib; "
        code += f"test_publish.run_all(pathlib.Path({str(folder)!r}))"
        environment = hub.environment(folder / "home")
        process = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True, timeout=550
        )
        assert process.returncode == 0, process.stderr
        yield hub, folder, json.loads((folder / "printed.json").read_text())


def download(hub, name: str, folder: Path) -> Path:
    for path, content in hub.files(name).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", ["depth", "vpd", "segmentation", "pascal", "detection"])
def test_a_file_of_the_release_is_converted_checked_and_pushed(published, model_source, tmp_path, name):
    hub, _, printed = published
    assert "features differ from those of plain diffusers by at most" in printed[name]
    assert f"pushed: {hub.url}/me/{name}/commit/" in printed[name]
    original = original_of({"vpd": "vpd depth"}.get(name, f"tadp {name}"), model_source).model
    again = type(original).from_pretrained(download(hub, f"me/{name}", tmp_path), base_model=model_source)
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(output_of(again, pixels), output_of(original, pixels))
    card = (tmp_path / "README.md").read_text()
    base = hub.repositories["models", "stable/base"].resolve("main")
    for text in (
        "| base model | stable/base |",
        f"| revision | {base} |",
        "Converted from",
        "those that diffusers",
    ):
        assert text in card


def test_the_card_has_the_figures_and_a_picture_of_the_data_set(published):
    hub, _, _ = published
    files = hub.files("me/depth")
    card = files["README.md"].decode()
    assert "| RMSE (m), scenes, 2 images |" in card
    assert "| data | NYU |" in card
    assert "Not ours." in card
    assert '"me/depth"' in card
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "mit"
    assert files["picture.png"].startswith(b"\x89PNG")
    assert hub.repositories["models", "me/vpd"].is_private
    assert not hub.repositories["models", "me/depth"].is_private


def test_a_dry_run_sends_nothing_and_its_conversion_is_used_again(published):
    hub, folder, printed = published
    upload = folder / "depth" / "upload"
    assert "README.md" in printed["dry run"]
    assert f"{upload} is what would be pushed to me/depth" in printed["dry run"]
    assert hub.repositories["models", "me/depth"].messages == ["initial commit", "Push with tadp"]
    sent = {name: content for name, content in hub.files("me/depth").items() if name.endswith(".safetensors")}
    assert len(sent) == 2
    for name, content in sent.items():
        assert (upload / name).read_bytes() == content
    assert "holds another model; pass another --out" in printed["other file"]
    assert ("models", "me/other") not in hub.repositories


def test_a_token_is_pushed_as_a_modifier(published, tmp_path):
    hub, _, printed = published
    assert "pushed: " in printed["token"]
    modifier = CaptionModifier.from_pretrained(download(hub, "me/toy", tmp_path))
    assert modifier(["a dog"]) == ["a <toy> style painting of a dog"]
    assert torch.equal(modifier._steps[0].vectors, torch.arange(8.0)[None])
    assert "| base model | stable/base |" in (tmp_path / "README.md").read_text()


def test_a_model_that_was_trained_here_is_pushed_with_its_figures_and_new_ones(published):
    hub, _, printed = published
    assert "pushed: " in printed["trained"]
    card = hub.files("me/trained")["README.md"].decode()
    assert "| mIoU | 0.25 |" in card
    assert "| mIoU, scenes, 2 images |" in card
    assert "| data | no scenes |" in card
    assert "A LoRA of the U-Net's attention was tuned" in card


def test_a_data_set_with_other_classes_is_refused(published):
    hub, _, printed = published
    assert "the classes of scenes are not those of the model" in printed["classes"]
    assert ("models", "me/never") not in hub.repositories


def test_changed_features_are_not_pushed(published, model_source, monkeypatch):
    """The check compares with the weights of the file, so another U-Net is found."""
    _, folder, _ = published
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from publishing.plain_features import feature_error

    model = TADPForDepthEstimation.from_pretrained(folder / "depth" / "model", base_model=model_source)
    path, base = folder / "tadp_depth.pth", str(model_source)
    assert feature_error(model.backbone, path, base=base, revision=None) < 1e-5
    with torch.no_grad():
        next(model.backbone.unet.parameters()).mul_(1.1)
    assert feature_error(model.backbone, path, base=base, revision=None) > 1e-3
