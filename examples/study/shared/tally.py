"""All claims judged with the shipped model and, if it was run, with the control, and how many have which verdict."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from .intervals import AGREES, CANNOT_TELL, NOT_RUN
from .judgement import DOES_NOT_AGREE, ONLY_WITH, ONLY_WITHOUT, Judgement, with_control
from .judging import judge
from .results import Results

WHOLE = ("agrees", "partly agrees", "cannot tell", "partly disagrees", "disagrees", "mixed")
JOINT = (AGREES, ONLY_WITH, ONLY_WITHOUT, CANNOT_TELL, DOES_NOT_AGREE)
MEASURED = {"rows", "each", "cross", "compare", "order", "control_verdict"}  # keys of claims that depend on the U-Net


class Judged(NamedTuple):
    """A claim with what our results say about it; `control` is None if it was not run or the U-Net does not matter."""

    claim: dict[str, Any]
    judgement: Judgement
    control: Judgement | None

    @property
    def verdict(self) -> str:
        """The verdict of the page with all claims."""
        if self.control is None:
            return self.judgement.brief
        return with_control(self.judgement.brief, self.control.brief)


def judge_all(claims: Sequence[dict[str, Any]], results: Results, control: Results | None) -> list[Judged]:
    return [
        Judged(claim, judge(claim, results), _judge_control(claim, control) if control else None) for claim in claims
    ]


def _judge_control(claim: dict[str, Any], results: Results) -> Judgement | None:
    """What the control's results say; None if the claim does not depend on the U-Net."""
    if not MEASURED & set(claim):
        return None
    return judge(claim | {"verdict": claim.get("control_verdict", "")}, results)


def count(judged: list[Judged]) -> str:
    """How many claims have which verdict: together, and with each model if the control was run."""
    total = f"**{len(judged)} claims. Verdicts: {_counts([entry.verdict for entry in judged])}.**"
    pairs = [(entry.judgement.brief, entry.control.brief) for entry in judged if entry.control is not None]
    if not pairs:
        return total
    lines = [f"| {len(pairs)} claims that depend on the U-Net | verdicts |", "|---|---|"]
    for name, verdicts in zip(("`tadp-tiny`", "the control"), zip(*pairs, strict=True), strict=True):
        lines.append(f"| {name} | {_counts(list(verdicts))} |")
    return "\n".join([total, "", *lines])


def _counts(verdicts: list[str]) -> str:
    words = [word for word in (*WHOLE, *JOINT, "cannot be tested", NOT_RUN) if word in verdicts]
    words += [word for word in dict.fromkeys(verdicts) if word not in words]
    return "; ".join(f"{word}: {verdicts.count(word)}" for word in dict.fromkeys(words))
