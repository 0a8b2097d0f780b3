"""Learning a token: what moves, what it is repeated by, what is written, and what is refused."""

import json
import re
import resource
import shutil

import numpy as np
import pytest
import torch
from builders import WIDTH
from builders_personalize import QUICK, build_model, learn, pictures
from PIL import Image
from safetensors.torch import load_file

import tadp
from tadp.errors import (
    CaptionError,
    ImageError,
    MissingExtraError,
    MissingFileError,
    ModelError,
    ModifierError,
    OutputError,
)
from tadp.files.hub import HubOptions
from tadp.personalize import OBJECT_TEXTS, STYLE_TEXTS, load_diffusion, loop, textual_inversion
from tadp.personalize.textual_inversion import texts_of
from tadp.text.learned_tokens import read_token


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("personalize") / "sd")


@pytest.fixture(scope="module")
def learned(source, tmp_path_factory):
    """One run, and its folder."""
    output = tmp_path_factory.mktemp("learned") / "token"
    return learn(source, pictures(), **QUICK | {"sample_every": 2}, output=output), output


def embedding_of(modifier):
    (step,) = modifier._steps
    return step.vectors


def state_of(model):
    backbone = model.backbone
    parts = {"unet": backbone.unet, "vae": backbone.vae, "text": model.text_encoder.model}
    return {
        f"{part}.{name}": one.clone() for part, module in parts.items() for name, one in module.state_dict().items()
    }


# What moves


def test_only_the_new_vectors_move(source, monkeypatch):
    loaded = []

    def keep(*arguments, **options):
        loaded.append(load_diffusion(*arguments, **options))
        return loaded[-1]

    monkeypatch.setattr(textual_inversion, "load_diffusion", keep)
    modifier = learn(source, pictures(), **QUICK, vectors=2)
    before, after = state_of(load_diffusion(source)), state_of(loaded[0])
    assert before.keys() == after.keys()
    matrix = "text.embeddings.token_embedding.weight"
    for name, value in before.items():
        rows = after[name][: len(value)] if name == matrix else after[name]
        assert torch.equal(rows, value), name
    # the two new rows keep the initializer's vector: the learned vectors are not in the matrix
    photo = loaded[0].text_encoder.tokenizer("photo").input_ids[1]
    assert len(after[matrix]) == len(before[matrix]) + 2
    assert torch.equal(after[matrix][-2:], before[matrix][[photo, photo]])
    vectors = embedding_of(modifier)
    assert vectors.shape == (2, WIDTH)
    assert (vectors - before[matrix][photo]).abs().amax(dim=1).min() > 1e-3
    assert not torch.equal(vectors[0], vectors[1])
    assert all(parameter.grad is None for parameter in loaded[0].backbone.parameters())


def test_learning_lowers_the_loss_that_is_measured(source):
    """The loss of the training images is lower than with the word that the token started from."""
    images = pictures(1)
    modifier = learn(
        source, images, **QUICK | {"steps": 60, "lr": 3e-2, "batch_size": 4}, texts=["{token}"], random_crop=False
    )
    plain = tadp.personalize.denoising_loss(source, images, captions="photo", draws=64)
    bare = tadp.CaptionModifier(token="<wash>", embedding=embedding_of(modifier))
    taught = tadp.personalize.denoising_loss(source, images, captions="<wash>", modifier=bare, draws=64)
    assert taught.item() < plain.item()


def test_the_gradient_is_that_of_the_loss(source):
    """The oracle is the gradient of the token's row in the embedding matrix, from a loss computed independently."""
    model = load_diffusion(source)
    start = textual_inversion._initial(model.text_encoder, "photo", 1)
    textual_inversion.add_token(model.text_encoder, "<wash>", start)
    vectors = torch.nn.Parameter(start.clone() + 0.1)
    noisy, times = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([300])

    def loss(embeddings):
        return model.predict(noisy, times, embeddings).square().mean()

    with textual_inversion._embed_with(model.text_encoder, "<wash>", vectors):
        loss(model.text_encoder("a <wash> photo").embeddings).backward()
    weight = model.text_encoder.model.get_input_embeddings().weight
    with torch.no_grad():
        weight[-1] = vectors[0]
    weight.requires_grad_(True)
    loss(model.text_encoder("a <wash> photo").embeddings).backward()
    torch.testing.assert_close(vectors.grad[0], weight.grad[-1])
    assert vectors.grad.abs().max() > 0


