"""What the results say about one claim: figures, and a verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .intervals import AGREES, CANNOT_TELL, DISAGREES, NOT_RUN

PARTLY_AGREES, PARTLY_DISAGREES, MIXED = "partly agrees", "partly disagrees", "mixed"
ONLY_WITH, ONLY_WITHOUT, DOES_NOT_AGREE = "only with supervision", "only without supervision", "does not agree"


@dataclass(frozen=True)
class Figure:
    """A measured difference.

    Attributes:
        text: The figure with its interval and unit, as a page shows it.
        mean: The mean, or None if it is not measured yet.
        unit: "mIoU", "m RMSE", "points" and so on.
    """

    text: str
    mean: float | None = None
    unit: str = ""


@dataclass(frozen=True)
class Judgement:
    """The answer to one claim.

    Attributes:
        verdict: "agrees", "cannot tell" and so on; with counts where several figures differ.
        text: The measured figures, if they do not depend on the U-Net; "-" without any.
        figures: For each difference, its figure by U-Net; the label of a single difference is "".
        short_verdict: A verdict of a few words for the table of all claims; `verdict` if empty.
    """

    verdict: str
    text: str = "-"
    figures: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)
    short_verdict: str = ""

    @property
    def brief(self) -> str:
        """A verdict of a few words."""
        return self.short_verdict or self.verdict

    def in_short(self) -> str:
        """The figures in a few words, for the cell of a table."""
        if "" in self.figures:
            texts = [figure.text for figure in self.figures[""].values()]
            units = {figure.unit for figure in self.figures[""].values()}
            if len(units) == 1 and units != {""}:
                texts = [text.replace(f" {next(iter(units))}", "") for text in texts[:-1]] + texts[-1:]
            return "; ".join(texts)
        measured = [
            figure for by_unet in self.figures.values() for figure in by_unet.values() if figure.mean is not None
        ]
        if not measured:
            return self.text
        means, units = (
            [figure.mean for figure in measured if figure.mean is not None],
            {figure.unit for figure in measured},
        )
        span = f", {min(means):+.1f} to {max(means):+.1f} {units.pop()}" if len(units) == 1 else ""
        return f"{len(measured)} figures{span}"

    def details(self) -> str:
        """All figures, in a Markdown table if there are several differences."""
        if not self.figures:
            return self.text
        if "" in self.figures:
            return "; ".join(f"{unet}: {figure.text}" for unet, figure in self.figures[""].items())
        unets = list(next(iter(self.figures.values())))
        lines = ["| difference | " + " | ".join(unets) + " |", "|---" * (len(unets) + 1) + "|"]
        for label, by_unet in self.figures.items():
            lines.append(f"| {label} | " + " | ".join(by_unet[unet].text for unet in unets) + " |")
        return "\n".join(lines)


def summary(verdicts: Sequence[str]) -> str:
    """One verdict for several figures."""
    kinds = set(verdicts)
    if len(kinds) == 1:
        return verdicts[0]
    if NOT_RUN in kinds:
        return NOT_RUN
    if kinds == {AGREES, CANNOT_TELL}:
        return PARTLY_AGREES
    return PARTLY_DISAGREES if kinds == {DISAGREES, CANNOT_TELL} else MIXED


def with_control(supervised: str, control: str) -> str:
    """One verdict from that of a model with supervised attention and that of a control without.

    A claim agrees with a model if all of its figures do. It does not agree if some figures disagree and none agrees.
    """
    agreeing = [verdict == AGREES for verdict in (supervised, control)]
    if NOT_RUN in (supervised, control):
        return NOT_RUN
    if any(agreeing):
        return AGREES if all(agreeing) else ONLY_WITH if agreeing[0] else ONLY_WITHOUT
    return DOES_NOT_AGREE if {DISAGREES, PARTLY_DISAGREES} & {supervised, control} else CANNOT_TELL


def counted(verdicts: Sequence[str]) -> str:
    """The verdict that all figures share, or how many have which."""
    counts = {word: verdicts.count(word) for word in dict.fromkeys(verdicts)}
    if len(counts) == 1:
        return verdicts[0]
    return ", ".join(f"{word} in {count} of {len(verdicts)}" for word, count in counts.items())


def joined(verdicts: Mapping[str, str]) -> str:
    """One verdict if it is the same for both U-Nets, otherwise both."""
    if len(set(verdicts.values())) == 1:
        return next(iter(verdicts.values()))
    return "; ".join(f"{unet}: {verdict}" for unet, verdict in verdicts.items())
