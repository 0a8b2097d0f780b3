"""What the results say of a claim: our figure in words, and a verdict."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tadp.cross_domain import Estimate, estimate

AGREES, NOT, CANNOT_TELL, NOT_RUN = "agrees", "does not", "cannot tell", "not run yet"
LOWER_IS_BETTER = ("RMSE", "REL", "log10")
BEYOND_CHANCE = 0.683  # Spearman's rho of nine rows, two-sided 5 %; any table of statistics has it
UNITS = {"mIoU": "mIoU", "RMSE": "m RMSE", "REL": "REL"}


class Results:
    """The JSON files of a folder, each read once; a file that is not there is empty."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._read: dict[str, Any] = {}

    def of(self, file: str) -> Any:
        if file not in self._read:
            path = self.folder / file
            self._read[file] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return self._read[file]

    def at(self, file: str, path: Sequence[str]) -> float | None:
        """One figure."""
        found: Any = self.of(file)
        for key in path:
            if not isinstance(found, Mapping) or key not in found:
                return None
            found = found[key]
        return float(found)


def judge(claim: Mapping[str, Any], results: Results) -> tuple[str, str]:
    """What we found, and the verdict."""
    if "rows" in claim:
        return _rows(claim, results)
    if "cross" in claim:
        return _cross(claim["cross"], results)
    if "compare" in claim:
        return _compare(claim["compare"], results)
    if "order" in claim:
        return _order(claim["order"], results)
    if "show" in claim:
        values = {name: results.at(claim["show"]["file"], path) for name, path in claim["show"]["values"].items()}
        if None in values.values():
            return "-", NOT_RUN
        return ", ".join(f"{name} {value:.3g}" for name, value in values.items()), claim["verdict"]
    return "-", claim["verdict"]


def contrast(seeds: Sequence[tuple[float, Mapping[str, float]]]) -> Estimate | None:
    """A weighted sum of rows, over the seeds that all have; None if there are none.

    Args:
        seeds: Of each row its weight, and seed to figure.
    """
    shared = [seed for seed in seeds[0][1] if all(seed in one for _, one in seeds)]
    return estimate(sum(weight * one[seed] for weight, one in seeds) for seed in shared) if shared else None


def by_expectation(found: Estimate, expect: str, *, within: float = 0.0) -> str:
    """Whether an interval is on the side that the claim says.

    Args:
        found: Positive is better.
        expect: "better", "worse" or "same".
        within: What counts as the same: an interval agrees if all of it is so near to zero, and does not if none is.
    """
    if expect == "same":
        if abs(found.mean) + found.half_width <= within:
            return AGREES
        return NOT if abs(found.mean) - found.half_width > within else CANNOT_TELL
    if not found.sign:
        return CANNOT_TELL
    return AGREES if (found.sign > 0) == (expect == "better") else NOT


def _rows(claim: Mapping[str, Any], results: Results) -> tuple[str, str]:
    """Frozen and tuned U-Net each; the verdict is of the tuned one, which is the paper's, or of both if they differ."""
    asked = claim["rows"]
    table, metric = results.of(f"study-{asked['table']}.json"), asked.get("metric", "mIoU")
    lower = -1 if metric in LOWER_IS_BETTER else 1
    parts = asked.get("part", 0)
    told, verdicts = [], {}
    for unet in ("frozen", "tuned"):
        terms = _terms(table, asked, parts, unet, metric)
        found = contrast(terms) if terms else None
        if found is None:
            told.append(f"{unet}: {NOT_RUN}")
            verdicts[unet] = NOT_RUN
            continue
        verdicts[unet] = by_expectation(
            Estimate(lower * found.mean, found.half_width, found.count),
            claim["expect"],
            within=claim.get("within", 0.0),
        )
        told.append(f"{unet}: {_said(found, metric, table, asked, unet)}")
    return "; ".join(told), _joined(verdicts)


