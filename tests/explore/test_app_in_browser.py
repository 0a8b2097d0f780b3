"""`tadp explore` in a real browser, by what is drawn and by its text, with one server for all tests.

Gradio may need an older Pillow than the other tests have, so the server may run in an environment of its own:
`TADP_APP_PYTHON` is its Python, which `.ci/run` sets. Without it, Gradio must be installed in the environment of the
tests.
"""

import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from browsing import CHROMIUM, NO_BROWSER, listened, pixels, word
from PIL import Image
from running import ENVIRONMENT, ROOT

from tadp.datasets.scenes import CLASSES, Scenes

pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
PYTHON = os.environ.get("TADP_APP_PYTHON") or (sys.executable if find_spec("gradio") else None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER),
    pytest.mark.skipif(PYTHON is None, reason="no gradio, and no TADP_APP_PYTHON: pip install 'tadp[app]'"),
]
SCENE = Scenes(113, seed=7)[105]  # the first example
KNOWN = ("Method not implemented.",)  # a warning that Gradio's own code writes during each upload
# The command, in a process that prints each attempt to reach another computer.
SERVER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have switched it off
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        host = arguments[1][0] if event == "socket.connect" and isinstance(arguments[1], tuple) else arguments[0]
        if isinstance(host, str) and host not in ("127.0.0.1", "localhost", "::1", "0.0.0.0"):
            print("outside:", host, flush=True)
sys.addaudithook(watch)
from tadp.cli import app
app(["explore", "--port", "0"])
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """The address of a running page, which reaches no other computer and prints no traceback."""
    log = tmp_path_factory.mktemp("app") / "log.txt"
    with log.open("w") as output:
        environment = ENVIRONMENT | {"GRADIO_TEMP_DIR": str(log.parent / "uploads")}
        environment.pop("HF_HUB_OFFLINE")  # nothing is looked up, also without it
        server = subprocess.Popen([str(PYTHON), "-c", SERVER], env=environment, stdout=output, stderr=output)
        try:
            while not (found := re.search(r"open (http://127\.0\.0\.1:\d+)/", log.read_text())):
                with pytest.raises(subprocess.TimeoutExpired):  # otherwise it has ended
                    server.wait(0.2)
            yield found[1]
        finally:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(60)
            finally:
                server.kill()
    text = log.read_text()
    assert server.returncode == 0, text
    assert "outside:" not in text
    assert "Traceback" not in text
    assert text.endswith("ended\n")


