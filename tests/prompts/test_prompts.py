import copy
import itertools
import pickle
import sys
import threading
from pathlib import Path

import nltk
import pytest
import torch
from builders import WIDTH, build_backbone, build_text_encoder, build_tokenizer, images
from running import fork_server
from safetensors import safe_open

from tadp import Conditioning, TADPBackbone, prompts
from tadp.errors import CaptionError, MissingDataError, MissingExtraError, ModelError, OptionError
from tadp.features import AttentionMaps, Names, Word
from tadp.prompts import CLIP_TEMPLATES, averaged_eos, class_embeddings, class_names, nouns, null
from tadp.text.conditioning import TextAdapter
from tadp.text.encoder import TextEncoder

CLASSES = ["dog", "blue_coat", "red cat"]
TEMPLATES = ["a photo of a {}", "{} on grass", "a {}."]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(build_text_encoder(), build_tokenizer()).eval()


@pytest.fixture
def batches(encoder, monkeypatch) -> list[int]:
    """The number of texts that went through the encoder in each call."""
    seen: list[int] = []
    forward = encoder.model.forward
    monkeypatch.setattr(encoder.model, "forward", lambda ids: seen.append(len(ids)) or forward(ids))
    return seen


# Strings


def test_null_is_the_empty_prompt_for_each_image():
    assert null(3) == ["", "", ""]
    with pytest.raises(ValueError, match=r"count must be 1 or more, as there is one prompt per image; got count=0"):
        null(0)


def test_class_names_stand_in_one_prompt():
    assert class_names(["dog", "dining_table", " tv / monitor "]) == ["dog dining table tv / monitor"]
    assert class_names(["dog"], count=2) == ["dog", "dog"]
    with pytest.raises(ValueError, match=r"got count=-1"):
        class_names(["dog"], count=-1)


def test_names_in_one_prompt_keep_their_borders(encoder):
    prompt = class_names(["hot", "dog", "dining_table"], count=2)
    text = encoder(prompt)
    assert text.words is not None
    assert [word.text for word in text.words[0]] == ["hot", "dog", "dining_table"]
    plain = encoder([str(prompt[0])])
    assert torch.equal(text.embeddings[:1], plain.embeddings)
    assert text.tokens is not None
    assert plain.tokens is not None
    assert text.tokens[0] == plain.tokens[0]
    # An independent check: the tokens before a name are those of the prompt that ends before it.
    ends = [count - 1 for count in encoder.count_tokens(["", "hot", "hot dog", "hot dog dining table"])]
    assert [(word.start, word.stop) for word in text.words[0]] == list(itertools.pairwise(ends))
    maps = torch.rand(2, text.embeddings.shape[1], 4, 4, generator=torch.Generator().manual_seed(0))
    pooled = AttentionMaps({1: maps}, text.tokens, text.words).pool(["hot dog", "dog", "dining table"], 1)
    assert pooled.missing() == (("hot dog",),) * 2
    torch.testing.assert_close(pooled.maps[:, 1], maps[:, ends[1] : ends[2]].mean(dim=1))
    torch.testing.assert_close(pooled.maps[:, 2], maps[:, ends[2] : ends[3]].mean(dim=1))


@pytest.mark.parametrize(
    "name", ["tv/monitor", "St. Bernard", "כלב", "don't", "a-b-c", "日本", "dog (toy)", "route 66"]
)
def test_a_class_of_any_characters_is_a_word_of_a_prompt_and_is_pooled(encoder, name):
    [prompt] = class_names(["cat", name, "dog"])
    text = encoder(prompt)
    assert [word.text for word in text.words[0]] == ["cat", name, "dog"]
    maps = torch.rand(1, text.embeddings.shape[1], 2, 2, generator=torch.Generator().manual_seed(0))
    pooled = AttentionMaps({1: maps}, text.tokens, text.words).pool(["dog", name], 1)
    word = text.words[0][1]
    torch.testing.assert_close(pooled.maps[0, 1], maps[0, word.start : word.stop].mean(dim=0))