def test_one_seed_gives_one_token_and_another_another(source, learned):
    (modifier, _), again = learned, learn(source, pictures(), **QUICK)
    assert torch.equal(embedding_of(modifier), embedding_of(again))
    other = learn(source, pictures(), **QUICK, seed=1)
    assert not torch.equal(embedding_of(modifier), embedding_of(other))


def test_the_global_random_state_is_left_alone(source):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    learn(source, pictures(), **QUICK | {"steps": 1})
    assert torch.equal(torch.get_rng_state(), before)


def test_parts_of_a_batch_give_the_same_step(source, learned):
    again = learn(source, pictures(), **QUICK, micro_batch=1)
    torch.testing.assert_close(embedding_of(learned[0]), embedding_of(again), rtol=1e-3, atol=1e-5)


def test_gradient_checkpointing_changes_nothing_but_memory(source, learned, monkeypatch):
    called = []
    checkpoint = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", lambda *a, **k: called.append(1) or checkpoint(*a, **k))
    again = learn(source, pictures(), **QUICK, gradient_checkpointing=True)
    torch.testing.assert_close(embedding_of(learned[0]), embedding_of(again), rtol=1e-4, atol=1e-6)
    assert called


def test_bfloat16_trains_vectors_of_float32(source):
    vectors = embedding_of(learn(source, pictures(), **QUICK, dtype=torch.bfloat16))
    assert vectors.dtype is torch.float32
    assert not torch.equal(vectors, vectors.bfloat16().float())


# What is written


def test_the_folder_is_a_modifier_that_diffusers_reads(source, learned):
    modifier, output = learned
    again = tadp.CaptionModifier.from_pretrained(output)
    assert again("Two dogs") == modifier("Two dogs") == ["a <wash> style painting of two dogs"]
    assert torch.equal(embedding_of(again), embedding_of(modifier))
    token, vectors = read_token(output / "learned_embeds.safetensors")
    assert token == "<wash>"
    assert torch.equal(vectors, embedding_of(modifier))
    from diffusers.loaders import TextualInversionLoaderMixin

    encoder = load_diffusion(source).text_encoder

    class Pipeline(TextualInversionLoaderMixin):
        hf_device_map = None
        components: dict = {}  # noqa: RUF012
        tokenizer, text_encoder = encoder.tokenizer, encoder.model

    pipeline = Pipeline()
    pipeline.load_textual_inversion(output, weight_name="learned_embeds.safetensors", local_files_only=True)
    row = pipeline.tokenizer.convert_tokens_to_ids("<wash>")
    assert torch.equal(pipeline.text_encoder.get_input_embeddings().weight[row], vectors[0])


def test_diffusers_reads_a_token_of_several_vectors(source, tmp_path):
    from diffusers.loaders import TextualInversionLoaderMixin

    learned = embedding_of(learn(source, pictures(), **QUICK, vectors=3, output=tmp_path))
    encoder = load_diffusion(source).text_encoder

    class Pipeline(TextualInversionLoaderMixin):
        hf_device_map = None
        components: dict = {}  # noqa: RUF012
        tokenizer, text_encoder = encoder.tokenizer, encoder.model

    pipeline = Pipeline()
    pipeline.load_textual_inversion(tmp_path, weight_name="learned_embeds.safetensors", local_files_only=True)
    written = pipeline.maybe_convert_prompt("a <wash> style painting", pipeline.tokenizer)
    ids = pipeline.tokenizer(written).input_ids[2:5]
    assert torch.equal(pipeline.text_encoder.get_input_embeddings().weight[ids], learned)


def test_a_hub_id_is_trained_with_its_own_scheduler(tmp_path):
    commit = "a" * 40
    repository = tmp_path / "cache" / "models--someone--model"
    build_model(repository / "snapshots" / commit, prediction="v_prediction")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    hub = HubOptions(cache_dir=tmp_path / "cache", local_files_only=True)
    modifier = learn("someone/model", pictures(), **QUICK, output=tmp_path / "out", hub=hub)
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert (record["model"], record["revision"]) == ("someone/model", commit)
    assert record["noise"]["prediction_type"] == "v_prediction"
    assert modifier.tokens == ("<wash>",)