@pytest.fixture
def opened(browser, address) -> Iterator[Callable]:
    """Open the page in a new window, and fail at the end if a console has a message, or another server was asked."""
    messages, contexts = [], []

    def open_page(*, width: int = 1024, scheme: str = "light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        page = listened(contexts[-1].new_page(), messages, origin=address, known=KNOWN)
        page.set_default_timeout(120_000)
        page.goto(address)
        page.get_by_role("button", name="Show").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert messages == []


def show(page, text: str, *, image: Path | None = None) -> None:
    """Choose an image, type a caption, and press Show."""
    if image is not None:
        page.locator("input[type=file]").first.set_input_files(image)
        page.get_by_label("Remove Image").wait_for()
    page.get_by_label("Text A").fill(text)
    page.get_by_role("button", name="Show").click()


def brightness(page) -> float:
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return float(np.mean([int(value) for value in re.findall(r"\d+", paper)[:3]]))


def test_an_example_shows_two_figures_their_difference_and_predictions(opened):
    page = opened()
    page.locator(".gallery-item").first.click()
    page.locator("#difference h2").wait_for()
    first, second = page.locator("#view-A"), page.locator("#view-B")
    assert f"A: “{SCENE.caption()}”" in first.inner_text()
    assert "B: “a dog and a boat”" in second.inner_text()
    for view in (first, second):
        assert [title.inner_text() for title in view.locator("figcaption").all()] == [
            "tadp-tiny-segmentation", "tadp-tiny-depth", "tadp-tiny-detection", "level 0, 16x16 cells",
            "level 1, 8x8 cells", "level 2, 4x4 cells", "level 3, 2x2 cells",
        ]  # fmt: skip
    assert np.abs(pixels(page, first.locator("img").nth(0)) - pixels(page, second.locator("img").nth(0))).mean() > 1
    assert re.search(r"level 2, stride 32: 0\.\d+ \(0\.\d+ to 0\.\d+\)", page.locator("#difference").inner_text())
    frame, stage = first.frame_locator("iframe"), first.frame_locator("iframe").locator("#stage")
    for name in ("cat", "boat", "person"):
        page.mouse.move(2, 2)
        plain = pixels(page, stage)
        word(frame, name).hover()
        change, mask = np.abs(pixels(page, stage) - plain).mean(axis=2), SCENE.mask == CLASSES.index(name) + 1
        assert change[mask].mean() > 1.4 * change[~mask].mean(), name
    assert brightness(page) > 200
    assert page.evaluate("document.documentElement.scrollWidth") <= 1024


def test_an_uploaded_picture_and_a_typed_text_on_a_small_dark_screen(opened, tmp_path):
    page = opened(width=360, scheme="dark")
    Image.fromarray(Scenes(113, seed=7)[112].image).save(tmp_path / "scene.png")
    show(page, "a person in front of a house", image=tmp_path / "scene.png")
    page.locator("#view-A h2").wait_for()
    assert "A: “a person in front of a house”" in page.locator("#view-A").inner_text()
    page.frame_locator("#view-A iframe").locator(".word", has_text="house").wait_for()
    assert page.locator("#view-B").is_hidden()
    assert brightness(page) < 64
    assert page.evaluate("document.documentElement.scrollWidth") <= 360

    hostile = "</iframe><script>alert(1)</script> ${alert(2)} {{3}}"
    show(page, hostile)
    page.get_by_role("heading", name=hostile).wait_for()
    show(page, "")
    page.get_by_role("heading", name="A: “a blue person").wait_for()  # the captioner's


def test_what_cannot_be_shown_is_a_sentence(opened, tmp_path):
    page = opened()
    page.get_by_role("button", name="Show").click()
    page.get_by_role("alert").filter(has_text="Choose an image first").wait_for()
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    show(page, "a dog", image=tmp_path / "broken.jpg")
    page.get_by_role("alert").filter(has_text=re.compile(r"^The image .* image")).wait_for()
    assert page.locator("#view-A iframe").count() == 0


def test_two_people_at_once_get_their_own_results(opened):
    texts = {"a cat on a boat": opened(), "a person and a car": opened()}
    for page in texts.values():
        page.locator(".gallery-item").nth(1).click()
        page.locator("#view-A h2").wait_for()
    for text, page in texts.items():
        show(page, text)
    for text, page in texts.items():
        page.get_by_role("heading", name=f"A: “{text}”").wait_for()


def test_long_work_shows_progress_and_can_be_stopped(opened, tmp_path):
    page = opened()
    Image.fromarray(SCENE.image).resize((640, 640)).save(tmp_path / "large.png")  # a small one ends before a slow click
    page.get_by_text("Time and noise A").click()
    samples = page.get_by_label("number input for Noise samples").first
    samples.fill("32")
    samples.press("Enter")
    show(page, "a cat and a boat", image=tmp_path / "large.png")
    page.locator("#status").get_by_text("features of tadp-tiny").first.wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("alert").filter(has_text="Stopped.").wait_for()


def test_the_picture_of_the_docs_is_a_screenshot_of_the_app(browser, address, tmp_path):
    script = runpy.run_path(str(ROOT / "docs/figures/explore.py"))
    script["take_app"](browser, address, tmp_path / "taken.png")
    with Image.open(tmp_path / "taken.png") as taken, Image.open(ROOT / "docs/images/explore-app.png") as shown:
        assert taken.size == shown.size
        difference = np.asarray(taken.convert("RGB"), np.float32) - np.asarray(shown.convert("RGB"), np.float32)
    assert np.abs(difference).mean() < 12  # of 255; other machines have other fonts
