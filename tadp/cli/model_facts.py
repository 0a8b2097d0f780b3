"""What `tadp info` prints about a model, from a backbone or, without importing diffusers, from the model's files."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tadp.diffusion.unet_names import attention_names, check_unet, fixed_options, tap_names
from tadp.errors import TADPError

if TYPE_CHECKING:
    from tadp.backbone import TADPBackbone

ATTACHED = (1, 2)  # `attach_attention` of a model without options of its own
_CLIPS = {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"}


@dataclass(frozen=True)
class Level:
    """A level of a model.

    Attributes:
        number: The level; 0 is the finest.
        stride: The width of a cell in pixels.
        channels: Number of channels of its map, without attention.
        attached: Number of channels of attached attention; None if none is attached.
        has_attention: Whether attention to the text can be recorded.
        tap: The name of the module whose output becomes the map.
    """

    number: int
    stride: int
    channels: int
    attached: int | None
    has_attention: bool
    tap: str


@dataclass(frozen=True)
class ModelFacts:
    """What `tadp info` prints about a model.

    Attributes:
        levels: The levels that are computed, finest first.
        parameters: Number of parameters that tadp loads, by subfolder of the model folder.
        scaling_factor: The VAE's scaling factor.
        scales_latents: Whether latents are multiplied by it.
        text_length: Number of tokens of every text; None without a text encoder.
        pooled: Names over which attention is averaged before it is attached.
        timestep: The timesteps and the noise, in words.
    """

    levels: list[Level]
    parameters: dict[str, int]
    scaling_factor: float
    scales_latents: bool
    text_length: int | None
    pooled: tuple[str, ...]
    timestep: str


def facts_of(backbone: "TADPBackbone") -> ModelFacts:
    """The facts about a backbone, which may have shapes but no weights."""
    from tadp.text.stack import TextStack

    info, layout, passes = backbone.feature_info, backbone.layout, backbone.passes
    levels = []
    for level, width, stride in zip(backbone.chosen_levels(), info.channels, info.reduction, strict=True):
        own = layout.channels[level] * passes.width
        attached = width - own if level in backbone.options.attached_levels else None
        has_attention = level in layout.attention_levels
        levels.append(Level(level, stride, own, attached, has_attention, layout.taps[level]))
    text: Any = backbone.text_encoder
    parts = {backbone.family.part: backbone.unet, "vae": backbone.vae}
    parts |= dict(text.parts) if isinstance(text, TextStack) else {"text_encoder": text}
    return ModelFacts(
        levels=levels,
        parameters={
            part: sum(parameter.numel() for parameter in module.parameters())
            for part, module in parts.items()
            if module is not None
        },
        scaling_factor=backbone.vae.scaling_factor,
        scales_latents=backbone.scale_latents,
        text_length=backbone.text_length,
        pooled=tuple(backbone.pool_attention),
        timestep=str(passes),
    )


def facts_of_files(folder: Path, variant: str | None) -> ModelFacts | None:
    """The facts about a Stable Diffusion 1, 2 or XL that has its weights in the folder and no options of tadp.

    Only configs and the headers of the weight files are read. This takes a fifth of the time of building the networks,
    which need diffusers and transformers.

    Args:
        folder: The model folder.
        variant: Variant of the weight files, such as "fp16"; None for files without a variant.

    Returns:
        The facts; None if the folder has another kind of model or a damaged one, which building its networks reports.
    """
    from tadp.files.model_folder import CONFIG_NAME, read_config

    if (folder / CONFIG_NAME).exists() or (folder / "transformer").exists():
        return None
    try:
        unet = {**fixed_options(), **read_config(folder, "unet")}
        check_unet(unet)
        has_two_clips = unet["addition_embed_type"] is not None
        clips = {part: read_config(folder, part) for part in list(_CLIPS)[: 1 + has_two_clips]}
        vae, tokenizer = read_config(folder, "vae"), read_config(folder, "tokenizer", "tokenizer_config.json")
        shapes = {part: _shapes(folder, part, variant) for part in ("unet", "vae", *clips)}
        kinds = [unet["_class_name"], vae["_class_name"], *(clip["architectures"] for clip in clips.values())]
        expected = ["UNet2DConditionModel", "AutoencoderKL", *([_CLIPS[part]] for part in clips)]
        if kinds != expected or vae.get("latents_mean") is not None:
            return None
        length = min(tokenizer["model_max_length"], clips["text_encoder"]["max_position_embeddings"])
        levels = _levels(unet, list(shapes["unet"]), stride=2 ** (len(vae["block_out_channels"]) - 1), tokens=length)
        scaling_factor = float(vae.get("scaling_factor", 0.18215))  # the default of diffusers, Rombach et al., App. G
    except (TADPError, LookupError, TypeError, ValueError):
        return None
    if any(level.attached and not level.has_attention for level in levels):
        return None
    parameters = {part: sum(prod(shape) for shape in shapes[part].values()) for part in shapes}
    return ModelFacts(levels, parameters, scaling_factor, True, length, (), timestep="0")


def _levels(unet: Mapping[str, Any], names: list[str], *, stride: int, tokens: int) -> list[Level]:
    """The levels of a U-Net from its config and the names of its weights."""
    depth = len(unet["up_block_types"])
    with_attention = set(attention_names(names, depth=depth).values())
    taps = tap_names(names, depth=depth)
    return [
        Level(
            number=level,
            stride=stride * 2**level,
            channels=unet["block_out_channels"][level],
            attached=tokens if level in ATTACHED else None,
            has_attention=level in with_attention,
            tap=taps[level],
        )
        for level in range(depth)
    ]


def _shapes(folder: Path, part: str, variant: str | None) -> dict[str, list[int]]:
    """The shapes of the weights of a part that tadp loads, by name."""
    from safetensors import safe_open

    from tadp.files.hub import weight_files
    from tadp.files.model_folder import WEIGHTS

    loaded = ("encoder.", "quant_conv.") if part == "vae" else ""
    shapes = {}
    for path in weight_files(folder / part, WEIGHTS[part], variant):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  safe_open is not a dict
                if name.startswith(loaded) and not name.endswith("position_ids"):  # a buffer of old text encoders
                    shapes[name] = file.get_slice(name).get_shape()
    return shapes
