"""UperNet and Mask2Former of transformers train with the backbone, and load from their files without the base model."""

import json
import shutil

import pytest
import torch
from builders import build_folder, images
from integrations import BATCH, CLASSES, pixel_loss, train
from transformers import AutoBackbone, AutoConfig, Mask2FormerConfig, UperNetConfig
from transformers import Mask2FormerForUniversalSegmentation as Mask2Former
from transformers import UperNetForSemanticSegmentation as UperNet

import tadp
from tadp.errors import CaptionError, ImageError, ModelError, UnknownModelError
from tadp.integrations.transformers import TADPConfig, TADPModel, register

register()
# These tests pass captions in conditioning() blocks, or look at shapes; test_call_text.py tests the warning.
pytestmark = pytest.mark.filterwarnings("ignore:built without text")
CAPTIONS = ["a dog", "a red cat"]
MASK2FORMER = {
    "num_labels": CLASSES, "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "num_queries": 6,
    "encoder_feedforward_dim": 16, "dim_feedforward": 16, "encoder_layers": 1, "decoder_layers": 2,
    "num_attention_heads": 2, "feature_strides": [8, 16, 32, 64], "common_stride": 8, "train_num_points": 64,
}  # fmt: skip


@pytest.fixture
def base(tmp_path):
    return build_folder(tmp_path / "sd")


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def build_upernet(base, **options):
    config = TADPConfig(
        base_model=str(base), out_indices=[0, 1, 2, 3], stride4="upsampled", stride4_channels=8, **options
    )
    return UperNet(UperNetConfig(backbone_config=config, num_labels=CLASSES, hidden_size=16, use_auxiliary_head=False))


def test_upernet_trains_and_comes_back_without_the_base(base, tmp_path):
    torch.manual_seed(0)
    model = build_upernet(base, backbone_options={"attach_attention": [1]})
    inner = model.backbone.pyramid.backbone
    fresh = tadp.TADPBackbone.from_pretrained(base).state_dict()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in inner.state_dict().items())  # not reset at random

    def logits(of):
        with of.backbone.pyramid.backbone.conditioning(CAPTIONS):
            return of(BATCH.images).logits

    losses = train(model, lambda: pixel_loss(logits(model)), lr=1e-2)
    assert losses[-1] < losses[0]
    assert not torch.equal(inner.unet.conv_in.weight, fresh["unet.conv_in.weight"])
    with torch.no_grad():
        expected = logits(model.eval())
    model.save_pretrained(tmp_path / "model")
    shutil.rmtree(base)
    again = UperNet.from_pretrained(tmp_path / "model")
    assert trainable(again) == trainable(model)
    assert again.backbone.pyramid.backbone.options == inner.options
    with torch.no_grad():
        torch.testing.assert_close(logits(again), expected, atol=1e-6, rtol=1e-5)
    assert again.backbone.channels == model.backbone.channels
    assert "stride4" in AutoConfig.from_pretrained(tmp_path / "model").backbone_config.stage_names


