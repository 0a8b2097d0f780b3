"""Which colours or values masks have, and the option that gives them a meaning, for messages."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from tadp.datasets.sample import IGNORE_LABEL
from tadp.errors import TADPError
from tadp.images.image_files import read_labels
from tadp.language.grammar import counted

_MOST_MASKS = 20  # that are read for a message
_MOST_SHOWN = 12


def contents_of(masks: Sequence[Path], *, by_palette: bool = False) -> tuple[Counter[str], Counter[int]]:
    """Count the pixels in some masks by colour, as "#rrggbb", and by value if a mask stores values.

    Args:
        masks: The files.
        by_palette: Whether to count the colours of a mask that has a palette, instead of its values.
    """
    colors, values = Counter[str](), Counter[int]()
    for path in masks[:: max(len(masks) // _MOST_MASKS, 1)][:_MOST_MASKS]:
        with suppress(TADPError, OSError):
            stored = read_labels(path, as_colors=True)
            if (stored.mode in ("1", "L", "P", "F") or stored.mode[0] == "I") and not (
                by_palette and stored.mode == "P"
            ):
                found, counts = np.unique(read_labels(path).values, return_counts=True)
                values.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
                continue
            codes = (stored.values.astype(np.int64) * (65536, 256, 1)).sum(axis=-1)
            found, counts = np.unique(codes, return_counts=True)
            colors.update({f"#{code:06x}": int(count) for code, count in zip(found, counts, strict=True)})
    return colors, values


def suggested_palette(colors: Mapping[str, int], names: Sequence[str] = ()) -> dict[str, str]:
    """A palette to edit: the names in the order of the colours if there are as many, or else names to replace.

    Example:
        >>> suggested_palette({"#e04040": 30, "#000000": 70})
        {'#000000': 'background', '#e04040': 'class1'}
    """
    ordered = sorted(colors, key=lambda color: (color != "#000000", -colors[color]))[:_MOST_SHOWN]
    if len(names) != len(colors):
        first = 0 if "#000000" in ordered else 1
        names = [("background" if not number else f"class{number}") for number in range(first, first + len(ordered))]
    return dict(zip(ordered, names, strict=False))


def palette_advice(masks: Sequence[Path], names: Sequence[str] = (), *, by_palette: bool = False) -> str:
    """The colours that occur in coloured masks, and the option that names them; "" if the masks store values.

    Args:
        masks: The files.
        names: The names of the classes, if they are known.
        by_palette: Whether to include the colours of masks that have a palette.
    """
    colors, _ = contents_of(masks, by_palette=by_palette)
    if not colors:
        return ""
    palette = suggested_palette(colors, names)
    shares = ", ".join(f"{color} ({colors[color] / colors.total():.1%} of the pixels)" for color in palette)
    more = f" and {len(colors) - len(palette)} more" if len(colors) > len(palette) else ""
    option = ",".join(f"{color}={name}" for color, name in palette.items())
    color, name = list(palette.items())[-1]
    red, green, blue = bytes.fromhex(color[1:])
    return (
        f"Colours in {counted(min(len(masks), _MOST_MASKS), 'mask')}: {shares}{more}. Pass palette={palette} "
        f"(--palette '{option}') with the right name for each colour, or write a file labelmap.txt next to the folder "
        f"of masks, with a line such as {name}:{red},{green},{blue}:: for each colour."
    )


def labels_advice(values: Sequence[int], names: Sequence[str]) -> str:
    """The option that makes values of masks classes; "" if all values are classes.

    If the values count the classes from 1 instead of 0, value 1 becomes class 0, and so on. If there are as many other
    values as classes that do not occur, they get these classes in their order. Otherwise they mean unknown.

    Example:
        >>> labels_advice([0, 127, 254], ["background", "fire", "smoke"])
        'If 127 means fire and 254 means smoke, pass labels={127: 1, 254: 2} (--labels 127=1,254=2).'
        >>> labels_advice([0, 1, 11], ["road", "car"])
        'If 11 means unknown, pass labels={11: 255} (--labels 11=255).'
        >>> labels_advice([1, 2, 255], ["road", "car"])
        'If 1 means road and 2 means car, pass labels={1: 0, 2: 1} (--labels 1=0,2=1).'
    """
    known = [value for value in sorted(set(values)) if value != IGNORE_LABEL]
    wrong = [value for value in known if value >= len(names)]
    if not wrong or wrong[-1] >= 2**16:
        return ""
    free = [index for index in range(len(names)) if index not in values]
    labels = dict(zip(wrong, free, strict=True)) if len(free) == len(wrong) else dict.fromkeys(wrong, IGNORE_LABEL)
    if known == list(range(1, len(names) + 1)) and len(known) <= _MOST_SHOWN:
        labels = {value: value - 1 for value in known}
    labels = dict(list(labels.items())[:_MOST_SHOWN])
    meanings = [
        f"{value} means {names[label] if label != IGNORE_LABEL else 'unknown'}" for value, label in labels.items()
    ]
    option = ",".join(f"{value}={label}" for value, label in labels.items())
    return f"If {' and '.join(meanings)}, pass labels={labels} (--labels {option})."


def palette_names(palette: object) -> list[str]:
    """The names of the classes in a palette that maps each colour to a name or to unknown; [] for another palette."""
    if not isinstance(palette, Mapping):
        return []
    names = [label for label in palette.values() if label != IGNORE_LABEL]
    return list(dict.fromkeys(names)) if all(isinstance(name, str) for name in names) else []
