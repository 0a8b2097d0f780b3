"""Depth models whose text is that of each image's own class, its kind of room."""

import dataclasses

import pytest
import torch
from builders import WIDTH, build_backbone, embeddings, images
from huggingface_hub import ModelCard

import tadp
from tadp import Conditioning, prompts
from tadp.datasets import RenderedScenes, collate
from tadp.errors import CaptionError, OptionError
from tadp.tasks import TADPForDepthEstimation, evaluate

ROOMS = ("kitchen", "living_room", "study")
ENCODINGS = ("class_names", "class_embeddings", "averaged_eos", "stored")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path))


def build(mode="averaged_eos", backbone=None, **options) -> TADPForDepthEstimation:
    torch.manual_seed(0)
    backbone = backbone or build_backbone(attach_attention=())
    options = {"prompt_classes": ROOMS, "own_class": True, "window_px": 64, "max_depth_m": 20.0} | options
    model = TADPForDepthEstimation(backbone, prompt_mode=mode, **options).eval()
    with torch.no_grad():  # a new head predicts the same depth everywhere
        for parameter in model.head.parameters():
            parameter.normal_(std=0.1)
    if mode == "stored":
        model.store_text(Conditioning(embeddings(1, len(model.prompt_classes))))
    return model


def text_of(mode: str, room: str, backbone) -> str | list[str] | Conditioning:
    """The text of one room, made without `ModelText`."""
    if mode == "class_names":
        return prompts.class_names([room])
    if mode == "class_embeddings":
        return prompts.class_embeddings([room], backbone)
    if mode == "averaged_eos":
        return prompts.averaged_eos([room], backbone)
    return Conditioning(embeddings(1, len(ROOMS))[:, ROOMS.index(room)][:, None])


@torch.no_grad()
@pytest.mark.parametrize("mode", ENCODINGS)
def test_each_image_only_gets_the_text_of_its_own_room(mode):
    model, pixels = build(mode).double(), images(3, 64, 64).double()
    rooms = ["study", "living_room", "living room"]
    depth_m = model(pixels, rooms).depth_m
    for number, room in enumerate(("study", "living_room", "living_room")):
        features = model.backbone(pixels[number : number + 1], text_of(mode, room, model.backbone))
        torch.testing.assert_close(depth_m[number], model.head(features)[0], rtol=0, atol=1e-9)
    differences = (model(pixels, "kitchen").depth_m - depth_m).abs().amax(dim=(1, 2))
    assert (differences > 1e-6).all()
    torch.testing.assert_close(model.predict(pixels[:1], "study").depth_m.double(), depth_m[0], rtol=1e-6, atol=1e-6)
    assert model.predict(pixels[:1], "study").caption == "study"


@torch.no_grad()
@pytest.mark.parametrize("mode", ENCODINGS)
def test_a_saved_model_takes_the_room_too(mode, tmp_path):
    model, pixels = build(mode, default_class="study"), images(1, 64, 64)
    model.save_pretrained(tmp_path / "model")
    loaded = TADPForDepthEstimation.from_pretrained(tmp_path / "model")
    assert loaded.options == model.options
    assert loaded.options["own_class"] is True
    for room in ROOMS:
        assert torch.equal(loaded.predict(pixels, room).depth_m, model.predict(pixels, room).depth_m)
    assert loaded.predict(pixels).caption == "study"
    assert 'caption="kitchen"' in str(ModelCard.load(tmp_path / "model" / "README.md"))


def test_the_attention_of_a_room_has_as_many_channels_as_the_longest_name():
    with torch.no_grad():
        for mode, length in (("averaged_eos", 1), ("class_embeddings", 10)):  # this tokenizer has one token per letter
            model = build(mode, build_backbone(attach_attention=(1,), text_length=length))
            attention = model.features(images(2, 64, 64), ["study", "living_room"]).attention
            assert attention is not None
            assert [len(names) for names in attention.tokens] == [length, length]
            torch.testing.assert_close(attention.at(1).sum(dim=1), torch.ones(2, *attention.at(1).shape[2:]))


