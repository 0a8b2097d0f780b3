"""Small, complete random pipelines of each family of base models, and folders as diffusers itself writes them."""

from pathlib import Path
from typing import Any

import torch
from builders import WIDTH, build_sd2_unet, build_text_encoder, build_tokenizer, build_unet, build_vae
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel, T5Tokenizer

POOLED = 12
SCHEDULE: dict[str, Any] = {"steps_offset": 1, "clip_sample": False}
T5_WIDTH = 40
SD3_VAE: dict[str, Any] = {
    "latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609, "use_quant_conv": False,
    "use_post_quant_conv": False,
}  # fmt: skip


def build_projected(*, seed: int = 0, width: int = WIDTH, projection: int = POOLED) -> CLIPTextModelWithProjection:
    size = len(build_tokenizer())
    config = CLIPTextConfig(
        vocab_size=size, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=77, bos_token_id=size - 2, eos_token_id=size - 1, pad_token_id=size - 1,
        projection_dim=projection, hidden_act="gelu",
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CLIPTextModelWithProjection(config).eval()


def build_t5_tokenizer() -> T5Tokenizer:
    words = ["▁a", "▁dog", "▁cat", "▁red", "▁and", "▁rain", "coat", "▁", *"abcdefghijklmnopqrstuvwxyz"]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((word, -1.0 - len(word) % 3) for word in words)]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=512)  # type: ignore


def build_t5(*, seed: int = 0) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(build_t5_tokenizer()), d_model=T5_WIDTH, d_kv=8, d_ff=48, num_layers=2, num_heads=2
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return T5EncoderModel(config).eval()


def build_xl_unet(*, seed: int = 0, **options: Any):
    """A U-Net in SDXL's layout.

    The finest level has no cross-attention, the coarsest has more transformer layers, and the time embedding includes
    the pooled text embedding and the image sizes.
    """
    return build_unet(
        seed=seed,
        channels=(8, 16, 16),
        **(
            {
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                "layers_per_block": 2,
                "transformer_layers_per_block": [1, 1, 2],
                "attention_head_dim": [1, 2, 2],
                "use_linear_projection": True,
                "cross_attention_dim": 2 * WIDTH,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 4,
                "projection_class_embeddings_input_dim": POOLED + 6 * 4,
            }
            | options
        ),
    )


def _loud(model: Any) -> Any:
    """Enlarge query and key weights, so that attention is far from uniform."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("to_q.weight", "to_k.weight", "add_k_proj.weight", "add_q_proj.weight")):
                parameter *= 6
    return model.eval()


def build_sd3(*, seed: int = 0, **options: Any) -> SD3Transformer2DModel:
    config: dict[str, Any] = {
        "sample_size": 8, "patch_size": 2, "in_channels": 16, "num_layers": 6, "attention_head_dim": 8,
        "num_attention_heads": 2, "joint_attention_dim": T5_WIDTH, "caption_projection_dim": 16,
        "pooled_projection_dim": 2 * POOLED, "out_channels": 16, "pos_embed_max_size": 12, "qk_norm": "rms_norm",
        "dual_attention_layers": (0, 1),
    } | options  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _loud(SD3Transformer2DModel(**config))


def build_flux(*, seed: int = 0, **options: Any) -> FluxTransformer2DModel:
    config: dict[str, Any] = {
        "in_channels": 64, "num_layers": 3, "num_single_layers": 3, "attention_head_dim": 8, "num_attention_heads": 2,
        "joint_attention_dim": T5_WIDTH, "pooled_projection_dim": WIDTH, "axes_dims_rope": (2, 2, 4),
        "guidance_embeds": True,
    } | options  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _loud(FluxTransformer2DModel(**config))


def build_pipeline(family: str, **options: Any) -> Any:
    """A complete pipeline of diffusers. `options` go to the U-Net or the transformer."""
    tokens = build_tokenizer()
    if family == "SD 2.x":
        return StableDiffusionPipeline(
            vae=build_vae(), text_encoder=build_text_encoder(num_hidden_layers=3, hidden_act="gelu"), tokenizer=tokens,
            unet=build_sd2_unet(**options), scheduler=DDIMScheduler(prediction_type="v_prediction", **SCHEDULE),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
    if family == "SDXL":
        return StableDiffusionXLPipeline(
            vae=build_vae(scaling_factor=0.13025), text_encoder=build_text_encoder(num_hidden_layers=3),
            text_encoder_2=build_projected(seed=1), tokenizer=tokens, tokenizer_2=build_tokenizer(pad_token="!"),
            unet=build_xl_unet(**options), scheduler=DDIMScheduler(**SCHEDULE),
        )  # fmt: skip
    if family.startswith("SD 3"):
        has_t5 = family == "SD 3"
        return StableDiffusion3Pipeline(
            vae=build_vae(**SD3_VAE), text_encoder=build_projected(), text_encoder_2=build_projected(seed=1),
            text_encoder_3=build_t5() if has_t5 else None, tokenizer=tokens,
            tokenizer_2=build_tokenizer(pad_token="!"), tokenizer_3=build_t5_tokenizer() if has_t5 else None,
            transformer=build_sd3(**options), scheduler=FlowMatchEulerDiscreteScheduler(),
        )  # fmt: skip
    return FluxPipeline(
        vae=build_vae(**SD3_VAE), text_encoder=build_text_encoder(), tokenizer=tokens, text_encoder_2=build_t5(),
        tokenizer_2=build_t5_tokenizer(), transformer=build_flux(**options),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


FAMILIES = ("SD 2.x", "SDXL", "SD 3", "SD 3 without T5", "FLUX")


def build_family(family: str, folder: Path, **options: Any) -> Path:
    build_pipeline(family, **options).save_pretrained(folder)
    return folder
