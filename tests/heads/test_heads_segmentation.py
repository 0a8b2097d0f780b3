import math
import re
from collections import OrderedDict

import originals
import pytest
import torch
import torch.nn.functional as F
from builders_heads import CLASSES, INFO, build_maps, build_segmentation, build_smp
from torch import Tensor, nn

from tadp.features import FeatureInfo
from tadp.heads import FPN, SegmentationHead, SMPSegmentationHead
from tadp.training import losses


def to_mmseg(key: str) -> str:
    """The names in mmsegmentation, by the table in the module's docstring."""
    key = re.sub(r"^neck\.(\w+)\.(\d+)\.", r"neck.\1.\2.conv.", key)
    key = re.sub(
        r"^scale_heads\.(\d+)\.(\d+)\.", lambda match: f"decode_head.scale_heads.{match[1]}.{2 * int(match[2])}.", key
    )
    return key.replace(".norm.", ".bn.").replace("classifier.", "decode_head.conv_seg.")


def mmseg(weights: dict[str, Tensor], maps: list[Tensor], strides: tuple[int, ...]) -> Tensor:
    """mmsegmentation's FPN and FPNHead with its names, step by step, in evaluation, for sizes that double."""

    def conv(name: str, value: Tensor, padding: int = 0) -> Tensor:
        return F.conv2d(value, weights[f"{name}.weight"], weights.get(f"{name}.bias"), padding=padding)

    laterals = [conv(f"neck.lateral_convs.{level}.conv", level_map) for level, level_map in enumerate(maps)]
    for level in (2, 1, 0):
        size = laterals[level].shape[2:]
        laterals[level] = laterals[level] + F.interpolate(laterals[level + 1], size=size, mode="nearest")
    pyramid = [conv(f"neck.fpn_convs.{level}.conv", lateral, padding=1) for level, lateral in enumerate(laterals)]
    total = torch.zeros(())
    for level, value in enumerate(pyramid):
        doublings = {8: 0, 16: 1, 32: 2, 64: 3}[strides[level]]
        for number in range(max(1, doublings)):
            block = f"decode_head.scale_heads.{level}.{2 * number}"
            value = conv(f"{block}.conv", value, padding=1)
            mean, variance = weights[f"{block}.bn.running_mean"], weights[f"{block}.bn.running_var"]
            scale, shift = weights[f"{block}.bn.weight"], weights[f"{block}.bn.bias"]
            value = (value - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
            value = (value * scale[:, None, None] + shift[:, None, None]).clamp(min=0)
            if doublings:
                value = F.interpolate(value, scale_factor=2, mode="bilinear", align_corners=False)
        total = total + value
    logits = conv("decode_head.conv_seg", total)
    return F.interpolate(logits, scale_factor=8, mode="bilinear", align_corners=False)


@pytest.fixture
def head() -> SegmentationHead:
    """A head whose batch statistics and biases differ from those of a new head."""
    head = build_segmentation()
    generator = torch.Generator().manual_seed(1)
    for name, value in head.state_dict().items():
        if value.is_floating_point() and value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5 * ("running_var" in name))
    return head.eval()


@pytest.mark.parametrize("size", [(128, 128), (64, 192)])
def test_numbers_are_mmsegmentations(head, size):
    maps = build_maps(*size)
    weights = {to_mmseg(key): value for key, value in head.state_dict().items()}
    torch.testing.assert_close(head(maps), mmseg(weights, maps, INFO.reduction), rtol=1e-4, atol=1e-5)


def smp_head(info: FeatureInfo, *, num_classes: int, fpn_channels: int = 256, channels: int = 128) -> nn.Sequential:
    """The installed smp's decoder and head, with the settings of the paper's Pascal code."""
    from segmentation_models_pytorch.base import SegmentationHead
    from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder

    decoder = FPNDecoder(info.channels, encoder_depth=4, pyramid_channels=fpn_channels, segmentation_channels=channels)
    return nn.Sequential(
        OrderedDict(
            decoder=decoder,
            segmentation_head=SegmentationHead(channels, num_classes, kernel_size=1, upsampling=8),
        )
    )


@pytest.mark.parametrize("channels", [32, 128])
@pytest.mark.parametrize("size", [(128, 128), (64, 192), (256, 64)])
def test_numbers_are_smps(size, channels):
    ours = build_smp(channels=channels).eval().double()
    weights = originals.write_smp_head(ours)
    generator = torch.Generator().manual_seed(1)
    for value in weights.values():  # norms of a new head are 1 and 0
        value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64) * 0.3)
    names = dict(zip(originals.write_smp_head(ours), ours.state_dict(), strict=True))
    ours.load_state_dict({names[key]: value for key, value in weights.items()})
    reference = smp_head(INFO, num_classes=CLASSES, fpn_channels=8, channels=channels).eval().double()
    reference.load_state_dict({key.removeprefix("decode_head."): value for key, value in weights.items()}, strict=True)
    maps = build_maps(*size, dtype=torch.float64)
    expected = reference.segmentation_head(reference.decoder(maps))
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(maps), expected, rtol=1e-10, atol=1e-10)


