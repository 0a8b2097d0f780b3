"""The model card of a task model: what it is, what it was trained from and with, and how to use it."""

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCard

from tadp.captioner.model_files import TINY
from tadp.files.hub import Source
from tadp.files.model_card import HERE, model_card

_TUNED = {
    "all": "The whole U-Net was tuned, and is here.",
    "lora": "A LoRA of the U-Net's attention was tuned, and is here.",
    "nothing": "The U-Net is the base's, unchanged; only the head is here.",
}


def task_card(
    record: Mapping[str, Any],
    *,
    kind: str,
    pipeline: str,
    source: Source | None,
    tuned: str,
    prompt_mode: str,
    own_class: str | None,
    captioner: str | None,
    timestep: str,
    class_names: Sequence[str],
) -> ModelCard:
    """Write the card of a task model.

    Args:
        record: The user's entries, as `card_record` returns them.
        kind: Name of the model's class.
        pipeline: The hub's name for the task.
        source: Where the backbone was loaded from; None if it was built from parts.
        tuned: The part of the U-Net that was tuned: "all", "lora" or "nothing".
        prompt_mode: The model's prompt mode.
        own_class: A class that the model takes in place of a caption; None if it takes none.
        captioner: Name of the captioner with which the model was trained; None if it is not known.
        timestep: The passes from which features are computed, in words.
        class_names: Names of the classes; empty if the task has no classes.
    """
    is_of_scenes = captioner == TINY and prompt_mode == "captions"  # its own captioner writes the caption
    needs_caption = own_class is not None or (prompt_mode == "captions" and not is_of_scenes)
    caption = f', caption="{own_class or "what is in it"}"' if needs_caption else ""
    code = [
        f"from tadp.tasks import {kind}",
        "",
        f'model = {kind}.from_pretrained("{HERE}")',
        f'result = model.predict("{"scene.png" if is_of_scenes else "photo.jpg"}"{caption})',
        'result.plot().save("prediction.png")',
    ]
    return model_card(
        record,
        title=kind,
        intro="A model of the Python library tadp: a diffusion model's features and attention, steered by text, and a "
        "head.",
        facts={
            "tuned": _TUNED[tuned],
            "text": prompt_mode if own_class is None else f"{prompt_mode}, of the class of each image",
            "captioner": captioner or "none recorded",
            "timestep": timestep,
            "classes": ", ".join(class_names) or "none",
        },
        code="\n".join(code),
        source=source,
        own_base="built from parts; it is in `base/`",
        pipeline=pipeline,
    )