def test_one_string_with_borders_and_without_are_two_texts(encoder):
    text = encoder([*class_names(["hot", "dog"]), "hot dog", *class_names(["hot dog"])])
    assert [[word.text for word in words] for words in text.words] == [["hot", "dog"], ["hot", "dog"], ["hot dog"]]
    assert [[word.stands_apart for word in words] for words in text.words] == [[True] * 2, [False] * 2, [True]]
    maps = AttentionMaps({1: torch.ones(3, text.embeddings.shape[1], 2, 2)}, text.tokens, text.words)
    assert maps.pool(["hot dog"], 1).present.tolist() == [[False], [True], [True]]


def test_borders_stay_in_copies_and_the_oracle_has_them():
    [named] = prompts.oracle([["hot", "dog"]], ["hot", "dog", "cat"])
    for prompt in (named, copy.deepcopy(named), pickle.loads(pickle.dumps(named))):
        assert isinstance(prompt, Names)
        assert (prompt, prompt.names) == ("hot dog", ("hot", "dog"))
    assert prompts.oracle([[]], ["hot", "dog"]) == [""]


def test_a_name_that_is_cut_is_none_of_the_words(encoder):
    names = [f"{'dog ' * number}cat" for number in range(15)]
    with pytest.warns(UserWarning, match="the rest was cut"):
        text = encoder(class_names(names), truncate=True)
    whole = [count for count in encoder.count_tokens([" ".join(names[: k + 1]) for k in range(15)]) if count <= 77]
    assert [word.text for word in text.words[0]] == names[: len(whole)]
    assert all(word.stop <= 76 for word in text.words[0])


@pytest.mark.parametrize("make", [class_names, class_embeddings, averaged_eos])
@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        ([], ValueError, r"no classes; give at least one name"),
        (["dog", ""], ValueError, r"a class name must not be empty; class 1 is ''"),
        (["dog", " _ "], ValueError, r"a class name must not be empty; class 1 is ' _ '"),
        (["dog", "red cat", "red_cat"], ValueError, r"class names must be unique; 'red_cat' is class 1 and 2"),
        ("dog", TypeError, r"classes must be a list of strings; got the string 'dog'. Pass \['dog'\]"),
        (["dog", None], TypeError, r"a class name must be a string; class 1 is of type NoneType"),
        (None, TypeError, r"classes must be a list of strings; got NoneType"),
        (
            {"dog", "cat"},
            TypeError,
            r"classes must have a fixed order; got a set, which has none. Pass sorted\(classes\)",
        ),
    ],
)
def test_classes_that_are_none_are_refused(no_type_checker, encoder, make, classes, error, message):
    with pytest.raises(error, match=message):
        make(classes) if make is class_names else make(classes, encoder)


def test_nouns_stand_once_in_their_order():
    captions = [
        "a large dog and a cat sitting next to the dog",
        "two men ride horses on a beach",
        "a Dalmatian in Paris",
        "running fast",
        "",
        "🐶 !!!",
    ]
    assert nouns(captions) == ["dog cat", "men horses beach", "Dalmatian Paris", "", "", ""]
    assert nouns("a dog") == ["dog"]


def test_nouns_say_what_is_no_caption(no_type_checker):
    with pytest.raises(TypeError, match=r"captions must be strings; got NoneType as caption 1"):
        nouns(["a dog", None])  # type: ignore


def test_nouns_without_textblob_say_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "textblob.en.taggers", None)
    with pytest.raises(MissingExtraError, match=r"nouns need textblob and nltk, .*: pip install 'tadp\[nouns\]'"):
        nouns("a dog")


