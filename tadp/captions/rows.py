"""From a row of a caption file to a record, whatever the file's kind."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from tadp.captions.records import Located, Provenance, new_record, to_json
from tadp.captions.strict_json import loads
from tadp.errors import CaptionError


def from_row(row: dict[str, Any], where: str, fields: Any = None) -> Located:
    """A row with `id`, `captions` or `caption`, and others; `fields` are further ones that it had in a column."""
    if "id" not in row:
        names = ", ".join(map(repr, row)) or "nothing"
        raise CaptionError(f"{where}: there is no 'id'; it has {names}. Name the image's id 'id'.")
    rest = {key: value for key, value in row.items() if key not in ("id", "provenance")}
    captions, others = split_entry(rest, where)
    if fields is not None:
        others = others | fields if isinstance(fields, dict) else others | {"fields": fields}
    return located(f"{where}: ", row["id"], captions, others, row.get("provenance"))


def split_entry(entry: dict[str, Any], where: str) -> tuple[Any, dict[str, Any]]:
    """The captions of an entry, and its other fields."""
    for key in ("captions", "caption"):
        if key in entry:
            return entry[key], {name: value for name, value in entry.items() if name != key}
    names = ", ".join(map(repr, entry)) or "nothing"
    raise CaptionError(f"{where}: there are no 'captions' and no 'caption'; it has {names}. Give the text that name.")


def located(where: str, image_id: Any, captions: Any, fields: dict[str, Any], provenance: Any = None) -> Located:
    """A record of what stood in a file. A wrong type is the file's mistake there, not the caller's."""
    try:
        text = provenance if isinstance(provenance, str | None) else to_json(provenance)
        source = None if text is None else _provenance(text)
        return where, new_record(image_id, captions, fields, provenance=source)
    except (TypeError, ValueError) as error:
        raise CaptionError(f"{where}{error}") from error


@lru_cache(maxsize=64)
def _provenance(text: str) -> Provenance:
    return Provenance.from_dict(loads(text.encode(), "provenance", is_line=True))


@lru_cache(maxsize=64)
def provenance_text(provenance: Provenance | None) -> str | None:
    """Provenance as JSON, as a row has it; None if it is not known."""
    return None if provenance is None else to_json(provenance.as_dict())


def check_is_file(path: Path) -> None:
    """Raise CaptionError if there is no such file."""
    if not path.is_file():
        raise CaptionError(f"no such caption file: {path}." if not path.exists() else f"{path} is no file.")


def check_suffix(path: Path, *suffixes: str) -> None:
    """Raise ValueError if a file that is to be written would not be read as what it is."""
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"the file must have the suffix {' or '.join(suffixes)}, by which it is read; got {path}.")
