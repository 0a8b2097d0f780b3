"""Behaviour that all heads share."""

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from builders_heads import (
    INFO,
    build_depth,
    build_detection,
    build_features,
    build_linear,
    build_maps,
    build_segmentation,
    build_smp,
    run_head,
)
from torch import Tensor, nn

import tadp
from tadp.features import FeatureInfo, Features
from tadp.heads import DepthHead, DetectionHead, LinearHead, SegmentationHead

MAKERS = [build_segmentation, build_smp, build_depth, build_linear, build_detection]
PIXELWISE = [build_segmentation, build_smp, build_depth, build_linear]
every_head = pytest.mark.parametrize("make", MAKERS)
pixelwise = pytest.mark.parametrize("make", PIXELWISE)
Maker = Callable[..., nn.Module]


def test_heads_are_reached_from_the_package():
    assert tadp.heads.SegmentationHead is SegmentationHead
    assert tadp.heads.DetectionHead is DetectionHead


def test_a_head_is_built_from_a_backbones_info_and_takes_its_features(backbone):
    features = backbone(torch.rand(2, 3, 40, 72), ["a dog", "a cat on grass"])
    info = backbone.feature_info
    assert SegmentationHead(info, num_classes=3, channels=8, fpn_channels=8)(features).shape == (2, 3, 40, 72)
    assert DepthHead(info, max_depth_m=10.0, channels=2)(features).shape == (2, 40, 72)
    assert LinearHead(info, num_classes=3)(features).shape == (2, 3, 40, 72)
    assert len(DetectionHead(info, num_classes=3, channels=8, hidden_channels=8)(features)) == 2


@pixelwise
@pytest.mark.parametrize("size", [(128, 128), (97, 201), (8, 8), (65, 300), (1, 513), (500, 64)])
@pytest.mark.parametrize("batch", [1, 2])
def test_what_comes_out_has_the_size_of_the_images(make, size, batch):
    head = make().eval()
    features = build_features(*size, batch=batch)
    out = head(features)
    assert out.shape == (batch, *out.shape[1:-2], *size)
    assert out.isfinite().all()


@pixelwise
def test_maps_alone_come_out_at_the_finest_ones_size_times_its_stride(make):
    head = make().eval()
    out = head(build_maps(97, 201))
    assert out.shape[-2:] == (104, 208)
    cut = head(build_maps(97, 201), image_size=(97, 201))
    assert torch.equal(cut, head(build_features(97, 201)))


@pixelwise
def test_another_size_than_the_maps_are_of_stretches(make):
    head = make().eval()
    assert head(build_features(128, 128), image_size=(50, 300)).shape[-2:] == (50, 300)


@every_head
def test_the_gradient_reaches_every_map_and_every_parameter(make):
    torch.manual_seed(0)
    head = make()
    maps = [level_map.requires_grad_() for level_map in build_maps(256, 128)]
    run_head(head, maps).backward()
    for level_map in maps:
        assert level_map.grad is not None
        assert level_map.grad.abs().max() > 0
        assert level_map.grad.isfinite().all()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@every_head
@pytest.mark.parametrize("batch_of", ["maps", "features"])
def test_a_copy_a_pickle_and_a_state_dict_give_the_same_numbers(make, batch_of):
    head = make().eval()
    features = build_features(97, 64) if batch_of == "features" else build_maps(97, 64)
    fresh = make().eval()
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter += 1
    fresh.load_state_dict(head.state_dict(), strict=True)
    expected = outputs(head, features)
    for copied in (copy.deepcopy(head), pickle.loads(pickle.dumps(head)), fresh):
        for output, wanted in zip(outputs(copied, features), expected, strict=True):
            assert torch.equal(output, wanted)


def outputs(head: nn.Module, features: Features | list[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        out = head(features)
    if isinstance(out, Tensor):
        return [out]
    return [value for detected in out for value in (detected.boxes, detected.labels, detected.scores)]


@pixelwise
def test_a_half_precision_head_is_close_to_a_full_one(make):
    maps = build_maps(97, 130)
    expected = make().eval()(maps)
    out = make().eval().bfloat16()(build_maps(97, 130, dtype=torch.bfloat16))
    assert out.dtype == (torch.float32 if make is build_depth else torch.bfloat16)
    error = (out.float() - expected).norm() / expected.norm()
    assert error < 0.03


@every_head
@pytest.mark.parametrize(
    ("of_maps", "of_head"), [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16), (torch.bfloat16,) * 2]
)
def test_maps_are_brought_to_the_heads_dtype_and_trained_through(make, of_maps, of_head):
    head = make().to(of_head)
    maps = [level_map.requires_grad_() for level_map in build_maps(128, 128, dtype=of_maps)]
    run_head(head, maps).backward()
    for level_map in maps:
        assert level_map.grad is not None
        assert level_map.grad.dtype == of_maps
        assert level_map.grad.isfinite().all()


@every_head
@pytest.mark.parametrize("of_maps", [torch.float32, torch.bfloat16])
def test_heads_run_and_train_under_autocast(make, of_maps):
    head = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = run_head(head, build_maps(128, 128, dtype=of_maps))
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in head.parameters())