def test_nouns_by_nltk_are_those_of_the_released_code(nltk_data):
    def released(sentence):
        tagged = nltk.pos_tag(nltk.word_tokenize(sentence))
        return " ".join(dict.fromkeys(word for word, tag in tagged if tag in ("NN", "NNS")))

    captions = ["a dog runs", "two cats. a dog in Paris", "two dogs and a dog", ""]
    assert nouns(captions, tagger="nltk") == [released(caption) for caption in captions]
    assert nouns("two cats runs Paris", tagger="nltk") == ["cats"]


def test_nouns_by_nltk_name_the_data_they_lack(tmp_path, monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(MissingDataError, match=r"nltk.downloader punkt_tab averaged_perceptron_tagger_eng"):
        nouns("a dog", tagger="nltk")


def test_an_unknown_tagger_is_refused(no_type_checker):
    with pytest.raises(OptionError, match="tagger must be one of pattern, nltk; got 'spacy'"):
        nouns("a dog", tagger="spacy")


# Class embeddings


@torch.no_grad()
def test_each_class_is_encoded_alone_and_keeps_its_own_tokens(encoder):
    """The expected embeddings come from the tokenizer and the model themselves."""
    text = class_embeddings(CLASSES, encoder)
    pieces = []
    for name in ("dog", "blue coat", "red cat"):
        ids = encoder.tokenizer([name], return_tensors="pt").input_ids
        pieces.append(encoder.model(ids).last_hidden_state[0, 1:-1])
    torch.testing.assert_close(text.embeddings[0], torch.cat(pieces), rtol=1e-4, atol=1e-5)
    assert text.mask is None
    assert not text.embeddings.requires_grad


def test_class_embeddings_name_their_tokens_and_classes(encoder):
    text = class_embeddings(["dog", "raincoat", "red_cat"], encoder)
    assert text.tokens == (("dog", "rain", "##coat", "red", "cat"),)
    assert text.words == ((Word("dog", 0, 1, True), Word("raincoat", 1, 3, True), Word("red_cat", 3, 5, True)),)


@pytest.mark.parametrize("name", ["tv/monitor", "St. Bernard", "🐶", "כלב", "don't", "a-b-c", "日本", "...", "{}"])
def test_a_class_of_any_characters_has_tokens(encoder, tmp_path, name):
    text = class_embeddings([name, "dog"], encoder)
    assert torch.isfinite(text.embeddings).all()
    assert text.words is not None
    assert [word.text for word in text.words[0]] == [name, "dog"]
    assert text.words[0][0].start == 0
    assert text.words[0][1] == Word("dog", text.embeddings.shape[1] - 1, text.embeddings.shape[1], True)
    assert averaged_eos([name], encoder, templates=["a {}"], cache_dir=tmp_path).tokens == ((name,),)


@pytest.mark.parametrize("make", [class_embeddings, lambda *arguments: averaged_eos(*arguments, templates=["a {}"])])
def test_no_name_is_pooled_from_two_classes_side_by_side(encoder, tmp_path, monkeypatch, make):
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path))
    text = make(["hot", "dog"], encoder)
    joined = encoder("a hot").join(text)
    for conditioning in (text, joined):
        length = conditioning.embeddings.shape[1]
        maps = torch.rand(1, length, 2, 2, generator=torch.Generator().manual_seed(0))
        attention = AttentionMaps({1: maps}, conditioning.tokens, conditioning.words)
        assert attention.pool(["hot dog"], 1).missing() == (("hot dog",),)
        pooled = attention.pool(["dog", "hot", "hot dog"], 1)
        assert pooled.missing() == (("hot dog",),)
        torch.testing.assert_close(pooled.maps[0, 0], maps[0, -1])
    whole = make(["hot dog", "dogs", "dog"], encoder)
    maps = torch.rand(1, whole.embeddings.shape[1], 2, 2, generator=torch.Generator().manual_seed(0))
    pooled = AttentionMaps({1: maps}, whole.tokens, whole.words).pool(["dog", "hot dog", "dogs"], 1)
    torch.testing.assert_close(pooled.maps[0, 0], maps[0, -1])
    torch.testing.assert_close(pooled.maps[0, 2], maps[0, whole.words[0][1].start : whole.words[0][1].stop].mean(dim=0))
    assert pooled.present.all()


