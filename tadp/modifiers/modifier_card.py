"""The model card of a caption modifier: what it does to a caption, what it needs, and how to use it."""

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCard

from tadp.files.model_card import HERE, model_card
from tadp.modifiers.steps import Step


def modifier_card(steps: Sequence[Step], record: Mapping[str, Any], *, example: str) -> ModelCard:
    """Write the card of a modifier.

    Args:
        steps: The modifier's steps.
        record: The user's entries, as `tadp.files.model_card.card_record` returns them.
        example: The caption that the modifier returns for "a dog on grass".
    """
    tokens = [
        f"`{step.token}`, {'not included' if step.vectors is None else f'{len(step.vectors)} vectors of width {width}'}"
        for step in steps
        if step.token is not None
        for width in [0 if step.vectors is None else step.vectors.shape[1]]
    ]
    has_unet = any(step.unet is not None for step in steps)
    base = record.get("base_model", "the base model for which it was made")
    code = [
        "from tadp import CaptionModifier, TADPBackbone",
        "",
        f'modifier = CaptionModifier.from_pretrained("{HERE}")',
    ]
    if tokens or has_unet:
        code += [f'backbone = TADPBackbone.from_pretrained("{base}")', "modifier.install(backbone)"]
        code += ['features = backbone("photo.jpg", modifier("a dog on grass"))']
    else:
        code[0] = "from tadp import CaptionModifier"
    return model_card(
        record,
        title="Caption modifier",
        intro="Words around a caption, for the Python library tadp, and what a diffusion model needs to know them.",
        facts={
            "templates": ", then ".join(f"`{step.template}`" for step in steps),
            "learned tokens": "; ".join(tokens) or "none",
            "U-Net": "tuned, and is here" if has_unet else "that of the base model",
            "example": f"`a dog on grass` becomes `{example}`",
        },
        code="\n".join([*code, 'print(modifier("a dog on grass"))']),
        source=None,
        own_base="not recorded" if tokens or has_unet else "any; only captions change",
    )
