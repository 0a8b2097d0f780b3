import copy
import json
import pickle
import unicodedata
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from builders import WIDTH, build_text_encoder, build_tokenizer

from tadp import Conditioning
from tadp.errors import CaptionError
from tadp.features import Word
from tadp.text.encoder import TextEncoder, check_captions

CAPTIONS = ["a red dog", "", "a cat on grass and a cat", "a raincoat", "unheard-of"]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(build_text_encoder(), build_tokenizer()).eval()


def words_of(conditioning: Conditioning, number: int = 0) -> list[str]:
    assert conditioning.words is not None
    return [word.text for word in conditioning.words[number]]


@torch.no_grad()
def test_embeddings_are_the_models_last_hidden_state_of_padded_tokens(encoder):
    """Compared with text that the tokenizer itself pads."""
    ids = encoder.tokenizer(CAPTIONS, padding="max_length", max_length=77, return_tensors="pt").input_ids
    expected = encoder.model(ids).last_hidden_state
    text = encoder(CAPTIONS)
    torch.testing.assert_close(text.embeddings, expected, rtol=1e-5, atol=1e-6)
    assert text.embeddings.shape == (5, 77, WIDTH)
    assert text.tokens is not None
    assert [len(names) for names in text.tokens] == [77] * 5


@torch.no_grad()
def test_one_string_is_one_text(encoder):
    assert torch.equal(encoder("a dog").embeddings, encoder(["a dog"]).embeddings)
    assert len(encoder("a dog")) == 1


@torch.no_grad()
def test_a_repeated_caption_is_encoded_once(encoder, monkeypatch):
    batches = []
    forward = encoder.model.forward
    monkeypatch.setattr(encoder.model, "forward", lambda ids: batches.append(len(ids)) or forward(ids))
    text = encoder(["a dog", "a cat", "a dog", "a dog"])
    assert batches == [2]
    assert torch.equal(text.embeddings[0], text.embeddings[2])
    assert not torch.equal(text.embeddings[0], text.embeddings[1])
    assert words_of(text, 1) == ["a", "cat"]
    assert words_of(text, 3) == ["a", "dog"]


@torch.no_grad()
def test_words_know_their_tokens(encoder):
    text = encoder("A red raincoat, a dog!")
    assert text.words == (
        (Word("a", 1, 2), Word("red", 2, 3), Word("raincoat", 3, 5), Word("a", 6, 7), Word("dog", 7, 8)),
    )
    assert text.tokens is not None
    assert text.tokens[0][:10] == (
        "<|startoftext|>", "a", "red", "rain", "##coat", ",", "a", "dog", "!", "<|endoftext|>",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("caption", "names"),
    [
        ("a 🐶", ("a", "🐶", "##🐶", "##🐶", "##🐶")),
        ("Café", ("ca", "##f", "##é", "##é")),
        ("של", ("ש", "##ש", "##ל", "##ל")),
        ("dog’s", ("dog", "’", "##’", "##’", "s")),  # noqa: RUF001
        ("�", ("�", "##�", "##�")),
    ],
)
@torch.no_grad()
def test_names_are_text_in_any_script(encoder, caption, names):
    """The test vocabulary has only single bytes for these letters."""
    tokens = encoder(caption).tokens
    assert tokens is not None
    assert tokens[0][: len(names) + 2] == ("<|startoftext|>", *names, "<|endoftext|>")


