"""The rule of Pascal VOC's development kit: what a detection counts as, and the average precision that follows."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int8

Rule = Literal["voc07", "voc12"]
RIGHT, WRONG, LEFT_OUT = 1, 0, -1


def overlaps(
    found: Float[np.ndarray, "n 4"], truth: Float[np.ndarray, "m 4"], *, inclusive_edges: bool
) -> Float[np.ndarray, "n m"]:
    """Intersection over union of each found box with each true one, in [0, 1].

    Args:
        found: Left, top, right, bottom in pixels.
        truth: The same.
        inclusive_edges: Right and bottom are the last pixel inside, so that a side is one pixel longer.
    """
    extra = 1.0 if inclusive_edges else 0.0
    low = np.maximum(found[:, None, :2], truth[None, :, :2])
    high = np.minimum(found[:, None, 2:], truth[None, :, 2:])
    shared = np.maximum(high - low + extra, 0).prod(axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2] + extra, axis=1) for boxes in (found, truth)]
    return shared / (areas[0][:, None] + areas[1][None, :] - shared)


def judge(
    overlap: Float[np.ndarray, "n m"],
    scores: Float[np.ndarray, " n"],
    difficult: Bool[np.ndarray, " m"],
    *,
    ious: Sequence[float],
) -> Int8[np.ndarray, "n t"]:
    """What each detection of one class in one image counts as.

    From the highest score down, in the order given where scores are equal, a detection goes to the true box that it
    overlaps most, the first of several; never to another one, even if that box is taken. With too little overlap, or
    if the box is taken, it is wrong. If the box is `difficult`, it is left out.

    Args:
        overlap: Of N detections with M true boxes.
        scores: Of the detections.
        difficult: Of the true boxes.
        ious: T least overlaps, each with a result of its own.

    Returns:
        (N, T): RIGHT, WRONG or LEFT_OUT.
    """
    verdicts = np.full((len(scores), len(ious)), WRONG, np.int8)
    if overlap.shape[1] == 0:
        return verdicts
    taken = np.zeros((len(ious), overlap.shape[1]), bool)
    nearest = overlap.argmax(axis=1)
    for row in np.argsort(-scores, kind="stable"):
        box = nearest[row]
        for column, iou in enumerate(ious):
            if overlap[row, box] < iou:
                continue
            if difficult[box]:
                verdicts[row, column] = LEFT_OUT
            elif not taken[column, box]:
                verdicts[row, column] = RIGHT
                taken[column, box] = True
    return verdicts


def average_precision(right: Bool[np.ndarray, " n"], count: int, *, rule: Rule) -> float:
    """The average precision of one class.

    Args:
        right: Of its detections over all images, from the highest score down, without those left out.
        count: How many true boxes there are to find, over 0.
        rule: "voc07": the mean over the recalls 0, 0.1 … 1 of the best precision at that recall or more. "voc12": the
            area under that best precision, over recall.

    Returns:
        In [0, 1].
    """
    hits = np.cumsum(right)
    recall = hits / count
    precision = hits / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or more
    if rule == "voc12":
        return float(best[right].sum() / count)  # recall grows by 1 / count at each right one
    # As in the devkit, k * 0.1 in floating point: 3 * 0.1 is a little more than a recall of 3 / 10.
    first = np.searchsorted(recall, np.arange(11) * 0.1)
    return float(np.append(best, 0.0)[first].sum() / 11)
