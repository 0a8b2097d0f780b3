"""The U-Net and the text encoder of `tadp-tiny`: their architecture and their files."""

from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from safetensors.torch import load_file
from torch import Tensor
from training import Average
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tadp.diffusion.attention import AttentionRecorder
from tadp.diffusion.families import family_of

CELLS = 16  # side of the latents, in cells
UNET = {
    "sample_size": CELLS,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (32, 64, 96, 128),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "cross_attention_dim": 96,
    "attention_head_dim": (1, 2, 3, 4),  # the number of heads; diffusers' name is historical
    "norm_num_groups": 8,
}
TEXT = {
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "max_position_embeddings": 77,
    "projection_dim": 96,
}
NOISE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


class PlainProcessor:
    """Attention by two matrix products. At head width 32, this trains faster on a CPU than the fused kernel."""

    def __init__(self, layer: str = "", level: int | None = None):
        self.layer, self.level = layer, level

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        recorder: AttentionRecorder | None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(x) for x in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        probabilities = (query @ key.transpose(1, 2) * attn.scale).softmax(dim=-1)
        if recorder is not None and encoder_hidden_states is not None and self.level in recorder.levels:
            recorder.store(self.layer, self.level, probabilities.unflatten(0, (-1, attn.heads)).float().mean(dim=1))
        return attn.to_out[0](attn.batch_to_head_dim(probabilities @ value))


def build_models(tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    """Build models with the architecture of the bundled checkpoint and random weights."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **TEXT,
    )
    unet = UNet2DConditionModel(**UNET)
    levels = family_of(unet).layout(unet).attention_layers
    layers = {name: name.removesuffix(".processor") for name in unet.attn_processors}
    unet.set_attn_processor({name: PlainProcessor(layer, levels.get(layer)) for name, layer in layers.items()})
    # "eager", because the backward pass of the fused kernel would take a seventh of a step at this size
    return CLIPTextModel._from_config(config, attn_implementation="eager"), unet


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Load a model's weights from a .safetensors file."""
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})


def save_model(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    averages: dict[str, Average],
    folder: Path,
) -> None:
    """Write the averaged weights in diffusers layout. The models themselves do not change."""
    fresh_text, fresh_unet = build_models(tokenizer)
    fresh_unet.load_state_dict(averages["unet_average"].shadow)
    fresh_text.load_state_dict(averages["text_average"].shadow)
    fresh_unet.half().save_pretrained(folder / "unet")
    fresh_text.half().save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    DDIMScheduler(**NOISE).save_pretrained(folder / "scheduler")
