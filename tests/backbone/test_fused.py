"""`Fused` and `TimmMaps`: maps of a timm model next to those of a backbone."""

import copy

import pytest
import torch
import torch.nn.functional as F

import tadp
from tadp.backbone import Fused, TimmMaps
from tadp.errors import ModelError
from tadp.export.graph import ExportedBackbone
from tadp.features import FeatureInfo
from tadp.heads import LinearHead, SegmentationHead
from tadp.images import pad_to_multiple
from tadp.integrations import Pyramid
from tadp.integrations.timm import TimmFeatures

timm = pytest.importorskip("timm")
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # those of timm's vit_tiny_patch16_224
TEXT = "a dog"


def vit(patch: int = 14, **options):
    torch.manual_seed(0)
    sizes = {"patch_size": patch, "depth": 2, "embed_dim": 24, "num_heads": 2}
    options = {"features_only": True, "dynamic_img_size": True, "out_indices": [-1]} | sizes | options
    return timm.create_model("vit_tiny_patch16_224", **options)


def resnet(**options):
    torch.manual_seed(0)
    return timm.create_model("resnet18", features_only=True, **options)


@pytest.fixture(scope="module")
def tiny() -> tadp.TADPBackbone:
    return tadp.TADPBackbone.from_pretrained("tadp-tiny")


@pytest.fixture(scope="module")
def fused(tiny) -> Fused:
    return Fused(tiny, vit())