def test_more_classes_than_a_caption_has_room_for_are_taken(encoder):
    text = class_embeddings([f"dog {number}" for number in range(100, 200)], encoder)
    assert text.embeddings.shape == (1, 400, WIDTH)


def test_many_classes_are_encoded_in_batches(encoder, monkeypatch):
    names = [f"dog {number}" for number in range(7)]
    whole = class_embeddings(names, encoder)
    sizes = []
    hook = encoder.model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    monkeypatch.setattr("tadp.prompts.embeddings.NAMES", 3)
    try:
        parted = class_embeddings(names, encoder)
    finally:
        hook.remove()
    assert sizes == [3, 3, 1]
    torch.testing.assert_close(parted.embeddings, whole.embeddings)
    assert (parted.tokens, parted.words) == (whole.tokens, whole.words)


def test_a_class_longer_than_a_caption_is_refused(encoder, tmp_path):
    with pytest.raises(CaptionError, match=r"caption 1 \('dog dog .* has 102 tokens, but the text encoder takes 77"):
        class_embeddings(["cat", "dog " * 100], encoder)
    with pytest.raises(CaptionError, match=r"has 77 tokens|has 78 tokens, but the text encoder takes 77"):
        averaged_eos(["dog " * 75], encoder, templates=["a {}"], cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


# Averaged EOS


def test_clips_templates_are_eighty_and_have_one_place_each():
    assert len(CLIP_TEMPLATES) == len(set(CLIP_TEMPLATES)) == 80
    assert all(template.count("{}") == 1 for template in CLIP_TEMPLATES)
    assert CLIP_TEMPLATES[0] == "a bad photo of a {}."
    assert CLIP_TEMPLATES[-1] == "a tattoo of the {}."


@torch.no_grad()
def test_averaged_eos_is_the_mean_of_what_clip_pools_not_normalised(encoder, tmp_path):
    """The expected embeddings are padded to 77 tokens by the tokenizer and pooled by transformers."""
    text = averaged_eos(CLASSES, encoder, templates=TEMPLATES, cache_dir=tmp_path)
    for number, name in enumerate(["dog", "blue coat", "red cat"]):
        prompts_of_one = [template.format(name) for template in TEMPLATES]
        ids = encoder.tokenizer(prompts_of_one, padding="max_length", max_length=77, return_tensors="pt").input_ids
        expected = encoder.model(ids).pooler_output.mean(dim=0)
        torch.testing.assert_close(text.embeddings[0, number], expected, rtol=1e-4, atol=1e-5)
    assert text.embeddings.shape == (1, 3, WIDTH)
    assert text.tokens == (tuple(CLASSES),)
    assert text.words == (tuple(Word(name, k, k + 1, True) for k, name in enumerate(CLASSES)),)
    assert text.mask is None


def test_eighty_templates_are_the_default(encoder, tmp_path, batches, monkeypatch):
    monkeypatch.setattr("tadp.prompts.embeddings.BATCH", 50)
    averaged_eos(["dog", "cat"], encoder, cache_dir=tmp_path)
    assert batches == [50, 50, 50, 10]


def test_the_bar_is_shown_on_request(encoder, tmp_path, capsys):
    averaged_eos(CLASSES, encoder, templates=TEMPLATES, cache_dir=tmp_path / "one")
    assert "encoding classes" not in capsys.readouterr().err
    averaged_eos(CLASSES, encoder, templates=TEMPLATES, cache_dir=tmp_path / "two", progress=True)
    assert "encoding classes: 100%" in capsys.readouterr().err


def test_they_are_encoded_once(encoder, tmp_path, batches):
    first = averaged_eos(CLASSES, encoder, templates=TEMPLATES, cache_dir=tmp_path)
    assert batches == [9]
    again = averaged_eos(CLASSES, encoder, templates=TEMPLATES, cache_dir=tmp_path)
    copy = TextEncoder(build_text_encoder(), build_tokenizer()).eval()
    other = averaged_eos(CLASSES, copy, templates=TEMPLATES, cache_dir=tmp_path)
    assert batches == [9]
    assert torch.equal(first.embeddings, again.embeddings)
    assert torch.equal(first.embeddings, other.embeddings)
    assert (again.tokens, again.words) == (first.tokens, first.words)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_saved_encoder_finds_what_was_kept(tmp_path):
    backbone = build_backbone()
    first = averaged_eos(CLASSES, backbone, templates=TEMPLATES, cache_dir=tmp_path / "kept")
    backbone.save_pretrained(tmp_path / "model")
    loaded = TADPBackbone.from_pretrained(tmp_path / "model")
    again = averaged_eos(CLASSES, loaded, templates=TEMPLATES, cache_dir=tmp_path / "kept")
    assert torch.equal(first.embeddings, again.embeddings)
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_what_decides_the_numbers_makes_another_file(encoder, tmp_path):
    def count(classes=("dog", "cat"), model=encoder, templates=TEMPLATES):
        averaged_eos(list(classes), model, templates=templates, cache_dir=tmp_path)
        return len(list(tmp_path.iterdir()))

    assert count() == 1
    assert count(classes=("cat", "dog")) == 2
    assert count(templates=TEMPLATES[:2]) == 3
    assert count(classes=("dog cat",), templates=[*TEMPLATES[:1]]) == 4
    assert count(model=TextEncoder(build_text_encoder(seed=1), build_tokenizer())) == 5
    assert count(model=TextEncoder(build_text_encoder(hidden_act="gelu"), build_tokenizer())) == 6
    nudged = TextEncoder(build_text_encoder(), build_tokenizer())
    with torch.no_grad():
        next(nudged.model.parameters())[0, 0] += 1e-3
    assert count(model=nudged) == 7
    learned = build_tokenizer()
    learned.add_tokens(["<sks>"])
    assert count(model=TextEncoder(build_text_encoder(), learned)) == 8
    assert count(model=TextEncoder(build_text_encoder().half(), build_tokenizer())) == 9
    assert count() == 9


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "other", "folder"])
def test_a_damaged_file_is_made_again(encoder, tmp_path, batches, damage):
    expected = averaged_eos(CLASSES, encoder, templates=TEMPLATES, cache_dir=tmp_path).embeddings
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(content[:-5])
    elif damage == "flip":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other":
        averaged_eos(["cat"], encoder, templates=TEMPLATES, cache_dir=tmp_path / "other")
        (other,) = (tmp_path / "other").iterdir()
        path.write_bytes(other.read_bytes())
    else:
        path.unlink()
        path.mkdir()
        with pytest.warns(UserWarning, match=r"embeddings are not stored: cannot write .*pass cache_dir="):
            text = averaged_eos(CLASSES, encoder, templates=TEMPLATES, cache_dir=tmp_path)
        assert torch.equal(text.embeddings, expected)
        return
    count = len(batches)
    assert torch.equal(averaged_eos(CLASSES, encoder, templates=TEMPLATES, cache_dir=tmp_path).embeddings, expected)
    assert len(batches) == count + 1
    assert path.read_bytes() == content


