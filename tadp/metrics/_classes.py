"""What the metrics of several classes share: their names, and the mean and the table of their figures."""

import math
from collections.abc import Mapping, Sequence


def check_merge(own: object, other: object, settings: Sequence[str]) -> None:
    """Refuse to put together what was not measured alike.

    Raises:
        TypeError: If the other is another metric.
        ValueError: If one of the settings differs.
    """
    if type(own) is not type(other):
        raise TypeError(f"a {type(own).__name__} merges with its like; got {type(other).__name__}.")
    for name in settings:
        left, right = getattr(own, name), getattr(other, name)
        if left != right:
            raise ValueError(
                f"metrics that are merged have the same {name}; got {left} and {right}. Make both with the same "
                "settings."
            )


def class_table(columns: Mapping[str, Mapping[str, float]]) -> str:
    """One line a class, shares as percentages, nan as a dash.

    Args:
        columns: For each heading, the figure of each class in [0, 1]; all have the same classes.

    Example:
        >>> print(class_table({"IoU": {"dog": 0.5, "dining table": float("nan")}}))
        class             IoU
        dog             50.00
        dining table        -
    """
    names = list(next(iter(columns.values())))
    width = max(len(name) for name in ("class", *names))
    lines = [f"{'class':<{width}}" + "".join(f"  {heading:>7}" for heading in columns)]
    for name in names:
        lines.append(f"{name:<{width}}" + "".join(f"  {percent(column[name]):>7}" for column in columns.values()))
    return "\n".join(lines)


def percent(share: float) -> str:
    """A share in [0, 1] as a percentage of two digits; nan as a dash."""
    return "-" if math.isnan(share) else f"{100 * share:.2f}"


def mean_of_known(figures: Mapping[str, float]) -> float:
    """The mean over the classes whose figure is not nan; nan if there is none."""
    known = [figure for figure in figures.values() if not math.isnan(figure)]
    return math.fsum(known) / len(known) if known else math.nan
