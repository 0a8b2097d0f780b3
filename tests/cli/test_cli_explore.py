"""`tadp explore` up to the point where it serves the page; `tests/explore` has the rest."""

import socket
import sys
from types import ModuleType

import pytest
from running import plain, tadp_run

import tadp.cli.explore
from tadp import CaptionModifier
from tadp.datasets.scenes import CLASSES
from tadp.errors import MissingExtraError


@pytest.fixture
def served(monkeypatch) -> list[dict]:
    """The arguments with which pages are served; nothing is served, and Gradio is not needed."""
    calls: list[dict] = []
    monkeypatch.setitem(sys.modules, "gradio", ModuleType("gradio"))
    monkeypatch.setattr(
        "tadp.explore.serve", lambda gr, explorer, **options: calls.append(options | {"explorer": explorer})
    )
    return calls


def test_without_gradio_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert "pip install 'tadp[app]'" in plain(tadp_run("explore", code=1).output)


def test_a_busy_port_is_a_sentence_before_a_model_is_loaded(served):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = tadp_run("explore", "--port", port, "--model", "no-such-model", code=2)
    assert f"port {port} cannot be used" in plain(result.output)
    assert "pass another, or 0 for any free port" in plain(result.output)
    assert served == []


def test_tadp_tiny_comes_with_its_captioner_classes_and_task_models(served, monkeypatch):
    load = tadp.cli.explore.load_task

    def without_detection(task, *names, **options):
        if task == "detection":
            raise MissingExtraError("detection needs torchvision: pip install 'tadp[detection]'")
        return load(task, *names, **options)

    monkeypatch.setattr(tadp.cli.explore, "load_task", without_detection)
    result = tadp_run("explore", "--port", 0)
    (call,) = served
    explorer = call["explorer"]
    assert "tadp-tiny-detection is left out: detection needs torchvision" in plain(result.output)
    assert list(explorer.backbones) == ["tadp-tiny"]
    assert list(explorer.task_models) == ["tadp-tiny-segmentation", "tadp-tiny-depth"]
    assert (explorer.captioner.name, explorer.classes, explorer.max_side_px) == ("tadp-tiny", tuple(CLASSES), 128)
    assert (call["share"], call["port"] > 0) == (False, True)
    assert "tadp-tiny only knows rendered scenes" in call["title"]


def test_options_choose_models_and_modifiers(served, model_source, tmp_path):
    CaptionModifier("a <wash> of {caption}").save_pretrained(tmp_path / "wash")
    options = ("--model-b", model_source, "--modifier", tmp_path / "wash", "--task-model", "tadp-tiny-depth")
    tadp_run("explore", "--port", 0, *options, "--max-side", 64, "--share", "--dtype", "bfloat16")
    (call,) = served
    explorer = call["explorer"]
    assert list(explorer.backbones) == ["tadp-tiny", str(model_source)]
    assert list(explorer.task_models) == ["tadp-tiny-depth"]
    assert explorer.modifiers[str(tmp_path / "wash")](["a dog"]) == ["a <wash> of a dog"]
    assert {str(backbone.dtype) for backbone in explorer.backbones.values()} == {"torch.bfloat16"}
    assert (explorer.max_side_px, call["share"]) == (64, True)
