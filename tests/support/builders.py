"""Small random models in Stable Diffusion's layout that build and run quickly. The same seed gives the same model."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tadp import TADPBackbone

WIDTH = 16
START, END = "<|startoftext|>", "<|endoftext|>"
# Each word is one token; "raincoat" is two pieces, and any other word is split into letters.
WORDS = ("a", "and", "dog", "cat", "red", "blue", "on", "grass", "photo", "of", "coat")
PREFIXES = ("rain",)


def build_unet(*, seed: int = 0, channels: tuple[int, ...] = (8, 16, 16, 16), **options: Any) -> UNet2DConditionModel:
    """A U-Net in SD 1.x's layout: all levels but the coarsest have cross-attention, which is far from uniform."""
    depth = len(channels)
    config: dict[str, Any] = {
        "block_out_channels": channels,
        "down_block_types": ("CrossAttnDownBlock2D",) * (depth - 1) + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (depth - 1),
        "layers_per_block": 1,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "sample_size": 8,
    } | options
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(**config).eval()
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if name.endswith(("attn2.to_q.weight", "attn2.to_k.weight")):
                parameter *= 4
    return unet


def build_sd2_unet(*, seed: int = 0, **options: Any) -> UNet2DConditionModel:
    """A U-Net in SD 2.x's layout: each level has its own number of heads, and projections are linear."""
    heads = {"attention_head_dim": [1, 2, 4, 4], "use_linear_projection": True, "upcast_attention": True}
    return build_unet(seed=seed, **(heads | options))


def build_vae(*, seed: int = 0, **options: Any) -> AutoencoderKL:
    """A VAE with stride 8, like SD's, including the decoder."""
    config: dict[str, Any] = {
        "block_out_channels": (8, 8, 8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "latent_channels": 4,
        "sample_size": 64,
    } | options
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoencoderKL(**config).eval()


def build_tokenizer(**options: Any) -> CLIPTokenizer:
    """CLIP's tokenizer with a vocabulary of single bytes, `WORDS` and `PREFIXES`."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = [chr(b) for b in visible] + [chr(256 + k) for k in range(256 - len(visible))]  # GPT-2's byte alphabet
    vocabulary = [*letters, *(letter + "</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in (*(word + "</w>" for word in WORDS), *PREFIXES):
        pieces = [*word.removesuffix("</w>")]
        if word.endswith("</w>"):
            pieces[-1] += "</w>"
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces[:2] = [pieces[0] + pieces[1]]
            vocabulary.append(pieces[0])
    vocab = {token: number for number, token in enumerate(dict.fromkeys([*vocabulary, START, END]))}
    return CLIPTokenizer(
        **({"vocab": vocab, "merges": list(dict.fromkeys(merges)), "model_max_length": 77} | options)  # type: ignore
    )


def build_text_encoder(*, seed: int = 0, width: int = WIDTH, **options: Any) -> CLIPTextModel:
    """A two-layer CLIP text model for `build_tokenizer`."""
    size = len(build_tokenizer())
    config: dict[str, Any] = {
        "vocab_size": size,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
        "bos_token_id": size - 2,
        "eos_token_id": size - 1,
        "pad_token_id": size - 1,
    } | options
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CLIPTextModel(CLIPTextConfig(**config)).eval()


def build_backbone(*, seed: int = 0, unet: UNet2DConditionModel | None = None, **options: Any) -> TADPBackbone:
    """A complete backbone in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = TADPBackbone(
            vae=build_vae(seed=seed),
            unet=unet or build_unet(seed=seed),
            text_encoder=build_text_encoder(seed=seed),
            tokenizer=build_tokenizer(),
            **options,
        )
    return backbone.eval()


def build_folder(folder: Path, *, seed: int = 0, variant: str | None = None, **unet_options: Any) -> Path:
    """Save a complete model in diffusers' layout, with the VAE's decoder and an invalid safety checker."""
    build_unet(seed=seed, **unet_options).save_pretrained(folder / "unet", variant=variant)
    build_vae(seed=seed).save_pretrained(folder / "vae", variant=variant)
    build_text_encoder(seed=seed).save_pretrained(folder / "text_encoder", variant=variant)
    build_tokenizer().save_pretrained(folder / "tokenizer")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "config.json").write_text("garbage")
    (folder / "safety_checker" / "model.safetensors").write_bytes(b"garbage")
    return folder


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random images in [0, 1], (B, 3, H, W), for `shape` = B, H, W."""
    return torch.rand(shape[0], 3, *shape[1:], generator=torch.Generator().manual_seed(seed))


def latents(*shape: int, seed: int = 0) -> torch.Tensor:
    """Latents drawn from a standard normal distribution, (B, 4, H, W), for `shape` = B, H, W."""
    return torch.randn(shape[0], 4, *shape[1:], generator=torch.Generator().manual_seed(seed))


def embeddings(*shape: int, seed: int = 1) -> torch.Tensor:
    """Text embeddings drawn from a standard normal distribution, (B, L, `WIDTH`), for `shape` = B, L."""
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed))


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """L2 norm of the difference, divided by the L2 norm of `expected`."""
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()
