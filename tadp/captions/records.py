"""The captions of one image, where they came from, and the rules that both keep."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from typing import Any, Protocol, runtime_checkable

from tadp._version import __version__
from tadp.errors import Argument, CaptionError

_SHOWN = 60  # characters of a caption or an id in a message


@runtime_checkable
class Described(Protocol):
    """What says how its captions come about; `tadp.Captioner` does."""

    @property
    def name(self) -> str:
        """The folder or repository it was loaded from."""
        ...

    @property
    def revision(self) -> str | None:
        """The commit it came at; None if there is none."""
        ...

    @property
    def generation(self) -> Mapping[str, Any]:
        """All that decides its captions besides the model."""
        ...


@dataclass(frozen=True)
class Provenance:
    """Where captions came from. Two that differ in anything are not the same.

    Args:
        captioner: Folder or repository of the model, or any other name of a source.
        revision: Commit of the repository.
        generation: Arguments of the generation, as JSON has them.
        versions: Versions of the libraries that made the captions.

    Raises:
        TypeError: If something in it is not of JSON.
        CaptionError: If the captioner has no name.
    """

    captioner: str
    revision: str | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.captioner, str) or not isinstance(self.revision, str | None):
            raise TypeError(f"captioner and revision are strings; got {self.captioner!r} and {self.revision!r}.")
        if flaw := _flaw(self.captioner):
            raise CaptionError(f"the captioner's name {flaw}. Give the folder or repository of the model.")
        for name in ("generation", "versions"):
            object.__setattr__(self, name, _json_object(getattr(self, name), f"a provenance's {name}"))

    def __hash__(self) -> int:
        return hash((self.captioner, self.revision))

    @classmethod
    def of(cls, captioner: Described) -> "Provenance":
        """The provenance of what a captioner says, with the versions of tadp and transformers.

        Args:
            captioner: A `tadp.Captioner`, or anything with its `name`, `revision` and `generation`.
        """
        versions = {"tadp": __version__, "transformers": version("transformers")}
        return cls(captioner.name, captioner.revision, captioner.generation, versions)

    def as_dict(self) -> dict[str, Any]:
        """The provenance as JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Any) -> "Provenance":
        """The provenance that `as_dict` gave.

        Raises:
            CaptionError: If it is not one.
        """
        names = [one.name for one in fields(cls)]
        if not isinstance(content, dict) or "captioner" not in content or not content.keys() <= set(names):
            raise CaptionError(f"a provenance is an object with {', '.join(names)}; got {shown(content)}.")
        try:
            return cls(**content)
        except TypeError as error:
            raise CaptionError(str(error)) from error


@dataclass(frozen=True, slots=True)
class CaptionRecord:
    """All that a table holds of one image.

    Args:
        id: The image's id.
        captions: Its captions, at least one, the first of which `table[id]` gives.
        fields: What else stood there, such as `class_label`, as JSON has it.
        provenance: Where the captions came from; None if nobody said.
    """

    id: str
    captions: tuple[str, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    provenance: Provenance | None = None


def new_record(
    image_id: Any, captions: Any, fields: Any = None, *, provenance: Provenance | None = None
) -> CaptionRecord:
    """A record, after everything about it was checked.

    Raises:
        TypeError: If the id or a caption is no string, or fields are not of JSON.
        CaptionError: If there is no caption, or one is empty, or text cannot be written as UTF-8.
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
        if flaw := _flaw(caption):
            raise CaptionError(
                f"a caption of {shown(image_id)} {flaw}. Give another, or leave the image out: "
                "table.get(id, '') is the empty prompt then."
            )
    if fields and "captions" in fields:
        raise CaptionError(f"a field of {shown(image_id)} cannot be called 'captions'. Pass them as captions.")
    return CaptionRecord(
        str(image_id),  # numpy's strings are strings too, and are not kept
        tuple(map(str, listed)),
        _json_object(fields, f"the fields of {shown(image_id)}") if fields else {},
        provenance,
    )


def check_id(image_id: Any) -> None:
    """Refuse what is no image id.

    Raises:
        TypeError: If it is no string.
        CaptionError: If it is empty, or cannot be written as UTF-8.
    """
    if not isinstance(image_id, str):
        raise TypeError(
            f"an image id must be a string; got {type(image_id).__name__} {shown(image_id)}. Pass "
            f"{str(image_id)!r} if that is its name."
        )
    if flaw := _flaw(image_id):
        raise CaptionError(f"an image id {flaw}. Give another, or rename the file.")


def _flaw(text: str) -> str | None:
    """What keeps text from being an id, a name or a caption."""
    if not text or text.isspace():
        return f"is empty: {text!r}"
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:  # a file name of another encoding, or half a pair of surrogates
            return f"cannot be written as UTF-8, because of character {error.start}: {shown(text)}"
    return None


def shown(value: Any) -> str:
    """A value for a message, shortened."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def to_json(value: Any) -> str:
    """JSON on one line, any script as it is."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def differences(old: Provenance | None, new: Provenance | None) -> list[str | Argument]:
    """In words, how one provenance differs from another, as parts of an error's message."""
    if old is None or new is None:
        was, now = ("of unknown origin" if one is None else f"by {one.captioner!r}" for one in (old, new))
        return [f"those are {was}, these {now}"]
    changed: list[tuple[str, str]] = [
        (name, f" was {shown(getattr(old, name))} and is {shown(getattr(new, name))}")
        for name in ("captioner", "revision")
        if getattr(old, name) != getattr(new, name)
    ]
    for before, after in ((old.generation, new.generation), (old.versions, new.versions)):
        for key in {**before, **after}:
            was, now = (shown(one[key]) if key in one else "not said" for one in (before, after))
            if was != now or before.get(key) != after.get(key):
                changed.append((key, f" was {was} and is {now}"))
    return [part for name, change in changed for part in (", ", Argument(name), change)][1:]


def _json_object(value: Any, what: str) -> dict[str, Any]:
    """A copy of it as JSON has it: lists for tuples."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{what} must be a mapping from names to values; got {shown(value)}.")
    try:
        text = json.dumps(dict(value), ensure_ascii=False, allow_nan=False)
        text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{what} must be what JSON can hold; got {shown(value)} ({error}).") from error
    return json.loads(text)


Located = tuple[str, CaptionRecord]  # "captions.jsonl, line 3: ", where a record stood, or ""; and the record


def sequence_of_ids(ids: Any) -> Sequence[str]:
    """Ids in a list, each checked; one string alone is refused, for it would be taken letter by letter."""
    if isinstance(ids, str):
        raise TypeError(f"ids must be a list of strings; got the string {shown(ids)}. Put it in a list.")
    listed = list(ids)
    for image_id in listed:
        check_id(image_id)
    return listed
