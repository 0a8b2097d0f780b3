"""What the results say of a claim: our figure in words, and a verdict."""

from collections.abc import Mapping, Sequence
from typing import Any

from tadp.cross_domain import Estimate

from .crossing import counted, cross, joined
from .intervals import AGREES, CANNOT_TELL, NOT, NOT_RUN, by_expectation, contrast
from .results import Results

LOWER_IS_BETTER = ("RMSE", "REL", "log10")
BEYOND_CHANCE = 0.70  # Spearman's rho of nine rows: of all their orders 4.3 % are so far from zero, over 5 % at 0.683
UNITS = {"mIoU": "mIoU", "RMSE": "m RMSE", "REL": "REL"}


def judge(claim: Mapping[str, Any], results: Results) -> tuple[str, str]:
    """What we found, and the verdict."""
    if "rows" in claim:
        return _rows(claim, results)
    if "each" in claim:
        return _each(claim["each"], results)
    if "tell" in claim:
        told = [_rows({"rows": one, "expect": "better"}, results)[0] for one in claim["tell"]]
        return ("-", NOT_RUN) if any(NOT_RUN in one for one in told) else ("; ".join(told), claim["verdict"])
    if "cross" in claim:
        return cross(claim["cross"], results)
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


def _rows(claim: Mapping[str, Any], results: Results) -> tuple[str, str]:
    """Frozen and tuned U-Net each; one verdict if they agree, both if they differ."""
    told, verdicts = _by_unet(claim, results)
    return "; ".join(told), joined(verdicts)


def _by_unet(claim: Mapping[str, Any], results: Results) -> tuple[list[str], dict[str, str]]:
    """Of a frozen and of a tuned U-Net what was found, and the verdict."""
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
    return told, verdicts


def _each(asked: Sequence[Mapping[str, Any]], results: Results) -> tuple[str, str]:
    """Several sums of rows, each with its name; the verdict counts theirs, frozen and tuned apart."""
    told, verdicts = [], []
    for one in asked:
        found, said = _by_unet({"rows": one, "expect": one["expect"]}, results)
        told.append(f"{one['name']}, {', '.join(found)}")
        verdicts += said.values()
    return "; ".join(told), counted(verdicts)


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
    digits = 2 if "IoU" in metric else 3
    said = f"{found.mean:+.{digits}f} ± {found.half_width:.{digits}f} {UNITS.get(metric, metric)}"
    if "relative_to" in asked:
        base = table["parts"][asked.get("part", 0)]["unets"][unet][asked["relative_to"]][metric]["mean"]
        said += f" ({100 * found.mean / base:+.1f} %)"
    return said


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
    return "; ".join(told), joined(verdicts)


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rho of figures without ties."""
    count = len(one)
    ranks = [[sorted(values).index(value) for value in values] for values in (one, other)]
    return 1 - 6 * sum((a - b) ** 2 for a, b in zip(*ranks, strict=True)) / (count * (count**2 - 1))
