"""The prompt mode "stored": embeddings that a task model keeps with itself."""

import pytest
import torch
from builders import WIDTH, build_backbone, embeddings, images
from safetensors.torch import save_file

from tadp import Conditioning
from tadp.errors import CaptionError, CorruptFileError, MissingFileError, ModelError
from tadp.tasks import TADPForSemanticSegmentation

CLASSES = ("sky", "tree", "house")
HEAD = {"fpn_channels": 8, "channels": 8}


def build(mode: str = "stored", **options) -> TADPForSemanticSegmentation:
    return TADPForSemanticSegmentation(
        build_backbone(**options),
        class_names=CLASSES,
        head_options=HEAD,
        prompt_mode=mode,  # type: ignore
    ).eval()


@torch.no_grad()
def test_the_text_is_used_and_comes_back_with_the_model(tmp_path):
    model = build(text_length=3)
    text = Conditioning(embeddings(1, 3))
    model.store_text(text)
    pixels = images(2, 64, 64)
    expected = model.head(model.backbone(pixels, text))
    assert torch.equal(model(pixels).logits, expected)
    model.save_pretrained(tmp_path)
    loaded = TADPForSemanticSegmentation.from_pretrained(tmp_path)
    assert torch.equal(loaded(pixels).logits, expected)
    assert loaded.stored_text is not None
    assert loaded.stored_text.tokens == (CLASSES,)


@torch.no_grad()
def test_the_mask_of_the_text_comes_back_too(tmp_path):
    model = build(text_length=3)
    text = Conditioning(embeddings(1, 3), mask=torch.tensor([[True, True, False]]), pooled=torch.ones(1, 5))
    model.store_text(text)
    expected = model(images(1, 64, 64)).logits
    unmasked = model.head(model.backbone(images(1, 64, 64), Conditioning(embeddings(1, 3))))
    assert not torch.allclose(unmasked, expected, atol=1e-3)
    model.save_pretrained(tmp_path)
    loaded = TADPForSemanticSegmentation.from_pretrained(tmp_path)
    assert torch.allclose(loaded(images(1, 64, 64)).logits, expected, atol=1e-6)  # another alignment in memory
    assert torch.equal(loaded.stored_text.pooled, text.pooled)


def test_another_conditioning_may_take_its_place_and_words_may_not():
    model = build(text_length=3)
    model.store_text(Conditioning(embeddings(1, 3)))
    replacement = Conditioning(embeddings(1, 3, seed=4))
    scores = model.predict(images(1, 64, 64)).scores
    assert not torch.equal(model.predict(images(1, 64, 64), replacement).scores, scores)
    with pytest.raises(CaptionError, match=r"this model's text is 'stored', the same for all images"):
        model.predict(images(1, 64, 64), "a tree")


def test_a_model_without_its_text_says_so(tmp_path):
    model = build()
    for use in (model, model.predict):
        with pytest.raises(ModelError, match=r"this model has no text yet; call model\.store_text"):
            use(images(1, 64, 64))
    with pytest.raises(ModelError, match=r"this model has no text yet"):
        model.save_pretrained(tmp_path)


def test_text_that_cannot_be_stored_is_refused():
    with pytest.raises(ModelError, match=r"this model's text is 'null'; build it with prompt_mode='stored'"):
        build("null").store_text(Conditioning(embeddings(1, 3)))
    with pytest.raises(ValueError, match=r"must be one text for all images, \(1, L, D\); got \(2, 3, 16\)"):
        build().store_text(Conditioning(embeddings(2, 3)))


def test_a_folder_without_its_text_or_with_another_is_refused(tmp_path):
    model = build(text_length=3)
    model.store_text(Conditioning(embeddings(1, 3)))
    model.save_pretrained(tmp_path)
    whole = torch.zeros(1, 3, WIDTH)
    for tensors in (
        {"embeddings": torch.zeros(3, WIDTH)},
        {"embeddings": torch.zeros(2, 3, WIDTH)},
        {"embeddings": whole, "mask": torch.ones(1, 4).bool()},
        {"embeddings": whole, "mask": torch.ones(1, 3)},
        {"embeddings": whole, "tokens": torch.ones(1, 3)},
        {"mask": torch.ones(1, 3).bool()},
    ):
        save_file(tensors, tmp_path / "text.safetensors")
        with pytest.raises(CorruptFileError, match=r"does not hold the embeddings of a text, \(1, L, D\)"):
            TADPForSemanticSegmentation.from_pretrained(tmp_path)
    (tmp_path / "text.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"no text\.safetensors in"):
        TADPForSemanticSegmentation.from_pretrained(tmp_path)
