"""Oracle prompts: the classes that are in an image, with some left out and some false ones added."""

import math
import warnings
from collections.abc import Sequence

import numpy as np

from tadp.errors import Argument, OptionError
from tadp.features import Names
from tadp.files.checks import check_classes, check_present
from tadp.metrics import Agreement

TOLERANCE = 0.01  # of precision and recall, if whole numbers permit


def oracle(
    present: Sequence[Sequence[str]],
    classes: Sequence[str],
    *,
    precision: float = 1.0,
    recall: float = 1.0,
    seed: int = 0,
) -> list[str]:
    """Return the names of the classes in each image, separated by spaces, with a given precision and recall.

    `oracle_classes` takes the same arguments and returns the same names as lists. Its description says how they are
    drawn.

    Source:
        TADP Eq. 5. Its released code drops and adds each class independently at random, so that the precision depends
        on the number of classes.

    Example:
        >>> oracle([["dog", "grass"], ["cat"]], ["cat", "dog", "grass"])
        ['dog grass', 'cat']
    """
    listed = oracle_classes(present, classes, precision=precision, recall=recall, seed=seed)
    return [Names(names) for names in listed]


def oracle_classes(
    present: Sequence[Sequence[str]],
    classes: Sequence[str],
    *,
    precision: float = 1.0,
    recall: float = 1.0,
    seed: int = 0,
) -> list[list[str]]:
    """Return the classes that the oracle names in each image.

    Precision and recall are those of all images together: TP / (TP + FP) and TP / (TP + FN). The numbers of names
    to drop and to add are fixed first, so that both figures are within 0.01 of the requested ones if whole numbers
    permit; then they are spread over the images in random order, in proportion to the classes in each, and drawn at
    random there. So an image of n classes keeps n · recall of them, rounded up or down, and gets false ones by the same
    rule, whether or not its own were dropped. An image without classes has the empty prompt at any precision, and one
    whose only class was dropped may have it too. Names are in the order of `classes`, which does not reveal the false
    ones. One seed drops the same classes at every precision.

    Args:
        present: The classes in each image; a name that occurs twice counts once.
        classes: All classes, from which false names are drawn.
        precision: Precision over all images, above 0 and up to 1.
        recall: Recall over all images, 0 to 1; 0 names nothing.
        seed: Seed of the draw, 0 or more.

    Raises:
        ValueError: If precision, recall or seed is out of range, an image has an unknown class, there are no classes,
            or one is empty or occurs twice.
        TypeError: If a class is not a string, or `present` is not a list of lists.

    Source:
        TADP Eq. 5 and Sec. 4.2, Tab. S2.
    """
    classes = check_classes(classes)
    index = {name: number for number, name in enumerate(classes)}
    there = [sorted({index[name] for name in names}) for names in check_present(present, index)]
    if not 0 < precision <= 1:
        rule = f" must be above 0 and at most 1; got {precision}. To name nothing, pass "
        raise OptionError(Argument("precision"), rule, Argument("recall", 0), ".")
    if not 0 <= recall <= 1:
        raise OptionError(Argument("recall"), f" must be from 0 to 1; got {recall}.")
    if seed < 0:
        raise OptionError(Argument("seed"), f" must be 0 or more; got {seed}.")
    counts = np.array([len(own) for own in there], dtype=np.int64)
    room = np.where(counts > 0, len(classes) - counts, 0)
    right, false = _totals(int(counts.sum()), int(room.sum()), precision, recall)
    kept = _draw(there, _spread(right, counts, counts, np.random.default_rng((seed, 0))), seed=(seed, 1))
    absent = [sorted({*range(len(classes))} - set(own)) for own in there]
    added = _draw(absent, _spread(false, counts, room, np.random.default_rng((seed, 2))), seed=(seed, 3))
    return [[classes[k] for k in sorted((*own, *false_ones))] for own, false_ones in zip(kept, added, strict=True)]


def agreement(named: Sequence[Sequence[str]], present: Sequence[Sequence[str]]) -> Agreement:
    """Compute precision and recall of named classes over all images.

    Args:
        named: The classes named in each image, as from `oracle_classes`.
        present: The classes in each image.

    Raises:
        ValueError: If the two have different numbers of images.

    Example:
        >>> result = agreement([["dog"], ["cat", "car"]], [["dog", "grass"], ["cat"]])
        >>> result.precision, result.recall
        (0.6666666666666666, 0.6666666666666666)
    """
    if len(named) != len(present):
        raise ValueError(f"there must be one list of names per image; got {len(named)} named, {len(present)} present.")
    both = sum(len(set(names) & set(classes)) for names, classes in zip(named, present, strict=True))
    mentioned, there = (sum(len(set(names)) for names in lists) for lists in (named, present))
    return Agreement(mentioned=mentioned, present=there, both=both)


def _totals(present: int, room: int, precision: float, recall: float) -> tuple[int, int]:
    """Choose the numbers of right and false names: the nearest recall at which the precision is near enough too."""
    if not recall:
        return 0, 0
    aim = round(recall * present)
    low, high = math.ceil((recall - TOLERANCE) * present), math.floor((recall + TOLERANCE) * present)
    near = sorted({aim, *range(max(low, 1), min(high, present) + 1)}, key=lambda right: abs(right - recall * present))
    choices = [(right, _false(right, room, precision)) for right in near]
    fit = (pair for pair in choices if abs(_precision(*pair) - precision) <= TOLERANCE)
    right, false = next(fit, choices[0])
    wanted, reached = right * (1 - precision) / precision, _precision(right, false)
    if wanted > room and abs(reached - precision) > TOLERANCE:
        warnings.warn(
            f"precision {precision} needs {wanted:.0f} false names, but these images have room for {room}; the "
            f"precision is {reached:.3f}. Give more classes, or request a higher precision.",
            stacklevel=4,
        )
    return right, false


def _false(right: int, room: int, precision: float) -> int:
    wanted = right * (1 - precision) / precision
    choices = [min(math.floor(wanted), room), min(math.ceil(wanted), room)]
    return min(choices, key=lambda false: abs(_precision(right, false) - precision))


def _precision(right: int, false: int) -> float:
    return right / (right + false) if right + false else math.nan


def _spread(total: int, counts: np.ndarray, limits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Divide a total over images in proportion to `counts`, each share rounded up or down, and within its limit."""
    shares = np.zeros_like(counts)
    if not total:
        return shares
    order = rng.permutation(len(counts))
    ends = counts[order].cumsum()
    # The running sum of shares follows that of counts, so that roundings do not add up.
    shares[order] = np.diff((2 * ends * total + ends[-1]) // (2 * ends[-1]), prepend=0)
    surplus = int(np.maximum(shares - limits, 0).sum())
    shares = np.minimum(shares, limits)
    free = np.repeat(np.arange(len(counts)), limits - shares)
    np.add.at(shares, rng.choice(free, surplus, replace=False), 1)
    return shares


def _draw(lists: list[list[int]], shares: np.ndarray, *, seed: tuple[int, int]) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [
        rng.choice(candidates, share, replace=False).tolist() if share else []
        for candidates, share in zip(lists, shares, strict=True)
    ]
