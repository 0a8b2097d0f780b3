"""What cross-domain results say of a claim: differences to null, each with its verdict."""

from collections.abc import Mapping, Sequence
from typing import Any

from tadp.cross_domain import Estimate

from .intervals import CANNOT_TELL, NOT, NOT_RUN, by_expectation
from .parts import UNETS
from .results import Results


def cross(asked: Sequence[Mapping[str, str]], results: Results) -> tuple[str, str]:
    """Differences to null of other domains, with a frozen U-Net and with a tuned one where that was run. Where two
    columns of the paper are one of ours, they count once if both say the same; where the paper's go apart, each counts.
    `expect` is what the claim says, if its cells do not.
    """
    told, verdicts = [], []
    for unet in UNETS:
        found: dict[tuple[str, str], None] = {}
        for one in asked:
            result = results.of(f"{name_of(one['task'], unet)}.json")
            if not result:
                break
            column, verdict = _crossed(one, result)
            cell = result["rows"][one["row"]][column]
            mean, half = 100 * cell["difference_mean"], 100 * cell["difference_half_width"]
            if "expect" in one:
                verdict = by_expectation(Estimate(mean, half, len(cell["seeds"])), one["expect"])
            found[f"{one['row']}, {column}: {mean:+.1f} ± {half:.1f}", {"disagrees": NOT}.get(verdict, verdict)] = None
        else:
            told.append(f"{unet}: " + "; ".join(dict.fromkeys(said for said, _ in found)))
            verdicts += [verdict for _, verdict in found]
    return ("per cent, less null, " + ". ".join(told), counted(verdicts)) if told else ("-", NOT_RUN)


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
