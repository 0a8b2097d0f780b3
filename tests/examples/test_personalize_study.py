"""Statistics and verdicts of examples/personalize_study.py, and its scripts with sizes that take seconds."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import run_script

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

from personalizing.jobs import Job  # noqa: E402
from personalizing.jobs import run as run_jobs  # noqa: E402
from personalizing.learning import BARE, LISTS, Setting, learn  # noqa: E402
from personalizing.report import page_of  # noqa: E402
from personalizing.statistics import colour_distance, lab_of, texture_distance  # noqa: E402


def run(script, *options):
    process = run_script(EXAMPLES / script, *options)
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout


# Statistics


def test_lab_is_that_of_tables():
    pixels = np.array([(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 0, 255), (119, 119, 119)], np.uint8)
    expected = [(100, 0, 0), (0, 0, 0), (53.24, 80.09, 67.20), (32.30, 79.19, -107.86), (50.03, 0, 0)]
    assert np.allclose(lab_of(pixels), expected, atol=0.05)


def noise(seed, *, scale=20.0, shift=0.0):
    rng = np.random.default_rng(seed)
    return (128 + shift + scale * rng.standard_normal((6, 64, 64, 1))).clip(0, 255).repeat(3, axis=3).astype(np.uint8)


def test_colour_is_the_distance_of_means_and_of_spreads():
    """Grey images vary only in L, so the expected distance is that of two one-dimensional normal distributions."""
    dark, bright = noise(0, scale=10), noise(1, scale=20, shift=30)
    light, light_2 = (lab_of(images)[..., 0] for images in (dark, bright))
    expected = np.hypot(light.mean() - light_2.mean(), light.std() - light_2.std())
    assert colour_distance(dark, bright) == pytest.approx(expected, rel=1e-3)
    assert colour_distance(dark, dark) == pytest.approx(0, abs=1e-4)


def test_texture_sees_frequency_and_direction_and_neither_contrast_nor_place():
    rows = np.arange(64)
    wave = np.sin(rows * 2 * np.pi * 3 / 64)

    def striped(values, height=40.0):
        plane = np.broadcast_to(128 + height * values, (64, 64))
        return np.broadcast_to(plane[None, ..., None], (2, 64, 64, 3)).round().astype(np.uint8)

    upright, level = striped(wave), striped(wave[:, None])
    fine = striped(np.sin(rows * 2 * np.pi * 12 / 64))
    assert texture_distance(upright, level) > 5
    assert texture_distance(upright, fine) > 5
    assert texture_distance(noise(0), noise(0, scale=40)) < 0.5 < texture_distance(noise(0), upright)


# Verdicts


def results(*, shift):
    """Results in which the learned token lowers the loss of comics by `shift`, and that of other styles by 0.1."""
    rng = np.random.default_rng(0)
    styles = ("watercolor", "comic", "night")
    losses, distances = {}, {}
    for style in styles:
        plain = 0.3 + 0.01 * rng.standard_normal((2, 8))
        less = shift if style == "comic" else 0.1
        losses[style] = [
            {
                "caption alone": row.tolist(), "token before learning": row.tolist(), "style's own words": row.tolist(),
                "token": (row - less + 0.001 * rng.standard_normal(8)).tolist(),
            } | {f"token of {other}": row.tolist() for other in styles if other != style}
            for row in plain
        ]  # fmt: skip
        near, far = ({"colour": c, "texture": c, "colour of halves": 1.0, "texture of halves": 1.0} for c in (3.0, 9.0))
        names = ("caption alone", "token before learning", "style's own words")
        other_tokens = {f"token of {other}": far for other in styles if other != style}
        distances[style] = [dict.fromkeys(names, far) | other_tokens | {"token": near}] * 2
    return {
        "command": "python", "machine": "here", "cpu_minutes": 1.0, "seeds": [0, 1], "images": 8, "draws": 2,
        "samples": 4,
        "settings": {"token": {"called": "captions", "steps": 1, "batch_size": 1, "lr": 0.1}}, "denoising_steps": 2,
        "losses": losses, "distances": distances, "choice": None,
    }  # fmt: skip


def test_a_claim_that_does_not_hold_is_said():
    good, bad = page_of(results(shift=0.1)), page_of(results(shift=-0.1))
    assert "| only caption | all styles | all styles (6 of 6) |" in good
    assert "**not" not in good
    assert "| only caption | watercolor, night, **not comic** | all styles (6 of 6) |" in bad
    assert "| comic | +0.1" in bad


# The scripts


def test_the_study_is_written_and_goes_on(tmp_path):
    sizes = ("--seeds", 1, "--steps", 1, "--images", 2, "--draws", 1, "--samples", 2, "--denoising-steps", 1)
    options = ("--out", tmp_path / "study", "--methods", "token", *sizes)
    printed = run("personalize_study.py", *options, "--page", tmp_path / "page" / "study")
    assert "parts remain, about" in printed
    page = (tmp_path / "page" / "study.md").read_text()
    assert str(tmp_path) not in page
    assert "| colour, night |" in page
    for style in ("watercolor", "comic", "night"):
        with Image.open(tmp_path / "page" / f"study-{style}.png") as picture:
            assert picture.height > 400
    figures = json.loads((tmp_path / "page" / "study.json").read_text())
    assert set(figures["losses"]) == set(figures["distances"]) == {"watercolor", "comic", "night"}


def test_what_is_finished_is_not_done_again(tmp_path, capsys):
    finished = []

    def job(name):
        return Job(tmp_path / name, 60, lambda: finished.append(name) or (tmp_path / name).write_text(""))

    (tmp_path / "one").write_text("")
    run_jobs([job("one"), job("two")], minutes=tmp_path / "minutes.json")
    assert finished == ["two"]
    assert "1 of 2 parts remain, about 1 minutes" in capsys.readouterr().out
    assert json.loads((tmp_path / "minutes.json").read_text()) >= 0


def test_the_pictures_of_the_page_are_drawn(tmp_path):
    run("personalize_pictures.py", "--out", tmp_path, "--stages", 0, 1, "--denoising-steps", 1)
    for name in ("images", "samples", "attention"):
        with Image.open(tmp_path / f"personalize-{name}.png") as picture:
            assert min(picture.size) > 200


@pytest.mark.parametrize("called", [LISTS, BARE])
def test_each_setting_that_is_tried_learns(called, tmp_path):
    modifier = learn(Setting("token", called, 3e-2), "night", 100, output=tmp_path, steps=1)
    assert modifier("a dog") != "a dog"
