import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from builders import build_backbone, build_sd2_unet, build_unet, embeddings, images, latents, relative_error

from tadp import Conditioning, TADPBackbone
from tadp.diffusion.attention import (
    AttentionRecorder,
    attach_attention,
    blockwise_attention,
    install_recording,
    wants_blocks,
)
from tadp.diffusion.families import StableDiffusion
from tadp.diffusion.unet import unet_pass

UNETS = {
    "SD 1.x": lambda: build_unet(layers_per_block=2),
    "SD 2.x": build_sd2_unet,
    "two transformer layers": lambda: build_unet(transformer_layers_per_block=2),
    "three levels": lambda: build_unet(channels=(8, 16, 24)),
}


def record(unet, sample, text, levels, **options):
    layout = StableDiffusion().layout(unet)
    install_recording(unet, layout.attention_layers)
    return unet_pass(unet, sample, taps=layout.taps, timestep=3, embeddings=text, record_levels=levels, **options)


def attention_by_hand(unet, sample, text) -> dict[int, torch.Tensor]:
    """Attention by number of cells, (B, cells, L), computed from what hooks saw in diffusers' own forward."""
    seen: dict[str, torch.Tensor] = {}
    hooks = []
    for name, module in unet.named_modules():
        if name.endswith(("attn2.to_q", "attn2.to_k")) and not name.startswith("mid_block"):

            def keep(_module, _inputs, output, name=name):
                seen[name] = output.double()

            hooks.append(module.register_forward_hook(keep))
    with torch.no_grad():
        unet(sample, 3, encoder_hidden_states=text)
    for hook in hooks:
        hook.remove()
    by_size: dict[int, list[torch.Tensor]] = {}
    for name in [name for name in seen if name.endswith("to_q")]:
        query, key = seen[name], seen[name.removesuffix("q") + "k"]
        heads = unet.get_submodule(name.removesuffix(".to_q")).heads
        for q, k in zip(query.chunk(heads, dim=2), key.chunk(heads, dim=2), strict=True):
            weights = (q @ k.transpose(1, 2) / q.shape[2] ** 0.5).exp()
            by_size.setdefault(q.shape[1], []).append(weights / weights.sum(dim=2, keepdim=True))
    return {cells: torch.stack(maps).mean(dim=0) for cells, maps in by_size.items()}


@pytest.mark.parametrize("kind", UNETS)
def test_maps_are_the_mean_over_heads_and_layers_of_the_softmax(kind):
    unet = UNETS[kind]()
    sample, text = latents(2, 8, 24), embeddings(2, 5)
    by_hand = attention_by_hand(unet, sample, text)
    levels = StableDiffusion().layout(unet).attention_levels
    with torch.no_grad():
        _, attention = record(unet, sample, text, levels)
    assert tuple(attention) == levels
    for level, maps in attention.items():
        height, width = 8 >> level, 24 >> level
        expected = by_hand[height * width].transpose(1, 2).reshape(2, 5, height, width)
        assert maps.shape == expected.shape
        torch.testing.assert_close(maps.double(), expected, rtol=0, atol=2e-6)
        assert maps.std(dim=1).mean() > 0.02, "a uniform attention would prove nothing"


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12), (torch.bfloat16, 2e-2)]
)
def test_each_cells_attention_sums_to_one(dtype, tolerance):
    unet = build_unet().to(dtype)
    with torch.no_grad():
        _, attention = record(unet, latents(2, 8, 8).to(dtype), embeddings(2, 77).to(dtype), (0, 1, 2))
    for maps in attention.values():
        assert maps.dtype == dtype
        assert (maps >= 0).all()
        assert (maps.double().sum(dim=1) - 1).abs().max() < tolerance


