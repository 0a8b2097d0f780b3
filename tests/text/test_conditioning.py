from dataclasses import replace

import pytest
import torch
from builders import WIDTH, build_text_encoder, build_tokenizer, embeddings

from tadp import Conditioning
from tadp.errors import CaptionError
from tadp.features import Word
from tadp.text.conditioning import TextAdapter
from tadp.text.encoder import TextEncoder


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(build_text_encoder(), build_tokenizer()).eval()


def test_conditioning_checks_its_parts():
    text = embeddings(2, 3)
    with pytest.raises(ValueError, match=r"tokens must have one name per embedding; got \[3, 2\] for 2 x 3"):
        Conditioning(text, tokens=(("a", "b", "c"), ("a", "b")))
    with pytest.raises(ValueError, match=r"tokens must have one name per embedding; got \[3\] for 2 x 3"):
        Conditioning(text, tokens=(("a", "b", "c"),))
    with pytest.raises(ValueError, match=r"words must have one tuple per text; got 1 for 2 texts"):
        Conditioning(text, words=((),))


def test_conditioning_checks_its_shapes(no_type_checker):
    with pytest.raises(ValueError, match=r"embeddings must be \(B, L, D\); got shape \(3, 16\)"):
        Conditioning(embeddings(2, 3)[0])
    with pytest.raises(ValueError, match=r"mask must be \(B, L\), here 2 x 3; got \(2, 4\)"):
        Conditioning(embeddings(2, 3), mask=torch.ones(2, 4, dtype=torch.bool))


def test_one_text_is_shared_and_several_stay():
    word = Word("dog", 0, 1)
    text = Conditioning(embeddings(1, 2), (("dog", ""),), ((word,),), torch.tensor([[True, False]]))
    shared = text.expand(3)
    assert len(shared) == 3
    assert all(torch.equal(shared.embeddings[k], text.embeddings[0]) for k in range(3))
    assert shared.tokens == (("dog", ""),) * 3
    assert shared.words == ((word,),) * 3
    assert shared.mask is not None
    assert shared.mask.shape == (3, 2)
    assert text.expand(1) is text
    assert shared.expand(3) is shared
    bare = Conditioning(embeddings(1, 2)).expand(2)
    assert (bare.tokens, bare.words, bare.mask) == (None, None, None)


def test_other_numbers_of_texts_are_refused():
    with pytest.raises(
        CaptionError, match=r"3 images but 2 texts; pass one caption per image, or a single string for all"
    ):
        Conditioning(embeddings(2, 2)).expand(3)
    with pytest.raises(CaptionError, match=r"1 images but 2 texts"):
        Conditioning(embeddings(2, 2)).expand(1)


def test_moving_keeps_the_masks_dtype():
    text = Conditioning(embeddings(1, 2), mask=torch.tensor([[True, False]]))
    moved = text.to(dtype=torch.bfloat16)
    assert moved.embeddings.dtype == torch.bfloat16
    assert moved.mask is not None
    assert moved.mask.dtype == torch.bool
    assert text.to("meta").embeddings.device.type == "meta"
    assert torch.equal(text.to().embeddings, text.embeddings)


def test_joined_texts_stand_one_after_the_other_with_their_names():
    first = Conditioning(
        embeddings(2, 3), (("a", "b", "c"), ("d", "e", "f")), ((Word("b", 1, 2),), (Word("d", 0, 1), Word("ef", 1, 3)))
    )
    second = Conditioning(embeddings(1, 2, seed=2), (("x", "y"),), ((Word("xy", 0, 2),),))
    joined = first.join(second, second)
    assert torch.equal(joined.embeddings[:, :3], first.embeddings)
    for start in (3, 5):
        assert torch.equal(joined.embeddings[0, start : start + 2], second.embeddings[0])
        assert torch.equal(joined.embeddings[1, start : start + 2], second.embeddings[0])
    assert joined.tokens == (("a", "b", "c", "x", "y", "x", "y"), ("d", "e", "f", "x", "y", "x", "y"))
    assert joined.words == (
        (Word("b", 1, 2), Word("xy", 3, 5), Word("xy", 5, 7)),
        (Word("d", 0, 1), Word("ef", 1, 3), Word("xy", 3, 5), Word("xy", 5, 7)),
    )
    assert joined.mask is None


def test_a_shared_text_may_come_first():
    joined = Conditioning(embeddings(1, 2)).join(Conditioning(embeddings(3, 4)))
    assert joined.embeddings.shape == (3, 6, WIDTH)
    assert (joined.tokens, joined.words, joined.mask) == (None, None, None)


def test_joining_nothing_changes_nothing():
    text = Conditioning(embeddings(2, 3), mask=torch.tensor([[True, True, False]] * 2))
    joined = text.join()
    assert torch.equal(joined.embeddings, text.embeddings)
    assert joined.mask is not None
    assert torch.equal(joined.mask, text.mask)