@torch.no_grad()
def test_a_letter_that_is_one_token_is_named():
    tokenizer = build_tokenizer()
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["model"]["merges"].append(["Ã", "©</w>"])
    content["model"]["vocab"]["Ã©</w>"] = len(tokenizer)
    tokenizer._tokenizer = tokenizer.backend_tokenizer.from_str(json.dumps(content))
    tokens = TextEncoder(build_text_encoder(vocab_size=len(tokenizer)), tokenizer).eval()("É").tokens
    assert tokens is not None
    assert tokens[0][:3] == ("<|startoftext|>", "é", "<|endoftext|>")


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("", []),
        ("   ", []),
        ("...!", []),
        ("a café", ["a", "café"]),
        ("a dog 🐶", ["a", "dog"]),
        ("שלום dog", ["שלום", "dog"]),
        ("مرحبا", ["مرحبا"]),
        ("日本 dog", ["日本", "dog"]),
        ("एक कुत्ता", ["एक", "कुत्ता"]),  # the tokenizer does not count vowel signs as letters
        ("की बात", ["की", "बात"]),
        ("ＤＯＧ", ["ｄｏｇ"]),  # noqa: RUF001
        ("é", ["é"]),  # a letter and a combining accent, which the tokenizer joins
        ("a\n\tdog", ["a", "dog"]),
    ],
)
@torch.no_grad()
def test_any_text_survives_with_its_words(encoder, caption, words):
    text = encoder(caption)
    assert torch.isfinite(text.embeddings).all()
    assert [unicodedata.normalize("NFC", word) for word in words_of(text)] == [
        unicodedata.normalize("NFC", word) for word in words
    ]
    assert text.words is not None
    spans = [position for word in text.words[0] for position in range(word.start, word.stop)]
    assert spans == sorted(set(spans)), "words overlap"
    assert all(0 < position < 76 for position in spans)


@torch.no_grad()
def test_a_caption_at_the_limit_fits_and_one_more_is_refused_with_its_count(encoder):
    assert encoder(" ".join(["dog"] * 75)).embeddings.shape == (1, 77, WIDTH)
    with pytest.raises(CaptionError, match=r"caption 1 \('dog dog .* …\) has 78 tokens, but the text encoder takes 77"):
        encoder(["a dog", " ".join(["dog"] * 76)])
    with pytest.raises(CaptionError, match=r"has 400 tokens, .* takes 77\. Shorten it or pass truncate=True"):
        encoder("dog " * 398)


@torch.no_grad()
def test_truncation_cuts_as_the_tokenizer_does_and_warns(encoder):
    caption = "a cat and a " + "dog " * 100
    with pytest.warns(
        UserWarning, match=r"caption 0 .* has 106 tokens, but the text encoder takes 77; the rest was cut"
    ):
        text = encoder(caption, truncate=True)
    ids = encoder.tokenizer([caption], truncation=True, max_length=77, return_tensors="pt").input_ids
    assert ids.shape == (1, 77)
    torch.testing.assert_close(text.embeddings, encoder.model(ids).last_hidden_state)
    assert words_of(text) == ["a", "cat", "and", "a", *["dog"] * 71]
    assert text.tokens is not None
    assert text.tokens[0][-1] == "<|endoftext|>"


