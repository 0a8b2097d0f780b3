"""Oracle prompts: the classes that are in an image, with some left out and some false ones added."""

import math
import warnings
from collections.abc import Sequence

import numpy as np

from tadp.errors import Argument, OptionError
from tadp.features import Names
from tadp.files.checks import check_classes, check_numbers, check_present, check_whole
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
    """Return prompts that name the classes in each image, with a given precision and recall.

    The names are separated by spaces. With precision and recall 1, a prompt names exactly the classes in its image.
    `oracle_classes` returns the same names as lists, and describes how classes are left out and false ones are added.

    Args:
        present: The names of the classes in each image.
        classes: All class names, from which false names are drawn.
        precision: Share of the named classes that are in their image, over all images, above 0 and at most 1.
        recall: Share of the classes in images that are named, over all images, 0 to 1.
        seed: Seed of the random choice, 0 or more.

    Returns:
        One prompt per image.

    Source:
        TADP Eq. 5. The paper's released code drops and adds each class independently at random, so that the precision
        depends on the number of classes.

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
    """Return the names of the classes in each image, with a given precision and recall.

    To reach them, some classes are left out and some false ones are added. Precision and recall are those of all images
    together: TP / (TP + FP) and TP / (TP + FN). The numbers of classes to leave out and to add are computed first, so
    that both figures are within 0.01 of the requested ones if whole numbers allow it. These numbers are then divided
    among the images, in proportion to the number of classes in each, and the classes are drawn at random. So an image
    of n classes keeps n · recall of them, rounded up or down, and gets false ones by the same rule, whether or not some
    of its own were left out. An image without classes has no names at any precision, and an image whose only class was
    left out may have none either. Names are in the order of `classes`, so that the order does not reveal the false
    ones. With the same seed, the same classes are left out at every precision.

    Args:
        present: The names of the classes in each image; a name that occurs twice counts once.
        classes: All class names, from which false names are drawn.
        precision: Share of the named classes that are in their image, over all images, above 0 and at most 1.
        recall: Share of the classes in images that are named, over all images, 0 to 1; with 0, nothing is named.
        seed: Seed of the random choice, 0 or more.

    Returns:
        One list of names per image.

    Raises:
        ValueError: If `precision`, `recall` or `seed` is out of range, if an image has a class that is not in
            `classes`, or if `classes` is empty, or a name is empty or occurs twice.
        TypeError: If a class name is not a string, or `present` is not a list of lists.

    Source:
        TADP Eq. 5 and Sec. 4.2, Tab. S2.
    """
    classes = check_classes(classes)
    index = {name: number for number, name in enumerate(classes)}
    there = [sorted({index[name] for name in names}) for names in check_present(present, index)]
    check_numbers(allow_nonfinite=True, precision=precision, recall=recall)
    check_whole(seed, name="seed", minimum=0)
    if not 0 < precision <= 1:
        rule = f" must be above 0 and at most 1; got {precision}. To name nothing, pass "
        raise OptionError(Argument("precision"), rule, Argument("recall", 0), ".")
    if not 0 <= recall <= 1:
        raise OptionError(Argument("recall"), f" must be from 0 to 1; got {recall}.")
    counts = np.array([len(own) for own in there], dtype=np.int64)
    room = np.where(counts > 0, len(classes) - counts, 0)
    right, false = _totals(int(counts.sum()), int(room.sum()), precision, recall)
    kept = _draw(there, _spread(right, counts, counts, np.random.default_rng((seed, 0))), seed=(seed, 1))
    absent = [sorted({*range(len(classes))} - set(own)) for own in there]
    added = _draw(absent, _spread(false, counts, room, np.random.default_rng((seed, 2))), seed=(seed, 3))
    return [[classes[k] for k in sorted((*own, *false_ones))] for own, false_ones in zip(kept, added, strict=True)]


def agreement(named: Sequence[Sequence[str]], present: Sequence[Sequence[str]]) -> Agreement:
    """Compute precision and recall of the classes that are named, over all images.

    Args:
        named: The names of the classes that are named for each image, such as the result of `oracle_classes`.
        present: The names of the classes in each image.

    Raises:
        ValueError: If `named` and `present` have different numbers of images.

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
