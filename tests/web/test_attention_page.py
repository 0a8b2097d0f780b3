"""The page about the attention of an image, as text: what is in it, and what is refused."""

import json
import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from tadp.captions import CaptionTable
from tadp.errors import ImageError, OptionError
from tadp.features import AttentionMaps, Features, Word, WordMaps

GREY = np.full((20, 28, 3), 128, np.uint8)
HOSTILE = (
    "</script><script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "🐱&amp;",
    "שלום",
    "\ud800",
    "@@data@@",
)
LAYERS = {"down.attn": 0, "mid.attn": 1, "up.attn": 0}


def some_features(*texts: str, sizes=((5, 7), (3, 4)), heads=0) -> Features:
    """Features of two images of 20x28 pixels, whose words have one token each, except for the last, which has two."""
    generator = torch.Generator().manual_seed(0)
    count = len(texts) + 3
    words = [Word(text, position + 1, position + 2) for position, text in enumerate(texts)]
    words[-1] = words[-1]._replace(stop=count - 1)
    tokens = ("<|startoftext|>", *texts, "##more", "<|endoftext|>")
    maps, head_maps = {}, {}
    for level, size in enumerate(sizes):
        own = torch.rand(2, max(heads, 1), count, *size, generator=generator)
        own = own / own.sum(dim=2, keepdim=True)
        maps[level] = own.mean(dim=1)
        head_maps |= {level: own} if heads else {}
    attention = AttentionMaps(maps, (tokens,) * 2, (tuple(words),) * 2, head_maps, {0: (5.0, 7.0), 1: (2.5, 3.5)})
    return Features(tuple(torch.zeros(2, 4, *size) for size in sizes), attention, (20, 28))


def content(page: str) -> dict:
    """What the page's script reads."""
    return json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[0])


def decoded(page: str) -> list[tuple[dict, np.ndarray]]:
    """The page's views, each with its maps, (terms, rows, columns)."""
    data = content(page)
    stored = np.frombuffer(b64decode(data["maps"]), np.uint8)
    views = []
    for view in data["views"]:
        size = len(data["terms"]), view["rows"], view["columns"]
        levels, stored = stored[: np.prod(size)].reshape(size), stored[np.prod(size) :]
        low, high = (np.array(view[name])[:, None, None] for name in ("low", "high"))
        views.append((view, low + levels / 255 * (high - low)))
    assert not len(stored)
    return views


def test_the_page_has_the_maps_of_words_and_names_up_to_the_stated_error():
    features = some_features("red", "dog")
    page = features.to_html(GREY, index=1, names=["dog", "cat"])
    error, attention = content(page)["error"], features.attention
    views = decoded(page)
    assert [(view["level"], view["cells"]) for view, _ in views] == [(0, [5.0, 7.0]), (1, [2.5, 3.5])]
    widest = 0.0
    for view, maps in views:
        words = attention.words(view["level"])[1].maps
        pooled = attention.pool(["dog", "cat"], view["level"]).maps[1]
        expected = torch.cat([words, pooled]).double().numpy()
        assert np.abs(maps - expected).max() <= error + 1e-12
        widest = max(widest, np.ptp(expected, axis=(1, 2)).max())
    assert 0 < error <= 1.001 * widest / 255 / 2 + 1e-6
    data = content(page)
    assert [(term["text"], term["found"]) for term in data["terms"]] == [
        ("red", True), ("dog", True), ("dog", True), ("cat", False),
    ]  # fmt: skip
    assert data["groups"] == [{"title": "Caption", "parts": [0, 1]}, {"title": "Names", "parts": [2, 3]}]


def test_heads_belong_to_their_layers():
    features = some_features("red", "dog", heads=4)
    data = content(features.to_html(layers=LAYERS))
    assert data["layers"] == list(LAYERS)
    heads = {
        (view["layer"], view["head"]): (view["level"], maps) for view, maps in decoded(features.to_html(layers=LAYERS))
    }
    assert set(heads) == {(None, None), (0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1)}
    level, maps = heads[2, 1]  # the second head of the second layer at level 0: the last of the level's four heads
    expected = features.attention.head(3).words(level)[0].maps.numpy()
    assert level == 0
    assert np.abs(maps - expected).max() <= data["error"] + 1e-7

    some = decoded(features.to_html(layers=LAYERS, shown_layers=["up.attn"]))
    assert [(view["layer"], view["head"]) for view, _ in some] == [(None, None), (None, None), (0, 0), (0, 1)]
    assert np.array_equal(some[3][1], maps)
    assert content(features.to_html())["layers"] == ["heads of level 0", "heads of level 1"]
    assert [view["level"] for view, _ in decoded(features.to_html(levels=(1,)))] == [1, 1, 1, 1, 1]


