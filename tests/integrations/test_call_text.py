"""In trainers that call a model with images only, the text arrives, is saved, and is there after reload."""

import sys
import warnings
from pathlib import Path

import pytest
import torch
from builders import build_backbone, build_folder, images
from integrations import BATCH, CLASSES, module
from torch import nn
from transformers import Trainer, TrainingArguments, UperNetConfig
from transformers import UperNetForSemanticSegmentation as UperNet

import tadp
from tadp.captions import CaptionTable
from tadp.errors import CaptionError, ModelError, UnknownIdError, UnknownModelError
from tadp.integrations import Pyramid
from tadp.integrations.timm import TimmFeatures
from tadp.integrations.timm import register as register_timm
from tadp.integrations.torchvision import DetectionBackbone
from tadp.integrations.transformers import TADPConfig, TADPModel, register

register()
CAPTIONS = ["a dog", "a red cat"]
PIXELS = images(2, 64, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_folder(tmp_path_factory.mktemp("base") / "sd")


@torch.no_grad()
def map_of(pyramid, text=None, pixels=PIXELS):
    """The map of level 1, which depends on the text."""
    if text is None:
        return pyramid(pixels)[1]
    with pyramid.backbone.conditioning(text):
        return pyramid(pixels)[1]


def smp_encoder(folder, **options):
    smp = __import__("segmentation_models_pytorch")
    module("smp").register(folder, name="tadp_text", **options)
    return smp.encoders.get_encoder("tadp_text", weights=None).pyramid


def registered_timm(folder, **options):
    register_timm(tadp.TADPBackbone.from_pretrained(folder), name="tadp_text", **options)
    return __import__("timm").create_model("tadp_text", features_only=True).pyramid


def built_by_detectron2(folder, **options):
    module("detectron2").register(tadp.TADPBackbone.from_pretrained(folder), **options)
    return sys.modules["detectron2.modeling"].BACKBONE_REGISTRY["build_tadp_backbone"](None, None).pyramid


def built_by_mmseg(folder, **options):
    module("mmseg").register()
    config = {"type": "TADP", "base_model": str(folder), **options}
    return sys.modules["mmseg.registry"].MODELS.build(config).pyramid


ADAPTERS = {
    "Pyramid": lambda folder, **options: Pyramid(tadp.TADPBackbone.from_pretrained(folder), **options),
    "timm": lambda folder, **options: TimmFeatures(tadp.TADPBackbone.from_pretrained(folder), **options).pyramid,
    "timm's registry": registered_timm,
    "torchvision": lambda folder, **options: (
        DetectionBackbone(tadp.TADPBackbone.from_pretrained(folder), **options).pyramid
    ),
    "transformers": lambda folder, **options: TADPModel(TADPConfig(base_model=str(folder), **options)).pyramid,
    "smp": smp_encoder,
    "detectron2": built_by_detectron2,
    "mmseg": built_by_mmseg,
}


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_without_text_warns_and_the_three_kinds_of_text_reach_the_backbone(
    adapter, folder, detectron2, mmseg, tmp_path
):
    build = ADAPTERS[adapter]
    with pytest.warns(UserWarning, match=r"built without text: .* get the empty prompt. Pass captioner=, captions= or"):
        plain = build(folder)
    table = CaptionTable(zip(plain.digests(PIXELS), CAPTIONS, strict=True))
    table.to_json(tmp_path / "captions.json")
    listed = build(folder, captions=str(tmp_path / "captions.json"))  # warnings are errors here
    level = len(listed.feature_info) - 3 if adapter != "smp" else 2  # level 1; smp's pyramid has a map at stride 4
    expected = plain.backbone(PIXELS, CAPTIONS).maps[1]
    torch.testing.assert_close(listed(PIXELS)[level], expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(CaptionError, match=r"have none for 1 of these 2 images. .* pyramid.digests\(images\)"):
        listed(torch.stack([PIXELS[0], PIXELS[1].flip(1)]))
    assert build(folder, text="a dog").backbone.default_text == "a dog"
    with pytest.raises(UnknownModelError, match="nowhere"):
        build(folder, captioner="/nowhere")


@torch.no_grad()
def test_the_three_kinds_of_text_give_the_features_of_their_captions(backbone):
    fixed = Pyramid(backbone, text="a dog")
    assert torch.equal(fixed(PIXELS)[1], backbone(PIXELS, "a dog").maps[1])
    table = CaptionTable(zip(fixed.digests(PIXELS), CAPTIONS, strict=True))
    assert torch.equal(Pyramid(backbone, captions=table)(PIXELS)[1], backbone(PIXELS, CAPTIONS).maps[1])
    captioner = tadp.Captioner.from_pretrained("tadp-tiny")
    expected = backbone(BATCH.images, captioner(BATCH.images)).maps[1]
    for described in (Pyramid(backbone, captioner=captioner), Pyramid(backbone, captioner="tadp-tiny")):
        assert torch.equal(described(BATCH.images)[1], expected)
        assert torch.equal(map_of(described, "a dog"), fixed(PIXELS)[1])  # a block goes first


def test_a_backbone_that_already_has_a_text_does_not_warn(backbone):
    Pyramid(build_backbone(default_text=None))  # a call without text is an error
    Pyramid(build_backbone(default_text="a dog"))
    Pyramid(build_backbone().attach_captioner(lambda pixels: ["a dog"] * len(pixels)))
    Pyramid(backbone, text="")
    assert backbone.captioner is None  # the text belongs to the pyramid, not to the shared backbone
    assert backbone.default_text == ""


@pytest.mark.parametrize("kind", ["text", "captions", "captioner"])
def test_a_state_dict_holds_the_text(kind, backbone):
    table = CaptionTable(zip(Pyramid(backbone, text="").digests(PIXELS), CAPTIONS, strict=True))
    captioner = tadp.Captioner.from_pretrained("tadp-tiny", max_new_tokens=6)
    options = {kind: {"text": "a dog", "captions": table, "captioner": captioner}[kind]}
    saved = Pyramid(backbone, **options)
    model = nn.ModuleDict({"outer": saved})
    with pytest.warns(UserWarning, match="built without text"):
        again = Pyramid(build_backbone())
    state = model.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())  # safetensors holds nothing else
    nn.ModuleDict({"outer": again}).load_state_dict(state)
    assert torch.equal(map_of(again), map_of(saved))
    assert again.state_dict().keys() == saved.state_dict().keys()
    other = Pyramid(build_backbone(), text="a cat")
    with pytest.warns(UserWarning, match=r"was saved with .*, but this pyramid was built with the text 'a cat'"):
        other.load_state_dict(saved.state_dict())
    assert torch.equal(map_of(other), map_of(saved, "a cat"))
    with_text = Pyramid(build_backbone(), text="a dog")
    with_text.load_state_dict(Pyramid(build_backbone(default_text="a dog")).state_dict())  # an older file has no text
    saved.load_state_dict(saved.state_dict())  # the same text: no warning


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (b"{", r"is not JSON"),
        (b"[]", r"must be a JSON object; got \[\]"),
        (b'{"text": 5}', r"text must be .*; got 5"),
        (b'{"captioner": {"name": "x", "trust": 1}}', r"captioner must have no entry 'trust'"),
        (b'{"captioner": {"name": 5}}', r"captioner must have a string as its name; got 5"),
    ],
)
def test_a_text_that_cannot_be_is_refused_when_it_is_loaded(state, message, backbone):
    pyramid = Pyramid(backbone, text="a dog")
    tensors = pyramid.state_dict() | {"_extra_state": torch.frombuffer(bytearray(state), dtype=torch.uint8)}
    with pytest.raises(ModelError, match=message):
        Pyramid(build_backbone(default_text=None)).load_state_dict(tensors)