@torch.no_grad()
def test_captions_that_fit_are_not_cut_and_do_not_warn(encoder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(encoder("a dog", truncate=True).embeddings, encoder("a dog").embeddings)


def test_tokens_are_counted_with_start_and_end(encoder):
    assert encoder.count_tokens(["", "a dog", "a raincoat", "dog " * 100]) == [2, 4, 5, 102]


@torch.no_grad()
def test_the_mask_covers_start_words_and_end(encoder):
    assert encoder(["a dog"]).mask is None
    mask = encoder(["a dog", "", "a raincoat"], mask_padding=True).mask
    assert mask is not None
    assert mask.sum(dim=1).tolist() == [4, 2, 5]
    assert mask[0, :4].all()


@torch.no_grad()
def test_threads_do_not_disturb_one_another(encoder):
    """A tokenizer that pads keeps this as its state, which other threads would see."""
    expected = [encoder(caption) for caption in CAPTIONS]

    def work(number: int) -> bool:
        return all(torch.equal(encoder(CAPTIONS[number]).embeddings, expected[number].embeddings) for _ in range(30))

    with ThreadPoolExecutor(len(CAPTIONS)) as pool:
        assert all(pool.map(work, range(len(CAPTIONS))))


@torch.no_grad()
def test_an_openclip_encoder_pads_with_its_own_token():
    """SD 2.x has another activation, lacks the last layer, and pads with "!"."""
    tokenizer = build_tokenizer(pad_token="!")
    model = build_text_encoder(hidden_act="gelu", num_hidden_layers=3, pad_token_id=1)
    encoder = TextEncoder(model, tokenizer)
    ids = tokenizer(["a dog"], padding="max_length", max_length=77, return_tensors="pt").input_ids
    assert ids[0, -1] == tokenizer.convert_tokens_to_ids("!")
    text = encoder("a dog", mask_padding=True)
    torch.testing.assert_close(text.embeddings, model(ids).last_hidden_state)
    assert text.tokens is not None
    assert text.tokens[0][3:6] == ("<|endoftext|>", "!", "!")
    assert text.mask is not None
    assert text.mask.sum() == 4
    assert words_of(text) == ["a", "dog"]


@torch.no_grad()
def test_a_tokenizer_that_does_not_know_its_limit_takes_the_models():
    """For a folder with only vocab.json and merges.txt, the limit is 1e30."""
    encoder = TextEncoder(build_text_encoder(max_position_embeddings=12), build_tokenizer(model_max_length=int(1e30)))
    assert encoder.max_length == 12
    assert encoder("a dog").embeddings.shape == (1, 12, WIDTH)
    with pytest.raises(CaptionError, match=r"has 17 tokens, but the text encoder takes 12"):
        encoder("dog " * 15)


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        (["a dog", None], r"captions must be strings; got NoneType as caption 1"),
        ([b"dog"], r"captions must be strings; got bytes as caption 0"),
        (["a dog", ["a cat"]], r"captions must be strings; got list as caption 1"),
        (5, r"captions must be a string or a list of strings; got int"),
        (None, r"got NoneType"),
        ({"a": "a dog"}, r"captions must be a list, one caption per image in the same order; got dict"),
        (b"a dog", r"captions must be a string or a list of strings; got bytes"),
        (
            torch.zeros(1, 77, 8),
            r"captions must be strings; got a tensor. Wrap embeddings: tadp.Conditioning\(embeddings\)",
        ),
    ],
)
def test_what_is_no_string_is_refused(no_type_checker, encoder, captions, message):
    with pytest.raises(TypeError, match=message):
        encoder(captions)


def test_half_an_emoji_is_refused_by_name(encoder):
    with pytest.raises(CaptionError, match=r"caption 1 \('a \\ud83d'\) cannot be written as UTF-8, .* character 2"):
        encoder(["a 🐕", "a \ud83d"])


def test_no_captions_are_refused(encoder):
    with pytest.raises(CaptionError, match=r"no captions; pass one caption per image, or a single string for all"):
        encoder([])


def test_captions_are_listed():
    assert check_captions("a dog") == ["a dog"]
    assert check_captions(("a dog", "")) == ["a dog", ""]


# End tokens


@torch.no_grad()
def test_the_end_embedding_is_what_clip_pools(encoder):
    """transformers uses the first end token as the pooled embedding."""
    ids = encoder.tokenizer(CAPTIONS, padding="max_length", max_length=77, return_tensors="pt").input_ids
    expected = encoder.model(ids).pooler_output
    torch.testing.assert_close(encoder.end_embeddings(CAPTIONS), expected, rtol=1e-4, atol=1e-5)


def test_a_caption_without_room_has_no_end_embedding(encoder):
    with pytest.raises(CaptionError, match=r"caption 1 .* has 102 tokens, but the text encoder takes 77"):
        encoder.end_embeddings(["a dog", "dog " * 100])


@torch.no_grad()
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda encoder: pickle.loads(pickle.dumps(encoder))])
def test_copies_encode_the_same(encoder, duplicate):
    text = encoder("a red dog")
    again = duplicate(encoder)("a red dog")
    assert torch.equal(again.embeddings, text.embeddings)
    assert torch.equal(duplicate(text).embeddings, text.embeddings)
