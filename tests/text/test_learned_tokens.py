"""Learned tokens: in a text encoder, in captions, in files."""

import copy
import json

import pytest
import torch
from builders import WIDTH, build_text_encoder, build_tokenizer
from safetensors.torch import load_file, save_file

from tadp.errors import CaptionError, CorruptFileError, MissingFileError, ModifierError
from tadp.features import Word
from tadp.text.encoder import TextEncoder
from tadp.text.learned_tokens import (
    LearnedToken,
    add_token,
    learned_tokens,
    read_token,
    token_names,
    write_out,
    write_token,
)


def vectors(count: int, *, width: int = WIDTH, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def encoder() -> TextEncoder:
    return TextEncoder(build_text_encoder(), build_tokenizer()).eval()


def by_hand(encoder: TextEncoder, rows: list[torch.Tensor | str]) -> torch.Tensor:
    """The encoder's output for input embeddings built by hand: strings are words, tensors are learned vectors."""
    table = encoder.model.get_input_embeddings().weight
    tokenizer = encoder.tokenizer
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    inputs = [table[start]]
    for row in rows:
        inputs += [table[k] for k in tokenizer(row).input_ids[1:-1]] if isinstance(row, str) else [row]
    inputs += [table[end]] * (77 - len(inputs))
    placed = torch.stack(inputs)
    hook = encoder.model.get_input_embeddings().register_forward_hook(lambda *_: placed[None])
    try:
        return encoder.model(torch.full((1, 77), end)).last_hidden_state
    finally:
        hook.remove()


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 3])
def test_a_learned_token_stands_for_its_vectors(encoder, count):
    learned = vectors(count)
    expected = by_hand(encoder, ["a", *learned, "dog"])
    add_token(encoder, "<toy>", learned)
    text = encoder("a <toy> dog")
    torch.testing.assert_close(text.embeddings, expected)
    assert text.words == ((Word("a", 1, 2), Word("<toy>", 2, 2 + count), Word("dog", 2 + count, 3 + count)),)
    assert text.tokens is not None
    assert text.tokens[0][1 : 3 + count] == ("a", *token_names("<toy>", count), "dog")


@torch.no_grad()
def test_other_text_is_encoded_as_before(encoder):
    captions = ["a red dog", "", "a toy", "<toy", "toy_1"]
    before = encoder(captions)
    add_token(encoder, "<toy>", vectors(2))
    after = encoder(captions)
    assert torch.equal(after.embeddings, before.embeddings)
    assert after.words == before.words


@torch.no_grad()
@pytest.mark.parametrize(
    "caption",
    ["a <toy>dog", "A <TOY> dog", "a <toy> <toy>_1 <toy>_2 dog", "a\t<toy>  dog", "a <toy> <toy>_1 dog"],
)
def test_a_token_is_found_however_it_is_written(encoder, caption):
    """The third caption is the form that diffusers itself writes."""
    expected = by_hand(encoder, ["a", *vectors(3), "dog"])
    add_token(encoder, "<toy>", vectors(3))
    torch.testing.assert_close(encoder(caption).embeddings, expected)


@torch.no_grad()
def test_a_digit_after_a_token_is_no_part_of_it(encoder):
    expected = by_hand(encoder, [*vectors(2), "5"])
    add_token(encoder, "<toy>", vectors(2))
    torch.testing.assert_close(encoder("<toy>5").embeddings, expected)


@torch.no_grad()
def test_two_tokens_in_one_caption_keep_apart(encoder):
    add_token(encoder, "<toy>", vectors(2))
    add_token(encoder, "<toy>s", vectors(3, seed=1))
    add_token(encoder, "<*>", vectors(1, seed=2))
    text = encoder("<toy> <toy>s <*> <toy> <toy>")
    assert text.words is not None
    assert text.words[0] == (
        Word("<toy>", 1, 3),
        Word("<toy>s", 3, 6),
        Word("<*>", 6, 7),
        Word("<toy>", 7, 9),
        Word("<toy>", 9, 11),
    )


def test_counts_and_the_limit_take_every_vector(encoder):
    add_token(encoder, "<toy>", vectors(40))
    assert encoder.count_tokens(["<toy>", "a <toy> dog"]) == [42, 44]
    with pytest.raises(CaptionError, match=r"caption 0 .* has 82 tokens, but the text encoder takes 77"):
        encoder("<toy> <toy>")


@torch.no_grad()
def test_a_token_like_a_word_is_none_inside_others(encoder):
    add_token(encoder, "sksx", vectors(2))
    text = encoder("sksx sksxs asksx")
    assert text.words is not None
    assert [word.text for word in text.words[0]] == ["sksx", "sksxs", "asksx"]