def test_what_cannot_be_saved_is_refused_when_the_adapter_is_built(no_type_checker, backbone):
    loaded = tadp.Captioner.from_pretrained("tadp-tiny")
    unnamed = tadp.Captioner(loaded._model, loaded._processor, name="mine")
    for captioner in (unnamed, lambda pixels: ["a dog"]):
        with pytest.raises(TypeError, match=r"a Captioner that was loaded by its name, .* what is saved"):
            Pyramid(backbone, captioner=captioner)
    with pytest.raises(ValueError, match=r"pass one of captioner, captions and text; got captions and text"):
        Pyramid(backbone, captions={"a": "a dog"}, text="a dog")
    with pytest.raises(TypeError, match=r"text must be one string for all images; got list"):
        Pyramid(backbone, text=["a dog"])
    with pytest.raises(CaptionError, match=r"no such file: nowhere.json"):
        Pyramid(backbone, captions="nowhere.json")
    with pytest.raises(TypeError, match=r"captions must be a CaptionTable, .*; got list"):
        Pyramid(backbone, captions=["a dog"])


def test_smps_models_come_back_with_their_text(folder, tmp_path):
    smp = __import__("segmentation_models_pytorch")
    module("smp").register(folder, name="tadp_text", text="a dog")
    model = smp.Unet("tadp_text", encoder_weights=None, classes=CLASSES).eval()
    model.save_pretrained(tmp_path / "model")
    module("smp").register(folder, name="tadp_text")  # as in another process, which does not know the text
    with pytest.warns(UserWarning, match="built without text"):
        again = smp.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(PIXELS), model(PIXELS), atol=1e-5, rtol=1e-5)
    assert again.encoder.pyramid.backbone.default_text == "a dog"


