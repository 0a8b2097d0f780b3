"""Transformers with joint attention (Stable Diffusion 3, FLUX): where their levels are, and one pass that keeps them.

All blocks of such a transformer work at one stride, 16 pixels. A level is the output of one block, brought to its
stride without parameters. As for U-Nets, the pass calls the model's own blocks, and a test holds it to the model's
`forward`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformer2DModel
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tadp.diffusion.attention import AttentionRecorder
from tadp.diffusion.joint_attention import RecordingFluxProcessor, RecordingJointProcessor
from tadp.diffusion.layout import Layout
from tadp.errors import ModelError

JointTransformer = SD3Transformer2DModel | FluxTransformer2DModel
PATCH = 2  # latent cells a token, each way
# Depth of each level's block, as a share of all blocks, finest first. Seg4Diff (arXiv:2509.18096, Fig. 8) finds that
# image-to-text attention segments best in the middle blocks, most of all in the 9th of Stable Diffusion 3's 24. As in a
# U-Net's decoder, the coarse level comes first.
DEPTHS = (2 / 3, 1 / 2, 3 / 8)
GUIDANCE = 1.0  # what a model distilled from guidance (FLUX.1-dev) is told: none


@dataclass(frozen=True)
class JointLayout(Layout):
    """Where the levels of a transformer are; level 0 is the finest.

    Attributes:
        taps: For each level, the number of the block whose output is its map, and whose attention is recorded.
    """

    taps: tuple[int, ...]


def read_joint_layout(model: JointTransformer, blocks: Sequence[int] | None = None) -> JointLayout:
    """Find the levels of a transformer from its config: strides 8, 16 and 32 in pixels.

    Args:
        model: Whose levels are looked for.
        blocks: Numbers of the blocks that become levels, finest first; by default those at `DEPTHS`.

    Raises:
        ModelError: If its patches are not 2x2 latent cells, or it has too few blocks.
        ValueError: If a block does not exist, or there are not three different ones.
    """
    config = model.config
    is_flux = isinstance(model, FluxTransformer2DModel)
    if config["patch_size"] != (1 if is_flux else PATCH):
        raise ModelError(
            f"the transformer's config has patch_size={config['patch_size']}; tadp reads {1 if is_flux else PATCH}."
        )
    count = len(_blocks(model))
    taps = tuple(round(depth * count) - 1 for depth in DEPTHS) if blocks is None else _checked_blocks(blocks, model)
    if len(set(taps)) < len(taps) or min(taps) < 0:
        raise ModelError(
            f"the transformer has {count} blocks; tadp takes its levels from three, so it needs 5 or more."
        )
    width = config["num_attention_heads"] * config["attention_head_dim"]
    return JointLayout(
        channels=(width,) * len(taps),
        reduction=(PATCH // 2, PATCH, PATCH * 2),
        attention_levels=tuple(range(len(taps))),
        latent_channels=config["in_channels"] // PATCH**2 if is_flux else config["in_channels"],
        text_width=config["joint_attention_dim"],
        pooled_width=config["pooled_projection_dim"],
        taps=taps,
    )


def _checked_blocks(blocks: Sequence[int], model: JointTransformer) -> tuple[int, ...]:
    count = len(_blocks(model))
    for number in blocks:
        if number not in range(count):
            parts = ""
            if isinstance(model, FluxTransformer2DModel):
                double = len(model.transformer_blocks)
                parts = f"; those from {double} on are single_transformer_blocks"
            raise ValueError(f"no block {number!r}; this transformer has blocks 0 to {count - 1}{parts}.")
    if len(blocks) != len(DEPTHS) or len(set(blocks)) != len(DEPTHS):
        raise ValueError(f"blocks are {len(DEPTHS)} different ones, for strides 8, 16 and 32; got {tuple(blocks)}.")
    return tuple(int(number) for number in blocks)


def joint_tap_names(model: JointTransformer, layout: JointLayout) -> tuple[str, ...]:
    """The blocks whose outputs are the maps, finest first."""
    return tuple(_name(model, tap) for tap in layout.taps)


def install_joint_recording(model: JointTransformer, layout: JointLayout) -> None:
    """Give every attention layer a processor; those of the tapped blocks can record."""
    kind = RecordingFluxProcessor if isinstance(model, FluxTransformer2DModel) else RecordingJointProcessor
    level_of = {f"{name}.attn.processor": level for level, name in enumerate(joint_tap_names(model, layout))}
    processors: Any = {name: kind(name, level_of.get(name)) for name in model.attn_processors}
    model.set_attn_processor(processors)


def freeze_unused_blocks(model: JointTransformer, layout: JointLayout) -> None:
    """Stop gradients of all that comes after the last map, which a pass never runs."""
    blocks = _blocks(model)
    for module in (*blocks[max(layout.taps) + 1 :], model.norm_out, model.proj_out):
        module.requires_grad_(False)
    last: Any = blocks[max(layout.taps)]
    if not isinstance(last, FluxSingleTransformerBlock):  # what it makes of the text, which no later block reads
        for part in (last.attn.add_q_proj, last.attn.norm_added_q, last.attn.to_add_out, last.ff_context):
            if part is not None:
                part.requires_grad_(False)


def joint_pass(
    model: JointTransformer,
    layout: JointLayout,
    latents: Float[Tensor, "b c h w"],
    *,
    timestep: int,
    embeddings: Float[Tensor, "b l d"],
    pooled: Float[Tensor, "b p"],
    record_levels: Collection[int] = (),
) -> tuple[tuple[Float[Tensor, "_b _c _h _w"], ...], dict[int, Float[Tensor, "_b _l _h _w"]]]:
    """Run a transformer up to its last level, and keep its levels.

    Args:
        model: With the processors of `install_joint_recording`, if any level is to be recorded.
        layout: Its own, from `read_joint_layout`.
        latents: (B, C, H, W), height and width multiples of `layout.multiple`.
        timestep: 0 to 999, a thousand times the share of noise in the latents.
        embeddings: Text, (B, L, D).
        pooled: The text as a whole, (B, P).
        record_levels: Levels whose attention is kept.

    Returns:
        The maps, finest first: block outputs, bilinearly enlarged for stride 8 and averaged for stride 32. For each
        recorded level, the head-averaged attention of its block from image to text, (B, L, h, w), resampled likewise;
        a cell's values sum to what it pays to the text, at most one.

    Raises:
        ValueError: If the latents are larger than the model's table of positions.
    """
    recorder = AttentionRecorder(record_levels)
    image, context, time, more = _start(model, latents, timestep, embeddings, pooled)
    kwargs: dict[str, Any] = {"recorder": recorder} if record_levels else {}
    if record_levels and isinstance(model, FluxTransformer2DModel):
        kwargs["text_length"] = embeddings.shape[1]
    outputs: dict[int, Tensor] = {}
    is_checkpointed = torch.is_grad_enabled() and model.gradient_checkpointing
    for number, block in enumerate(_blocks(model)[: max(layout.taps) + 1]):
        arguments = (image, context, time, *more, kwargs)
        context, image = checkpoint(block, *arguments, use_reentrant=False) if is_checkpointed else block(*arguments)
        if number in layout.taps:
            outputs[number] = image
    height, width = latents.shape[2] // PATCH, latents.shape[3] // PATCH
    recorded = recorder.close(dict.fromkeys(record_levels, (height, width)))
    maps = tuple(
        _to_stride(outputs[tap].transpose(1, 2).unflatten(2, (height, width)), cells)
        for tap, cells in zip(layout.taps, layout.reduction, strict=True)
    )
    return maps, {level: _to_stride(one, layout.reduction[level]) for level, one in recorded.items()}


def _start(
    model: JointTransformer, latents: Tensor, timestep: int, embeddings: Tensor, pooled: Tensor
) -> tuple[Tensor, Tensor, Tensor, tuple[Any, ...]]:
    """Image tokens, text tokens, the embedding of time and text, and what else each block takes."""
    time = torch.full((latents.shape[0],), float(timestep), device=latents.device)
    modules: Any = model
    if isinstance(model, SD3Transformer2DModel):
        side = modules.pos_embed.pos_embed_max_size
        if max(latents.shape[2:]) > side * PATCH:
            raise ValueError(
                f"this transformer has positions for {side * PATCH}x{side * PATCH} latent cells; got "
                f"{latents.shape[2]}x{latents.shape[3]}. Use smaller images, or tiles."
            )
        image = modules.pos_embed(latents).contiguous()
        return image, modules.context_embedder(embeddings), modules.time_text_embed(time, pooled), ()
    image = modules.x_embedder(_pack(latents))
    guidance = (torch.full_like(time, 1000 * GUIDANCE),) if model.config["guidance_embeds"] else ()
    time = modules.time_text_embed(time, *guidance, pooled)
    positions = modules.pos_embed(_positions(latents, embeddings.shape[1]))
    return image, modules.context_embedder(embeddings), time, (positions,)


def _pack(latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n c4"]:
    """Two by two latent cells a token, channel first: FLUX's order."""
    cells = latents.unflatten(3, (-1, PATCH)).unflatten(2, (-1, PATCH))  # b c h 2 w 2
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def _positions(latents: Tensor, text_length: int) -> Float[Tensor, "n 3"]:
    """FLUX's position ids: zero for text, (0, row, column) for the image."""
    height, width = latents.shape[2] // PATCH, latents.shape[3] // PATCH
    ids = latents.new_zeros(height, width, 3)
    ids[..., 1] = torch.arange(height, device=latents.device)[:, None]
    ids[..., 2] = torch.arange(width, device=latents.device)
    return torch.cat([latents.new_zeros(text_length, 3), ids.flatten(0, 1)])


def _to_stride(one: Float[Tensor, "b c h w"], cells: int) -> Float[Tensor, "b c _h _w"]:
    if cells < PATCH:
        return F.interpolate(one, scale_factor=PATCH // cells, mode="bilinear")
    return F.avg_pool2d(one, cells // PATCH) if cells > PATCH else one


def _blocks(model: JointTransformer) -> list[nn.Module]:
    blocks: Any = model.transformer_blocks
    single: Any = model.single_transformer_blocks if isinstance(model, FluxTransformer2DModel) else ()
    return [*blocks, *single]


def _name(model: JointTransformer, number: int) -> str:
    double: Any = model.transformer_blocks
    if number < len(double):
        return f"transformer_blocks.{number}"
    return f"single_transformer_blocks.{number - len(double)}"