def test_recording_does_not_change_the_features():
    unet, sample, text = build_unet(), latents(2, 8, 8), embeddings(2, 5)
    with torch.no_grad():
        without = record(unet, sample, text, ())
        with_all = record(unet, sample, text, (0, 1, 2))
    assert without[1] == {}
    assert all(torch.equal(first, second) for first, second in zip(without[0], with_all[0], strict=True))


def test_installing_the_recorder_does_not_change_the_unet():
    unet, sample, text = build_unet(), latents(2, 8, 8), embeddings(2, 5)
    with torch.no_grad():
        before = unet(sample, 3, encoder_hidden_states=text).sample
        install_recording(unet, StableDiffusion().layout(unet).attention_layers)
        assert torch.equal(unet(sample, 3, encoder_hidden_states=text).sample, before)


def test_every_layer_runs_the_fused_kernel_whatever_is_recorded(monkeypatch):
    unet = build_unet()
    counted: list[int] = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def count(query, key, *args, **kwargs):
        counted.append(key.shape[2])
        return fused(query, key, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", count)
    with torch.no_grad():
        record(unet, latents(1, 8, 8), embeddings(1, 5), (1, 2))
    assert len(counted) == len(unet.attn_processors)
    assert counted.count(5) == len(counted) / 2  # cross-attention; the rest is self-attention among image cells


def test_only_the_levels_asked_for_are_computed(monkeypatch):
    unet, calls = build_unet(), []
    original = torch.einsum
    monkeypatch.setattr(torch, "einsum", lambda *args: calls.append(args[0]) or original(*args))
    with torch.no_grad():
        record(unet, latents(1, 8, 8), embeddings(1, 5), (1,))
    at_level_1 = [level for level in StableDiffusion().layout(unet).attention_layers.values() if level == 1]
    assert len(calls) == len(at_level_1)


def test_nothing_is_kept_after_a_call(backbone):
    def state():
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
        modules = {
            name: (sorted(vars(module)), [len(vars(module)[hook]) for hook in hooks])
            for name, module in backbone.named_modules()
        }
        return modules, {name: dict(vars(processor)) for name, processor in backbone.unet.attn_processors.items()}

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(obj), torch.Tensor) for obj in gc.get_objects())

    pixels = images(1, 64, 64)
    backbone(pixels, "a dog")
    before, count = state(), tensors()
    for _ in range(3):
        backbone(pixels, "a dog")
        torch.stack([feature.sum() for feature in backbone(pixels, "a dog").maps]).sum().backward()
        backbone.zero_grad(set_to_none=True)
    assert state() == before
    assert tensors() <= count