@torch.no_grad()
@pytest.mark.parametrize("token", ["<שלום>", "<🐶>", "<café>", "<日本>"])
def test_tokens_in_any_script(encoder, token):
    expected = by_hand(encoder, ["a", *vectors(2), "dog"])
    add_token(encoder, token, vectors(2))
    torch.testing.assert_close(encoder(f"a {token} dog").embeddings, expected)


def test_what_was_there_is_left_as_it_was(encoder):
    tokenizer, weight = encoder.tokenizer, encoder.model.get_input_embeddings().weight
    table, size, state = weight.clone(), len(tokenizer), torch.random.get_rng_state()
    add_token(encoder, "<toy>", vectors(2))
    assert torch.equal(weight, table)
    assert len(tokenizer) == size
    assert "<toy>" not in tokenizer.get_vocab()
    assert torch.equal(torch.random.get_rng_state(), state)
    new = encoder.model.get_input_embeddings()
    assert torch.equal(new.weight[:size], table)
    assert new.num_embeddings == len(new.weight) == encoder.model.config.vocab_size == size + 2
    assert new.weight.requires_grad == weight.requires_grad


@torch.no_grad()
def test_a_model_with_more_rows_than_tokens_keeps_its_size():
    encoder = TextEncoder(build_text_encoder(vocab_size=len(build_tokenizer()) + 5), build_tokenizer())
    expected = by_hand(encoder, ["a", *vectors(2)])
    add_token(encoder, "<toy>", vectors(2))
    assert len(encoder.model.get_input_embeddings().weight) == len(build_tokenizer()) + 5
    torch.testing.assert_close(encoder("a <toy>").embeddings, expected)


def test_vectors_take_the_encoders_dtype(encoder):
    encoder.to(torch.bfloat16)
    add_token(encoder, "<toy>", vectors(2).double())
    weight = encoder.model.get_input_embeddings().weight
    assert weight.dtype == torch.bfloat16
    assert torch.equal(weight[-2:], vectors(2).bfloat16())


@pytest.mark.parametrize("token", ["dog", "Dog", "a", "coat", "<|endoftext|>", "🄰"])
def test_a_token_in_the_vocabulary_is_refused(encoder, token):
    encoder.tokenizer.add_tokens(["🄰"])
    with pytest.raises(ModifierError, match=r"is already in the vocabulary, as .*choose another"):
        add_token(encoder, token, vectors(1))


@pytest.mark.parametrize("token", ["dog</w>", "Dog</w>", "rain", "RAIN", "re", "phot", "x"])
def test_a_piece_of_the_vocabulary_is_refused_though_no_text_is_that_token(encoder, token):
    """If it were added, it would get the piece's id, and its vector would overwrite the piece's row."""
    table = encoder.model.get_input_embeddings().weight.clone()
    with pytest.raises(ModifierError, match=r"is already in the vocabulary, as '.*choose another"):
        add_token(encoder, token, vectors(1))
    assert torch.equal(encoder.model.get_input_embeddings().weight, table)


def test_a_further_vector_cannot_take_a_row_of_the_vocabulary(encoder):
    vocabulary = json.loads(encoder.tokenizer.backend_tokenizer.to_str())
    vocabulary["model"]["vocab"]["<car>_1"] = len(encoder.tokenizer)
    encoder.tokenizer._tokenizer = encoder.tokenizer.backend_tokenizer.from_str(json.dumps(vocabulary))
    with pytest.raises(ModifierError, match=r"the token '<car>_1' is already in the vocabulary"):
        add_token(encoder, "<car>", vectors(2))


def test_a_token_that_was_learned_is_refused_and_so_are_its_vectors_names(encoder):
    add_token(encoder, "<toy>", vectors(2))
    size = len(encoder.tokenizer)
    for token in ("<toy>", "<TOY>", "<toy>_1"):
        with pytest.raises(ModifierError, match=rf"the token '{token}' is already in the vocabulary"):
            add_token(encoder, token, vectors(1))
    add_token(encoder, "<car>_1", vectors(1))
    add_token(encoder, "<bus>_7", vectors(1))
    for token in ("<toy>_5", "<car>", "<bus>"):
        with pytest.raises(ModifierError, match=r"would read as one token of several vectors"):
            add_token(encoder, token, vectors(1))
    assert len(encoder.tokenizer) == size + 2


def test_a_wrong_width_is_refused(encoder):
    with pytest.raises(ModifierError, match=r"the embedding of '<toy>' is 8 wide, but this text encoder's are 16 wide"):
        add_token(encoder, "<toy>", vectors(1, width=8))
    assert learned_tokens(encoder.tokenizer) == {}


