"""float16 and autocast: recorded attention that does not overflow, and parts that keep their dtype."""

from typing import Any

import pytest
import torch
from builders import build_backbone, build_folder, build_vae, images
from diffusers.models.attention_processor import Attention
from diffusers.models.normalization import RMSNorm
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from tadp import TADPBackbone
from tadp.diffusion.attention import head_averaged_probabilities
from tadp.diffusion.joint_attention import _heads, text_columns
from tadp.errors import CorruptFileError, ModelError, OptionError
from tadp.files.weight_values import is_finite

HUGE = 1e5


def layer(scale: float, *, seed: int = 0) -> Attention:
    """Cross-attention whose logits reach about `scale`."""
    torch.manual_seed(seed)
    attention = Attention(query_dim=32, cross_attention_dim=16, heads=2, dim_head=16)
    with torch.no_grad():
        for projection in (attention.to_q, attention.to_k):
            assert isinstance(projection, nn.Linear)
            projection.weight.normal_().mul_(scale**0.5 / 8)
    return attention.half().float()  # weights that float16 holds exactly


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(2, n, d, generator=generator).half().float() for n, d in ((63, 32), (9, 16)))  # type: ignore


@pytest.mark.parametrize("scale", [1.0, 1e3, HUGE])
def test_float16_attention_agrees_with_float32(scale):
    attention, (hidden, text) = layer(scale), inputs()
    expected = head_averaged_probabilities(attention, hidden, text)
    actual = head_averaged_probabilities(attention.half(), hidden.half(), text.half())
    assert actual.dtype == torch.float16
    torch.testing.assert_close(actual.float(), expected, atol=2e-2, rtol=0)
    with torch.autocast("cpu", torch.float16):
        under_autocast = head_averaged_probabilities(attention.float(), hidden, text)
    torch.testing.assert_close(under_autocast.float(), expected, atol=2e-2, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 1e3, HUGE])
