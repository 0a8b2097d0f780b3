"""The model card of a captioner: what it is, with which settings it was used, and how to use it."""

from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub import ModelCard
from torch import nn

from tadp.files.hub import Source
from tadp.files.model_card import HERE, card_record, model_card


def captioner_card(
    model: nn.Module, settings: Mapping[str, Any], source: Source, *, dtype: torch.dtype, entries: Mapping[str, Any]
) -> ModelCard:
    """Write the card of a captioner.

    Args:
        model: The captioner's model.
        settings: Settings of its decoding that differ from the defaults, by name.
        source: Where the model was loaded from.
        dtype: The precision of the model.
        entries: The user's entries; see `tadp.files.model_card.card_record`.
    """
    repository = f'"{HERE}"'
    options = [f"{name}={value!r}" for name, value in settings.items()]
    imports = ["from tadp import Captioner"]
    if dtype is not torch.float32:
        imports, options = ["import torch", "", *imports], [*options, f"dtype={dtype}"]
    code = [
        *imports,
        "",
        f"captioner = Captioner.from_pretrained({', '.join([repository, *options])})",
        'print(captioner("photo.jpg"))',
    ]
    return model_card(
        card_record(entries),
        title="Captioner",
        intro="A model that describes images, for the Python library tadp; transformers loads it too.",
        facts={
            "model": type(model).__name__,
            "parameters": f"{sum(parameter.numel() for parameter in model.parameters()):,}",
            "dtype": str(dtype).removeprefix("torch."),
            "settings": ", ".join(f"`{option}`" for option in options) or "the defaults",
        },
        code="\n".join(code),
        source=source,
        pipeline="image-to-text",
    )
