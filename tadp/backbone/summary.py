"""`repr` of a backbone: what it is and how it runs, in about ten lines."""

from textwrap import shorten

from tadp.backbone.feature_model import FeatureModel
from tadp.files.hub import Source
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
        "family": backbone.family.name,
        "levels": _levels(backbone),
        "attached attention": _attached(backbone),
        "recorded attention": _recorded(backbone),
        "text": _text(backbone),
        "timesteps and noise": f"{backbone.passes}{'' if backbone.noise_samples else '; no noise'}",
        "trainable parameters": f"{trainable:,} of {total:,}",
        "dtype and device": f"{backbone.dtype} on {backbone.device}",
    }
    lines = [f"  {name}: {fact}" for name, fact in facts.items()]
    return "\n".join([f"{type(backbone).__name__}(", *lines, ")"])


def _source(source: Source | None) -> str:
    if source is None:
        return "built from parts"
    return source.name if source.revision is None else f"{source.name}, revision {source.revision}"


def _levels(backbone: FeatureModel) -> str:
    """Stride and channels of each level, with the channels of attached attention counted apart."""
    attached = len(backbone.pool_attention) or backbone.text_length
    levels = []
    for level, (cells, channels) in enumerate(zip(backbone.layout.reduction, backbone.layout.channels, strict=True)):
        width = f"{channels * backbone.passes.width} channels"
        if level in backbone.attach_attention:
            width = f"{width} + 1 per token" if attached is None else width.replace(" ", f" + {attached} ")
        levels.append(f"{level} (stride {backbone.vae.reduction * cells}, {width})")
    return ", ".join(levels)


def _attached(backbone: FeatureModel) -> str:
    levels, names = _listed(backbone.attach_attention), backbone.pool_attention
    if not backbone.attach_attention:
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