def test_float16_attention_with_a_lora_agrees_with_float32(scale):
    model = nn.ModuleDict({"attention": layer(scale)})
    model = inject_adapter_in_model(LoraConfig(r=4, target_modules=["to_q", "to_k"]), model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(generator=torch.Generator().manual_seed(2)).mul_(scale**0.25 / 8)
        for weight in model.parameters():
            weight.copy_(weight.half())
    (hidden, text), attention = inputs(), model["attention"]
    before = {name: weight.clone() for name, weight in model.half().named_parameters()}
    actual = head_averaged_probabilities(attention, hidden.half(), text.half())
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    expected = head_averaged_probabilities(model.float()["attention"], hidden, text)
    torch.testing.assert_close(actual.float(), expected, atol=2e-2, rtol=0)
    with torch.autocast("cpu", torch.float16):
        under_autocast = head_averaged_probabilities(attention, hidden, text)
    torch.testing.assert_close(under_autocast.float(), expected, atol=2e-2, rtol=0)


@pytest.mark.parametrize("weight", [1.0, 100.0])
def test_float16_joint_attention_with_a_norm_agrees_with_float32(weight):
    generator = torch.Generator().manual_seed(3)
    to_q, to_k = (nn.Linear(32, 32, bias=False).requires_grad_(False) for _ in range(2))
    norm = RMSNorm(16, eps=1e-6).requires_grad_(False)
    norm.weight.fill_(weight)  # logits reach about 16 weight²
    for part in (to_q, to_k):
        part.weight.copy_(200 * torch.randn(32, 32, generator=generator).half())  # a product exceeds 65,504
    tokens = 20 * torch.randn(1, 30, 32, generator=generator).half()

    def attention(*, half: bool) -> torch.Tensor:
        parts = [part.half() if half else part.float() for part in (to_q, to_k, norm)]
        values = tokens if half else tokens.float()
        query, key = (_heads(part, values, 2, parts[2]) for part in parts[:2])
        return text_columns(query, key[:, :, :9], key[:, :, 9:])

    torch.testing.assert_close(attention(half=True).float(), attention(half=False), atol=2e-2, rtol=0)


def test_the_logits_of_these_tests_overflow_float16():
    attention, (hidden, text) = layer(HUGE), inputs()
    to_k: Any = attention.to_k
    logits = torch.einsum("bnd,bld->bnl", attention.to_q(hidden)[..., :16] / 4, to_k(text)[..., :16])
    assert logits.abs().max() > 65_504
    assert not logits.half().isfinite().all()


def test_float16_attention_has_a_gradient():
    attention, (hidden, text) = layer(1.0).half(), inputs()
    head_averaged_probabilities(attention, hidden.half(), text.half())[..., 0].sum().backward()
    gradient = attention.to_q.weight.grad
    assert gradient is not None
    assert gradient.dtype == torch.float16
    assert gradient.abs().sum() > 0


def test_joint_attention_under_autocast_does_not_overflow():
    query, text, image = (
        200 * torch.randn(1, 2, n, 16, generator=torch.Generator().manual_seed(n)) for n in (20, 5, 20)
    )
    expected = text_columns(query, text, image)
    with torch.autocast("cpu", torch.float16):
        actual = text_columns(query, text, image)
    torch.testing.assert_close(actual.float(), expected, atol=2e-2, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("vae_map", [False, True])
def test_the_vae_keeps_its_dtype_under_autocast(dtype, vae_map):
    backbone = build_backbone()
    expected = backbone.latents(images(1, 64, 64), vae_map=vae_map)[0]
    with torch.autocast("cpu", dtype):
        assert torch.equal(backbone.latents(images(1, 64, 64), vae_map=vae_map)[0], expected)
        assert backbone.encode_text("a dog").embeddings.dtype == torch.float32
        with torch.enable_grad():
            backbone.vae(2 * images(1, 64, 64) - 1).mode()


def test_features_and_attention_under_float16_autocast():
    backbone = build_backbone(record_attention=(0,))
    expected = backbone(images(1, 64, 64), "a dog")
    with torch.autocast("cpu", torch.float16):
        features = backbone(images(1, 64, 64), "a dog")
    assert not features.broken()
    torch.testing.assert_close(features.attention.at(0).float(), expected.attention.at(0), atol=2e-2, rtol=0)


# Weights that are not finite


def test_what_is_finite():
    assert is_finite(torch.full((100_000,), 6e4, dtype=torch.float16))
    assert is_finite(torch.full((10,), 3e38))
    assert is_finite(torch.ones(0))
    assert is_finite(torch.ones(3).to(torch.float8_e4m3fn))
    assert not is_finite(torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn))
    for value in (float("nan"), float("inf"), -float("inf")):
        assert not is_finite(torch.tensor([1.0, value, 1.0]))
    assert not is_finite(torch.tensor([float("inf"), -float("inf")]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_are_not_finite_are_refused(part, value, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = build_folder(tmp_path)
    [path] = (folder / part).glob("*.safetensors")
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("weight") and not name.startswith("decoder"))
    tensors[name].view(-1)[-1] = value
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CorruptFileError, match=rf"{part} has NaN or infinity in .*weight, so all results would be"):
        TADPBackbone.from_pretrained(folder)


def test_weights_that_overflow_in_the_dtype_asked_for_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = build_folder(tmp_path)
    [path] = (folder / "unet").glob("*.safetensors")
    tensors = load_file(path)
    tensors["conv_in.weight"][0] = 1e5
    save_file(tensors, path, metadata={"format": "pt"})
    TADPBackbone.from_pretrained(folder)
    with pytest.raises(CorruptFileError, match=r"float16 holds no number above 65,504. Load with dtype=torch.float32"):
        TADPBackbone.from_pretrained(folder, dtype=torch.float16)


@pytest.mark.parametrize(
    ("key", "value"),
    [("scaling_factor", value) for value in (float("nan"), float("inf"), 0, -1.0, "a", None, True)]
    + [("shift_factor", value) for value in (float("nan"), float("inf"), "a")],
)
def test_factors_of_the_vae_must_be_numbers(key, value, tmp_path):
    import json

    folder = build_folder(tmp_path)
    path = folder / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ModelError, match=rf"vae/config.json: {key} must be .*; got {value!r}\. Correct"):
        TADPBackbone.from_pretrained(folder)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_lora_needs_a_finite_scale(scale):
    with pytest.raises(OptionError, match=rf"lora_scale must be a finite number; got {scale}"):
        TADPBackbone.from_pretrained("tadp-tiny", lora="none.safetensors", lora_scale=scale)


def test_a_vae_without_a_shift_still_loads():
    assert build_backbone().vae.config.get("shift_factor") is None
    assert build_vae().config["scaling_factor"] > 0