@pytest.mark.parametrize("token", ["", "a b", "a\tb", "\u00a0"])
def test_what_is_no_word_is_refused(encoder, token):
    with pytest.raises(ModifierError, match=r"a token must be one word without white space"):
        add_token(encoder, token, vectors(1))


def test_vectors_that_are_none_are_refused(no_type_checker, encoder):
    for wrong in (torch.zeros(0, WIDTH), torch.zeros(1, 1, WIDTH), torch.zeros(1, WIDTH, dtype=torch.int64)):
        with pytest.raises(ModifierError, match=r"must be a floating-point tensor, \(D,\) for one vector or \(N, D\)"):
            add_token(encoder, "<toy>", wrong)
    with pytest.raises(ModifierError, match=r"not finite"):
        add_token(encoder, "<toy>", torch.full((1, WIDTH), float("nan")))
    with pytest.raises(TypeError, match=r"must be a tensor, \(D,\) or \(N, D\); got list"):
        add_token(encoder, "<toy>", [0.0])  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"a token must be a string, such as '<watercolor>'; got int"):
        add_token(encoder, 5, vectors(1))  # pyright: ignore[reportArgumentType]


def test_a_pair_that_does_not_belong_together_is_refused():
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["<one>", "<two>"])
    encoder = TextEncoder(build_text_encoder(), tokenizer)
    with pytest.raises(ModifierError, match=r"the tokenizer has 543 tokens, but the text encoder has 541 embeddings"):
        add_token(encoder, "<toy>", vectors(1))


def test_writing_out_twice_is_writing_out_once():
    counts = {"<toy>": 3, "<car>": 1}
    once = write_out("a <toy>, <car> and <toy>", counts)
    assert once == "a <toy> <toy>_1 <toy>_2, <car> and <toy> <toy>_1 <toy>_2"
    assert write_out(once, counts) == once


def test_learned_tokens_are_those_that_were_added(encoder):
    assert learned_tokens(encoder.tokenizer) == {}
    add_token(encoder, "<Toy>", vectors(12))
    add_token(encoder, "<car>", vectors(1))
    assert learned_tokens(encoder.tokenizer) == {"<toy>": 12, "<car>": 1}
    assert learned_tokens(copy.deepcopy(encoder.tokenizer)) == {"<toy>": 12, "<car>": 1}


# Files


@pytest.mark.parametrize("count", [1, 3])
def test_a_token_comes_back_from_its_file(tmp_path, count):
    write_token(tmp_path / "token.safetensors", "<שלום>", vectors(count))
    token, read = read_token(tmp_path / "token.safetensors")
    assert token == "<שלום>"
    assert torch.equal(read, vectors(count))
    assert read_token(tmp_path / "token.safetensors", token="<car>").token == "<car>"


def test_files_of_others_are_read(tmp_path):
    save_file({"<toy>": vectors(1)[0]}, tmp_path / "flat.safetensors")
    assert read_token(tmp_path / "flat.safetensors").vectors.shape == (1, WIDTH)
    save_file({"emb_params": vectors(2)}, tmp_path / "unnamed.safetensors")
    with pytest.raises(ModifierError, match=r"unnamed\.safetensors does not name its token; pass token='<name>'"):
        read_token(tmp_path / "unnamed.safetensors")
    assert torch.equal(read_token(tmp_path / "unnamed.safetensors", token="<toy>").vectors, vectors(2))


def test_files_that_are_no_token_are_refused(tmp_path):
    with pytest.raises(MissingFileError, match=r"no token\.safetensors in"):
        read_token(tmp_path / "token.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"\x00" * 20)
    torch.save({"<toy>": torch.ones(8)}, tmp_path / "toy.bin")
    with pytest.raises(CorruptFileError, match=r"toy\.bin is not a safetensors file; tadp\.convert\.read_token"):
        read_token(tmp_path / "toy.bin")
    with pytest.raises(CorruptFileError, match=r"not a complete safetensors file"):
        read_token(tmp_path / "broken.safetensors")
    save_file({"clip_h": vectors(1), "clip_g": vectors(1)}, tmp_path / "xl.safetensors")
    with pytest.raises(ModifierError, match=r"contains 2: clip_g, clip_h"):
        read_token(tmp_path / "xl.safetensors")
    save_file({"<toy>": torch.zeros(1, 2, 3)}, tmp_path / "deep.safetensors")
    with pytest.raises(ModifierError, match=r"shape \(1, 2, 3\)"):
        read_token(tmp_path / "deep.safetensors")
    assert load_file(tmp_path / "deep.safetensors")["<toy>"].ndim == 3


def test_a_token_prints_its_shape():
    assert repr(LearnedToken("<toy>", torch.zeros(2, 8))) == "LearnedToken('<toy>', vectors (2, 8))"
