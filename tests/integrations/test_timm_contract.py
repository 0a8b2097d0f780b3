"""The backbone has what timm documents for feature extractors; every public name is tested or left out."""

import inspect
import json
import shutil

import pytest
import timm
import torch
from builders import build_backbone, images
from contracts import check_covered, is_at_least, public_names
from timm.models import FeatureDictNet, FeatureInfo, FeatureListNet

from tadp.integrations import Pyramid
from tadp.integrations.timm import register

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def backbone():
    return build_backbone(default_text="a dog")


@pytest.fixture(scope="module", autouse=True)
def registered(backbone):
    register(Pyramid(backbone, mean=MEAN, std=STD), name="tadp_contract")


def create(**options):
    return timm.create_model("tadp_contract", features_only=True, **options).eval()


@torch.no_grad()
@pytest.mark.parametrize("indices", [None, (0, 2), -1, 2, (-2, -1)])
def test_maps_have_the_channels_and_strides_of_feature_info(indices):
    if indices == -1:
        indices = (-1,)
    model = create(out_indices=indices)
    maps = model(images(2, 64, 128))
    info = model.feature_info
    assert len(maps) == len(info.channels()) == len(info.reduction()) == len(info.out_indices)
    for level, channels, stride in zip(maps, info.channels(), info.reduction(), strict=True):
        assert level.shape == (2, channels, 64 // stride, 128 // stride)
        assert level.isfinite().all()


def test_feature_info_answers_in_all_of_timms_ways():
    info = create(out_indices=(1, 3)).feature_info
    assert isinstance(info, FeatureInfo)
    assert len(info) == 4
    assert info.module_name() == info.get("module") == ["stride16", "stride64"]
    assert info.get("reduction", [0, 1]) == [info[0]["reduction"], info[1]["reduction"]] == [8, 16]
    assert info.get("num_chs", 2) == info.channels(2) == info[2]["num_chs"]
    assert [stage["index"] for stage in info.get_dicts()] == [1, 3]
    assert info.get_dicts(keys=["reduction"], idx=0) == {"reduction": 8}
    assert info.from_other((0,)).reduction() == [8]
    assert info.from_other(2).out_indices == (-2, -1)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["list", "hook", "fx", "getter", FeatureListNet])