def test_digests_are_those_of_the_pixels_without_normalisation(backbone):
    levels = (PIXELS * 255).round() / 255
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
    normalised = (levels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    digests = Pyramid(backbone, text="").digests(levels)
    assert Pyramid(backbone, text="", mean=mean, std=std).digests(normalised) == digests
    assert len({*digests, *Pyramid(backbone, text="").digests(levels.transpose(2, 3))}) == 4


# One recipe for each framework's own training loop


TABLE = {"left": "a dog", "right": "a red cat"}


def rows(count=2):
    """Rows of a data set: an id, an image larger than the crops, and its mask."""
    return [
        {"id": name, "image": image, "mask": mask}
        for name, image, mask in zip(list(TABLE)[:count], BATCH.images, BATCH.masks, strict=False)
    ]


def random_crops(batch):
    """A collator with random crops, which no digest could follow: the ids come along."""
    crops = []
    for row in batch:
        top, left = torch.randint(0, 17, (2,)).tolist()
        window = (..., slice(top, top + 48), slice(left, left + 48))
        crops.append((row["image"][window], row["mask"][window]))
    return {
        "pixel_values": torch.stack([image for image, _ in crops]),
        "labels": torch.stack([mask for _, mask in crops]),
        "image_ids": [row["id"] for row in batch],
    }


@pytest.fixture
def seen(monkeypatch):
    """The captions that each call of any backbone encodes."""
    calls, encode = [], tadp.TADPBackbone.encode_text
    monkeypatch.setattr(
        tadp.TADPBackbone, "encode_text", lambda self, text, **o: calls.append(list(text)) or encode(self, text, **o)
    )
    return calls


def test_transformers_trainer_takes_ids_from_the_collator(folder, tmp_path, seen, monkeypatch):
    # the tests' own folder "datasets" looks like that package
    monkeypatch.setattr("transformers.trainer.is_datasets_available", lambda: False)
    config = TADPConfig(base_model=str(folder), stride4="vae", out_indices=[0, 1, 2, 3], captions=TABLE)
    model = UperNet(UperNetConfig(backbone_config=config, num_labels=CLASSES, hidden_size=16, use_auxiliary_head=False))
    model.backbone.pyramid.read_text(model)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=2, remove_unused_columns=False, report_to="none",
        use_cpu=True, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, data_collator=random_crops, train_dataset=rows(), eval_dataset=rows())
    trainer.train()
    assert {*seen[0], *seen[1]} == set(TABLE.values())
    seen.clear()
    trainer.evaluate()
    assert sorted(caption for captions in seen for caption in captions) == sorted(TABLE.values())
    trainer.save_model(str(tmp_path / "saved"))
    again = UperNet.from_pretrained(tmp_path / "saved")
    seen.clear()
    with again.backbone.pyramid.read_text(again):
        again(**random_crops(rows()))
    assert seen == [list(TABLE.values())]
    with pytest.raises(CaptionError, match=r"have none for 2 of these 2 images"):  # images only, and not by digest
        again(BATCH.images)


