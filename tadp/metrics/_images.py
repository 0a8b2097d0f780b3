"""What the metrics of detections ask of a batch."""

from collections.abc import Sequence

from tadp.images.boxes import Boxes, Detections


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


def _check_labels(where: str, boxes: Boxes | Detections, class_names: tuple[str, ...]) -> None:
    wrong = (boxes.labels >= len(class_names)).nonzero()
    if len(wrong):
        number = int(wrong[0])
        raise ValueError(
            f"{where}: box {number} has label {boxes.labels[number].item()}; the labels of {len(class_names)} classes "
            f"are 0 ({class_names[0]!r}) to {len(class_names) - 1} ({class_names[-1]!r}). Count classes from 0, "
            "without background."
        )
