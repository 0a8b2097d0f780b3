"""What an interval says about a claim."""

from collections.abc import Mapping, Sequence

from tadp.cross_domain import Estimate, estimate

AGREES, DISAGREES, CANNOT_TELL, NOT_RUN = "agrees", "disagrees", "cannot tell", "not run yet"


def contrast(rows: Sequence[tuple[float, Mapping[str, float]]]) -> Estimate | None:
    """A weighted sum of rows over the seeds that all of them have, or None if they share no seed.

    Args:
        rows: For each row, its weight and its figure by seed.
    """
    shared = [seed for seed in rows[0][1] if all(seed in figures for _, figures in rows)]
    return estimate(sum(weight * figures[seed] for weight, figures in rows) for seed in shared) if shared else None


def by_expectation(difference: Estimate, expect: str, *, within: float = 0.0) -> str:
    """Whether an interval is on the side of zero that the claim predicts.

    Args:
        difference: The measured difference; positive is better.
        expect: "better", "worse" or "same".
        within: The tolerance of "same": an interval agrees if all of it is this close to zero, and disagrees if none
            of it is.
    """
    if expect == "same":
        if abs(difference.mean) + difference.half_width <= within:
            return AGREES
        return DISAGREES if abs(difference.mean) - difference.half_width > within else CANNOT_TELL
    if not difference.sign:
        return CANNOT_TELL
    return AGREES if (difference.sign > 0) == (expect == "better") else DISAGREES