def test_a_cache_that_cannot_be_written_costs_a_warning_alone(encoder, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(UserWarning, match=r"embeddings are not stored: cannot write"):
        text = averaged_eos(CLASSES, encoder, templates=TEMPLATES, cache_dir=tmp_path / "file")
    assert text.embeddings.shape == (1, 3, WIDTH)


def test_the_default_place_is_the_hub_librarys(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(tmp_path))
    averaged_eos(CLASSES, encoder, templates=TEMPLATES)
    (path,) = (tmp_path / "tadp").rglob("*.safetensors")
    with safe_open(path, "pt") as file:
        assert list(file.keys()) == ["embeddings"]


def test_threads_may_average_at_once(encoder, tmp_path):
    expected = averaged_eos(CLASSES, encoder, templates=TEMPLATES, cache_dir=tmp_path / "one").embeddings
    start, results = threading.Barrier(4), []

    def work() -> None:
        start.wait()
        results.append(averaged_eos(CLASSES, encoder, templates=TEMPLATES, cache_dir=tmp_path / "all").embeddings)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(torch.equal(embeddings, expected) for embeddings in results)
    assert len(list((tmp_path / "all").iterdir())) == 1


def average_in_a_process(folder: str, start, results) -> None:
    encoder = TextEncoder(build_text_encoder(), build_tokenizer()).eval()
    start.wait(400)
    results.put([averaged_eos(CLASSES, encoder, templates=TEMPLATES, cache_dir=folder).embeddings.tolist()])


@pytest.mark.slow
def test_processes_may_average_at_once(encoder, tmp_path):
    context = fork_server()
    start, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=average_in_a_process, args=(str(tmp_path), start, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    outputs = [results.get(timeout=500) for _ in workers]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    (path,) = tmp_path.iterdir()
    kept = averaged_eos(CLASSES, encoder, templates=TEMPLATES, cache_dir=tmp_path).embeddings
    assert path.suffix == ".safetensors"
    for output in outputs:
        torch.testing.assert_close(torch.tensor(output[0]), kept)


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ([], r"no templates; leave the argument out for CLIP's 80"),
        (["a {}", "a photo"], r"a template must have one \{\} in the place of the class name; template 1 is 'a photo'"),
        (["{} and {}"], r"template 0 is '\{\} and \{\}'"),
    ],
)
def test_templates_without_one_place_are_refused(encoder, tmp_path, templates, message):
    with pytest.raises(ValueError, match=message):
        averaged_eos(CLASSES, encoder, templates=templates, cache_dir=tmp_path)