@every_head
def test_in_evaluation_an_image_does_not_depend_on_the_others(make):
    head = make().eval()
    both = build_maps(97, 64)
    together, separate = outputs(head, both), outputs(head, [level_map[1:] for level_map in both])
    second = together[len(together) // 2 :] if make is build_detection else [together[0][1:]]
    for output, wanted in zip(second, separate, strict=True):
        torch.testing.assert_close(output, wanted, rtol=1e-4, atol=1e-4)


@every_head
def test_a_pass_leaves_nothing_on_the_head(make):
    head = make().eval()
    before = {name: set(vars(module)) for name, module in head.named_modules()}
    values = {name: value for name, module in head.named_modules() for value in [repr(sorted_scalars(module))]}
    outputs(head, build_maps(97, 64))
    assert before == {name: set(vars(module)) for name, module in head.named_modules()}
    assert values == {name: value for name, module in head.named_modules() for value in [repr(sorted_scalars(module))]}


def sorted_scalars(module: nn.Module) -> list[tuple[str, object]]:
    return sorted((k, v) for k, v in vars(module).items() if isinstance(v, int | float | str | tuple | list | None))


@pixelwise
def test_shapes_can_be_had_without_numbers(make):
    with torch.device("meta"):
        head = make().eval()
    out = head([level_map.to("meta") for level_map in build_maps(97, 64)])
    assert out.device.type == "meta"
    assert out.shape[-2:] == (104, 64)


# Backbones of other shapes


@pixelwise
@pytest.mark.parametrize(
    ("channels", "reduction"),
    [
        ((7,), (16,)),
        ((5, 9), (8, 32)),
        ((4, 8, 6), (8, 16, 32)),
        ((3, 4, 5, 6, 7), (4, 8, 16, 32, 64)),
        ((8, 9), (14, 28)),
    ],
)
def test_any_number_of_levels_and_strides_is_taken(make, channels, reduction):
    info = FeatureInfo(channels, reduction)
    options = {"deconv_channels": (4, 4)} if make is build_depth else {}
    out = make(info, **options)(build_features(61, 130, info=info))
    assert out.shape[-2:] == (61, 130)
    assert out.isfinite().all()


@pixelwise
def test_maps_rounded_down_are_taken(make):
    """Convolutions without padding round sizes down: 100 // 8 = 12, then 6, 3 and 1."""
    maps = [
        torch.randn(2, channels, 100 // stride, 150 // stride)
        for channels, stride in zip(INFO.channels, INFO.reduction, strict=True)
    ]
    out = make().eval()(maps, image_size=(100, 150))
    assert out.shape[-2:] == (100, 150)


# What is refused


@every_head
def test_features_of_another_backbone_are_refused_by_level(make):
    head = make()
    maps = build_maps(64, 64)
    maps[1] = torch.zeros(2, 98, 4, 4)
    expected = (
        r"at level 1 \(stride 16\) this head was built for maps \(B, 21, h, w\); got \(2, 98, 4, 4\).*feature_info"
    )
    with pytest.raises(ValueError, match=expected):
        head(maps)
    with pytest.raises(ValueError, match=expected):
        head(Features(tuple(maps), None, (64, 64)))


@every_head
def test_another_number_of_levels_is_refused(make):
    with pytest.raises(ValueError, match=r"built for 4 levels \(strides 8, 16, 32, 64\); got 3 maps. Build the head"):
        make()(build_maps(64, 64)[:3])


@every_head
def test_maps_that_do_not_belong_together_are_refused(make):
    head, maps = make(), build_maps(64, 64)
    with pytest.raises(ValueError, match=r"one map per image; got 2 at level 0 and 1 at level 2"):
        head([*maps[:2], maps[2][:1], maps[3]])
    with pytest.raises(ValueError, match=r"finest first, and must not be empty; got 8x8, 16x4"):
        head([maps[0], torch.zeros(2, 21, 16, 4), *maps[2:]])
    with pytest.raises(ValueError, match=r"must not be empty; .* 1x0"):
        head([*maps[:3], maps[3][..., :0]])
    with pytest.raises(ValueError, match=r"got \(21, 4, 4\)"):
        head([maps[0], maps[1][0], *maps[2:]])


@every_head
@pytest.mark.usefixtures("no_type_checker")
def test_what_is_no_map_is_refused(make):
    head, maps = make(), build_maps(64, 64)
    with pytest.raises(TypeError, match=r"needs Features, or a list of maps \(B, C, h, w\), finest first; got Tensor"):
        head(maps[0])
    with pytest.raises(TypeError, match=r"got dict"):
        head({"0": maps[0]})
    with pytest.raises(TypeError, match=r"maps must be float tensors; got torch.int64 at level 3"):
        head([*maps[:3], maps[3].long()])


@every_head
@pytest.mark.parametrize("size", [(0, 10), (64,), (3, 64, 64)])
@pytest.mark.usefixtures("no_type_checker")
def test_a_size_that_is_none_is_refused(make, size):
    with pytest.raises(ValueError, match=r"image_size must be \(height, width\) in pixels; got \("):
        make()(build_maps(64, 64), image_size=size)


@every_head
@pytest.mark.usefixtures("no_type_checker")
def test_a_head_needs_a_feature_info_with_doubling_strides(make):
    with pytest.raises(TypeError, match=r"needs a FeatureInfo; got list. Pass backbone.feature_info"):
        make([16, 32])
    for reduction in ((16, 8), (8, 8), (8, 24)):
        with pytest.raises(
            ValueError, match=rf"finest first, and each stride .* times a power of two; got strides \({reduction[0]}, "
        ):
            make(FeatureInfo((4, 4), reduction))
    with pytest.raises(ValueError, match=r"at least one level, each with channels; got channels \(\)"):
        make(FeatureInfo((), ()))
    with pytest.raises(ValueError, match=r"each 1 or more; got reduction \(0, 8\)"):
        make(FeatureInfo((4, 4), (0, 8)))
    with pytest.raises(ValueError, match=r"got channels \(4, 0\)"):
        make(FeatureInfo((4, 0), (8, 16)))


@pytest.mark.parametrize("make", [build_segmentation, build_linear, build_detection])
@pytest.mark.usefixtures("no_type_checker")
def test_a_head_needs_a_count_of_classes(make):
    for wrong in ("13", 2.0, True):
        with pytest.raises(TypeError, match=rf"num_classes must be a whole number.*; got {wrong!r}"):
            make(num_classes=wrong)
    with pytest.raises(ValueError, match=r"num_classes must be [12] or more.*; got 0"):
        make(num_classes=0)
    assert type(make(num_classes=np.int64(4)).num_classes) is int


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (build_segmentation, "fpn_channels"), (build_segmentation, "channels"), (build_depth, "channels"),
        (build_detection, "channels"), (build_detection, "hidden_channels"),
    ],
)  # fmt: skip
def test_a_layer_has_channels(make, name):
    with pytest.raises(ValueError, match=rf"^{name} must be 1 or more; got 0"):
        make(**{name: 0})


