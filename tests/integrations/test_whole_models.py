"""Whole models of other frameworks with a fixed text can be exported and compiled, and give what the model gives."""

import pytest
from running import run_function
from whole_model_worker import of_smp, of_torchvision, of_transformers, run

pytestmark = pytest.mark.timeout(1800)  # tracing takes half a minute of one core, and the machine may be busy
NO_TEXT_ENCODER = "has no text encoder for the text of each call; give the adapter one text for all images, as in "


def lines(function) -> dict[str, str]:
    """The lines that a function of the worker prints, by their first word."""
    result = run_function(run, function)
    assert result.returncode == 0, result.stderr
    parts = [line.partition(" ") for line in result.stdout.splitlines()]
    return {name: value for name, _, value in parts}


def assert_equal(printed: dict[str, str], *names: str) -> None:
    assert {name: float(printed[name]) < 1e-5 for name in names} == dict.fromkeys(names, True)


def test_a_model_of_smp():
    printed = lines(of_smp)
    assert_equal(printed, "strict", "onnx", "torchscript")
    assert float(printed["change"]) > 1e-3  # so the graph depends on the text
    assert printed["encoder"] == "True"
    assert "the text 'a dog' was not encoded since the text encoder changed" in printed["outdated"]
    assert "call model.eval() or model(images) first" in printed["outdated"]


def test_a_model_of_transformers():
    printed = lines(of_transformers)
    assert_equal(printed, "torchscript", "compile")
    assert NO_TEXT_ENCODER in printed["reason"]


def test_a_detector_of_torchvision():
    printed = lines(of_torchvision)
    assert_equal(printed, "export", "boxes", "labels", "scores")
    assert NO_TEXT_ENCODER in printed["block"]
    assert NO_TEXT_ENCODER in printed["trace"]
