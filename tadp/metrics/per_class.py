"""What the metrics of several classes share: checks of a batch and of a merge, the mean and the table of figures."""

import math
from collections.abc import Mapping, Sequence

from tadp.images.boxes import Boxes, Detections


def check_merge(own: object, other: object, settings: Sequence[str]) -> None:
    """Refuse to put together what was not measured alike.

    Raises:
        TypeError: If the other is another metric.
        ValueError: If one of the settings differs.
    """
    if type(own) is not type(other):
        raise TypeError(f"a {type(own).__name__} merges with its like; got {type(other).__name__}.")
    for name in settings:
        left, right = getattr(own, name), getattr(other, name)
        if left != right:
            raise ValueError(
                f"metrics that are merged have the same {name}; got {left} and {right}. Make both with the same "
                "settings."
            )


def check_images(detections: Sequence[Detections], boxes: Sequence[Boxes], class_names: tuple[str, ...]) -> None:
    """Refuse what does not belong together.

    Raises:
        TypeError: If they are no lists of `Detections` and `Boxes`.
        ValueError: If they are not equally many, or a label is none of the classes.
    """
    for name, values, kind in (("detections", detections, Detections), ("boxes", boxes, Boxes)):
        if isinstance(values, kind):
            raise TypeError(f"{name} are a list, one {kind.__name__} an image; got a single one. Pass [{name}].")
        for index, one in enumerate(values):
            if not isinstance(one, kind):
                raise TypeError(f"{name} are a list of {kind.__name__}; number {index} is a {type(one).__name__}.")
    if len(detections) != len(boxes):
        raise ValueError(
            f"{len(detections)} detections for the boxes of {len(boxes)} images; there must be one an image, in order. "
            "Where nothing was found, pass Detections of no boxes."
        )
    for name, values in (("detections", detections), ("boxes", boxes)):
        for index, one in enumerate(values):
            _check_labels(f"{name} of image {index} of the batch", one, class_names)


def check_truth(count: int, *, images: int) -> None:
    """Refuse to compute without a true box.

    Raises:
        ValueError: If there is none.
    """
    if not count:
        raise ValueError(
            f"average precision needs a true box to find; {images} images were fed, and none has one that is not "
            "difficult. Feed images with boxes before compute()."
        )


def class_table(columns: Mapping[str, Mapping[str, float]]) -> str:
    """One line a class, shares as percentages, nan as a dash.

    Args:
        columns: For each heading, the figure of each class in [0, 1]; all have the same classes.

    Example:
        >>> print(class_table({"IoU": {"dog": 0.5, "dining table": float("nan")}}))
        class             IoU
        dog             50.00
        dining table        -
    """
    names = list(next(iter(columns.values())))
    width = max(len(name) for name in ("class", *names))
    lines = [f"{'class':<{width}}" + "".join(f"  {heading:>7}" for heading in columns)]
    for name in names:
        lines.append(f"{name:<{width}}" + "".join(f"  {percent(column[name]):>7}" for column in columns.values()))
    return "\n".join(lines)


def percent(share: float) -> str:
    """A share in [0, 1] as a percentage of two digits; nan as a dash."""
    return "-" if math.isnan(share) else f"{100 * share:.2f}"


def mean_of_known(figures: Mapping[str, float]) -> float:
    """The mean over the classes whose figure is not nan; nan if there is none."""
    known = [figure for figure in figures.values() if not math.isnan(figure)]
    return math.fsum(known) / len(known) if known else math.nan


def _check_labels(where: str, boxes: Boxes | Detections, class_names: tuple[str, ...]) -> None:
    wrong = (boxes.labels >= len(class_names)).nonzero()
    if len(wrong):
        number = int(wrong[0])
        raise ValueError(
            f"{where}: box {number} has label {boxes.labels[number].item()}; the labels of {len(class_names)} classes "
            f"are 0 ({class_names[0]!r}) to {len(class_names) - 1} ({class_names[-1]!r}). Count classes from 0, "
            "without background."
        )
