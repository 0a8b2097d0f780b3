"""Input that the task models refuse before any work, and values that must survive saving after a long training run."""

import json

import numpy as np
import pytest
import torch
from builders import images

import tadp
from tadp.errors import CaptionError, CorruptFileError, ImageError, ModelError
from tadp.heads import DepthHead
from tadp.tasks import TADPForDepthEstimation, TADPForObjectDetection, TADPForSemanticSegmentation, TaskModel


def segmenter(**options) -> TADPForSemanticSegmentation:
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    small = {"fpn_channels": 4, "channels": 4}
    options = {
        "class_names": ["background", "dog"],
        "window_px": 64,
        "head_options": small,
        "tune": "nothing",
    } | options
    return TADPForSemanticSegmentation(backbone, **options)


def depther(**options) -> TADPForDepthEstimation:
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny", attach_attention=())
    return TADPForDepthEstimation(backbone, **({"tune": "nothing", "head_options": {"channels": 4}} | options))


def detector() -> TADPForObjectDetection:
    small = {"channels": 4, "hidden_channels": 4}
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    return TADPForObjectDetection(backbone, class_names=["dog"], head_options=small)


@pytest.mark.usefixtures("no_type_checker")
@pytest.mark.parametrize("make", [segmenter, depther, detector])
def test_several_images_are_refused_before_anything_is_predicted(make, monkeypatch):
    model: TaskModel = make()

    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(model, "features", never)
    with pytest.raises(TypeError, match=r"predict takes one image; got a list of 2. Call it once per image"):
        model.predict(["a.jpg", "b.jpg"], "a dog")
    with pytest.raises(ImageError, match=r"predict takes one image; got a batch of 2. Call it once per image"):
        model.predict(images(2, 64, 64), "a dog")


# Saving after a long training run


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), torch.tensor(0.5), torch.tensor([0.5])])
def test_figures_of_numpy_and_torch_are_kept(number, tmp_path):
    segmenter().save_pretrained(tmp_path / "kept", model_card_kwargs={"metrics": {"mIoU": number}})
    assert TADPForSemanticSegmentation.from_pretrained(tmp_path / "kept").record == {"metrics": {"mIoU": 0.5}}
    assert "| mIoU | 0.5 |" in (tmp_path / "kept/README.md").read_text()


@pytest.mark.parametrize(
    ("entries", "error", "message"),
    [
        (
            {"licence": "mit"},
            ValueError,
            r"a model card has the entries base_model, revision, data, license, notes and metrics; got 'licence'",
        ),
        ({"metrics": {"mIoU": "0.5"}}, TypeError, r"metrics must be numbers by name; 'mIoU' is of type str"),
        ({"metrics": 0.5}, TypeError, r"metrics must be numbers by name, such as .*; got float"),
        ({"metrics": {"IoU": {"dog": 0.5}}}, TypeError, r"metrics must be numbers by name; 'IoU' is of type dict"),
        ({"data": 3}, TypeError, r"data of a model card must be a string; got int"),
    ],
)
def test_a_card_that_cannot_be_written_is_refused_and_forgotten(entries, error, message, tmp_path):
    model = segmenter()
    with pytest.raises(error, match=message):
        model.save_pretrained(tmp_path / "kept", model_card_kwargs=entries)
    assert not (tmp_path / "kept").exists()
    model.save_pretrained(tmp_path / "kept")  # the next try is not spoilt
    assert model.record == {}


@pytest.mark.usefixtures("no_type_checker")
def test_options_of_numpy_are_kept(tmp_path):
    model = depther(max_depth_m=np.float32(7.5), window_px=np.int64(64), head_options={"channels": np.int64(4)})
    model.save_pretrained(tmp_path / "kept")
    again = TADPForDepthEstimation.from_pretrained(tmp_path / "kept")
    assert isinstance(again.head, DepthHead)
    assert again.max_depth_m == again.head.max_depth_m == 7.5
    assert again.head_options == {"channels": 4}


# Options that a config lacks, or that are unknown


def edit(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["options"] = {k: v for k, v in (config["options"] | changes).items() if v is not None}
    path.write_text(json.dumps(config | {"tadp_version": "9.9"}))


def test_an_option_of_a_later_tadp_is_named(tmp_path):
    segmenter().save_pretrained(tmp_path)
    edit(tmp_path, boundary_loss=True)
    with pytest.raises(ModelError, match=r"has the option 'boundary_loss', which this tadp .*written by tadp 9.9"):
        TADPForSemanticSegmentation.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["class_names", "tune"])
def test_an_option_that_is_missing_is_named(name, tmp_path):
    segmenter().save_pretrained(tmp_path)
    edit(tmp_path, **{name: None})
    with pytest.raises(CorruptFileError, match=rf"lacks the option '{name}'. Get the model again"):
        TADPForSemanticSegmentation.from_pretrained(tmp_path)


@pytest.mark.usefixtures("no_type_checker")
def test_a_number_of_classes_is_no_list_of_names():
    with pytest.raises(TypeError, match=r"class_names must be a list of strings; got int"):
        segmenter(class_names=5)


def test_class_names_that_are_too_long_together_are_named_with_what_to_do():
    names = [f"a thing with a long description, number {number}" for number in range(20)]
    text = (
        r"^the 20 class names together do not fit the text encoder, which takes 77 tokens\. Use fewer or shorter names"
    )
    with pytest.raises(CaptionError, match=text + r", or pass prompt_mode='class_embeddings', which encodes each name"):
        segmenter(class_names=["background", *names], prompt_classes=names, prompt_mode="class_names")
