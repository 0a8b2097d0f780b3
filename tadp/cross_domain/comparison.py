"""The table of a study: for each modifier the mean over seeds, its interval, and the difference from the null row."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# Student's t, two-sided 95 %, for 1 to 30 degrees of freedom; any table of statistics has them.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_Z95 = 1.95996

Seeds = Mapping[int, float] | Mapping[str, float]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with the half width of its 95 % interval.

    Attributes:
        mean: Mean of the values.
        half_width: Half width of the 95 % interval by Student's t; infinite if there is only one value.
        count: Number of values, one per seed.
    """

    mean: float
    half_width: float
    count: int

    @property
    def sign(self) -> int:
        """1 or -1 if the interval is on one side of zero, else 0."""
        return 0 if abs(self.mean) <= self.half_width else int(math.copysign(1, self.mean))

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + (f" ± {self.half_width:.3f}" if math.isfinite(self.half_width) else "")


def estimate(values: Iterable[float]) -> Estimate:
    """Mean and 95 % t-interval.

    Raises:
        ValueError: If `values` is empty.

    Example:
        >>> print(estimate([0.70, 0.72, 0.74]))
        0.720 ± 0.050
    """
    values = list(values)
    if not values:
        raise ValueError("an estimate needs at least one value; got none.")
    degrees = len(values) - 1
    if not degrees:
        return Estimate(values[0], math.inf, 1)
    t = _T95[degrees - 1] if degrees <= len(_T95) else _beyond_the_table(degrees)
    return Estimate(statistics.fmean(values), t * statistics.stdev(values) / math.sqrt(len(values)), len(values))


def _beyond_the_table(degrees: int) -> float:
    """The first two terms of Fisher's expansion around the normal quantile."""
    first = (_Z95**3 + _Z95) / (4 * degrees)
    return _Z95 + first + (5 * _Z95**5 + 16 * _Z95**3 + 3 * _Z95) / (96 * degrees**2)


class ModifierTable:
    """A table that compares modifiers: one row per modifier, one column per figure, and one value per seed.

    Args:
        figures: The values by row, column and seed, three nested mappings. Rows may lack columns, and columns may lack
            seeds. A seed may be a string, as in JSON.
        null: Name of the row that the others are compared with, "null" by default.

    Raises:
        TypeError: If the values of a column are not a mapping by seed.
        ValueError: If the row `null` is missing, a seed is not a whole number, or a value is not finite.

    Example:
        >>> table = ModifierTable({
        ...     "null": {"comic": {0: 0.50, 1: 0.54, 2: 0.52}},
        ...     "simple": {"comic": {0: 0.55, 1: 0.60, 2: 0.57}},
        ... })
        >>> print(table.difference("simple", "comic"))
        0.053 ± 0.014
        >>> print(table.markdown())
        | modifier | comic | comic, minus null |
        |---|---|---|
        | null | 0.520 ± 0.050 | - |
        | simple | 0.573 ± 0.063 | +0.053 ± 0.014 |
    """

    def __init__(self, figures: Mapping[str, Mapping[str, Seeds]], *, null: str = "null"):
        if null not in figures:
            raise ValueError(
                f"the row to compare with, {null!r}, is missing; there are {', '.join(figures) or 'none'}."
            )
        self.null = null
        self.figures = {
            row: {column: _by_seed(seeds, row, column) for column, seeds in columns.items()}
            for row, columns in figures.items()
        }

    @property
    def columns(self) -> list[str]:
        """All columns, in the order in which rows name them."""
        return list(dict.fromkeys(column for columns in self.figures.values() for column in columns))

    def value(self, row: str, column: str) -> Estimate | None:
        """Mean and interval of a cell; None if it has no figures."""
        seeds = self.figures[row].get(column)
        return estimate(seeds.values()) if seeds else None

    def difference(self, row: str, column: str) -> Estimate | None:
        """The mean difference between a row and the null row, over the seeds that both have; None if they share none.

        The difference is taken seed by seed. A seed determines the head's initial weights and the order of images in
        all rows, so differences vary less than the values themselves.
        """
        own, null = self.figures[row].get(column, {}), self.figures[self.null].get(column, {})
        differences = [own[seed] - null[seed] for seed in own if seed in null]
        return estimate(differences) if differences else None

    def markdown(self, *, compared: Sequence[str] | None = None) -> str:
        """The table in Markdown; each column of `compared` (default: all) is followed by its differences from null."""
        compared = self.columns if compared is None else compared
        heads = [
            head
            for name in self.columns
            for head in ((name, f"{name}, minus {self.null}") if name in compared else (name,))
        ]
        lines = ["| modifier | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
        for row in self.figures:
            cells = [row]
            for column in self.columns:
                cells.append(_cell(self.value(row, column)))
                if column in compared:
                    difference = None if row == self.null else self.difference(row, column)
                    sign = "+" if difference is not None and difference.mean >= 0 else ""
                    cells.append(f"{sign}{_cell(difference)}")
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def to_json(self) -> str:
        """All figures by row, with mean, half width and the difference from the null row for each column."""
        rows = {
            row: {
                column: {
                    "seeds": {str(seed): value for seed, value in seeds.items()},
                    **_plain(self.value(row, column), ""),
                    **({} if row == self.null else _plain(self.difference(row, column), "difference_")),
                }
                for column, seeds in columns.items()
            }
            for row, columns in self.figures.items()
        }
        return json.dumps({"null": self.null, "rows": rows}, indent=2)


def _by_seed(seeds: Seeds, row: str, column: str) -> dict[int, float]:
    cell = f"figures of row {row!r}, column {column!r}"
    if not isinstance(seeds, Mapping):
        raise TypeError(f"{cell} must be given by seed, such as {{0: 0.50, 1: 0.54}}; got {type(seeds).__name__}.")
    try:
        by_seed = {int(seed): value for seed, value in seeds.items()}
    except ValueError as error:
        raise ValueError(f"{cell}: a seed must be a whole number; got {', '.join(map(repr, seeds))}.") from error
    for seed, value in by_seed.items():
        if not math.isfinite(value):
            raise ValueError(f"{cell}: the figure of seed {seed} is {value}. Leave it out, or run it again.")
    return by_seed


def _cell(value: Estimate | None) -> str:
    return "-" if value is None else str(value)


def _plain(value: Estimate | None, prefix: str) -> dict[str, float | None]:
    if value is None:
        return {}
    half = value.half_width if math.isfinite(value.half_width) else None
    return {f"{prefix}mean": value.mean, f"{prefix}half_width": half}