def picture(*size: int, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def scaled(level_map: torch.Tensor) -> torch.Tensor:
    return level_map / level_map.square().mean(dim=1, keepdim=True).sqrt()


def test_maps_of_a_timm_model_are_those_it_computes_of_padded_and_normalised_images():
    model = vit()
    features = TimmMaps(model)(picture(50, 70))
    padded = F.pad(picture(50, 70), (0, 0, 0, 6), mode="replicate")  # 56 is 4 patches of 14
    expected = model((padded - 0.5) / 0.5)[0]
    assert torch.allclose(features.maps[0], expected, atol=1e-6)
    assert features.image_size == (50, 70)
    assert features.cells == {0: (50 / 14, 70 / 14)}


def test_an_imagenet_model_gets_imagenet_pixels():
    model = resnet(out_indices=(1, 2))
    features = TimmMaps(model)(picture(64, 96))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = model((picture(64, 96) - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    for level_map, other in zip(features.maps, expected, strict=True):
        assert torch.allclose(level_map, other, atol=1e-5)


def test_a_level_is_followed_by_the_map_of_its_place(tiny, fused):
    """The patches of 14 pixels are read at the centres of the cells of 16 pixels, by plain bilinear sampling."""
    images = picture(112, 224, batch=1)
    own, joined = tiny(images, TEXT), fused(images, TEXT)
    assert fused.joined_strides == (16,)
    assert torch.equal(joined.maps[0], own.maps[0])
    assert torch.allclose(joined.maps[1][:, :141], scaled(own.maps[1]), atol=1e-5)
    patches = TimmMaps(vit())(images).maps[0]
    ys, xs = ((torch.arange(cells) * 16 + 8) / 14 - 0.5 for cells in (7, 14))
    grid = torch.stack(torch.meshgrid(2 * xs / 15, 2 * ys / 7, indexing="xy"), dim=-1)[None] - 1
    expected = F.grid_sample(patches, grid, align_corners=True)
    inner = (..., slice(2, -2), slice(2, -2))  # at the edges, resizing to fewer cells also smooths
    similarity = F.cosine_similarity(joined.maps[1][:, 141:][inner], expected[inner], dim=1)
    assert similarity.min() > 0.95


def test_patches_of_the_size_of_a_cell_are_joined_without_change(tiny):
    model = vit(16)
    images = picture(72, 100)  # the backbone pads to 128x128, and a cell of its level 1 ends outside
    joined = Fused(tiny, model, normalize=False)(images, TEXT)
    patches = model((pad_to_multiple(images, 16) - 0.5) / 0.5)[0]
    assert torch.allclose(joined.maps[1][:, 141:], patches, atol=1e-5)
    assert torch.equal(joined.maps[1][:, :141], tiny(images, TEXT).maps[1])


@pytest.mark.parametrize("size", [(64, 64), (50, 70), (9, 130)])
def test_shapes_are_those_of_feature_info(tiny, size):
    fused = Fused(tiny, resnet(out_indices=(1, 2, 4)))
    assert fused.joined_strides == (8, 8, 32)
    assert fused.feature_info == FeatureInfo((32 + 64 + 128, 141, 173 + 512, 128), (8, 16, 32, 64))
    features = fused(picture(*size), TEXT)
    for level_map, channels, stride in zip(
        features.maps, fused.feature_info.channels, fused.feature_info.reduction, strict=True
    ):
        assert level_map.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride))
        assert level_map.isfinite().all()


def test_each_source_has_the_same_weight_in_every_cell(fused):
    level_map = fused(picture(64, 64), TEXT).maps[1]
    for source in (level_map[:, :141], level_map[:, 141:]):
        assert torch.allclose(source.square().mean(dim=1), torch.tensor(1.0), atol=1e-4)


def test_strides_choose_the_levels(tiny):
    fused = Fused(tiny, vit(), strides=[32])
    assert fused.feature_info.channels == (32, 141, 173 + 24, 128)
    assert fused(picture(64, 64), TEXT, levels=(2,)).maps[0].shape[1] == 173 + 24


def test_a_level_that_nothing_joins_does_not_run_the_second_model(tiny):
    fused, calls = Fused(tiny, vit()), []
    fused.second.register_forward_hook(lambda *_: calls.append(1))
    fused(picture(64, 64), TEXT, levels=(0, 2))
    assert calls == []
    fused(picture(64, 64), TEXT, levels=(0, 1))
    assert calls == [1]


def test_heads_and_adapters_take_it(fused):
    images = picture(48, 80)
    features = fused(images, TEXT)
    for head in (SegmentationHead, LinearHead):
        assert head(fused.feature_info, num_classes=3)(features).shape == (2, 3, 48, 80)
    pyramid = Pyramid(fused, text=TEXT)
    for level_map, other in zip(pyramid(images), features.maps, strict=True):
        assert torch.allclose(level_map, other, atol=1e-5)
    adapter = TimmFeatures(fused, out_indices=(1,), text=TEXT)
    assert adapter.feature_info.channels() == [141 + 24]
    assert torch.allclose(adapter(images)[0], features.maps[1], atol=1e-5)


def test_a_task_model_trains_and_predicts(tiny):
    model = tadp.TADPForSemanticSegmentation(
        Fused(copy.deepcopy(tiny), vit()), class_names=["background", "dog"], window_px=64, head="linear"
    )
    model.train()(picture(64, 64), [TEXT, TEXT], torch.ones(2, 64, 64, dtype=torch.int64)).loss.backward()
    assert model.backbone.unet.conv_in.weight.grad is not None
    assert all(weight.grad is None for weight in model.backbone.second.parameters())
    assert not any(module.training for module in model.backbone.second.model.modules())
    assert model.predict(picture(80, 70, batch=1)[0], TEXT).class_map.shape == (80, 70)


def test_tiles_and_other_options_keep_the_second_model(fused):
    image = picture(64, 128, batch=1)[0]
    assert fused.tiled(image, TEXT, tile_px=64, overlap_px=0).maps[1].shape == (1, 165, 4, 8)
    other = fused.with_options(attach_attention=())
    assert other.feature_info.channels == (32, 64 + 24, 96, 128)
    assert other(image, TEXT).maps[1].shape[1] == 88


def test_the_backbone_itself_does_not_change(tiny):
    names = list(tiny.state_dict())
    fused = Fused(tiny, vit())
    assert list(tiny.state_dict()) == names
    assert fused.unet is tiny.unet
    assert {name for name in fused.state_dict() if name not in names} == {
        f"second.{name}" for name in fused.second.state_dict()
    }


def test_half_precision(tiny):
    fused = Fused(copy.deepcopy(tiny).to(torch.bfloat16), vit())
    assert fused.second.model.model.patch_embed.proj.weight.dtype == torch.bfloat16
    assert {level_map.dtype for level_map in fused(picture(64, 64), TEXT).maps} == {torch.bfloat16}


def test_what_has_no_place_for_the_second_model_is_refused(fused, tmp_path):
    with pytest.raises(ModelError, match="needs images"):
        fused.extract(torch.zeros(1, 4, 8, 8), TEXT)
    with pytest.raises(ModelError, match="state_dict"):
        fused.save_pretrained(tmp_path / "model")
    model = tadp.TADPForSemanticSegmentation(fused, class_names=["a", "b"], tune="nothing", head="linear")
    with pytest.raises(ModelError, match="state_dict"):
        model.save_pretrained(tmp_path / "task")
    assert not list((tmp_path / "task").glob("*"))
    with pytest.raises(ModelError, match="cannot be exported"):
        ExportedBackbone(fused)


def test_models_that_do_not_fit_are_refused(tiny):
    with pytest.raises(TypeError, match="features_only=True"):
        TimmMaps(timm.create_model("resnet10t"))
    with pytest.raises(ValueError, match="dynamic_img_size=True"):
        TimmMaps(vit(16, dynamic_img_size=False))
    with pytest.raises(ValueError, match="one entry per map"):
        Fused(tiny, vit(), strides=(8, 16))
    with pytest.raises(ValueError, match="no level has stride 14"):
        Fused(tiny, vit(), strides=(14,))
