"""A large network on a CPU: faster routines for its layers, with the same numbers."""

import pytest
import torch
import torch.nn.functional as F
from builders import build_backbone, embeddings, relative_error
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tadp import Conditioning
from tadp.files import fast_layers as module
from tadp.files.fast_layers import fast_layers
from tadp.files.inference import computing


@pytest.fixture
def products(monkeypatch):
    """The shapes of the weights of all products that ran in oneDNN; every layer counts as large."""
    shapes = []
    linear = module._linear
    monkeypatch.setattr(module, "_linear", lambda *args: shapes.append(tuple(args[1].shape)) or linear(*args))
    for name, value in {"LARGE_NETWORK": 1, "LARGE": 1, "ROWS": 2, "WIDE": 1}.items():
        monkeypatch.setattr(module, name, value)
    return shapes


def close(result, expected, bound=1e-6):
    return result.shape == expected.shape and relative_error(result, expected) < bound


@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_a_linear_layer_has_the_numbers_of_torch(products, bias):
    layer, values = nn.Linear(40, 24, bias=bias), torch.randn(2, 5, 40)
    expected = layer(values)
    with fast_layers(layer):
        result = layer(values)
    assert products == [(24, 40)]
    assert close(result, expected)


@pytest.mark.parametrize("size", [(1, 24, 8, 8), (3, 24, 5, 7), (2, 24, 1, 3)])
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_a_convolution_on_few_cells_has_the_numbers_of_torch(products, size, bias):
    layer, values = nn.Conv2d(24, 16, 3, padding=1, bias=bias), torch.randn(size)
    expected = layer(values)
    with fast_layers(layer):
        result = layer(values)
        other_layout = layer(values.contiguous(memory_format=torch.channels_last))
    assert len(products) == 2
    assert close(result, expected)
    assert close(other_layout, expected)
    assert result.is_contiguous()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(24, 16, 1),
        nn.Conv2d(24, 16, 3),
        nn.Conv2d(24, 16, 3, stride=2, padding=1),
        nn.Conv2d(24, 16, 3, padding=1, groups=2),
        nn.Conv2d(24, 16, 3, padding=2, dilation=2),
        nn.Conv2d(24, 16, 3, padding="same"),
        nn.Conv2d(24, 16, 3, padding=1, padding_mode="circular"),
    ],
    ids=str,
)
@torch.inference_mode()
def test_other_convolutions_are_those_of_torch_bit_for_bit(products, layer):
    values = torch.randn(2, 24, 9, 8)
    expected = layer(values)
    with fast_layers(layer):
        assert torch.equal(layer(values), expected)


@torch.inference_mode()
def test_many_cells_and_single_rows_are_left_to_torch(products):
    convolution, linear = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 8)
    with fast_layers(convolution):
        convolution(torch.randn(1, 8, 16, 17))
        linear(torch.randn(1, 8))
    assert products == []


def test_training_autocast_other_dtypes_and_compiled_parts_keep_the_routines_of_torch(products, monkeypatch):
    layer, values = nn.Linear(16, 16), torch.randn(4, 16)
    with fast_layers(layer):
        layer(values).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16), fast_layers(layer):
            assert layer(values).dtype == torch.bfloat16
        with FlopCounterMode(display=False) as counter, fast_layers(layer):  # which knows the operators of torch only
            layer(values)
        half = nn.Linear(16, 16, dtype=torch.bfloat16)
        with fast_layers(half):
            half(values.bfloat16())
        with fast_layers(layer):
            half(values.bfloat16())
        compiled = nn.Sequential(torch.compile(layer, backend="eager"))
        with computing(compiled, "network"):
            compiled(values)
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
        with fast_layers(layer):
            layer(values)
    assert counter.get_total_flops() == 2 * 4 * 16 * 16
    assert products == []


@torch.no_grad()
def test_the_maps_of_a_large_backbone_agree(products):
    backbone = build_backbone(attach_attention=(1, 2), text_length=7)
    latents, text = torch.randn(2, 4, 8, 16), Conditioning(embeddings(2, 7))
    fast = backbone.extract(latents, text)
    assert len(products) > 50
    with torch.enable_grad():
        exact = backbone.extract(latents, text)
    for result, expected in zip(fast.maps, exact.maps, strict=True):
        assert close(result, expected, bound=1e-5)


@torch.no_grad()
def test_small_networks_keep_their_bits(backbone):
    latents, text = torch.randn(1, 4, 8, 8), Conditioning(embeddings(1, 77))
    with torch.enable_grad():
        expected = backbone.extract(latents, text).maps
    assert all(map(torch.equal, backbone.extract(latents, text).maps, expected))


@torch.inference_mode()
def test_functions_called_by_name_keep_working(products):
    values, weight = torch.randn(4, 16), torch.randn(8, 16)
    with fast_layers(nn.Linear(2, 2)):
        assert close(F.linear(input=values, weight=weight), values @ weight.t())
        assert close(F.linear(values, weight), values @ weight.t())