def test_nothing_is_kept_after_a_call_that_failed(backbone, monkeypatch):
    def fail(*_args, **_kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(backbone.unet.up_blocks[-1].resnets[0], "forward", fail)
    with pytest.raises(RuntimeError, match=r"out of memory"):
        backbone(images(1, 64, 64), "a dog")
    monkeypatch.undo()
    attention = backbone(images(1, 64, 64), "a dog").attention
    assert attention.levels == (1, 2)


def attention_gradients(backbone: TADPBackbone) -> dict[str, torch.Tensor | None]:
    """Gradients that come only from the attached channels."""
    features = backbone(images(1, 64, 64), "a red dog")
    weights = torch.rand(77, 1, 1, generator=torch.Generator().manual_seed(0))
    loss = sum((features.maps[level][:, -77:] * weights).sum() for level in (1, 2))
    if loss.requires_grad:
        loss.backward()
    return {
        name: parameter.grad
        for name, parameter in backbone.unet.named_parameters()
        if name.endswith(("attn2.to_q.weight", "attn2.to_k.weight"))
    }


def test_gradients_flow_through_attached_attention():
    gradients = attention_gradients(build_backbone())
    for name, level in build_backbone().layout.attention_layers.items():
        if level in (1, 2):
            for part in ("to_q", "to_k"):
                gradient = gradients[f"{name}.{part}.weight"]
                assert gradient is not None
                assert gradient.abs().max() > 0


def test_detached_attention_gives_no_gradient_and_the_same_values():
    detached, attached = build_backbone(detach_attention=True), build_backbone()
    assert all(gradient is None or not gradient.any() for gradient in attention_gradients(detached).values())
    pixels = images(1, 64, 64)
    for first, second in zip(detached(pixels, "a dog").maps, attached(pixels, "a dog").maps, strict=True):
        assert torch.equal(first, second)


def test_the_gradient_through_attention_is_the_numerical_one():
    """Compared with central differences in float64, for one weight of a query and one of a key projection."""
    backbone = build_backbone().double()
    parameters = dict(backbone.unet.named_parameters())
    sample, text = latents(1, 8, 8).double(), backbone.encode_text("a red dog")
    weights = torch.rand(77, 1, 1, generator=torch.Generator().manual_seed(0)).double()

    def loss():
        return (backbone.extract(sample, text).attention.at(1) * weights).sum()

    loss().backward()
    for part in ("to_q", "to_k"):
        weight = parameters[f"down_blocks.1.attentions.0.transformer_blocks.0.attn2.{part}.weight"]
        values = []
        with torch.no_grad():
            for step in (1e-5, -1e-5):
                weight[1, 2] += step
                values.append(loss().item())
                weight[1, 2] -= step
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(weight.grad[1, 2].item(), rel=1e-5)


def test_two_threads_share_a_backbone_and_get_their_own_maps(backbone):
    pixels = [images(1, 64, 64, seed=seed) for seed in range(2)]
    captions = ["a red dog", "blue grass and a cat on a coat"]
    with torch.no_grad():
        alone = [backbone(image, caption) for image, caption in zip(pixels, captions, strict=True)]
    assert relative_error(alone[0].attention.at(1), alone[1].attention.at(1)) > 0.01

    def work(number: int):
        with torch.no_grad():
            return [backbone(pixels[number], captions[number]) for _ in range(8)]

    with ThreadPoolExecutor(2) as pool:
        for expected, results in zip(alone, pool.map(work, range(2)), strict=True):
            for features in results:
                assert features.attention.tokens == expected.attention.tokens
                for level in (1, 2):
                    assert torch.equal(features.attention.at(level), expected.attention.at(level))
                for first, second in zip(features.maps, expected.maps, strict=True):
                    assert torch.equal(first, second)


def test_masked_padding_gets_no_attention(backbone):
    pixels, captions = images(2, 64, 64), ["a dog", "a red dog on grass"]
    with torch.no_grad():
        masked = backbone(pixels, backbone.encode_text(captions, mask_padding=True)).attention
        plain = backbone(pixels, captions).attention
    for number, length in enumerate((4, 7)):  # start token, words, end token
        for level in (1, 2):
            assert (masked.at(level)[number, length:] == 0).all()
            assert (plain.at(level)[number, length:] > 0).all()
            torch.testing.assert_close(masked.at(level)[number].sum(dim=0), torch.ones_like(masked.at(level)[0, 0]))


def test_tokens_and_words_name_the_channels(backbone):
    with torch.no_grad():
        attention = backbone(images(2, 64, 64), ["a red raincoat", ""]).attention
    assert attention.tokens[0][:7] == ("<|startoftext|>", "a", "red", "rain", "##coat", *("<|endoftext|>",) * 2)
    assert len(attention.tokens[0]) == 77
    words = attention.words(1)
    assert words[0].words == ("a", "red", "raincoat")
    torch.testing.assert_close(words[0]["raincoat"], attention.at(1)[0, 3:5].mean(dim=0))
    assert words[1].words == ()


def test_a_repeated_word_keeps_its_places(backbone):
    with torch.no_grad():
        attention = backbone(images(1, 64, 64), "a dog and a dog").attention
    words = attention.words(2)[0]
    assert words.words == ("a", "dog", "and", "a", "dog")
    torch.testing.assert_close(words["dog"], (attention.at(2)[0, 2] + attention.at(2)[0, 5]) / 2)


def test_text_without_names_gives_maps_without_names(backbone):
    bare = Conditioning(backbone.encode_text("a dog").embeddings)
    with torch.no_grad():
        attention = backbone(images(2, 64, 64), bare).attention
    assert attention.tokens == (("",) * 77,) * 2
    with pytest.raises(ValueError, match=r"this conditioning has no words; pass captions"):
        attention.words(1)


def test_a_recorder_keeps_nothing_once_it_is_closed():
    """Gradient checkpointing runs the layers again during backward, with the recorder of the forward pass."""
    recorder = AttentionRecorder((0,))
    for layer in ("one", "two", "two"):  # a layer that runs twice counts once
        recorder.store(layer, 0, torch.full((1, 6, 5), 1.0 if layer == "one" else 3.0))
    maps = recorder.close({0: (2, 3)})
    assert torch.equal(maps[0], torch.full((1, 5, 2, 3), 2.0))
    late = torch.zeros(1, 6, 5)
    recorder.store("one", 0, late)
    reference = weakref.ref(late)
    del late
    gc.collect()
    assert reference() is None


def test_attaching_puts_the_features_first():
    feature, attention = latents(2, 3, 5), latents(2, 3, 5, seed=1)
    joined = attach_attention(feature, attention)
    assert torch.equal(joined[:, :4], feature)
    assert torch.equal(joined[:, 4:], attention)


def test_maps_of_other_sizes_are_not_attached(no_type_checker):
    with pytest.raises(ValueError, match=r"features \(2, 4, 3, 5\) and attention \(2, 4, 3, 4\) must agree"):
        attach_attention(latents(2, 3, 5), latents(2, 3, 4))
    with pytest.raises(ValueError, match=r"must agree in batch"):
        attach_attention(latents(2, 3, 5), latents(1, 3, 5))


@pytest.mark.parametrize(("tokens", "width"), [(64, 8), (50, 20), (17, 8)])
def test_blockwise_attention_is_attention(tokens, width, monkeypatch):
    monkeypatch.setattr("tadp.diffusion.attention.BLOCK", 16)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, tokens, 3, width, generator=generator) for _ in range(3))
    expected = torch.einsum(
        "bhnm,bmhd->bnhd", (torch.einsum("bnhd,bmhd->bhnm", query, key) / width**0.5).softmax(-1), value
    )
    assert torch.allclose(blockwise_attention(query, key, value), expected, atol=1e-6)