def test_a_missing_or_unknown_room_is_refused_with_the_names():
    model = build()
    for use in (model, model.predict):
        with pytest.raises(CaptionError, match=r"needs the class of each image, such as caption='kitchen'; it is one"):
            use(images(1, 64, 64))
        with pytest.raises(CaptionError, match=r"'attic' is not a class of this model's text; one of kitchen, living_"):
            use(images(1, 64, 64), "attic")
    with pytest.raises(CaptionError, match=r"3 images but 2 texts"):
        model(images(3, 64, 64), ["study", "kitchen"])
    with pytest.raises(tadp.errors.ModelError, match=r"text is 'averaged_eos' of the class of each image; it takes no"):
        model.attach_captioner("tadp-tiny")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "captions"}, r"own_class=True|own_class needs a text that is made of class names.*got 'captions'"),
        ({"mode": "null"}, r"own_class needs a text that is made of class names.*got 'null'"),
        ({"prompt_classes": ()}, r"'averaged_eos' needs class names; pass them as prompt_classes="),
        ({"mode": "stored", "prompt_classes": ()}, r"'stored' needs class names; pass them as prompt_classes="),
        ({"prompt_classes": ("a_b", "a b")}, r"class names must be unique; 'a b' is class 0 and 1"),
        ({"default_class": "attic"}, r"default_class must be one of the class names; got 'attic'"),
        ({"own_class": False, "default_class": "study"}, r"default_class must be one of the class names"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        build(**options)
    assert options.get("mode") not in ("captions", "null") or isinstance(caught.value, OptionError)


def test_a_stored_text_needs_one_embedding_per_room():
    with pytest.raises(ValueError, match=r"one embedding per class, here 3; got 2"):
        build("stored").store_text(Conditioning(embeddings(1, 2)))


class Seen(TADPForDepthEstimation):
    """A model that records what `predict` is called with."""

    def predict(self, image, caption=None, **options):
        self.seen = [*getattr(self, "seen", []), caption]
        return super().predict(image, caption, **options)


def test_evaluation_takes_the_room_from_the_sample_or_from_a_table():
    scenes = RenderedScenes(3, seed=7, size=64)
    assert [sample.room for sample in scenes] == [scene.layout.background for scene in scenes.scenes]
    model = Seen(
        build_backbone(attach_attention=()),
        prompt_mode="averaged_eos", prompt_classes=scenes.room_names, own_class=True, window_px=64, max_depth_m=20.0,
    )  # fmt: skip
    evaluate(model, scenes)
    evaluate(model, scenes, captions="captioner")
    rooms = [sample.room for sample in scenes]
    assert model.seen == rooms * 2
    table = dict(zip(scenes.image_ids, ["street", "snow", "grass"], strict=True))
    evaluate(model, RenderedScenes(3, seed=7, size=64, captions=table))
    evaluate(model, [dataclasses.replace(scenes[0], room=None, caption="street")])
    assert model.seen[6:] == ["street", "snow", "grass", "street"]
    with pytest.raises(CaptionError, match=r"' is not a class of this model's text"):
        evaluate(model, [dataclasses.replace(scenes[0], room=None)])


def test_a_batch_has_its_rooms_for_training():
    scenes = RenderedScenes(2, seed=7, size=64)
    batch = collate(scenes[:])
    model = build(prompt_classes=scenes.room_names)
    assert batch.rooms == [scene.layout.background for scene in scenes.scenes]
    loss = model(batch.images, batch.rooms, batch.depth_m).loss
    assert loss is not None
    loss.backward()
    assert collate([scenes[0], dataclasses.replace(scenes[1], room=None)]).rooms is None


def test_the_adapter_trains_on_the_rooms():
    model = build("stored", build_backbone(attach_attention=(), text_adapter=True))
    loss = model(images(2, 64, 64), ["study", "kitchen"], torch.full((2, 64, 64), 3.0)).loss
    assert loss is not None
    loss.backward()
    assert model.backbone.text_adapter is not None
    assert model.backbone.text_adapter.gate.grad is not None
    assert model.backbone.text_adapter.gate.grad.shape == (WIDTH,)
