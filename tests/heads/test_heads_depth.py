import pytest
import torch
from builders_heads import INFO, build_depth, build_maps
from released_depth import depth_of_maps, spread

from tadp.features import FeatureInfo
from tadp.heads import DepthHead

SD15 = FeatureInfo((320, 640, 1280, 1280), (8, 16, 32, 64))


@pytest.fixture
def head() -> DepthHead:
    """A head whose weights are large enough that depth is not 5 m everywhere."""
    head = build_depth(channels=16)
    spread(head)
    return head.eval()


@pytest.mark.parametrize("size", [(128, 128), (64, 192)])
def test_numbers_are_the_released_ones(head, size):
    maps = build_maps(*size)
    depth = head(maps)
    assert depth.std() > 0.2
    torch.testing.assert_close(depth, depth_of_maps(head.state_dict(), maps), rtol=1e-4, atol=1e-5)


def test_parameters_of_the_released_widths_have_the_released_names():
    with torch.device("meta"):
        head = DepthHead(SD15, max_depth_m=10.0)
    shapes = {key: tuple(value.shape) for key, value in head.state_dict().items() if "num_batches" not in key}
    expected: dict[str, tuple[int, ...]] = {
        "layer1.0.weight": (320, 320, 3, 3), "layer1.3.weight": (320, 320, 3, 3), "layer2.0.weight": (640, 640, 3, 3),
        "out_layer.0.weight": (1536, 3520, 1, 1), "conv_layers.0.weight": (192, 32, 3, 3),
        "last_layer_depth.0.weight": (192, 192, 3, 3), "last_layer_depth.2.weight": (1, 192, 3, 3),
        "layer1.1.weight": (320,), "out_layer.1.weight": (1536,),
    }  # fmt: skip
    expected |= {key.replace("weight", "bias"): (shape[0],) for key, shape in expected.items()}
    expected |= {f"deconv_layers.{3 * k}.weight": (32 if k else 1536, 32, 2, 2) for k in range(3)}
    for name, width in [*((f"deconv_layers.{3 * k + 1}", 32) for k in range(3)), ("conv_layers.1", 192)]:
        expected |= {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    assert shapes == expected
    assert {head.layer1[1].num_groups, head.out_layer[1].num_groups} == {16}  # type: ignore


def test_depth_lies_between_zero_and_the_largest(head):
    for max_depth_m in (10.0, 80.0, 0.5):
        head.max_depth_m = max_depth_m
        depth = head(build_maps(128, 128))
        assert depth.min() > 0
        assert depth.max() < max_depth_m
        assert depth.max() > 0.6 * max_depth_m


def test_a_fresh_head_says_half_the_largest():
    depth = build_depth(max_depth_m=20.0)(build_maps(64, 64))
    torch.testing.assert_close(depth, torch.full((2, 64, 64), 10.0), rtol=0, atol=0.01)


def test_an_image_that_ends_within_a_cell_is_cut_and_not_squeezed(head):
    maps = build_maps(416, 448)
    whole, cut = head(maps), head(maps, image_size=(411, 443))
    torch.testing.assert_close(cut[:, :409, :441], whole[:, :409, :441])  # the last convolutions reach two pixels far


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_depth_of_a_half_precision_head_is_said_in_float32(head, dtype):
    depth = head.to(dtype)(build_maps(128, 128))
    assert depth.dtype == torch.float32
    assert not torch.equal(depth, depth.to(dtype).float())  # finer than the dtype can represent


def test_wider_and_fewer_transposed_convolutions_can_be_asked_for():
    head = build_depth(deconv_channels=(12,))
    assert head.deconv_layers[0].weight.shape == (32, 12, 2, 2)
    assert head(build_maps(97, 128), image_size=(97, 128)).shape == (2, 97, 128)


@pytest.mark.parametrize("count", [0, 6])
def test_transposed_convolutions_that_are_none_or_too_many_are_refused(count):
    with pytest.raises(ValueError, match=rf"1 to 5 entries, as each doubles a map of stride 32 .*; got {count}"):
        build_depth(deconv_channels=(4,) * count)


@pytest.mark.parametrize(("reduction", "count"), [((4, 16), 2), ((2,), 1), ((8,), 3), ((14,), 3)])
def test_fewer_transposed_convolutions_are_the_default_where_a_map_is_fine(reduction, count):
    info = FeatureInfo((5,) * len(reduction), reduction)
    head = DepthHead(info, max_depth_m=10.0, channels=4)
    assert len(head.deconv_layers) == 3 * count
    assert head(build_maps(61, 40, info=info), image_size=(61, 40)).shape == (2, 61, 40)


@pytest.mark.usefixtures("no_type_checker")
@pytest.mark.parametrize("max_depth_m", [None, "10", True])
def test_a_largest_depth_is_a_number(max_depth_m):
    with pytest.raises(TypeError, match=rf"max_depth_m must be a number, in metres; got {max_depth_m!r}"):
        DepthHead(INFO, max_depth_m=max_depth_m)


@pytest.mark.parametrize("max_depth_m", [0.0, -1.0, float("inf"), float("nan")])
def test_a_largest_depth_that_is_none_is_refused(max_depth_m):
    with pytest.raises(ValueError, match=rf"max_depth_m must be above 0 and finite, in metres; got {max_depth_m}"):
        DepthHead(INFO, max_depth_m=max_depth_m)
