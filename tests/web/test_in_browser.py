"""The page in a real browser, by what is drawn and by its text. Skipped where there is no Chromium."""

import re
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from browsing import CHROMIUM, NO_BROWSER, WORD, listened, pixels, settled, word
from PIL import Image
from running import plain, tadp_run

import tadp
from tadp.datasets.scenes import CLASSES, Scenes
from tadp.features import AttentionMaps, Features, Word

ROOT = Path(__file__).parents[2]
pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)


@pytest.fixture
def opened(browser, tmp_path) -> Iterator[Callable]:
    """Open HTML in a new window, and fail at the end if a console has a message."""
    messages, contexts = [], []

    def open_page(text: str, *, width: int = 1024, height: int = 768, scheme: str = "light", **options):
        path = tmp_path / f"{len(contexts)}.html"
        path.write_text(text, encoding="utf-8")
        contexts.append(
            browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
        )
        page = listened(contexts[-1].new_page(), messages)
        page.goto(path.as_uri())
        settled(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert messages == []


@pytest.fixture(scope="module")
def recording() -> tadp.TADPBackbone:
    return tadp.TADPBackbone.from_pretrained("tadp-tiny", record_attention=(0, 1, 2), record_heads=True)


@pytest.fixture(scope="module")
def scene_page(recording) -> tuple[Features, str]:
    """Features of a scene, and their page."""
    scene = Scenes(113, seed=7)[112]
    features = features_of(recording, scene.image, scene.caption())
    page = features.to_html(scene.image, names=["red car", "dog"], layers=recording.layout.attention_layers)
    return features, page


def features_of(backbone, image, caption) -> Features:
    with torch.no_grad():
        return backbone(image, caption)


@pytest.mark.parametrize(("number", "names"), [(112, ["person", "house", "car", "flower"]), (105, ["cat", "boat"])])
def test_hovering_a_word_changes_its_object_more_than_the_rest(opened, recording, number, names):
    scene = Scenes(113, seed=7)[number]
    page = opened(features_of(recording, scene.image, scene.caption()).to_html(scene.image))
    plain = pixels(page)
    assert np.abs(plain - scene.image).mean() < 12  # nothing is drawn over the image yet
    for name in names:
        word(page, name).hover()
        change, mask = np.abs(pixels(page) - plain).mean(axis=2), scene.mask == CLASSES.index(name) + 1
        assert change[mask].mean() > 1.4 * change[~mask].mean(), name
        page.mouse.move(2, 2)
    assert np.array_equal(pixels(page), plain)


def test_a_place_shows_the_words_and_values_of_its_cell(opened, scene_page):
    features, text = scene_page
    page = opened(text)
    page.locator("#levels button").nth(1).click()  # leaves level 0
    box = page.locator("#stage").bounding_box()
    row, column = 6, 11
    page.mouse.move(box["x"] + (column + 0.5) / 16 * box["width"], box["y"] + (row + 0.5) / 16 * box["height"])
    settled(page)
    words = features.attention.words(0)[0]
    values = {name: max(float(heat[row, column]) for own, heat in words if own == name) for name in words.words}
    values["red car"] = float(features.attention.pool(["red car"], 0).maps[0, 0, row, column])
    listed = page.locator("#tip > span").all_inner_texts()
    best = sorted(values, key=lambda name: -values[name])[:5]
    assert listed[0] == best[0]
    for name, shown in zip(listed[::2], listed[1::2], strict=True):
        assert abs(float(shown.removeprefix("<")) - values[name]) < 0.008
    assert page.locator("#tip").is_visible()
    page.mouse.click(box["x"] + 0.7 * box["width"], box["y"] + 0.4 * box["height"])
    page.mouse.move(2, 2)
    settled(page)
    assert page.locator("#cell.pinned").is_visible()
    page.keyboard.press("Escape")
    settled(page)
    assert page.locator("#tip").is_hidden()


def test_words_are_pinned_in_several_colours_and_cleared(opened, scene_page):
    page = opened(scene_page[1])
    plain = pixels(page)
    colors = []
    for name in ("person", "house"):
        word(page, name).click()
        settled(page)
        colors.append(word(page, name).evaluate("(button) => getComputedStyle(button).backgroundColor"))
    page.mouse.move(2, 2)
    both = pixels(page)
    assert len(set(colors)) == 2
    assert word(page, "house").get_attribute("aria-pressed") == "true"
    page.locator("#opacity").fill("20")
    assert np.abs(pixels(page) - plain).mean() < 0.5 * np.abs(both - plain).mean()
    page.locator("#clear").click()
    assert np.array_equal(pixels(page), plain)
    assert page.locator('[aria-pressed="true"].word').count() == 0


def test_levels_layers_and_heads_change_the_map_and_the_values(opened, scene_page):
    features, _ = scene_page
    page = opened(features.to_html())  # the heads of each level are one layer
    word(page, "person").click()
    page.mouse.move(2, 2)
    position = features.attention.words(0)[0].words.index("person")
    levels = page.locator("#levels button")
    assert [button.get_attribute("aria-pressed") for button in levels.all()] == ["true", "true", "false"]
    pictures = [pixels(page)]

    def look(attention: AttentionMaps, level: int) -> None:
        pictures.append(pixels(page))
        value = float(word(page, "person").locator("small").inner_text())
        assert value == pytest.approx(float(attention.words(level)[0].maps[position].max()), abs=0.008)

    levels.nth(0).click()
    look(features.attention, 1)
    page.locator("#layer").select_option("heads of level 0")
    look(features.attention, 0)
    page.locator("#head").select_option("1")
    look(features.attention.head(1), 0)
    levels.nth(2).click()  # back to levels
    look(features.attention, 2)
    assert page.locator("#head").is_disabled()
    assert min(np.abs(a - b).mean() for k, a in enumerate(pictures) for b in pictures[:k]) > 0.1
    levels.nth(2).click()  # the last level stays
    settled(page)
    assert page.locator('#levels [aria-pressed="true"]').count() == 1


def test_the_keyboard_reaches_everything(opened, scene_page):
    page = opened(scene_page[1])
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "stage"
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    assert re.match(r"Row 10, column 10: \S+ .*\d\.\d\d", page.locator("#live").inner_text())
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    plain = pixels(page)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")  # "a", "blue", "person"
    focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert re.fullmatch(r"person, highest attention 0\.\d+", focused)
    hovered = pixels(page)
    assert np.abs(hovered - plain).mean() > 3
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")  # to the names
    page.keyboard.press("Tab")  # to the levels
    assert page.evaluate("document.activeElement.closest('#levels') !== null")
    assert np.abs(pixels(page) - plain).mean() > 3  # still pinned
    assert page.locator("button.word:disabled").inner_text().startswith("dog")


def test_fingers_pin_words_and_places(opened, scene_page):
    page = opened(scene_page[1], width=360, height=740, has_touch=True, is_mobile=True, scheme="dark")
    plain = pixels(page)
    word(page, "house").tap()
    assert np.abs(pixels(page) - plain).mean() > 3
    page.locator("#stage").tap()
    settled(page)
    assert page.locator("#cell.pinned").is_visible()
    assert page.locator("#tip > span").first.inner_text() == "house"


def test_a_notebook_shows_the_page_in_a_frame(opened, scene_page):
    features, _ = scene_page
    page = opened(f"<!doctype html><link rel='icon' href='data:,'>{features._repr_html_()}")
    plain = pixels(page, "iframe")
    page.frame_locator("iframe").locator(WORD, has_text="person").hover()
    looks = (np.abs(pixels(page, "iframe") - plain).mean() for _ in range(50))  # a frame may be drawn after its page
    assert any(change > 1 for change in looks)


def long_page(image) -> str:
    """A page with 73 words in 77 tokens, some of them long or from right to left, and names."""
    odd = ("</script><script>alert(1)</script>", "שלום", "🐱", "<b>", "Donaudampfschifffahrtsgesellschaft" * 3)
    texts = [f"word{k}" if k % 7 else odd[k // 7 % 5] for k in range(73)]
    words = tuple(Word(text, k + 1, k + 2) for k, text in enumerate(texts))
    maps = torch.rand(1, 77, 8, 8, generator=torch.Generator().manual_seed(0)) / 77
    attention = AttentionMaps(
        {0: maps, 1: maps[..., :4, :4]}, (("<|startoftext|>", *texts, *("<|endoftext|>",) * 3),), (words,)
    )
    return Features((), attention, (64, 64)).to_html(image, names=["word3", "<i>none</i> of these" * 8])


@pytest.mark.parametrize("image", [None, np.full((64, 64, 3), 90, np.uint8)], ids=["maps", "image"])
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (2560, "light")])
def test_long_texts_fit_every_window_and_stay_text(opened, width, scheme, image):
    page = opened(long_page(image), width=width, height=800, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".word").count() == 75
    assert page.locator(".word b, .word i").count() == 0
    assert "</script><script>alert(1)</script>" in page.locator(".word").first.inner_text()
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = np.mean([int(value) for value in re.findall(r"\d+", paper)])
    assert (brightness < 64) == (scheme == "dark")
    assert ("no image" in page.locator("#hint").inner_text()) == (image is None)
    plain = pixels(page)
    page.locator(WORD).nth(1).click()
    assert np.abs(pixels(page) - plain).mean() > 1


def test_the_picture_of_the_docs_is_a_screenshot_of_the_page(browser, tmp_path):
    script, stored = runpy.run_path(str(ROOT / "docs/figures/explore.py")), ROOT / "docs/images/explore.png"
    result = tadp_run("show", script["SCENE"], *script["OPTIONS"], "-o", tmp_path / "page.html")
    assert re.search(
        r"wrote \S+page\.html \(\d+ kB\); open it in a browser", plain(result.output).replace(" page", "page")
    )
    script["take"](browser, tmp_path / "page.html", tmp_path / "taken.png")
    with Image.open(tmp_path / "taken.png") as taken, Image.open(stored) as shown:
        assert taken.size == shown.size
        difference = np.asarray(taken.convert("RGB"), np.float32) - np.asarray(shown.convert("RGB"), np.float32)
    assert np.abs(difference).mean() < 12  # of 255; other machines have other fonts