def test_each_feature_class_that_returns_a_list_returns_the_same_list(kind):
    pixels = images(1, 64, 64)
    expected = create(out_indices=(0, 2))(pixels)
    maps = create(out_indices=(0, 2), feature_cls=kind)(pixels)
    assert isinstance(maps, list)
    assert all(torch.equal(level, other) for level, other in zip(maps, expected, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["dict", FeatureDictNet])
def test_the_feature_class_dict_names_maps_by_their_numbers(kind):
    pixels = images(1, 64, 64)
    maps = create(out_indices=(0, 2), feature_cls=kind)(pixels)
    own = timm.create_model("resnet10t", features_only=True, out_indices=(0, 2), feature_cls="dict")
    assert list(maps) == list(own(pixels)) == ["0", "2"]
    assert torch.equal(maps["2"], create(out_indices=(2,))(pixels)[0])


def test_an_unknown_feature_class_is_refused():
    with pytest.raises(ValueError, match=r"feature_cls must be list, dict, hook, fx or getter; got 'tree'"):
        create(feature_cls="tree")


def test_the_description_is_that_of_timms_models():
    model = create(pretrained=True)
    assert model.default_cfg is model.pretrained_cfg
    assert model.pretrained_cfg["architecture"] == "tadp_contract"
    config = timm.data.resolve_model_data_config(model)
    assert (config["mean"], config["std"], config["input_size"]) == (MEAN, STD, (3, 64, 64))
    own = timm.create_model("resnet10t", features_only=True)
    assert {"architecture", "input_size", "mean", "std", "first_conv"} <= own.pretrained_cfg.keys()
    assert model.output_fmt == own.output_fmt


def test_gradient_checkpointing_switches_on_and_off():
    model = create()
    assert not model.grad_checkpointing
    model.set_grad_checkpointing()
    assert model.grad_checkpointing
    model.set_grad_checkpointing(False)
    assert not model.grad_checkpointing


saves_arguments = pytest.mark.skipif(not is_at_least("timm", "1.0.31"), reason="timm does not save a model's arguments")


@saves_arguments
def test_a_model_comes_back_from_timms_folder(backbone, tmp_path):
    model = create(out_indices=(1, 2), feature_cls="dict")
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert (saved["architecture"], saved["num_features"]) == ("tadp_contract", model.feature_info.channels()[-1])
    register(Pyramid(build_backbone(seed=1), mean=MEAN, std=STD, text="a cat"), name="tadp_contract")
    other = timm.create_model(f"local-dir:{tmp_path}").eval()
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    pixels = torch.zeros(1, 3, 64, 64)
    with torch.no_grad(), again.pyramid.backbone.conditioning("a dog"):
        maps, expected = again(pixels), model(pixels)
    assert list(maps) == ["1", "2"]
    assert all(torch.equal(maps[name], expected[name]) for name in expected)
    assert other.pyramid is again.pyramid  # the weights of all models with a name are the same
    register(Pyramid(backbone), name="tadp_contract")
    with pytest.raises(ValueError, match=r"takes pixels of mean \(0.485, .*; register a Pyramid with mean="):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    register(Pyramid(backbone, mean=MEAN, std=STD), name="tadp_contract")


@saves_arguments
def test_a_model_is_pushed_and_loaded_from_the_hub(tmp_path, monkeypatch):
    """The hub is a folder here."""
    hub, api, uploaded = timm.models._hub, timm.models._hub.HfApi, tmp_path / "hub"
    monkeypatch.setattr(api, "create_repo", lambda *_, **options: type("Repo", (), {"repo_id": "owner/tadp"}))
    monkeypatch.setattr(api, "file_exists", lambda *_, **options: False)
    monkeypatch.setattr(api, "upload_folder", lambda *_, folder_path, **options: shutil.copytree(folder_path, uploaded))
    timm.models.push_to_hf_hub(create(out_indices=(0, 1)), "owner/tadp", safe_serialization=True)
    assert sorted(path.name for path in uploaded.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    monkeypatch.setattr(hub, "hf_hub_download", lambda repo_id, filename, **options: str(uploaded / filename))
    again = timm.create_model("hf-hub:owner/tadp", pretrained=True)
    assert again.feature_info.reduction() == [8, 16]


def test_arguments_of_create_model_do_what_they_say():
    parameters = inspect.signature(timm.create_model).parameters
    options = {"scriptable": False, "exportable": False, "no_jit": True}
    assert create(**options, cache_dir="unused", pretrained_cfg_overlay={"crop_pct": 1.0}).feature_info.reduction()
    check_covered(
        set(parameters) - {"kwargs"},
        written_for=("timm", "1.0.31"),
        tests=globals(),
        tested={
            "test_arguments_of_create_model_do_what_they_say": [*options, "cache_dir", "pretrained_cfg_overlay"],
            "test_maps_have_the_channels_and_strides_of_feature_info": ["model_name"],
            "test_a_model_comes_back_from_timms_folder": ["pretrained", "pretrained_cfg"],
        },
        left_out={"timm itself loads it into the model's state dict": ["checkpoint_path"]},
    )


def test_every_name_of_timms_interface_is_tested_or_left_out():
    created = timm.create_model("resnet10t", features_only=True)
    attributes = {name for name in vars(created) if not name.startswith("_")} - set(vars(torch.nn.Module()))
    names = public_names(FeatureInfo, FeatureListNet, FeatureDictNet) | attributes
    check_covered(
        names,
        written_for=("timm", "1.0.31"),
        tests=globals(),
        tested={
            "test_maps_have_the_channels_and_strides_of_feature_info": [
                "channels",
                "reduction",
                "feature_info",
                "forward",
            ],
            "test_feature_info_answers_in_all_of_timms_ways": ["from_other", "get", "get_dicts", "module_name"],
            "test_gradient_checkpointing_switches_on_and_off": ["set_grad_checkpointing", "grad_checkpointing"],
            "test_the_description_is_that_of_timms_models": ["default_cfg", "pretrained_cfg", "output_fmt"],
        },
        left_out={
            "a state of how timm rewrites a model into layers": ["return_layers"],
            "only for models whose layers return several tensors": ["concat"],
            "the VAE always takes three channels": ["in_chans"],
        },
    )