def test_a_bar_shows_the_steps_on_a_terminal(source, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    learn(source, pictures(), **QUICK | {"progress": True})
    assert re.search(r"learning <wash>: .*4/4.*loss \d", capsys.readouterr().err)


def test_a_run_says_what_it_costs_and_shows_its_progress_without_a_terminal(source, capsys, monkeypatch, learned):
    monkeypatch.setattr("tadp.files.progress.LINE_EVERY_S", 0.0)
    modifier = learn(source, pictures(), **QUICK | {"progress": True})
    plan, cost, *lines = capsys.readouterr().err.splitlines()
    assert plan == f"4 steps of {QUICK['batch_size']} images; timing 2 steps first"
    assert re.fullmatch(
        r"about \d+ seconds? on this machine, [\d.e-]+ seconds per step; checkpoints.* extra time", cost
    )
    assert re.fullmatch(r"learning <wash>: step 4 of 4, loss \d\.\d{4}, about 0 seconds left", lines[-1])
    assert torch.equal(embedding_of(modifier), embedding_of(learned[0]))  # the timed steps change nothing


def test_a_run_that_continues_says_what_the_rest_costs(source, capsys, tmp_path):
    learn(source, pictures(), **QUICK, output=tmp_path)
    learn(source, pictures(), **QUICK | {"progress": True, "steps": 5}, output=tmp_path)
    first = f"1 step of {QUICK['batch_size']} images, after the 4 that are done; timing 2 steps first"
    assert capsys.readouterr().err.startswith(first)
    learn(source, pictures(), **QUICK | {"progress": True, "steps": 5}, output=tmp_path)
    assert capsys.readouterr().err == ""


def test_a_backbone_with_the_modifier_means_the_token(source, learned):
    backbone = tadp.TADPBackbone.from_pretrained(source)
    with learned[0].install(backbone):
        matrix = backbone.text_encoder.model.get_input_embeddings().weight
        row = backbone.text_encoder.tokenizer.convert_tokens_to_ids("<wash>")
        assert torch.equal(matrix[row], embedding_of(learned[0])[0])


def test_sheets_of_samples_are_drawn_on_the_way(learned):
    _, output = learned
    sheets = sorted(path.name for path in (output / "samples").iterdir())
    assert sheets == ["step-00000000.png", "step-00000002.png", "step-00000004.png"]
    first, last = (np.asarray(Image.open(output / "samples" / name)) for name in (sheets[0], sheets[-1]))
    assert first.shape == last.shape == (12 + 22 + 22 + 64 + 12, 4 * 76 + 12, 3)
    assert not np.array_equal(first[34:], last[34:])  # below the title


def test_without_an_output_nothing_is_written(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    learn(source, pictures(), **QUICK | {"sample_every": 1, "steps": 1})
    assert not list(tmp_path.iterdir())


def test_captions_go_into_the_template(source, monkeypatch):
    seen = []
    train = textual_inversion.train
    monkeypatch.setattr(
        textual_inversion,
        "train",
        lambda model, concepts, **rest: seen.append(concepts) or train(model, concepts, **rest),
    )
    learn(source, pictures(2), **QUICK | {"steps": 1}, captions=["A dog", "a cat"], template="{caption}, <wash>")
    assert seen[0][0].texts == [["A dog, <wash>"], ["a cat, <wash>"]]


def test_captions_go_by_file_name(source, tmp_path, monkeypatch):
    for name, pixels in zip(("one", "two"), pictures(2), strict=True):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    seen = []
    monkeypatch.setattr(textual_inversion, "train", lambda model, concepts, **rest: seen.append(concepts))
    learn(source, tmp_path, **QUICK, captions={"two": "a cat", "one": "a dog"})
    assert seen[0][0].texts == [["a <wash> style painting of a dog"], ["a <wash> style painting of a cat"]]
    with pytest.raises(
        CaptionError, match=r"1 of 2 images have no caption, such as 'two'\. The ids of the captions look like '\w+'"
    ):
        learn(source, tmp_path, **QUICK, captions={"one": "a dog"})


def test_captions_go_by_the_ids_that_tadp_caption_gives(source, tmp_path, monkeypatch):
    """If two folders have an image of the same name, its id includes the folder, so captions are not mixed up."""
    for name, pixels in zip(("a/1", "b/1", "b/two"), pictures(3), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    seen = []
    monkeypatch.setattr(textual_inversion, "train", lambda model, concepts, **rest: seen.append(concepts[0].texts))
    short = {"a/1": "a", "b/1": "b", "two": "c"}
    settings = QUICK | {"template": "<wash> {caption}"}
    learn(source, tmp_path, **settings, captions=short)
    learn(source, tmp_path, **settings, captions={"a/1": "a", "b/1": "b", "b/two": "c"})
    learn(source, sorted(tmp_path.rglob("*.png")), **settings, captions=short)
    assert seen == [[["<wash> a"], ["<wash> b"], ["<wash> c"]]] * 3
    with pytest.raises(CaptionError, match=r"2 of 3 images have no caption, such as 'a/1'"):
        learn(source, tmp_path, **settings, captions={"1": "which?", "two": "c"})


def test_images_come_in_any_row(source):
    """A batch or a generator gives the same result as a list."""
    batch = np.stack([image[:64, :64] for image in pictures()])
    tensors = torch.from_numpy(batch).permute(0, 3, 1, 2)
    first, *rest = (learn(source, images, **QUICK) for images in (list(batch), batch, tensors, iter(batch)))
    assert all(torch.equal(embedding_of(first), embedding_of(modifier)) for modifier in rest)


def test_what_a_run_drew_is_none_of_its_images(source, tmp_path):
    """The output may be the folder of the images, or a folder in it."""
    for number, pixels in enumerate(pictures()):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    for output in (tmp_path, tmp_path / "out"):
        settings = QUICK | {"sample_every": 2, "checkpoint_every": 2, "output": output}
        first = learn(source, tmp_path, **settings | {"steps": 2})
        assert len(list((output / "samples").iterdir())) == 2
        learn(source, tmp_path, **settings)  # continues, because the images are the same
        again = learn(source, tmp_path, **settings | {"steps": 2}, resume=False)
        assert torch.equal(embedding_of(first), embedding_of(again))
        assert json.loads((output / "training.json").read_text())["concepts"][0]["count"] == 3
        for drawn in (tmp_path / "samples").iterdir():
            drawn.unlink()  # for another output, they would be training images
    refused(
        ImageError, r"holds only images that this run itself drew", source, tmp_path / "out", output=tmp_path / "out"
    )
    sample = next((tmp_path / "out" / "samples").iterdir())
    learn(source, [sample], **QUICK, output=tmp_path / "out", resume=False)


def test_the_lists_are_textual_inversions():
    assert (len(OBJECT_TEXTS), len(STYLE_TEXTS)) == (27, 19)
    assert len(set(OBJECT_TEXTS)) == 27
    assert len(set(STYLE_TEXTS)) == 17
    assert all(text.count("{token}") == 1 for text in OBJECT_TEXTS + STYLE_TEXTS)
    assert texts_of("<a{b}>", kind="style")[0] == "a painting in the style of <a{b}>"


def test_an_object_brings_its_own_template(source):
    modifier = learn(source, pictures(1), **QUICK | {"steps": 1}, kind="object")
    assert modifier("a <wash> on grass") == ["a <wash> on grass"]


def test_tadp_tiny_and_a_folder_without_a_scheduler(source, model, tmp_path):
    assert load_diffusion("tadp-tiny").noise.config["prediction_type"] == "v_prediction"
    with pytest.warns(UserWarning, match=r"no scheduler/scheduler_config.json in .* the noise is predicted"):
        modifier = learn(model, pictures(), **QUICK)
    assert torch.equal(embedding_of(modifier), embedding_of(learn(source, pictures(), **QUICK)))


# What is refused


def refused(error, match, source, images=None, **options):
    with pytest.raises(error, match=match):
        learn(source, pictures() if images is None else images, **QUICK | options)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"token": "dog"}, ModifierError, r"the token 'dog' is already in the vocabulary, as 'dog</w>'"),
        ({"token": "Dog"}, ModifierError, r"already in the vocabulary"),
        ({"token": "water color"}, ModifierError, r"a token must be one word without white space.*'water color'"),
        ({"token": ""}, ModifierError, r"a token must be one word"),
        ({"token": "<Wash>", "vectors": 2}, ModifierError, r"lower case.*'<Wash>'; use '<wash>'"),
        ({"initializer": "raincoat"}, ModifierError, r"'raincoat' is 2: 'rain', 'coat</w>'. Use a plain word"),
        ({"initializer": "red dog"}, ModifierError, r"'red dog' is 2"),
        ({"initializer": " "}, ModifierError, r"a word of one token; ' ' is 0: none"),
        ({"vectors": 0}, ValueError, r"vectors must be 1 or more; got 0"),
        ({"steps": 0}, ValueError, r"steps must be 1 or more; got 0"),
        ({"batch_size": 0}, ValueError, r"batch_size must be 1 or more; got 0"),
        ({"lr": 0.0}, ValueError, r"lr must be above 0; got 0.0"),
        ({"lr": float("nan")}, ValueError, r"lr must be above 0; got nan"),
        ({"seed": -1}, ValueError, r"seed must be 0 or more; got -1"),
        ({"side_px": 0}, ValueError, r"side_px must be 8 or more; got 0"),
        ({"texts": ["a photo"]}, ModifierError, r"each text must have \{token\} where the token goes; got 'a photo'"),
        ({"texts": []}, ModifierError, r"a list of one or more texts"),
        ({"template": "a photo"}, ModifierError, r"a template must have \{caption\}"),
        ({"captions": ["a dog"]}, CaptionError, r"there must be one caption for each of the 3 images; got 1"),
        ({"captions": "a.json"}, CaptionError, r"got one string. Open a caption file with CaptionTable.open\(path\)"),
        ({"captions": {"a": "b"}}, CaptionError, r"captions by name need image files; image 0 is not a file"),
        ({"captions": ["a dog"] * 3, "template": "{caption}"}, CaptionError, r"the text of image 0, 'a dog', lacks"),
        ({"texts": ["a <long> " * 40 + "{token}"]}, CaptionError, r"has \d+ tokens, but the text encoder takes 77"),
        ({"sample_prompts": []}, CaptionError, r"a list of one or more texts; pass sample_every=0"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_refused_before_training(options, error, match, source, monkeypatch):
    monkeypatch.setattr(textual_inversion, "train", lambda *a, **k: pytest.fail("trained"))
    refused(error, match, source, **options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"steps": 1e3}, r"steps must be a whole number; got 1000.0 \(float\)"),
        ({"vectors": True}, r"vectors must be a whole number; got True \(bool\)"),
        ({"seed": None}, r"seed must be a whole number.*got None"),
        ({"side_px": 64.0}, r"side_px must be a whole number.*got 64.0"),
        ({"lr": "1e-3"}, r"lr must be a number; got '1e-3' \(str\)"),
        ({"initializer": None}, r"initializer must be a word, such as 'painting'; got NoneType"),
    ],
)
def test_what_is_of_a_wrong_kind_is_refused_before_training(options, match, source, monkeypatch, no_type_checker):
    monkeypatch.setattr(textual_inversion, "train", lambda *a, **k: pytest.fail("trained"))
    refused(TypeError, match, source, **options)