def test_a_part_without_names_or_mask_has_empty_ones_and_is_seen():
    mask = torch.tensor([[True, False]])
    joined = Conditioning(embeddings(1, 3)).join(
        Conditioning(embeddings(1, 2), (("x", "y"),), ((Word("x", 0, 1),),), mask)
    )
    assert joined.tokens == (("", "", "", "x", "y"),)
    assert joined.words == ((Word("x", 3, 4),),)
    assert joined.mask is not None
    assert joined.mask.tolist() == [[True, True, True, True, False]]


def test_joined_texts_have_the_dtype_of_the_first():
    joined = Conditioning(embeddings(1, 2).bfloat16()).join(Conditioning(embeddings(1, 2)))
    assert joined.embeddings.dtype == torch.bfloat16


def test_texts_that_do_not_fit_are_not_joined():
    with pytest.raises(CaptionError, match=r"parts to join must have one text or all the same number; got \[2, 1, 3\]"):
        Conditioning(embeddings(2, 2)).join(Conditioning(embeddings(1, 2)), Conditioning(embeddings(3, 2)))
    with pytest.raises(ValueError, match=r"parts to join must have one width; got \[16, 8\]. Encode them with one"):
        Conditioning(embeddings(1, 2)).join(Conditioning(embeddings(1, 2)[:, :, :8]))


@torch.no_grad()
def test_an_adapter_at_gate_zero_is_the_identity_on_joined_text(encoder):
    text = encoder(["a dog", "a cat"]).join(
        Conditioning(100 * embeddings(1, 5), mask=torch.ones(1, 5, dtype=torch.bool))
    )
    adapter = TextAdapter(WIDTH)
    adapter.gate.zero_()
    shifted = adapter(text)
    assert torch.equal(shifted.embeddings, text.embeddings)
    assert (shifted.tokens, shifted.words, shifted.mask) == (text.tokens, text.words, text.mask)


@torch.no_grad()
def test_an_adapter_with_gate_zero_is_the_identity_and_almost_one_at_the_start(encoder):
    text = encoder(["a dog", "a cat"], mask_padding=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapter = TextAdapter(WIDTH)
    shifted = adapter(text)
    assert 0 < (shifted.embeddings - text.embeddings).abs().max() < 1e-3
    assert shifted.tokens == text.tokens
    assert shifted.words == text.words
    assert shifted.mask is text.mask
    adapter.gate.zero_()
    assert torch.equal(adapter(text).embeddings, text.embeddings)


@torch.no_grad()
def test_the_adapter_adds_the_gated_mlp(encoder):
    """TADP and VPD: text + gate · MLP(text), one gate per channel."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapter = TextAdapter(WIDTH)
        adapter.gate.normal_()
    first, _, second = adapter.mlp
    text = encoder("a dog")
    hidden = torch.nn.functional.gelu(text.embeddings @ first.weight.T + first.bias)
    expected = text.embeddings + adapter.gate * (hidden @ second.weight.T + second.bias)
    torch.testing.assert_close(adapter(text).embeddings, expected)


@torch.no_grad()
def test_a_conditioning_prints_its_shape_and_first_words(encoder):
    text = encoder(["a red dog", "grass"], mask_padding=True)
    assert repr(text) == f"Conditioning((2, 77, {encoder.width}), mask (2, 77): a, red, dog)"
    named = Conditioning(torch.zeros(1, 10, 4), (tuple("abcdefghij"),))
    assert repr(named) == "Conditioning((1, 10, 4): a, b, c, d, e, f, g, h and 2 more)"
    assert repr(Conditioning(torch.zeros(1, 10, 4))) == "Conditioning((1, 10, 4))"


def test_a_text_is_taken_apart_into_one_embedding_each():
    words = (Word("red car", 0, 2), Word("dog", 2, 3))
    text = Conditioning(torch.arange(6.0).reshape(1, 3, 2), (("red", "car", "dog"),), (words,), torch.ones(1, 3).bool())
    texts = text.apart()
    assert torch.equal(texts.embeddings, torch.tensor([[[0.0, 1.0]], [[2.0, 3.0]], [[4.0, 5.0]]]))
    assert texts.tokens == (("red",), ("car",), ("dog",))
    assert texts.words == ((), (), (Word("dog", 0, 1),))  # a word of two tokens is whole in neither text
    assert texts.mask.shape == (3, 1)
    assert texts.pooled is None
    pooled = replace(text, pooled=torch.tensor([[7.0, 8.0]])).apart().take([2, 0]).pooled
    assert torch.equal(
        pooled, torch.tensor([[7.0, 8.0]] * 2)
    )  # models that need it, such as SDXL, get that of the text
    with pytest.raises(ValueError, match=r"apart\(\) splits one text, \(1, L, D\); got \(3, 1, 2\)"):
        texts.apart()


def test_only_a_conditioning_is_joined(no_type_checker):
    with pytest.raises(TypeError, match=r"join\(\) takes Conditioning; got str. Encode text with encode_text"):
        Conditioning(torch.zeros(2, 77, WIDTH)).join("a dog")
