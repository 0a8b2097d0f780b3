"""Compare cross-domain results with a claim: differences from the null modifier, each with its verdict."""

from collections.abc import Mapping, Sequence
from typing import Any

from tadp.cross_domain import Estimate

from .intervals import CANNOT_TELL, NOT_RUN, by_expectation
from .judgement import Figure, Judgement, counted, joined, summary
from .parts import UNETS
from .results import Results


def judge_cross(cells: Sequence[Mapping[str, str]], results: Results) -> Judgement:
    """Differences from the null modifier (plain captions) in other domains, with a frozen and with a tuned U-Net.

    If two columns of the paper correspond to one of ours, they count once if they have the same verdict, and separately
    if they differ. `expect` states what the claim predicts, if the paper's cells do not follow it.
    """
    figures: dict[str, dict[str, Figure]] = {}
    verdicts, own_verdicts = {}, []
    for unet in UNETS:
        by_task = {cell["task"]: results.of(f"{page_name(cell['task'], unet)}.json") for cell in cells}
        if not all(by_task.values()):
            verdicts[unet] = NOT_RUN
            own_verdicts.append(NOT_RUN)
            continue
        judged = dict.fromkeys(_difference(cell, by_task[cell["task"]]) for cell in cells)
        for label, figure, _ in judged:
            figures.setdefault(label, {other: Figure(NOT_RUN) for other in UNETS})[unet] = figure
        by_unet = [verdict for _, _, verdict in judged]
        verdicts[unet] = counted(by_unet)
        own_verdicts += by_unet
    return Judgement(joined(verdicts), figures=figures, short_verdict=summary(own_verdicts))


def page_name(task: str, unet: str) -> str:
    """The name of the page of one table and one kind of U-Net, without suffix."""
    return f"cross-domain-{task}{'-tuned' if unet == 'tuned' else ''}"


def _difference(asked: Mapping[str, str], result: Mapping[str, Any]) -> tuple[str, Figure, str]:
    """The label of a difference, its figure, and the verdict."""
    column, verdict = _our_column(asked, result)
    cell = result["rows"][asked["row"]][column]
    mean, half_width = 100 * cell["difference_mean"], 100 * cell["difference_half_width"]
    if "expect" in asked:
        verdict = by_expectation(Estimate(mean, half_width, len(cell["seeds"])), asked["expect"])
    figure = Figure(f"{mean:+.1f} ± {half_width:.1f}", mean, "points")
    return f"{asked['row'].replace('_', ' ')}, {column}", figure, verdict


def _our_column(asked: Mapping[str, str], result: Mapping[str, Any]) -> tuple[str, str]:
    """Our column, and the verdict on the paper's cell if it has one."""
    if "ours" in asked:
        return asked["ours"], CANNOT_TELL
    (judged,) = [cell for cell in result["verdicts"] if (cell["paper"], cell["row"]) == (asked["paper"], asked["row"])]
    return judged["ours"], judged["verdict"]
