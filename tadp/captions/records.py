"""The captions of one image, where they came from, and the rules for both."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from typing import Any, Protocol, runtime_checkable

from tadp._version import __version__
from tadp.errors import Argument, CaptionError
from tadp.language.grammar import MAX_CHARACTERS

_SHOWN = 60  # characters of a caption or an id in a message


@runtime_checkable
class Described(Protocol):
    """A source of captions that describes how it produces them, as `tadp.Captioner` does."""

    @property
    def name(self) -> str:
        """The folder or repository it was loaded from."""
        ...

    @property
    def revision(self) -> str | None:
        """The commit of the repository, or None."""
        ...

    @property
    def generation(self) -> Mapping[str, Any]:
        """Everything besides the model that determines its captions."""
        ...


@dataclass(frozen=True)
class Provenance:
    """Where captions came from: the model and its settings. Two provenances are equal if everything in them is equal.

    Args:
        captioner: Folder or hub id of the captioner, or the name of any other source of captions.
        revision: Commit of the captioner's repository; None if it has none.
        generation: The settings with which captions were generated, as JSON values; empty if they are not known.
        versions: Versions of the libraries that wrote the captions, by name; empty if they are not known.

    Raises:
        TypeError: If a value cannot be written as JSON.
        CaptionError: If `captioner` is empty.
    """

    captioner: str
    revision: str | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.captioner, str) or not isinstance(self.revision, str | None):
            raise TypeError(f"captioner and revision must be strings; got {self.captioner!r} and {self.revision!r}.")
        if flaw := flaw_of(self.captioner):
            raise CaptionError(f"the captioner's name {flaw}. Give the folder or repository of the model.")
        for name in ("generation", "versions"):
            object.__setattr__(self, name, _json_object(getattr(self, name), f"a provenance's {name}"))

    def __hash__(self) -> int:
        return hash((self.captioner, self.revision))

    @classmethod
    def of(cls, captioner: Described) -> "Provenance":
        """Return the provenance of a captioner's captions, with the versions of tadp and transformers.

        Args:
            captioner: A `tadp.Captioner`, or any object with the same `name`, `revision` and `generation`.
        """
        versions = {"tadp": __version__, "transformers": version("transformers")}
        return cls(captioner.name, captioner.revision, captioner.generation, versions)

    def as_dict(self) -> dict[str, Any]:
        """Return the provenance as a dictionary that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Any) -> "Provenance":
        """Make a provenance of the dictionary that `as_dict` returned.

        Raises:
            CaptionError: If it is not such a dictionary.
        """
        names = [attribute.name for attribute in fields(cls)]
        if not isinstance(content, dict) or "captioner" not in content or not content.keys() <= set(names):
            raise CaptionError(f"a provenance must be an object with {', '.join(names)}; got {shown(content)}.")
        try:
            return cls(**content)
        except TypeError as error:
            raise CaptionError(str(error)) from error


