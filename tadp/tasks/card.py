"""The model card of a task model: what it is, what it was trained from and with, and how to use it."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from torch import Tensor

from tadp._version import __version__
from tadp.files.hub import Source

_LICENSES = {"tadp-tiny": "apache-2.0", "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m"}
_TUNED = {
    "all": "The whole U-Net was tuned, and is here.",
    "lora": "A LoRA of the U-Net's attention was tuned, and is here.",
    "nothing": "The U-Net is the base's, unchanged; only the head is here.",
}
_TEMPLATE = """---
{{ card_data }}
---

# {{ kind }}

A model of the Python library tadp: a diffusion model's features and attention, steered by text, and a head.

| | |
|---|---|
| base model | {{ base }} |
| revision | {{ revision }} |
| tuned | {{ tuned }} |
| text | {{ text }} |
| captioner | {{ captioner }} |
| timestep | {{ timestep }} |
| classes | {{ classes }} |
| data | {{ data }} |
| licence | {{ license }} |
| written by | tadp {{ version }} |

{{ metrics }}

## How to use it

```python
from tadp.tasks import {{ kind }}

model = {{ kind }}.from_pretrained("this repository, or its folder")
result = model.predict("photo.jpg"{{ caption }})
result.plot().save("prediction.png")
```

{{ notes }}
"""


_TEXT_ENTRIES = ("data", "license", "notes")


def card_record(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Check the user's entries of a model card, and return them as JSON values.

    Args:
        entries: The entries by name: "data", "license" and "notes" are strings; "metrics" contains numbers by name,
            which may be numbers of NumPy or torch.

    Raises:
        ValueError: If the name of an entry is unknown.
        TypeError: If "data", "license" or "notes" is not a string, or a metric is not a number.
    """
    record: dict[str, Any] = {}
    for name, value in entries.items():
        if name == "metrics" and isinstance(value, Mapping):
            record[name] = {str(metric): _number(metric, figure) for metric, figure in value.items()}
        elif name == "metrics":
            raise TypeError(f"metrics must be numbers by name, such as {{'mIoU': 0.5}}; got {type(value).__name__}.")
        elif name not in _TEXT_ENTRIES:
            raise ValueError(
                f"a model card has the entries {', '.join(_TEXT_ENTRIES)} and metrics; got {name!r}. Put it into notes."
            )
        elif not isinstance(value, str):
            raise TypeError(f"{name} of a model card must be a string; got {type(value).__name__}.")
        else:
            record[name] = value
    return record


def _number(name: str, value: Any) -> float:
    if isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1):
        return float(value)
    raise TypeError(f"metrics must be numbers by name; {name!r} is of type {type(value).__name__}.")


def model_card(
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
    """Write the model card. It states every fact that is known about the model, and which facts are not recorded.

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
    base = source.name if source else None
    licence = record.get("license") or _LICENSES.get(base or "", "other")
    data = ModelCardData(
        library_name="tadp",
        pipeline_tag=pipeline,
        base_model=base if base and "/" in base else None,
        license=licence,
        tags=["tadp"],
    )
    return ModelCard.from_template(
        data,
        template_str=_TEMPLATE,
        kind=kind,
        base=base or "built from parts; it is in `base/`",
        revision=(source and source.revision) or "not from the hub",
        tuned=_TUNED[tuned],
        text=prompt_mode if own_class is None else f"{prompt_mode}, of the class of each image",
        captioner=captioner or "none recorded",
        timestep=timestep,
        classes=", ".join(class_names) or "none",
        data=record.get("data") or "not recorded",
        license=licence,
        version=__version__,
        metrics=_metrics(record.get("metrics") or {}),
        caption=f', caption="{own_class or "what is in it"}"' if prompt_mode == "captions" or own_class else "",
        notes=record.get("notes") or "",
    )


def _metrics(metrics: dict[str, float]) -> str:
    if not metrics:
        return "No metrics are recorded."
    rows = [f"| {name} | {value:.4g} |" for name, value in metrics.items()]
    return "\n".join(["| metric | value |", "|---|---|", *rows])