def _terms(table: Any, asked: Mapping[str, Any], parts: Any, unet: str, metric: str) -> list | None:
    """Weights and seeds of the rows; of two parts, the first less the second. None where a row is not run."""
    found = []
    for sign, part in zip((1, -1), parts if isinstance(parts, list) else [parts], strict=False):
        rows = table["parts"][part]["unets"].get(unet, {}) if table else {}
        for label, weight in asked["rows"].items():
            one = rows.get(label, {}).get(metric)
            if one is None:
                return None
            found.append((sign * weight, one["seeds"]))
    return found


def _said(found: Estimate, metric: str, table: Any, asked: Mapping[str, Any], unet: str) -> str:
    digits = 2 if metric == "mIoU" else 3
    said = f"{found.mean:+.{digits}f} ± {found.half_width:.{digits}f} {UNITS.get(metric, metric)}"
    if "relative_to" in asked:
        base = table["parts"][asked.get("part", 0)]["unets"][unet][asked["relative_to"]][metric]["mean"]
        said += f" ({100 * found.mean / base:+.1f} %)"
    return said


def _joined(verdicts: Mapping[str, str]) -> str:
    """One word if both U-Nets say the same, else both."""
    if len(set(verdicts.values())) == 1:
        return verdicts["tuned"]
    return "; ".join(f"{unet}: {verdict}" for unet, verdict in verdicts.items())


def _cross(asked: Sequence[Mapping[str, str]], results: Results) -> tuple[str, str]:
    told, verdicts = {}, []
    for one in asked:
        result = results.of(f"cross-domain-{one['task']}.json")
        if not result:
            return "-", NOT_RUN
        (judged,) = [v for v in result["verdicts"] if (v["paper"], v["row"]) == (one["paper"], one["row"])]
        cell = result["rows"][one["row"]][judged["ours"]]
        half = cell["difference_half_width"]
        told[f"{one['row']}, {judged['ours']}: {100 * cell['difference_mean']:+.1f} ± {100 * half:.1f}"] = None
        verdicts.append({"disagrees": NOT}.get(judged["verdict"], judged["verdict"]))
    counts = {word: verdicts.count(word) for word in dict.fromkeys(verdicts)}
    said = (
        next(iter(counts))
        if len(counts) == 1
        else ", ".join(f"{word} {n} of {len(asked)}" for word, n in counts.items())
    )
    return "frozen, per cent, less null: " + "; ".join(told), said


def _compare(asked: Mapping[str, Any], results: Results) -> tuple[str, str]:
    left, right = (results.at(asked["file"], asked[side]) for side in ("left", "right"))
    if left is None or right is None:
        return "-", NOT_RUN
    return f"{left:.3g} against {right:.3g}", AGREES if (left > right) == (asked["expect"] == "left") else NOT


def _order(asked: Mapping[str, Any], results: Results) -> tuple[str, str]:
    table = results.of(f"study-{asked['table']}.json")
    told, verdicts = [], {}
    for unet in ("frozen", "tuned"):
        part = table["parts"][asked["part"]] if table else {}
        rows = part.get("unets", {}).get(unet, {})
        labels = [label for label in part.get("paper", {}) if label in rows]
        if not labels or len(labels) < len(part["paper"]):
            verdicts[unet] = NOT_RUN
            told.append(f"{unet}: {NOT_RUN}")
            continue
        rho = rank_correlation([part["paper"][one] for one in labels], [rows[one]["mIoU"]["mean"] for one in labels])
        verdicts[unet] = CANNOT_TELL if abs(rho) < BEYOND_CHANCE else AGREES if rho > 0 else NOT
        told.append(f"{unet}: {rho:+.2f}")
    return "; ".join(told), _joined(verdicts)


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rho of figures without ties."""
    count = len(one)
    ranks = [[sorted(values).index(value) for value in values] for values in (one, other)]
    return 1 - 6 * sum((a - b) ** 2 for a, b in zip(*ranks, strict=True)) / (count * (count**2 - 1))