def test_one_string_of_templates_is_refused(encoder):
    with pytest.raises(TypeError, match=r"templates must be a list of strings; got the string 'a \{\}'"):
        averaged_eos(CLASSES, encoder, templates="a {}")


def test_half_precision_is_averaged_in_float32_and_kept_in_half(tmp_path):
    half = TextEncoder(build_text_encoder().bfloat16(), build_tokenizer())
    first = averaged_eos(CLASSES, half, templates=TEMPLATES, cache_dir=tmp_path).embeddings
    assert first.dtype == torch.bfloat16
    assert torch.equal(averaged_eos(CLASSES, half, templates=TEMPLATES, cache_dir=tmp_path).embeddings, first)
    full = averaged_eos(
        CLASSES, TextEncoder(build_text_encoder(), build_tokenizer()), templates=TEMPLATES, cache_dir=tmp_path
    )
    torch.testing.assert_close(first.float(), full.embeddings, rtol=0.05, atol=0.05)


# In the backbone


@pytest.mark.parametrize("make", [class_embeddings, averaged_eos])
def test_a_backbone_without_a_text_encoder_makes_no_embeddings(make):
    backbone = TADPBackbone(vae=build_backbone().vae, unet=build_backbone().unet, text_length=3)
    with pytest.raises(ModelError, match=r"this backbone has no text encoder; pass one, or load a backbone with one"):
        make(CLASSES, backbone)


def modes(backbone: TADPBackbone, folder: Path) -> dict[str, list[str] | Conditioning]:
    """Build the text of each of the paper's modes for two images."""
    present = [["dog"], ["red cat", "dog"]]
    return {
        "null": null(2),
        "class names": class_names(CLASSES, count=2),
        "class embeddings": class_embeddings(CLASSES, backbone),
        "averaged EOS": averaged_eos(CLASSES, backbone, templates=TEMPLATES, cache_dir=folder),
        "oracle": prompts.oracle(present, CLASSES, precision=0.75, recall=0.75),
        "nouns": nouns(["a red dog on grass", "a cat"]),
        "caption + averaged EOS": backbone.encode_text(["a red dog", "a cat"]).join(
            averaged_eos(CLASSES, backbone, templates=TEMPLATES, cache_dir=folder)
        ),
    }