@dataclass(frozen=True, slots=True)
class CaptionRecord:
    """Everything that a `CaptionTable` stores about one image.

    Args:
        id: The image's id.
        captions: The image's captions, at least one. `table[id]` returns the first.
        fields: Further information about the image, such as its `class_label`, as JSON values by name.
        provenance: Where the captions came from; None if that is not known.
    """

    id: str
    captions: tuple[str, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    provenance: Provenance | None = None


def new_record(
    image_id: Any, captions: Any, fields: Any = None, *, provenance: Provenance | None = None
) -> CaptionRecord:
    """Check the parts of a record, and create it.

    Args:
        image_id: The image's id, a string.
        captions: One caption or several, strings.
        fields: Further information about the image, as JSON values by name; None for no fields.
        provenance: Where the captions came from; None if that is not known.

    Raises:
        TypeError: If the id or a caption is not a string, or a field cannot be written as JSON.
        CaptionError: If `captions` is empty, a caption is empty, or a text cannot be written as UTF-8.
    """
    check_id(image_id)
    if not isinstance(captions, str | list | tuple):
        raise TypeError(
            f"captions of {shown(image_id)} must be a string or a list of strings; got {type(captions).__name__} "
            f"{shown(captions)}."
        )
    listed = (captions,) if isinstance(captions, str) else tuple(captions)
    if not listed:
        raise CaptionError(f"the image {shown(image_id)} has no caption; give it at least one, or leave it out.")
    for caption in listed:
        if not isinstance(caption, str):
            raise TypeError(
                f"a caption of {shown(image_id)} must be a string; got {type(caption).__name__} {shown(caption)}."
            )
        if flaw := flaw_of(caption):
            raise CaptionError(
                f"a caption of {shown(image_id)} {flaw}. Give another, or leave the image out; "
                "table.get(id, '') then returns the empty prompt."
            )
    if fields and "captions" in fields:
        raise CaptionError(f"a field of {shown(image_id)} cannot be called 'captions'. Pass its content as captions.")
    return CaptionRecord(
        str(image_id),  # numpy's strings become plain strings
        tuple(map(str, listed)),
        _json_object(fields, f"the fields of {shown(image_id)}") if fields else {},
        provenance,
    )


def check_id(image_id: Any) -> None:
    """Check an image id.

    Raises:
        TypeError: If it is not a string.
        CaptionError: If it is empty, or cannot be written as UTF-8.
    """
    if not isinstance(image_id, str):
        raise TypeError(
            f"an image id must be a string; got {type(image_id).__name__} {shown(image_id)}. Pass "
            f"{str(image_id)!r} if that is its name."
        )
    if flaw := flaw_of(image_id):
        raise CaptionError(f"an image id {flaw}. Give another, or rename the file.")


def flaw_of(text: str) -> str | None:
    """Return why a text cannot be an id, a name or a caption; None if it can."""
    if len(text) > MAX_CHARACTERS:
        return f"has {len(text)} characters, of which at most {MAX_CHARACTERS} are allowed: {shown(text[:_SHOWN])}"
    if not text or text.isspace():
        return f"is empty: {text!r}"
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:  # a file name in another encoding, or half of a surrogate pair
            return f"cannot be written as UTF-8, because of character {error.start}: {shown(text)}"
    return None


def shown(value: Any) -> str:
    """Show a value in a message, shortened."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def to_json(value: Any) -> str:
    """Write a value as JSON on one line, without escaping any script."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def differences(old: Provenance | None, new: Provenance | None) -> list[str | Argument]:
    """Describe how one provenance differs from another, as parts of an error message."""
    if old is None or new is None:
        was, now = ("of unknown origin" if source is None else f"by {source.captioner!r}" for source in (old, new))
        return [f"the table's are {was}, the new ones {now}"]
    changed: list[tuple[str, str]] = [
        (name, f" was {shown(getattr(old, name))} and is {shown(getattr(new, name))}")
        for name in ("captioner", "revision")
        if getattr(old, name) != getattr(new, name)
    ]
    for before, after in ((old.generation, new.generation), (old.versions, new.versions)):
        for key in {**before, **after}:
            was, now = (shown(values[key]) if key in values else "not recorded" for values in (before, after))
            if was != now or before.get(key) != after.get(key):
                changed.append((key, f" was {was} and is {now}"))
    return [part for name, change in changed for part in (", ", Argument(name), change)][1:]


def _json_object(value: Any, what: str) -> dict[str, Any]:
    """Copy a mapping as JSON holds it, with lists in place of tuples."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{what} must be a mapping from names to values; got {shown(value)}.")
    try:
        text = json.dumps(dict(value), ensure_ascii=False, allow_nan=False)
        text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{what} must be values that JSON can hold; got {shown(value)} ({error}).") from error
    return json.loads(text)


Located = tuple[str, CaptionRecord]  # the place of a record in a file, "captions.jsonl, line 3: ", or ""; the record


def sequence_of_ids(ids: Any) -> Sequence[str]:
    """Return ids as a list after checking each. A single string is refused: its letters would count as ids."""
    if isinstance(ids, str):
        raise TypeError(f"ids must be a list of strings; got the string {shown(ids)}. Put it in a list.")
    listed = list(ids)
    for image_id in listed:
        check_id(image_id)
    return listed