def test_segmentation_needs_two_classes_and_a_probe_one():
    with pytest.raises(ValueError, match=r"num_classes must be 2 or more, background included; got 1"):
        build_segmentation(num_classes=1)
    assert build_linear(num_classes=1)(build_maps(64, 64)).shape == (2, 1, 64, 64)


# Batch statistics


@pytest.mark.parametrize(
    ("make", "instead"), [(build_segmentation, "norm='group'"), (build_linear, "standardize=False")]
)
def test_batch_statistics_of_one_cell_are_refused_in_training(make, instead):
    head, maps = make(), build_maps(64, 64, batch=1)
    with pytest.raises(ValueError, match=rf"level 3 has one image of one cell.*build the head with {instead}"):
        head(maps)
    assert head.eval()(maps).isfinite().all()
    assert make().train()(build_maps(64, 64)).isfinite().all()
    assert make().train()(build_maps(64, 65, batch=1)).isfinite().all()


def test_other_normalisations_train_on_a_single_cell():
    maps = build_maps(8, 8, batch=1)
    for head in (
        build_segmentation(norm="group"),
        build_depth(norm="group"),
        build_depth(),
        build_linear(standardize=False),
    ):
        run_head(head, maps).backward()
        assert head(maps).isfinite().all()


@pytest.mark.parametrize("make", [build_segmentation, build_depth])
@pytest.mark.usefixtures("no_type_checker")
def test_a_normalisation_that_is_none_is_refused(make):
    with pytest.raises(ValueError, match=r"norm must be one of batch, group; got 'layer'"):
        make(norm="layer")


@pytest.mark.parametrize("make", [build_segmentation, build_depth])
def test_with_group_norm_training_does_not_mix_images(make):
    options = {"dropout": 0.0} if make is build_segmentation else {}
    head = make(norm="group", **options)
    maps = build_maps(64, 128)
    torch.testing.assert_close(head(maps)[:1], head([level_map[:1] for level_map in maps]))
