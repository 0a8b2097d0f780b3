"""The steps of a study: learning from unlabelled pictures, and training and testing models."""

from collections.abc import Sequence
from dataclasses import dataclass

from tadp.modifiers import CaptionModifier, Kind
from transfer.domains import DOMAINS

KINDS: tuple[Kind, ...] = ("null", "simple", "textual_inversion", "dreambooth", "nearby", "unrelated")
LEARNED: tuple[Kind, ...] = ("textual_inversion", "dreambooth")


@dataclass(frozen=True)
class Step:
    """A step of a study: training a model with one seed, or learning what that model needs first.

    Attributes:
        group: "learn" or "train".
        kind: Kind of the modifier.
        domains: Target domains that the model is tested on; several if their training is the same.
        seed: Seed of all random numbers.
    """

    group: str
    kind: Kind
    domains: tuple[str, ...]
    seed: int

    @property
    def name(self) -> str:
        """The path of its folder below OUT/TASK."""
        return f"{self.group}/{'-'.join([self.kind, *self.domains, str(self.seed)])}"

    @property
    def needs(self) -> list["Step"]:
        """The steps that must be finished before this one."""
        is_learned = self.group == "train" and self.kind in LEARNED
        return [Step("learn", self.kind, self.domains, self.seed)] if is_learned else []


def plan(task: str, kinds: Sequence[Kind], *, seeds: int) -> list[Step]:
    """All models, beginning with the reference. Domains with the same words share a model."""
    steps = []
    for kind in kinds:
        words: dict[object, list[str]] = {}
        for domain in DOMAINS[task]:
            key = domain if kind in LEARNED else CaptionModifier.for_domain(domain, kind).templates
            words.setdefault(key, []).append(domain)
        steps += [Step("train", kind, tuple(same), seed) for same in words.values() for seed in range(seeds)]
    return steps