class Outer(nn.Module):
    """A model of another framework around a pyramid, called as its framework's trainer calls it."""

    def __init__(self, pyramid, read):
        super().__init__()
        self.pyramid, self.read = pyramid, read

    def forward(self, *args, **kwargs):
        return self.pyramid(self.read(*args, **kwargs))


def detectron2_rows():
    return [{"image": row["image"], "image_id": row["id"], "file_name": f"/data/{row['id']}.jpg"} for row in rows()]


class DataSample:
    def __init__(self, name):
        self.img_path = f"/data/{name}.png"


@pytest.mark.parametrize(
    ("read", "find", "call"),
    [
        (  # detectron2: a model is called with the rows of the mapper
            lambda batched_inputs: torch.stack([row["image"] for row in batched_inputs]),
            {"image_ids": lambda batched_inputs: [row["image_id"] for row in batched_inputs]},
            lambda model: model(detectron2_rows()),
        ),
        (  # mmengine: a model is called with inputs, data samples and a mode
            lambda inputs, data_samples, mode: inputs,
            {"image_ids": lambda inputs, data_samples, mode: [Path(sample.img_path).stem for sample in data_samples]},
            lambda model: model(inputs=BATCH.images, data_samples=[*map(DataSample, TABLE)], mode="loss"),
        ),
        (  # torchvision: targets have an image_id
            lambda images, targets=None: torch.stack(images),
            {"captions": lambda images, targets=None: targets and [TABLE[target["image_id"]] for target in targets]},
            lambda model: model(list(BATCH.images), [{"image_id": name} for name in TABLE]),
        ),
        (  # a loader of timm or a LightningModule: keyword arguments
            lambda x: x,
            {},
            lambda model: model(x=BATCH.images, captions=list(TABLE.values())),
        ),
    ],
    ids=["detectron2", "mmseg", "torchvision", "keywords"],
)
def test_captions_in_the_arguments_of_other_trainers(read, find, call, seen):
    pyramid = Pyramid(build_backbone(), captions=TABLE)
    model = Outer(pyramid, read)
    hooks = pyramid.read_text(model, **find)
    call(model)
    call(model)
    assert seen == [list(TABLE.values())] * 2
    hooks.close()
    with pytest.raises((CaptionError, TypeError), match=r"have none for 2 of these 2 images|argument 'captions'"):
        call(model)


def test_a_call_that_fails_leaves_no_text_behind(backbone, seen):
    pyramid = Pyramid(build_backbone(), text="a cat")
    model = Outer(pyramid, lambda x: x)
    pyramid.read_text(model)
    with pytest.raises(CaptionError, match=r"2 images but 1 captions"):
        model(PIXELS, captions=["a dog"])
    with pytest.raises(CaptionError, match=r"has image_ids, but the adapter has no table; build it with captions="):
        model(PIXELS, image_ids=["left", "right"])
    model(PIXELS)
    assert seen == [["a cat"]]
    listed = Pyramid(build_backbone(), captions={"7": "a dog"})
    model = Outer(listed, lambda x: x)
    listed.read_text(model)
    model(PIXELS[:1], image_ids=torch.tensor([7]))  # ids of COCO are numbers
    assert seen[-1] == ["a dog"]
    with pytest.raises(UnknownIdError, match=r"has no image '8'"):
        model(PIXELS[:1], image_ids=[8])


def test_a_captioner_of_a_saved_model_is_loaded_when_it_is_first_used(folder, tmp_path):
    model = TADPModel(TADPConfig(base_model=str(folder), captioner="tadp-tiny")).eval()
    with torch.no_grad():
        expected = model(BATCH.images).feature_maps
    model.save_pretrained(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = TADPModel.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        for level, other in zip(again(BATCH.images).feature_maps, expected, strict=True):
            torch.testing.assert_close(level, other, atol=1e-5, rtol=1e-5)