class Elements(HTMLParser):
    """The elements of a page with their attributes."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_words_and_names_stay_text_whatever_they_contain():
    plain = some_features("red", "dog").to_html(GREY, names=["dog"])
    hostile = some_features(*HOSTILE[:-1], HOSTILE[-1]).to_html(GREY, names=["a<b>"])
    hostile.encode("utf-8")
    assert [term["text"] for term in content(hostile)["terms"]] == [*HOSTILE, "a<b>"]
    names = [[tag for tag, _ in Elements(page).found] for page in (plain, hostile)]
    assert names[0] == names[1]
    image = next(attributes for tag, attributes in Elements(hostile).found if tag == "img")
    assert set(image) == {"id", "alt", "src"}
    assert image["alt"] == " ".join(HOSTILE).replace("\ud800", "\ufffd")


def test_the_page_asks_nothing_of_the_network():
    page = some_features("red", "dog").to_html(GREY)
    assert not re.findall(r"https?:|@import|url\(", page)
    sources = [attributes.get(name) for _, attributes in Elements(page).found for name in ("src", "href")]
    assert all(source.startswith("data:") for source in sources if source is not None)
    assert "default-src 'none'" in page


def test_a_page_of_an_image_with_512_pixels_is_below_a_megabyte():
    words = [f"word{number}" for number in range(74)]
    features = some_features(*words, sizes=((64, 64), (32, 32), (16, 16), (8, 8)))
    attention = replace(features.attention, cells={})
    noise = np.random.default_rng(0).integers(0, 255, (512, 512, 3)).astype(np.uint8)
    page = replace(features, attention=attention, image_size=(512, 512)).to_html(noise)
    assert len(content(page)["terms"]) == 74
    assert len(page) < 1_000_000


def test_words_that_two_text_encoders_read_are_shown_twice():
    tokens = ("<|startoftext|>", "a", "cat", "<|endoftext|>", "<|endoftext|>", "a", "cat", ",", "bus", "</s>", "<pad>")
    words = (Word("a", 1, 2), Word("cat", 2, 3), Word("a", 5, 6), Word("cat", 6, 7), Word("bus", 8, 9))
    maps = torch.rand(1, 11, 4, 4, generator=torch.Generator().manual_seed(1)) / 11
    features = Features((), AttentionMaps({0: maps}, (tokens,), (words,)), (32, 32))
    page = features.to_html(names=["cat"])
    assert content(page)["groups"] == [
        {"title": "Read by CLIP", "parts": [0, 1]},
        {"title": "Read by T5", "parts": [2, 3, ",", 4]},
        {"title": "Names", "parts": [5]},
    ]
    ((_, stored),) = decoded(page)
    expected = (maps[0, 2] + maps[0, 6]).numpy() / 2  # as `pool` does, over CLIP's and T5's token
    assert np.abs(stored[5] - expected).max() < 1e-3


def test_class_names_that_were_encoded_separately_are_one_group():
    tokens = ("<|startoftext|>", "dog", "<|endoftext|>", "<|startoftext|>", "dining", "table", "<|endoftext|>")
    words = (Word("dog", 1, 2, stands_apart=True), Word("dining table", 4, 6, stands_apart=True))
    features = Features((), AttentionMaps({0: torch.rand(1, 7, 4, 4) / 7}, (tokens,), (words,)), (32, 32))
    assert content(features.to_html())["groups"] == [{"title": "Class names", "parts": [0, 1]}]


@pytest.mark.parametrize(
    ("tokens", "shown"),
    [
        (("",) * 4, ["token 0", "token 1", "token 2", "token 3"]),
        (("<|startoftext|>", "dog", "<|endoftext|>", "<|endoftext|>"), ["<|startoftext|>", "dog", "<|endoftext|>"]),
    ],
)
def test_without_words_the_page_has_tokens(tokens, shown):
    features = Features((), AttentionMaps({0: torch.rand(1, 4, 4, 4) / 4}, (tokens,)), (32, 32))
    data = content(features.to_html())
    assert [term["text"] for term in data["terms"]] == shown
    assert data["groups"][0]["title"] == "Tokens"
    with pytest.raises(ValueError, match=r"the words of this text are not known, so it has no names; leave out names="):
        features.to_html(names=["dog"])


def test_images_of_another_shape_and_broken_maps_are_refused():
    features = some_features("red", "dog")
    with pytest.raises(
        ImageError, match=r"the image has 28x20 pixels \(height x width\), but the features are .* 20x28"
    ):
        features.to_html(GREY.transpose(1, 0, 2))
    with pytest.raises(ValueError, match=r"index must be from 0 to 1, the images; got 2"):
        features.to_html(index=2)
    with pytest.raises(ValueError, match="no attention at level 2; recorded: 0, 1"):
        features.to_html(levels=(2,))
    with pytest.raises(ValueError, match="no attention maps to show; pass at least one level"):
        features.to_html(levels=())
    with pytest.raises(ValueError, match=r"have no attention; build the backbone with record_attention="):
        replace(features, attention=None).to_html()
    with pytest.raises(OptionError, match=r"layers whose heads were recorded: there are none; got 'down.attn'"):
        features.to_html(layers=LAYERS, shown_layers=["down.attn"])
    with pytest.raises(OptionError, match="must list all layers of level 0, whose 3 heads they share; got 2 layers"):
        some_features("red", "dog", heads=3).to_html(layers=LAYERS)
    features.attention.maps[0][0, 1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite values"):
        features.to_html()
    assert features._repr_html_() is None


def test_notebooks_show_features_and_word_maps_as_a_page_in_a_frame():
    features = some_features(*HOSTILE)
    for shown in (features, features.attention.words(0)[0]):
        ((tag, attributes),) = Elements(shown._repr_html_()).found
        assert tag == "iframe"
        assert attributes["sandbox"] == "allow-scripts"
        assert [term["text"] for term in content(attributes["srcdoc"])["terms"]] == list(HOSTILE)
    assert replace(features, attention=None)._repr_html_() is None
    assert WordMaps((), torch.zeros(0, 4, 4))._repr_html_() is None


def test_notebooks_show_the_captions_of_a_table_as_text():
    table = CaptionTable({f"{number} {text}": text for number, text in enumerate(HOSTILE * 4) if text != "\ud800"})
    shown = Elements(table._repr_html_()).found
    assert [tag for tag, _ in shown].count("td") == 40  # two columns
    assert {tag for tag, _ in shown} == {"table", "caption", "thead", "tbody", "tr", "th", "td"}
