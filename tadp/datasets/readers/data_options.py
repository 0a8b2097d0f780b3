"""How a folder is read and split: options that `tadp data`, `train` and `evaluate` share. It needs no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tadp.errors import Argument, OptionError

Unpaired = Literal["raise", "skip", "empty"]
BadLabels = Literal["raise", "skip"]
Color: TypeAlias = tuple[int, int, int] | str  # red, green, blue from 0 to 255, or "#804080"
Palette: TypeAlias = Sequence[Color] | Mapping[Color, int | str]


@dataclass(frozen=True, kw_only=True)
class ReaderOptions:
    """The options of the readers of labelling tools' exports. None leaves an option to the reader.

    A reader refuses the options that it does not have; see `tadp.datasets.open`.

    Attributes:
        images: Folder of the images, if a COCO json is not next to them, or if that of images with masks has an unusual
            name; None is a search. A relative path starts from the current folder or, if there is no such folder, from
            that of the data.
        masks: Folder of the masks, if its name is not a usual one, as a path like that of the images; None is a search
            in the folder.
        class_names: Names of the classes in their order, car,bus (["car", "bus"] in Python), or new names for those in
            the data, Car=car,dirt= ({"Car": "car", "dirt": None}), where a class without a name is left out; None is
            the names in the data.
        labels: Class of each value in mask files, 255 for no class: 11=255 ({11: 255} in Python); None is the values as
            they are.
        palette: Class of each colour, if masks are coloured pictures: #804080=road ({"#804080": "road"} in Python), or
            the colours in the order of the classes: #000000,#804080 (["#000000", "#804080"]); None is masks that store
            classes.
        mask_suffix: Text after an image's name in the name of its mask, such as _mask; None is no text.
        depth_suffix: Text after an image's name in the name of its depth file, such as _depth; None is no text.
        ids: File that lists the images to read, one per line (in Python also a list of ids); None is all images.
        scale: Metres of one unit in depth files, such as 0.001; None is that of the files' format.
        invalid: Value in depth files that means unknown, besides 0; None is no such value.
        unpaired: Treatment of images without labels: an error, skip them, or take them as images without objects; None
            is raise.
        bad_labels: Treatment of labels that are outside their image, or of masks of another size: an error, or skip
            them; None is raise.
        resize_labels: Whether masks of the same shape as their image but another scale are scaled to it; None is no.

    Example:
        >>> ReaderOptions(labels={11: 255}, unpaired="skip").chosen
        {'labels': {11: 255}, 'unpaired': 'skip'}
    """

    images: Path | None = None
    masks: Path | None = None
    class_names: Sequence[str] | Mapping[str, str | None] | None = None
    labels: Mapping[int, int | str] | None = None
    palette: Palette | None = None
    mask_suffix: str | None = None
    depth_suffix: str | None = None
    ids: Sequence[str] | str | Path | None = None
    scale: float | None = None
    invalid: float | None = None
    unpaired: Unpaired | None = None
    bad_labels: BadLabels | None = None
    resize_labels: bool | None = None

    @property
    def chosen(self) -> dict[str, Any]:
        """The options that are not left to the reader, by name."""
        values = {option.name: getattr(self, option.name) for option in fields(ReaderOptions)}
        return {name: value for name, value in values.items() if value is not None}

    def refuse(self, what: str) -> None:
        """Refuse options of a reader for data that no reader opens.

        Args:
            what: A noun for the data, for the message.

        Raises:
            OptionError: If an option is set.
        """
        for name in self.chosen:
            raise OptionError(Argument(name), f" is for a folder that a reader opens, not for {what}. Leave it out.")


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """How a data set is split; see `tadp.datasets.split`.

    Attributes:
        fraction: Share of the images that are held out, if the data have no split of their own.
        group: Images that are held out only together: "folder", or a regular expression for the part of an image's
            name that they share; None is each image on its own.
        split_seed: Seed of the draw of the held-out images.
        lists: File that lists the images of each part, one per line: train=train.txt,val=val.txt ({"train":
            "train.txt", "val": "val.txt"} in Python); None is the data's own split.
        folders: Folder of each part, below that of the images: train=seq1,val=seq2 ({"train": "seq1", "val": "seq2"} in
            Python); None is the data's own split.
    """

    fraction: float = 0.2
    group: str | None = None
    split_seed: int = field(default=0, metadata={"least": 0})
    lists: Mapping[str, str | Path | Sequence[str]] | None = None
    folders: Mapping[str, str] | None = None

    @property
    def chosen_split(self) -> dict[str, Any]:
        """The options that differ from their defaults, by name."""
        return {
            part.name: value for part in fields(SplitOptions) if (value := getattr(self, part.name)) != part.default
        }

    @property
    def split_arguments(self) -> dict[str, Any]:
        """The arguments of `tadp.datasets.split`."""
        names = {option.name: option.name for option in fields(SplitOptions)} | {"split_seed": "seed"}
        return {argument: getattr(self, name) for name, argument in names.items()}


@dataclass(frozen=True, kw_only=True)
class DataOptions(ReaderOptions, SplitOptions):
    """How a folder is read and split; see `ReaderOptions` and `SplitOptions`."""


def to_json(value: Any) -> Any:
    """The value of an option for JSON, whose mappings only have texts as keys."""
    if isinstance(value, Mapping):
        return {"pairs": [[to_json(key), to_json(entry)] for key, entry in value.items()]}
    if isinstance(value, Path):
        return str(value.resolve())
    return [to_json(entry) for entry in value] if isinstance(value, list | tuple) else value


def from_json(value: Any) -> Any:
    """The value that `to_json` stored."""
    if isinstance(value, Mapping):
        return {tuple(key) if isinstance(key, list) else key: entry for key, entry in value["pairs"]}
    return value
