"""The steps of a study: what is learned from unlabelled pictures, and the models that are trained and tested."""

from collections.abc import Sequence
from dataclasses import dataclass

from tadp.modifiers import CaptionModifier, Kind
from transfer.domains import DOMAINS

KINDS: tuple[Kind, ...] = ("null", "simple", "textual_inversion", "dreambooth", "nearby", "unrelated")
LEARNED: tuple[Kind, ...] = ("textual_inversion", "dreambooth")


@dataclass(frozen=True)
class Step:
    """A part of a study that is done once: a model of a seed, or what it needs learned first.

    Attributes:
        group: "learn" or "train".
        kind: The modifier.
        domains: Whose test sets a model is for: several, where the training is the same for all.
        seed: Of all random numbers.
    """

    group: str
    kind: Kind
    domains: tuple[str, ...]
    seed: int

    @property
    def name(self) -> str:
        """Its folder below OUT/TASK."""
        return f"{self.group}/{'-'.join([self.kind, *self.domains, str(self.seed)])}"

    @property
    def needs(self) -> list["Step"]:
        """What must be learned before."""
        is_learned = self.group == "train" and self.kind in LEARNED
        return [Step("learn", self.kind, self.domains, self.seed)] if is_learned else []


def plan(task: str, kinds: Sequence[Kind], *, seeds: int) -> list[Step]:
    """All models, those first that others are compared with; a training serves all domains whose words are the same."""
    steps = []
    for kind in kinds:
        words: dict[object, list[str]] = {}
        for domain in DOMAINS[task]:
            key = domain if kind in LEARNED else CaptionModifier.for_domain(domain, kind).templates
            words.setdefault(key, []).append(domain)
        steps += [Step("train", kind, tuple(same), seed) for same in words.values() for seed in range(seeds)]
    return steps
