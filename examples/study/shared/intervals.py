"""What an interval says of a claim."""

from collections.abc import Mapping, Sequence

from tadp.cross_domain import Estimate, estimate

AGREES, NOT, CANNOT_TELL, NOT_RUN = "agrees", "does not", "cannot tell", "not run yet"


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