def test_blocks_are_for_bfloat16_without_gradient_alone():
    many, few = torch.zeros(1, 4096, 8), torch.zeros(1, 64, 8)
    assert not wants_blocks(many.bfloat16(), tokens=4096), "a gradient would keep every probability"
    with torch.no_grad():
        assert wants_blocks(many.bfloat16(), tokens=4096)
        assert not wants_blocks(many, tokens=4096)
        assert not wants_blocks(few.bfloat16(), tokens=64)


def test_blockwise_features_are_as_near_to_float32_as_the_fused_kernels(monkeypatch):
    exact = build_backbone()
    half = build_backbone().to(torch.bfloat16)
    pixels = images(4, 96, 128)  # the coarsest map of one image has 48 values; their errors differ by chance
    with torch.no_grad():
        expected = exact(pixels, "a dog").maps
        fused = half(pixels, "a dog").maps
        monkeypatch.setattr("tadp.diffusion.attention.BLOCK", 16)
        ours = half(pixels, "a dog").maps
    assert not torch.equal(ours[0], fused[0]), "the blocks were not used"
    for block_map, fused_map, exact_map in zip(ours, fused, expected, strict=True):
        assert (block_map.float() - exact_map).norm() < 1.5 * (
            fused_map.float() - exact_map
        ).norm() + 1e-3 * exact_map.norm()
