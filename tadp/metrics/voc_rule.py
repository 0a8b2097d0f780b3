"""The rule of Pascal VOC's development kit: the verdict on each detection, and the resulting average precision."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int8

Rule = Literal["voc07", "voc12"]
RIGHT, WRONG, LEFT_OUT = 1, 0, -1


def overlaps(
    found: Float[np.ndarray, "n 4"], truth: Float[np.ndarray, "m 4"], *, inclusive_edges: bool
) -> Float[np.ndarray, "n m"]:
    """Intersection over union of each detected box with each true box, in [0, 1].

    Args:
        found: The N detected boxes: left, top, right and bottom in pixels, (N, 4).
        truth: The M true boxes: left, top, right and bottom in pixels, (M, 4).
        inclusive_edges: Whether right and bottom of a box are its last pixels rather than the pixels after it, so that
            its sides are one pixel longer.
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
    """Judge each detection of one class in one image.

    Detections are judged from the highest score down; those with equal scores, in their order in `scores`. Each is only
    compared with the true box that it overlaps most (in a tie, the first). The detection is right if the overlap is
    large enough and no earlier detection was right for the same box; otherwise it is wrong. But if the overlap is large
    enough and the box is `difficult`, the detection is left out.

    Args:
        overlap: Intersection over union of the N detections with the M true boxes, (N, M), in [0, 1].
        scores: Scores of the detections, (N,).
        difficult: Whether each true box is difficult, (M,), bool.
        ious: The T minimum overlaps to judge by. Each gives its own column of the result.

    Returns:
        RIGHT, WRONG or LEFT_OUT for each detection at each minimum overlap, (N, T).
    """
    verdicts = np.full((len(scores), len(ious)), WRONG, np.int8)
    if overlap.shape[1] == 0:
        return verdicts
    is_taken = np.zeros((len(ious), overlap.shape[1]), bool)
    nearest = overlap.argmax(axis=1)
    for row in np.argsort(-scores, kind="stable"):
        box = nearest[row]
        for column, iou in enumerate(ious):
            if overlap[row, box] < iou:
                continue
            if difficult[box]:
                verdicts[row, column] = LEFT_OUT
            elif not is_taken[column, box]:
                verdicts[row, column] = RIGHT
                is_taken[column, box] = True
    return verdicts


def average_precision(right: Bool[np.ndarray, " n"], count: int, *, rule: Rule) -> float:
    """Compute the average precision of one class.

    Args:
        right: Whether each detection of the class is right, (N,), over all images and from the highest score down.
            Detections that are left out are not included.
        count: Number of true boxes to find, at least 1.
        rule: "voc07" averages, over the recalls 0, 0.1 … 1, the best precision at that recall or more. "voc12" is the
            area under the curve of this best precision over recall.

    Returns:
        The average precision, in [0, 1].
    """
    hits = np.cumsum(right)
    recall = hits / count
    precision = hits / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]  # best precision at this recall or more
    if rule == "voc12":
        return float(best[right].sum() / count)  # recall grows by 1 / count at each right detection
    # The devkit computes k * 0.1 in floating point, where 3 * 0.1 is slightly more than a recall of 3 / 10.
    first = np.searchsorted(recall, np.arange(11) * 0.1)
    return float(np.append(best, 0.0)[first].sum() / 11)