def test_an_unknown_kind_is_refused(source, no_type_checker):
    refused(ModifierError, r"kind must be one of style, object; got 'mood'", source, kind="mood")


def test_no_images_are_refused(source, tmp_path):
    refused(ImageError, r"at least one image; got an empty list", source, [])
    refused(ImageError, r"holds no image", source, tmp_path)
    refused(ImageError, r"is not a file or folder, and no file matches it", source, tmp_path / "none")


@pytest.fixture
def ten(tmp_path):
    folder = tmp_path / "ten"
    folder.mkdir()
    for number, pixels in enumerate(pictures(10)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    whole = (folder / "6.png").read_bytes()
    (folder / "6.png").write_bytes(whole[: len(whole) // 2])
    return folder


def test_one_unreadable_among_ten_is_named_and_nothing_is_lost(source, ten, tmp_path):
    output = tmp_path / "out"
    learn(source, pictures(), **QUICK, output=output)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    refused(
        ImageError, r"1 of 10 images cannot be used: .*6\.png' is damaged", source, ten, output=output, resume=False
    )
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_what_is_unreadable_may_be_left_out_with_its_caption(source, ten, monkeypatch):
    seen = []
    monkeypatch.setattr(textual_inversion, "train", lambda model, concepts, **rest: seen.append(concepts[0]))
    with pytest.warns(UserWarning, match=r"1 of 10 images cannot be used: .*6\.png.* The other images are used"):
        learn(source, ten, **QUICK, skip_unreadable=True, captions={str(k): f"a {k}" for k in range(10)})
    assert [texts[0][-1] for texts in seen[0].texts] == list("012345789")
    assert len(seen[0].images) == 9
    refused(ImageError, r"1 of 1 images", source, [ten / "6.png"], skip_unreadable=True)


def test_an_unreadable_array_is_named_by_its_place(source):
    refused(ImageError, r"image 1: .*float values", source, [pictures(1)[0], np.full((64, 64, 3), 99.0)])


def test_a_model_without_a_text_encoder_is_refused(source, model, tmp_path, no_type_checker):
    shutil.rmtree(model / "text_encoder")
    refused(MissingFileError, r"no text_encoder/ in", model)
    backbone = tadp.TADPBackbone.from_pretrained(source)
    bare = tadp.TADPBackbone(vae=backbone.vae, unet=backbone.unet, attach_attention=())
    bare.save_pretrained(tmp_path / "bare")
    refused(ModelError, r"was saved without its text encoder", tmp_path / "bare")
    refused(TypeError, r"the model must be a folder or a hub id.*TADPBackbone", bare)


def test_a_model_that_predicts_something_else_is_refused(tmp_path):
    refused(ModelError, r"says 'sample'; the prediction must be", build_model(tmp_path / "sd", prediction="sample"))


def test_a_model_without_a_decoder_learns_without_samples(source, tmp_path):
    tadp.TADPBackbone.from_pretrained(source).save_pretrained(tmp_path / "sd")
    refused(
        MissingFileError, r"has no decoder.*sample_every=0", tmp_path / "sd", output=tmp_path / "out", sample_every=1
    )
    learn(tmp_path / "sd", pictures(), **QUICK, output=tmp_path / "out")


def test_8_bit_adam_without_bitsandbytes_says_what_to_install(source, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.optim", None)
    refused(MissingExtraError, r"8-bit Adam needs bitsandbytes.*pip install -U bitsandbytes", source, adam_8bit=True)


def broken_after(monkeypatch, step):
    """Make the loss NaN from a given step on."""
    losses = loop._losses

    def broken(model, draws, now, options):
        for part in losses(model, draws, now, options):
            yield part * float("nan") if now >= step else part

    monkeypatch.setattr(loop, "_losses", broken)


def test_a_loss_that_is_not_finite_stops_with_the_step_and_keeps_the_checkpoint(source, tmp_path, monkeypatch):
    settings = QUICK | {"steps": 8, "checkpoint_every": 2, "output": tmp_path}
    whole = learn(source, pictures(), **settings | {"output": None})
    with monkeypatch.context() as patch:
        broken_after(patch, 5)
        refused(
            ModifierError,
            r"the loss is nan in step 6.*The checkpoint of step 4 is kept in .*smaller learning rate than 0.01, "
            r"or float32 for the whole model. Both make it another run: pass another output, or resume=False\.",
            source,
            **settings,
        )
    assert not (tmp_path / "modifier.json").exists()
    assert torch.equal(embedding_of(learn(source, pictures(), **settings)), embedding_of(whole))
    with monkeypatch.context() as patch:
        broken_after(patch, 0)
        refused(ModifierError, r"step 1, so .*No output was passed", source)


def test_a_gradient_that_is_not_finite_stops_too(source, monkeypatch):
    losses = loop._losses
    monkeypatch.setattr(loop, "_losses", lambda *a: (part + (part - part.detach()).abs().sqrt() for part in losses(*a)))
    refused(ModifierError, r"the gradient is (nan|inf) in step 1", source)


def test_an_output_that_cannot_take_a_checkpoint_is_refused_before_training(source, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    usage, needed = shutil.disk_usage(tmp_path), 3 * 4 * WIDTH  # the vector and Adam's two means
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_losses", lambda *a: pytest.fail("trained"))
        refused(OutputError, r"cannot write .*file: File exists. Choose another", source, output=tmp_path / "file")
        patch.setattr(loop.shutil, "disk_usage", lambda folder: usage._replace(free=needed - 1))
        refused(OutputError, r"a checkpoint takes 0.0 MB, but .*out has .* left. Free", source, output=tmp_path / "out")
    assert (tmp_path / "file").read_text() == "mine"
    for free in (needed, 0):  # a run that is finished writes no checkpoint
        monkeypatch.setattr(loop.shutil, "disk_usage", lambda folder, free=free: usage._replace(free=free))
        learn(source, pictures(), **QUICK, output=tmp_path / "out")


def test_a_full_disk_keeps_the_last_checkpoint(source, tmp_path):
    settings = QUICK | {"steps": 2, "checkpoint_every": 2, "output": tmp_path}
    learn(source, pictures(), **settings)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        refused(
            OutputError, r"cannot write .*checkpoint.safetensors: .* Free some space", source, **settings | {"steps": 4}
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    longer = learn(source, pictures(), **settings | {"steps": 4})
    assert torch.equal(load_file(tmp_path / "learned_embeds.safetensors")["<wash>"], embedding_of(longer))