EXPECTED = {
    "null": ("<|startoftext|>", "<|endoftext|>"),
    "class names": ("<|startoftext|>", "dog", "blue"),
    "class embeddings": ("dog", "blue"),
    "averaged EOS": ("dog", "blue_coat", "red cat"),
    "oracle": ("<|startoftext|>", "dog"),
    "nouns": ("<|startoftext|>", "dog", "grass"),
    "caption + averaged EOS": ("<|startoftext|>", "a", "red", "dog"),
}


@torch.no_grad()
@pytest.mark.parametrize("mode", EXPECTED)
def test_the_backbone_takes_each_mode_and_names_its_channels(tmp_path, mode):
    text = modes(build_backbone(), tmp_path)[mode]
    length = text.embeddings.shape[1] if isinstance(text, Conditioning) else 77
    backbone = build_backbone(text_length=length)
    features = backbone(images(2, 64, 64), text)
    assert [level_map.shape[1] for level_map in features.maps] == list(backbone.feature_info.channels)
    assert features.attention.at(1).shape[:2] == (2, length)
    assert [len(names) for names in features.attention.tokens] == [length, length]
    assert features.attention.tokens[0][: len(EXPECTED[mode])] == EXPECTED[mode]
    assert all(name for name in features.attention.tokens[0])


@torch.no_grad()
@pytest.mark.parametrize("mode", EXPECTED)
def test_attention_is_pooled_by_class_in_each_mode(tmp_path, mode):
    backbone = build_backbone(pool_attention=["dog", "red cat"])
    features = backbone(images(2, 64, 64), modes(backbone, tmp_path)[mode])
    assert [level_map.shape[1] for level_map in features.maps] == [8, 18, 18, 16]
    pooled = features.attention.pool(["dog", "red cat"], 1)
    there = {
        "null": [[False, False], [False, False]],
        "nouns": [[True, False], [False, False]],
    }
    if mode != "oracle":
        assert pooled.present.tolist() == there.get(mode, [[True, True], [True, True]])


@torch.no_grad()
@pytest.mark.parametrize("mode", ["class embeddings", "averaged EOS", "caption + averaged EOS"])
def test_an_adapter_at_gate_zero_changes_no_mode(tmp_path, mode):
    text = modes(build_backbone(), tmp_path)[mode]
    assert isinstance(text, Conditioning)
    adapter = TextAdapter(WIDTH)
    assert not torch.equal(adapter(text).embeddings, text.embeddings)
    adapter.gate.zero_()
    assert torch.equal(adapter(text).embeddings, text.embeddings)


@torch.no_grad()
def test_joined_text_says_which_length_to_announce(tmp_path):
    backbone = build_backbone()
    text = modes(backbone, tmp_path)["caption + averaged EOS"]
    with pytest.raises(ValueError, match=r"this text has 80 tokens, .* 77 .*text_length=80, .*pool_attention=\[…\]"):
        backbone(images(2, 64, 64), text)


@pytest.mark.parametrize("make", [class_embeddings, averaged_eos])
@pytest.mark.parametrize("wrong", ["tadp-tiny", None])
def test_the_name_of_a_model_is_no_text_encoder(make, wrong, no_type_checker):
    with pytest.raises(TypeError, match=rf"a backbone or its text_encoder is needed; got {wrong!r}"):
        make(["dog"], wrong)


def test_what_is_no_template_and_no_count_is_refused(encoder, no_type_checker):
    with pytest.raises(TypeError, match=r"a template must be a string; template 1 is of type int"):
        averaged_eos(["dog"], encoder, templates=["a {}", 3])  # type: ignore
    with pytest.raises(TypeError, match=r"count must be the number of images; got str. Pass count=len\(images\)"):
        null("3")  # type: ignore
