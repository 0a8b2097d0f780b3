"""What `tadp predict` has written before: which images need no work, and which results another run left there."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tadp.errors import OutputError

if TYPE_CHECKING:
    from tadp.tasks import TaskModel


def prediction_settings(
    model: "TaskModel", *, name: str, revision: str | None, caption: str | None, options: dict[str, Any]
) -> dict[str, Any]:
    """All that decides a prediction besides the image, as JSON has it.

    Args:
        model: Its weights are told by a fingerprint, so that a model that was trained again is another.
        name: As it was asked for.
        revision: As it was asked for.
        caption: For all images; None where a captioner describes them, or the model's text is its own.
        options: Of the model's `predict`.
    """
    from tadp.extract.settings import fingerprint

    captioner = None if model.captioner is None else {"name": model.captioner.name, **model.captioner.generation}
    settings = {
        "model": name,
        "revision": revision,
        "weights": fingerprint(model),
        "dtype": str(model.backbone.dtype).removeprefix("torch."),
        "text": {"caption": caption} if caption is not None else {"captioner": captioner},
        "options": options,
    }
    return json.loads(json.dumps(settings))


def left_to_do(todo: dict[Path, Path], *, settings: dict[str, Any]) -> dict[Path, Path]:
    """The images without a result of these settings.

    Args:
        todo: For each image the path of its result, without suffix.
        settings: From `prediction_settings`.

    Raises:
        OutputError: If results are there that were made otherwise; the message says how.
    """
    left, in_the_way = {}, {}
    for image, target in todo.items():
        record = _record(Path(f"{target}.json"))
        if record is None:
            left[image] = target
        elif why := _difference(record, image, settings):
            in_the_way[target.name] = why
    if in_the_way:
        name, why = next(iter(in_the_way.items()))
        raise OutputError(
            f"{len(in_the_way)} of these {len(todo)} results are there, made otherwise: for {name}, {why}. Pass "
            "another folder, or overwrite=True."
        )
    return left


def _record(file: Path) -> dict[str, Any] | None:
    """What is said of a result; None if there is none, or it was cut short."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _difference(record: dict[str, Any], image: Path, settings: dict[str, Any]) -> str | None:
    """In what this result is not what would be made now; None if in nothing."""
    from tadp.extract.outputs import brief, file_digest

    before = record.get("settings")
    if not isinstance(before, dict):
        return "it does not say how"
    for key, value in settings.items():
        if before.get(key) != value:
            return f"{key} was {brief(before.get(key))} and is {brief(value)}"
    return None if record.get("image_sha256") == file_digest(image) else "the picture was another one"
