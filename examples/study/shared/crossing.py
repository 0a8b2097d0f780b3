"""What cross-domain results say of a claim: differences to null, each with its verdict."""

from collections.abc import Mapping, Sequence
from typing import Any

from tadp.cross_domain import Estimate

from .intervals import CANNOT_TELL, NOT, NOT_RUN, by_expectation
from .parts import UNETS
from .results import Results


def cross(asked: Sequence[Mapping[str, str]], results: Results) -> tuple[str, str]:
    """Differences to null of other domains, frozen and tuned U-Net each. Where two columns of the paper are one of
    ours, they count once if both say the same; where the paper's go apart, each counts. `expect` is what the claim
    says, if its cells do not.
    """
    told, verdicts = [], {}
    for unet in UNETS:
        of_tasks = {one["task"]: results.of(f"{name_of(one['task'], unet)}.json") for one in asked}
        if not all(of_tasks.values()):
            told.append(f"{unet}: {NOT_RUN}")
            verdicts[unet] = NOT_RUN
            continue
        found: dict[tuple[str, str], None] = {}
        for one in asked:
            column, verdict = _crossed(one, of_tasks[one["task"]])
            cell = of_tasks[one["task"]]["rows"][one["row"]][column]
            mean, half = 100 * cell["difference_mean"], 100 * cell["difference_half_width"]
            if "expect" in one:
                verdict = by_expectation(Estimate(mean, half, len(cell["seeds"])), one["expect"])
            found[f"{one['row']}, {column}: {mean:+.1f} ± {half:.1f}", {"disagrees": NOT}.get(verdict, verdict)] = None
        told.append(f"{unet}: " + ", ".join(dict.fromkeys(said for said, _ in found)))
        verdicts[unet] = counted([verdict for _, verdict in found])
    return "per cent less null; " + "; ".join(told), joined(verdicts)


def name_of(task: str, unet: str) -> str:
    """Of the page of one table and one kind of U-Net, without suffix."""
    return f"cross-domain-{task}{'-tuned' if unet == 'tuned' else ''}"


def _crossed(one: Mapping[str, str], result: Mapping[str, Any]) -> tuple[str, str]:
    """Our column, and the verdict beside the paper's cell where it has one."""
    if "ours" in one:
        return one["ours"], CANNOT_TELL
    (judged,) = [v for v in result["verdicts"] if (v["paper"], v["row"]) == (one["paper"], one["row"])]
    return judged["ours"], judged["verdict"]


def counted(verdicts: Sequence[str]) -> str:
    """The verdict that all have, or how many have which."""
    counts = {word: verdicts.count(word) for word in dict.fromkeys(verdicts)}
    if len(counts) == 1:
        return verdicts[0]
    return ", ".join(f"{word} {count} of {len(verdicts)}" for word, count in counts.items())


def joined(verdicts: Mapping[str, str]) -> str:
    """One word if both U-Nets say the same, else both."""
    if len(set(verdicts.values())) == 1:
        return verdicts["tuned"]
    return "; ".join(f"{unet}: {verdict}" for unet, verdict in verdicts.items())