def test_mask2former_trains_and_comes_back(base, tmp_path):
    torch.manual_seed(0)
    model = Mask2Former(Mask2FormerConfig(backbone_config=TADPConfig(base_model=str(base)), **MASK2FORMER))
    classes = [mask.unique() for mask in BATCH.masks]
    targets = {
        "mask_labels": [
            (mask == labels[:, None, None]).float() for mask, labels in zip(BATCH.masks, classes, strict=True)
        ],
        "class_labels": classes,
    }

    def output(of, **labels):
        with of.model.pixel_level_module.encoder.pyramid.backbone.conditioning(CAPTIONS):
            return of(BATCH.images, **labels)

    losses = train(model, lambda: output(model, **targets).loss.squeeze(), lr=1e-3)
    assert losses[-1] < losses[0]
    with torch.no_grad():
        expected = output(model.eval())
    model.save_pretrained(tmp_path / "model")
    with torch.no_grad():
        again = output(Mask2Former.from_pretrained(tmp_path / "model"))
    for name in ("class_queries_logits", "masks_queries_logits"):
        torch.testing.assert_close(again[name], expected[name], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_stages_are_the_levels_of_the_backbone(base):
    config = TADPConfig(base_model=str(base), backbone_options={"levels": [1, 2]}, out_features=["stride32"])
    assert config.stage_names == ["stride16", "stride32"]
    model, pixels = AutoBackbone.from_config(config).eval(), images(1, 64, 96)
    with model.pyramid.backbone.conditioning("a dog"):
        (level_map,) = model(pixels).feature_maps
    expected = tadp.TADPBackbone.from_pretrained(base)(pixels, "a dog").maps[2]
    torch.testing.assert_close(level_map, expected, atol=1e-5, rtol=1e-5)
    assert not any("up_blocks.3" in name for name in trainable(model.train()))
    with pytest.raises(ValueError, match=r"no level 4; this backbone has levels 0 \(stride 8\)"):
        TADPConfig(base_model=str(base), backbone_options={"levels": [4]})


@torch.no_grad()
def test_a_backbone_is_had_from_auto_backbone_with_the_bases_weights(base, tmp_path):
    config = TADPConfig(base_model=str(base), out_features=["stride8", "stride32"], mean=[0.5] * 3, std=[0.5] * 3)
    model = AutoBackbone.from_config(config).eval()
    pixels = images(2, 64, 96)
    with model.pyramid.backbone.conditioning("a dog"):
        maps = model(2 * pixels - 1).feature_maps
        assert model(2 * pixels - 1, return_dict=False)[0][0].shape == maps[0].shape
        assert len(model(2 * pixels - 1, output_hidden_states=True).hidden_states) == 4
    expected = tadp.TADPBackbone.from_pretrained(base)(pixels, "a dog").maps
    for level_map, expected_map in zip(maps, (expected[0], expected[2]), strict=True):
        torch.testing.assert_close(level_map, expected_map, atol=1e-5, rtol=1e-5)
    assert model.channels == [level_map.shape[1] for level_map in maps]
    model.save_pretrained(tmp_path / "saved")
    again = TADPModel.from_pretrained(tmp_path / "saved")
    assert again.out_features == ["stride8", "stride32"]
    with again.pyramid.backbone.conditioning("a dog"):
        torch.testing.assert_close(again(2 * pixels - 1).feature_maps, maps, atol=1e-6, rtol=1e-5)
    assert len(json.loads((tmp_path / "saved" / "config.json").read_text())["parts"]["tokenizer"]["content"]) > 100


def test_what_cannot_be_is_refused(base):
    with pytest.raises(UnknownModelError, match=r"nowhere"):
        TADPConfig(base_model="/nowhere")
    with pytest.raises(ModelError, match=r"has no base model; pass one, as in TADPConfig\(base_model='tadp-tiny'\)"):
        TADPModel(TADPConfig())
    with pytest.raises(ValueError, match=r"out_features must be a subset of stage_names"):
        TADPConfig(base_model=str(base), out_features=["stride4"])
    model = TADPModel(TADPConfig(base_model=str(base)))
    with pytest.raises(ImageError, match=r"not in \[0, 1\]"):
        model(images(1, 64, 64) * 2 - 1)
    with model.pyramid.backbone.conditioning(CAPTIONS), pytest.raises(CaptionError, match=r"1 images but 2 captions"):
        model(images(1, 64, 64))


@pytest.mark.parametrize(
    ("part", "key", "value", "error"),
    [
        ("unet", "layers_per_block", 10**8, "this TADPConfig/unet: layers_per_block is 100000000, more than"),
        ("unet", "layers_per_block", 4000, "this TADPConfig does not describe a backbone: .*layers_per_block is 4000"),
        ("text_encoder", "hidden_size", 10**9, "this TADPConfig/text_encoder: hidden_size is 1000000000, more than"),
        (
            "vae",
            "block_out_channels",
            3,
            "this TADPConfig/vae: block_out_channels must be a list of whole numbers; got 3",
        ),
        ("tokenizer", "content", "no", "this TADPConfig does not describe a backbone"),
    ],
)
def test_sizes_in_a_config_are_limited_before_anything_is_built(part, key, value, error, base):
    parts = TADPConfig(base_model=str(base)).parts
    assert parts is not None
    with pytest.raises(ModelError, match=error):
        TADPModel(TADPConfig(parts=parts | {part: parts[part] | {key: value}}))
