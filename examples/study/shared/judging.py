"""Compare the results with a claim: our figures in words, and a verdict."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tadp.cross_domain import Estimate

from .crossing import judge_cross
from .intervals import AGREES, CANNOT_TELL, DISAGREES, NOT_RUN, by_expectation, contrast
from .judgement import Figure, Judgement, counted, joined, summary
from .parts import UNETS
from .results import Results

LOWER_IS_BETTER = ("RMSE", "REL", "log10")
BEYOND_CHANCE = 0.70  # Spearman's rho of nine rows: 4.3 % of all orders are this far from zero, over 5 % at 0.683
UNITS = {
    "RMSE": "m RMSE",
    **dict.fromkeys(("IoU small", "IoU medium", "IoU large"), "IoU"),
    **dict.fromkeys(("multi-scale mIoU", "multi-scale gain"), "mIoU"),
}


def judge(claim: Mapping[str, Any], results: Results) -> Judgement:
    """Our figures and the verdict."""
    if "rows" in claim:
        return _judge_rows(claim, results)
    if "each" in claim:
        return _judge_each(claim["each"], results)
    if "tell" in claim:
        return _judge_by_hand(claim, results)
    if "cross" in claim:
        return judge_cross(claim["cross"], results)
    if "compare" in claim:
        pairs = claim["compare"]
        return _judge_comparisons(pairs, results) if isinstance(pairs, list) else _judge_comparison(pairs, results)
    if "order" in claim:
        return _judge_order(claim["order"], results)
    if "show" in claim:
        values = {name: results.at(claim["show"]["file"], path) for name, path in claim["show"]["values"].items()}
        if None in values.values():
            return Judgement(NOT_RUN)
        return Judgement(claim["verdict"], ", ".join(f"{name}: {value:.3g}" for name, value in values.items()))
    return Judgement(claim["verdict"])


def _judge_rows(claim: Mapping[str, Any], results: Results) -> Judgement:
    """A sum of rows with a frozen and with a tuned U-Net: one verdict if they agree, both if they differ."""
    figures, verdicts = _by_unet(claim["rows"], claim["expect"], claim.get("within", 0.0), results)
    return Judgement(joined(verdicts), figures={"": figures}, short_verdict=summary(list(verdicts.values())))


def _judge_each(sums: Sequence[Mapping[str, Any]], results: Results) -> Judgement:
    """Several sums of rows, each with a name; the verdict counts frozen and tuned U-Nets separately."""
    figures, verdicts = {}, []
    for terms in sums:
        label = terms["name"] + (f", {terms['metric']}" if "metric" in terms else "")
        figures[label], by_unet = _by_unet(terms, terms["expect"], 0.0, results)
        verdicts += by_unet.values()
    return Judgement(counted(verdicts), figures=figures, short_verdict=summary(verdicts))


def _judge_by_hand(claim: Mapping[str, Any], results: Results) -> Judgement:
    """Several sums of rows, with the verdict of the claim."""
    figures = {terms["metric"]: _by_unet(terms, "better", 0.0, results)[0] for terms in claim["tell"]}
    is_missing = any(figure.mean is None for by_unet in figures.values() for figure in by_unet.values())
    return Judgement(NOT_RUN) if is_missing else Judgement(claim["verdict"], figures=figures)


def _by_unet(
    terms: Mapping[str, Any], expect: str, within: float, results: Results
) -> tuple[dict[str, Figure], dict[str, str]]:
    """The figure and the verdict for each kind of U-Net."""
    table, metric = results.of(f"study-{terms['table']}.json"), terms.get("metric", "mIoU")
    sign = -1 if metric in LOWER_IS_BETTER else 1
    figures, verdicts = {}, {}
    for unet in UNETS:
        weighted = _weighted_seeds(table, terms, unet, metric)
        difference = contrast(weighted) if weighted else None
        if difference is None:
            figures[unet], verdicts[unet] = Figure(NOT_RUN), NOT_RUN
            continue
        signed = Estimate(sign * difference.mean, difference.half_width, difference.count)
        verdicts[unet] = by_expectation(signed, expect, within=within)
        text = _in_words(difference, metric, table, terms, unet)
        figures[unet] = Figure(text, difference.mean, UNITS.get(metric, metric))
    return figures, verdicts


def _weighted_seeds(table: Any, terms: Mapping[str, Any], unet: str, metric: str) -> list | None:
    """Weights and seeds of the rows; for two parts, the first minus the second. None if a row has not been run."""
    parts, weighted = terms.get("part", 0), []
    for sign, part in zip((1, -1), parts if isinstance(parts, list) else [parts], strict=False):
        rows = table["parts"][part]["unets"].get(unet, {}) if table else {}
        for label, weight in terms["rows"].items():
            cell = rows.get(label, {}).get(metric)
            if cell is None:
                return None
            weighted.append((sign * weight, cell["seeds"]))
    return weighted


def _in_words(difference: Estimate, metric: str, table: Any, terms: Mapping[str, Any], unet: str) -> str:
    """The mean with its interval and unit, and in per cent if the claim asks for that."""
    digits = 2 if "IoU" in UNITS.get(metric, metric) else 3
    spread = f" ± {difference.half_width:.{digits}f}" if math.isfinite(difference.half_width) else ""
    text = f"{difference.mean:+.{digits}f}{spread} {UNITS.get(metric, metric)}{'' if spread else ' (one seed)'}"
    if "relative_to" in terms:
        base = table["parts"][terms.get("part", 0)]["unets"][unet][terms["relative_to"]][metric]["mean"]
        text += f" ({100 * difference.mean / base:+.1f} %)"
    return text


def _judge_comparison(pair: Mapping[str, Any], results: Results) -> Judgement:
    left, right = (results.at(pair["file"], pair[side]) for side in ("left", "right"))
    if left is None or right is None:
        return Judgement(NOT_RUN)
    is_expected = (left > right) == (pair["expect"] == "left")
    names = [pair[side][1] for side in ("left", "right")]
    text = f"{left:.3g} ({names[0]}) against {right:.3g} ({names[1]}), {pair['measure']}"
    if "difference" not in pair:
        return Judgement(AGREES if is_expected else DISAGREES, text)
    mean, half_width = (results.at(pair["file"], [*pair["difference"], key]) for key in ("mean", "half_width"))
    if mean is None or half_width is None:
        return Judgement(NOT_RUN)
    verdict = by_expectation(Estimate(mean, half_width, 2), "better" if pair["expect"] == "left" else "worse")
    return Judgement(verdict, f"{text}; the difference is {mean:.3g} ± {half_width:.2g}")


def _judge_comparisons(pairs: Sequence[Mapping[str, Any]], results: Results) -> Judgement:
    """Several comparisons with intervals; the verdict counts them."""
    figures = {}
    for pair in pairs:
        mean, half_width = (results.at(pair["file"], [*pair["difference"], key]) for key in ("mean", "half_width"))
        text = NOT_RUN if mean is None else f"{mean:+.1f} ± {half_width:.1f} {pair['unit']}"
        figures[pair["measure"]] = {"ours": Figure(text, mean, pair["unit"])}
    verdicts = [_judge_comparison(pair, results).verdict for pair in pairs]
    return Judgement(counted(verdicts), figures=figures, short_verdict=summary(verdicts))


def _judge_order(order: Mapping[str, Any], results: Results) -> Judgement:
    table = results.of(f"study-{order['table']}.json")
    figures, verdicts = {}, {}
    for unet in UNETS:
        part = table["parts"][order["part"]] if table else {}
        rows = part.get("unets", {}).get(unet, {})
        labels = [label for label in part.get("paper", {}) if label in rows]
        if not labels or len(labels) < len(part["paper"]):
            figures[unet], verdicts[unet] = Figure(NOT_RUN), NOT_RUN
            continue
        rho = rank_correlation(
            [part["paper"][label] for label in labels], [rows[label]["mIoU"]["mean"] for label in labels]
        )
        verdicts[unet] = CANNOT_TELL if abs(rho) < BEYOND_CHANCE else AGREES if rho > 0 else DISAGREES
        figures[unet] = Figure(f"{rho:+.2f} rank correlation", rho, "rank correlation")
    return Judgement(joined(verdicts), figures={"": figures}, short_verdict=summary(list(verdicts.values())))


def rank_correlation(left: Sequence[float], right: Sequence[float]) -> float:
    """Spearman's rho of two lists of figures without ties."""
    count = len(left)
    ranks = [[sorted(values).index(value) for value in values] for values in (left, right)]
    return 1 - 6 * sum((a - b) ** 2 for a, b in zip(*ranks, strict=True)) / (count * (count**2 - 1))
