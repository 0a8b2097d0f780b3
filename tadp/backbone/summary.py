"""`repr` of a backbone, in about ten lines, and its model card: what it is and how it runs."""

from collections.abc import Mapping
from textwrap import shorten
from typing import Any

import torch
from huggingface_hub import ModelCard

from tadp.backbone.feature_model import FeatureModel
from tadp.files.hub import Source
from tadp.files.model_card import HERE, card_record, model_card
from tadp.text.stack import TextStack

_LONGEST_TEXT = 60  # characters of a text or a list of names that are shown


def summarize(backbone: FeatureModel, source: Source | None) -> str:
    """Describe a backbone in about ten lines.

    Args:
        backbone: The backbone to describe.
        source: Where its weights were loaded from; None if it was built from parts.
    """
    trainable = sum(parameter.numel() for parameter in backbone.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in backbone.parameters())
    facts = {
        "base model": _source(source),
        **_facts(backbone),
        "trainable parameters": f"{trainable:,} of {total:,}",
        "dtype and device": f"{backbone.dtype} on {backbone.device}",
    }
    lines = [f"  {name}: {fact}" for name, fact in facts.items()]
    return "\n".join([f"{type(backbone).__name__}(", *lines, ")"])


def backbone_card(backbone: FeatureModel, source: Source | None, entries: Mapping[str, Any]) -> ModelCard:
    """Write the model card of a backbone.

    Args:
        backbone: The backbone.
        source: Where its weights were loaded from; None if it was built from parts.
        entries: The user's entries; see `tadp.files.model_card.card_record`.
    """
    half = "" if backbone.dtype is torch.float32 else f", dtype={backbone.dtype}"
    imports = "" if backbone.dtype is torch.float32 else "import torch\n\n"
    code = (
        f'{imports}from tadp import TADPBackbone\n\nbackbone = TADPBackbone.from_pretrained("{HERE}"{half})\n'
        'features = backbone("photo.jpg", "what is in it")\nprint(features)'
    )
    return model_card(
        card_record(entries),
        title="Backbone",
        intro="A diffusion model as a vision backbone, for the Python library tadp: images and captions in, "
        "multi-scale features and the attention of words out. The VAE's decoder is not part of it.",
        facts=_facts(backbone) | {"dtype": str(backbone.dtype).removeprefix("torch.")},
        code=code,
        source=source,
        pipeline="image-feature-extraction",
    )


def _facts(backbone: FeatureModel) -> dict[str, str]:
    """What the backbone is and how it runs, by name."""
    return {
        "family": backbone.family.name,
        "levels": _levels(backbone),
        "attached attention": _attached(backbone),
        "recorded attention": _recorded(backbone),
        "text": _text(backbone),
        "timesteps and noise": f"{backbone.passes}{'' if backbone.noise_samples else '; no noise'}",
    }


def _source(source: Source | None) -> str:
    if source is None:
        return "built from parts"
    return source.name if source.revision is None else f"{source.name}, revision {source.revision}"


def _levels(backbone: FeatureModel) -> str:
    """Stride and channels of each level, with the channels of attached attention counted apart."""
    attached = len(backbone.pool_attention) or backbone.text_length
    levels = []
    for level in backbone.chosen_levels():
        width = f"{backbone.layout.channels[level] * backbone.passes.width} channels"
        if level in backbone.options.attached_levels:
            width = f"{width} + 1 per token" if attached is None else width.replace(" ", f" + {attached} ")
        levels.append(f"{level} (stride {backbone.strides[level]}, {width})")
    return ", ".join(levels)


def _attached(backbone: FeatureModel) -> str:
    levels, names = _listed(tuple(backbone.options.attached_levels)), backbone.pool_attention
    if not backbone.options.attached_levels:
        return levels
    if not names:
        return f"{levels}, one channel per token"
    shown = shorten(", ".join(names), _LONGEST_TEXT, placeholder=" …")
    return f"{levels}, pooled: one channel per name ({len(names)}: {shown})"


def _recorded(backbone: FeatureModel) -> str:
    levels, all_levels = _listed(backbone.record_attention), _listed(tuple(backbone.options.attention_levels))
    return f"{levels}; each head of {all_levels}" if backbone.record_heads else levels


def _listed(levels: tuple[int, ...]) -> str:
    if not levels:
        return "none"
    return f"level{'s' * (len(levels) > 1)} {', '.join(map(str, levels))}"


def _text(backbone: FeatureModel) -> str:
    """The text encoder, the number of tokens, and the text that a call without one gets."""
    encoder = backbone.text_encoder
    parts = [] if encoder is None else encoder.parts.values() if isinstance(encoder, TextStack) else [encoder]
    names = " + ".join(type(part.model).__name__ for part in parts) or "no text encoder"
    tokens = "any number of tokens" if backbone.text_length is None else f"{backbone.text_length} tokens"
    default = backbone.default_text
    shown = "none" if default is None else repr(shorten(default, _LONGEST_TEXT, placeholder=" …"))
    adapter = "" if backbone.text_adapter is None else " and text adapter"
    return f"{names}{adapter}, {tokens} per text; default text {shown}"
