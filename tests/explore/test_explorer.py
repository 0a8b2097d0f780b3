"""What `tadp explore` computes for one request, without a browser."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from PIL import Image

import tadp
from tadp import Captioner, CaptionModifier, TADPBackbone, prompts
from tadp.datasets.scenes import CLASSES, Scenes
from tadp.errors import CaptionError, ImageError, ModifierError
from tadp.explore import MODES, Explorer, Side, Stopped
from tadp.explore.gradio_page import answer

TINY = "tadp-tiny"
SCENE = Scenes(113, seed=7)[105]
TYPED = Side(TINY, words="a cat and a boat")


@pytest.fixture(scope="module")
def tiny() -> TADPBackbone:
    return TADPBackbone.from_pretrained(TINY)


@pytest.fixture(scope="module")
def explorer(tiny) -> Explorer:
    tasks = {"depth": tadp.TADPForDepthEstimation.from_pretrained("tadp-tiny-depth")}
    captioner = Captioner.from_pretrained(TINY)
    return Explorer({TINY: tiny}, captioner=captioner, task_models=tasks, classes=CLASSES, max_side_px=128)


def explored(explorer, *sides, image=SCENE.image, predict=False, **options):
    return explorer.explore(image, sides, predict=predict, **options)


@pytest.mark.parametrize(
    ("side", "text"),
    [
        (TYPED, "a cat and a boat"),
        (replace(TYPED, mode="nouns"), "cat boat"),
        (Side(TINY, "oracle", " cat, red  boat,"), "cat red boat"),
        (Side(TINY, "class-names", "dog,dining_table"), "dog dining table"),
        (Side(TINY, "class-names"), " ".join(CLASSES)),
        (Side(TINY, "null", "not read"), ""),
        (replace(TYPED, modifier="watercolor:simple"), "a watercolor painting of a cat and a boat"),
        (replace(TYPED, modifier="{caption} at sea"), "a cat and a boat at sea"),
        (Side(TINY, "class-names", "dog", "night:nearby"), "a foggy photo of dog"),
    ],
)
def test_a_prompt_mode_gives_its_text_to_the_backbone(explorer, tiny, side, text):
    (view,) = explored(explorer, side)
    with torch.no_grad():
        expected = tiny.with_options(attach_attention=(), record_attention=(0,))(SCENE.image, text)
    assert view.text == text
    for own, other in zip(view.features.maps, expected.maps, strict=True):
        torch.testing.assert_close(own, other)
    assert f"{tiny.text_encoder.count_tokens([text])[0]} of 77 tokens." in view.details


@pytest.mark.parametrize("mode", ["class-embeddings", "averaged-eos"])
def test_embeddings_of_class_names_are_a_text_too(explorer, tiny, mode, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_ASSETS_CACHE", str(tmp_path))
    make = prompts.class_embeddings if mode == "class-embeddings" else prompts.averaged_eos
    (view,) = explored(explorer, Side(TINY, mode, "cat, boat"), names=["boat"])
    with torch.no_grad():
        expected = tiny.with_options(attach_attention=())(SCENE.image, make(["cat", "boat"], tiny))
    torch.testing.assert_close(view.features.maps[0], expected.maps[0])
    assert view.text == "cat, boat"
    with pytest.raises(ModifierError, match=r"A modifier changes words, which the prompt '.*' does not have"):
        explored(explorer, Side(TINY, mode, "cat", "comic:simple"))


def test_the_captioner_writes_a_caption_that_is_not_typed_and_runs_once(explorer, monkeypatch):
    calls = []
    describe = Captioner.__call__
    monkeypatch.setattr(Captioner, "__call__", lambda self, image: calls.append(image) or describe(self, image))
    first, second = explored(explorer, Side(TINY), Side(TINY, "nouns"))
    assert first.text == explorer.captioner(SCENE.image)[0]
    assert second.text == prompts.nouns(first.text)[0]
    assert len(calls) == 2  # the second is of this test


def test_timestep_and_noise_are_those_of_the_side(explorer, tiny):
    options = {"timestep": 300, "noise_samples": 2, "noise_seed": 5}
    noisy, plain = explored(explorer, replace(TYPED, **options), TYPED)
    with torch.no_grad():
        expected = tiny.with_options(attach_attention=(), **options)(SCENE.image, TYPED.words)
    torch.testing.assert_close(noisy.features.maps[1], expected.maps[1])
    assert not torch.allclose(noisy.features.maps[1], plain.features.maps[1], atol=1e-2)


def test_a_modifier_with_a_token_is_installed_for_its_own_request_only(explorer, tiny):
    vectors = torch.randn(1, tiny.text_encoder.width, generator=torch.Generator().manual_seed(0))
    token = CaptionModifier("a <toy> of {caption}", token="<toy>", embedding=vectors)
    explorer.modifiers["toy"] = token
    before, count = tiny.text_encoder.tokenizer, tiny.text_encoder.count_tokens(["a <toy>"])
    (view,) = explored(explorer, replace(TYPED, modifier="toy"), predict=True)
    assert "<toy>" in [word.text for word in view.features.attention.spans[0]]
    assert isinstance(view.predictions["depth"], Image.Image)
    assert tiny.text_encoder.tokenizer is before
    assert tiny.text_encoder.count_tokens(["a <toy>"]) == count


def test_a_task_model_predicts_with_the_caption_of_each_side(explorer):
    first, second = explored(explorer, TYPED, replace(TYPED, words="a house"), predict=True)
    model = explorer.task_models["depth"]
    assert np.array_equal(first.predictions["depth"], model.predict(SCENE.image, TYPED.words).plot())
    assert not np.array_equal(first.predictions["depth"], second.predictions["depth"])
    (embedded,) = explored(explorer, Side(TINY, "class-embeddings", "cat"), predict=True)
    assert not np.array_equal(first.predictions["depth"], embedded.predictions["depth"])


def test_a_task_model_that_cannot_predict_gives_the_reason(explorer, tiny):
    model = tadp.TADPForDepthEstimation(tiny.with_options(attach_attention=(0,)), max_depth_m=20, window_px=64)
    other = Explorer({TINY: tiny}, task_models={"depth": model.eval()}, max_side_px=128)
    (view,) = explored(other, Side(TINY, "class-embeddings", "cat"), predict=True)
    assert view.predictions["depth"].startswith("No prediction: this text has 1 tokens, but feature_info counts 77")


def test_two_people_get_their_own_results_at_the_same_time(explorer):
    words = ["a cat", "a boat", "a red person", "a blue car"]
    alone = [explored(explorer, Side(TINY, words=text))[0] for text in words]
    with ThreadPoolExecutor(len(words)) as people:
        together = list(people.map(lambda text: explored(explorer, Side(TINY, words=text))[0], words))
    for own, other, text in zip(alone, together, words, strict=True):
        assert other.text == text
        assert all(torch.equal(a, b) for a, b in zip(own.features.maps, other.features.maps, strict=True))


def test_work_reports_progress_and_stops_in_the_middle_of_a_pass(explorer, tiny):
    shares, steps = [], []
    explored(
        explorer, Side(TINY), TYPED, predict=True, report=lambda share, step: (shares.append(share), steps.append(step))
    )
    assert shares == sorted(shares)
    assert 0 <= shares[0] < 0.05
    assert 0.9 < shares[-1] < 1
    assert list(dict.fromkeys(steps)) == ["caption", "features of tadp-tiny", "prediction of depth"]

    stop, calls = Event(), []
    with pytest.raises(Stopped):
        explored(explorer, TYPED, stop=stop, report=lambda *_: (calls.append(1), len(calls) == 5 and stop.set()))
    assert len(calls) == 5
    assert not any(module._forward_pre_hooks for module in tiny.modules())
    assert explored(explorer, TYPED)[0].text == TYPED.words  # nothing waits for the stopped request


def test_every_mode_is_tried_here():
    assert set(MODES) == {"caption", "nouns", "oracle", "class-names", "class-embeddings", "averaged-eos", "null"}


@pytest.mark.parametrize(
    ("side", "error", "message"),
    [
        (Side(TINY, "oracle"), CaptionError, "Type the names of what is in the image, separated by commas"),
        (
            replace(TYPED, modifier="sketch"),
            ModifierError,
            "There is no modifier 'sketch'. Choose one from the list, or",
        ),
        (replace(TYPED, modifier="{text}"), ModifierError, "has a placeholder other than {caption}"),
        (replace(TYPED, timestep=1000), ValueError, "timestep"),
        (replace(TYPED, noise_samples=10**6), ValueError, "noise_samples must be"),
    ],
)
def test_a_mistake_is_a_sentence(explorer, side, error, message):
    with pytest.raises(error) as raised:
        explored(explorer, side)
    assert message in str(raised.value)
    assert f'<p role="alert">{str(raised.value)[:8]}' in answer(explorer, SCENE.image, [side]).status


def test_without_captioner_or_classes_a_text_is_needed(tiny):
    bare = Explorer({TINY: tiny})
    with pytest.raises(CaptionError, match="There is no captioner: type a caption, or start tadp explore with"):
        explored(bare, Side(TINY))
    with pytest.raises(CaptionError, match="Type class names, separated by commas"):
        explored(bare, Side(TINY, "class-names"))


def test_a_picture_of_50_megapixels_is_shrunk_and_the_page_says_so(explorer, tmp_path):
    path = tmp_path / "large.jpg"
    Image.new("L", (8660, 5774), 90).save(path)
    result = answer(explorer, str(path), [TYPED], predict=False)
    assert "The image is shrunk from 8660x5774 to 128x85 pixels." in result.views[0]
    assert len(result.views[0]) < 300_000


def test_what_is_no_image_is_a_sentence_without_its_path(explorer, tmp_path):
    broken, huge = tmp_path / "broken.png", tmp_path / "huge.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    Image.new("1", (20000, 5000)).save(huge)
    assert answer(explorer, None, [TYPED]).status == '<p role="alert">Choose an image first, or click an example.</p>'
    for path in (broken, huge):
        result = answer(explorer, str(path), [TYPED])
        assert result.views == ()
        assert result.status.startswith('<p role="alert">The image ')
        assert str(tmp_path) not in result.status
    stop = Event()
    stop.set()
    assert answer(explorer, SCENE.image, [TYPED], stop=stop).status == '<p role="alert">Stopped.</p>'


def test_too_little_memory_and_nan_are_sentences(explorer, tiny, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(TADPBackbone, "forward", fail)
    assert "This needs more memory than there is. Use a smaller image" in answer(explorer, SCENE.image, [TYPED]).status
    monkeypatch.undo()
    monkeypatch.setattr(tadp.Features, "broken", lambda self: {0: "the map of level 0 has NaN."})
    with pytest.raises(ImageError, match="The features cannot be shown: the map of level 0 has NaN"):
        explored(explorer, TYPED)


def test_the_figure_has_names_and_heads_if_asked_for(explorer):
    (view,) = explored(explorer, TYPED, names=["boat", "dog"], with_heads=True)
    assert '"title":"Names"' in view.page
    assert '"head":1' in view.page
    (plain,) = explored(explorer, TYPED)
    assert '"title":"Names"' not in plain.page
    assert '"head":1' not in plain.page