def test_parameters_of_the_released_widths_are_smps_one_to_one():
    info = FeatureInfo((320, 717, 1357, 1280), (8, 16, 32, 64))  # SD 1.5, captions of 77 tokens
    with torch.device("meta"):
        ours = SMPSegmentationHead(info, num_classes=21)
        reference = smp_head(info, num_classes=21)
    written = originals.write_smp_head(ours)
    shapes = {key.removeprefix("decode_head."): value.shape for key, value in written.items()}
    assert shapes == {key: value.shape for key, value in reference.state_dict().items()}
    assert ours.dropout.p == reference.decoder.dropout.p


def test_channels_that_do_not_form_smps_groups_are_refused():
    with pytest.raises(ValueError, match=r"channels must be a multiple of 32, the number of groups .*; got 48"):
        build_smp(channels=48)


def test_parameters_of_the_released_widths_are_mmsegmentations_one_to_one():
    """SD 1.5 with the 150 classes of ADE20K as text has in_channels [320, 790, 1430, 1280]."""
    with torch.device("meta"):
        head = SegmentationHead(FeatureInfo((320, 790, 1430, 1280), (8, 16, 32, 64)), num_classes=150)
    shapes = {to_mmseg(key): tuple(value.shape) for key, value in head.state_dict().items()}
    expected: dict[str, tuple[int, ...]] = {"decode_head.conv_seg.weight": (150, 256, 1, 1)}
    expected["decode_head.conv_seg.bias"] = (150,)
    for level, width in enumerate((320, 790, 1430, 1280)):
        expected[f"neck.lateral_convs.{level}.conv.weight"] = (256, width, 1, 1)
        expected[f"neck.fpn_convs.{level}.conv.weight"] = (256, 256, 3, 3)
        for part in ("lateral_convs", "fpn_convs"):
            expected[f"neck.{part}.{level}.conv.bias"] = (256,)
    for level, blocks in enumerate(((0,), (0,), (0, 2), (0, 2, 4))):
        for block in blocks:
            name = f"decode_head.scale_heads.{level}.{block}"
            expected[f"{name}.conv.weight"] = (256, 256, 3, 3)
            for part in ("weight", "bias", "running_mean", "running_var"):
                expected[f"{name}.bn.{part}"] = (256,)
            expected[f"{name}.bn.num_batches_tracked"] = ()
    assert shapes == expected


@pytest.mark.parametrize("size", [(128, 128), (97, 201), (8, 8), (65, 300)])
def test_the_pyramid_is_torchvisions(size):
    from torchvision.ops import FeaturePyramidNetwork

    torch.manual_seed(0)
    pyramid = FPN(INFO, channels=8)
    oracle = FeaturePyramidNetwork(list(INFO.channels), 8)
    names = {"lateral_convs": "inner_blocks", "fpn_convs": "layer_blocks"}
    oracle.load_state_dict(
        {
            f"{names[part]}.{level}.0.{kind}": value
            for (part, level, kind), value in ((key.split("."), value) for key, value in pyramid.state_dict().items())
        }
    )
    maps = build_maps(*size)
    expected = oracle(OrderedDict((str(level), level_map) for level, level_map in enumerate(maps)))
    for output, wanted in zip(pyramid(maps), expected.values(), strict=True):
        torch.testing.assert_close(output, wanted)


def test_an_image_that_ends_within_a_cell_is_cut_and_not_squeezed(head):
    maps = build_maps(512, 512)
    assert torch.equal(head(maps, image_size=(505, 505)), head(maps)[..., :505, :505])


def test_where_maps_are_no_halves_of_each_other_cells_keep_their_place(head):
    """A part of 450 px, with 57, 29, 15 and 8 cells, gives the same upper left corner as the whole."""
    whole = build_maps(576, 576)
    part = [
        level_map[..., : math.ceil(450 / stride), : math.ceil(450 / stride)]
        for level_map, stride in zip(whole, INFO.reduction, strict=True)
    ]
    torch.testing.assert_close(
        head(part, image_size=(450, 450))[..., :64, :64], head(whole)[..., :64, :64], rtol=1e-4, atol=1e-5
    )


def test_dropout_and_batch_statistics_are_for_training(head):
    maps = build_maps(128, 128)
    assert torch.equal(head(maps), head(maps))
    torch.manual_seed(0)
    head.train()
    assert not torch.equal(head(maps), head(maps))


def test_it_learns():
    """The sign of one channel shows the class, at every level."""
    torch.manual_seed(0)
    head = build_segmentation(num_classes=2)
    cells = torch.randint(2, (2, 1, 2, 2)).float()
    maps = [
        torch.randn(2, width, side, side)
        + 2 * F.interpolate(cells, size=(side, side)) * (torch.arange(width) == 0)[:, None, None]
        for width, side in zip(INFO.channels, (16, 8, 4, 2), strict=True)
    ]
    masks = F.interpolate(cells, size=(128, 128))[:, 0].long()
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    values = []
    for _ in range(30):
        loss = losses.cross_entropy(head(maps), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[0] > 0.5
    assert values[-1] < 0.1
