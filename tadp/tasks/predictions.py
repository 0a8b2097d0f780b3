"""The results of the task models' `predict`, at the size of the input image, which can be plotted and saved."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from tadp.datasets.sample import Sample
from tadp.drawing import box_picture, class_picture, depth_picture
from tadp.drawing.canvas import Colors
from tadp.files.atomic import replace_file
from tadp.images.boxes import Detections


@dataclass(frozen=True, eq=False)
class SegmentationResult:
    """The predicted class of every pixel of one image.

    Attributes:
        class_map: Class of each pixel, as an index into `class_names`, (H, W), int64.
        scores: Probability of the class in `class_map`, (H, W), in [0, 1].
        class_names: Names of the K classes.
        probabilities: Probability of every class, (K, H, W), in [0, 1]; None unless they were requested.
        caption: The caption that the model used; None if its text is the same for all images.
        image: The input image, which `plot` shows; None if it is not available.
    """

    class_map: Int64[Tensor, "_h _w"]
    scores: Float[Tensor, "_h _w"]
    class_names: tuple[str, ...]
    probabilities: Float[Tensor, "_k _h _w"] | None = field(default=None, repr=False)
    caption: str | None = None
    image: Image.Image | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        height, width = self.class_map.shape
        classes = [
            f"{name} {f'{100 * share:.0f}' if share >= 0.005 else '<1'} %" for name, share in self.shares().items()
        ]
        return f"SegmentationResult({height}x{width}: {', '.join(classes) or 'nothing'})"

    def shares(self) -> dict[str, float]:
        """The share of the image that each class covers, largest first. Classes that cover no pixel are left out."""
        counts = np.bincount(self.class_map.cpu().numpy().ravel(), minlength=len(self.class_names))
        order = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k]]
        return {self.class_names[k]: float(counts[k] / self.class_map.numel()) for k in order}

    def _repr_png_(self) -> bytes | None:
        """The picture of `plot`, which notebooks show; None if the image is not available."""
        return None if self.image is None else _as_png(self.plot())

    def plot(self, *, colors: Colors | None = None) -> Image.Image:
        """The classes drawn over the image, with a legend.

        Args:
            colors: The colour (red, green, blue) of each class, from 0 to 255; or the name of a palette: "voc", or
                "cityscapes" for the classes of `tadp.datasets.Cityscapes`. None takes the colours of "voc" without its
                black.
        """
        return class_picture(_image(self.image), self.class_map, self.class_names, colors=colors)

    def save(self, path: str | Path, *, record: Mapping[str, Any] | None = None) -> list[Path]:
        """Write `PATH.png`, whose grey values are the classes (16 bits if there are more than 256), and `PATH.json`.

        Args:
            path: Path of the two files without suffix. A suffix .png or .json is replaced.
            record: Further entries of the .json file, such as where the image is from; None adds none.

        Returns:
            The paths of the files that were written.

        Raises:
            OutputError: If a file cannot be written.
        """
        values = self.class_map.cpu().numpy()
        kind = np.uint8 if len(self.class_names) <= 256 else np.uint16
        content = {"class_names": list(self.class_names), "caption": self.caption, "shares": self.shares()}
        return [_save_png(path, values.astype(kind)), _save_json(path, content, record)]


@dataclass(frozen=True, eq=False)
class DepthResult:
    """The predicted depth of every pixel of one image.

    Attributes:
        depth_m: Depth in metres, (H, W).
        caption: The caption that the model used; None if its text is the same for all images.
        image: The input image, which `plot` shows; None if it is not available.
    """

    depth_m: Float[Tensor, "_h _w"]
    caption: str | None = None
    image: Image.Image | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        height, width = self.depth_m.shape
        return f"DepthResult({height}x{width}: {float(self.depth_m.min()):.2f} to {float(self.depth_m.max()):.2f} m)"

    def _repr_png_(self) -> bytes:
        """The picture of `plot`, which notebooks show."""
        return _as_png(self.plot())

    def plot(self) -> Image.Image:
        """The depth in colours, from near (red) to far (blue), with a scale in metres."""
        return depth_picture(self.depth_m)

    def save(self, path: str | Path, *, record: Mapping[str, Any] | None = None) -> list[Path]:
        """Write `PATH.png`, in 16-bit millimetres like NYU Depth's files (at most 65.535 m), and `PATH.json`.

        Args:
            path: Path of the two files without suffix. A suffix .png or .json is replaced.
            record: Further entries of the .json file, such as where the image is from; None adds none.

        Returns:
            The paths of the files that were written.

        Raises:
            OutputError: If a file cannot be written.
        """
        values = (self.depth_m.cpu().double() * 1000).round().clamp(0, 65535).numpy().astype(np.uint16)
        content = {
            "unit": "millimetre",
            "caption": self.caption,
            "least_m": round(float(self.depth_m.min()), 3),
            "greatest_m": round(float(self.depth_m.max()), 3),
        }
        return [_save_png(path, values), _save_json(path, content, record)]


@dataclass(frozen=True, eq=False)
class DetectionResult:
    """The N objects detected in one image, with the highest score first.

    Attributes:
        boxes: Left, top, right and bottom of each box in pixels of the image, (N, 4).
        labels: Class of each object, as an index into `class_names`, (N,), int64.
        scores: The model's confidence in each object, (N,), in [0, 1].
        class_names: Names of the K classes.
        caption: The caption that the model used; None if its text is the same for all images.
        image: The input image, which `plot` shows; None if it is not available.
    """

    boxes: Float[Tensor, "_n 4"]
    labels: Int64[Tensor, " _n"]
    scores: Float[Tensor, " _n"]
    class_names: tuple[str, ...]
    caption: str | None = None
    image: Image.Image | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        objects = [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores.tolist(), strict=True)]
        return f"DetectionResult({', '.join(objects[:8]) or 'nothing'}{', …' if len(objects) > 8 else ''})"

    @property
    def names(self) -> list[str]:
        """The class name of each box."""
        return [self.class_names[label] for label in self.labels.tolist()]

    @property
    def detections(self) -> Detections:
        """The boxes, labels and scores without class names, for a metric."""
        return Detections(self.boxes, self.labels, self.scores)

    def above(self, score: float) -> "DetectionResult":
        """Only the objects whose score is above `score`, which is in [0, 1].

        Raises:
            ValueError: If `score` is outside [0, 1].
        """
        if not 0 <= score <= 1:
            raise ValueError(f"score must be from 0 to 1; got {score:g}.")
        keep = self.scores > score
        return DetectionResult(
            self.boxes[keep], self.labels[keep], self.scores[keep], self.class_names, self.caption, self.image
        )

    def _repr_png_(self) -> bytes | None:
        """The picture of `plot`, which notebooks show; None if the image is not available."""
        return None if self.image is None else _as_png(self.plot())

    def plot(self, *, score: float = 0.5, colors: Colors | None = None) -> Image.Image:
        """The boxes whose score is above `score`, drawn over the image.

        Args:
            score: The lowest score of the boxes to draw, in [0, 1].
            colors: The colour (red, green, blue) of each class, from 0 to 255; or the name of a palette: "voc", or
                "cityscapes" for the classes of `tadp.datasets.Cityscapes`. None takes the colours of "voc" without its
                black.
        """
        shown = self.above(score)
        note = "" if len(shown) else f"nothing above {score:g}"
        return box_picture(_image(self.image), shown.detections, self.class_names, note=note, colors=colors)

    def save(self, path: str | Path, *, record: Mapping[str, Any] | None = None) -> list[Path]:
        """Write `PATH.json`: a list of objects, each with its name, score and box in pixels.

        Args:
            path: Path of the file without suffix. A suffix .png or .json is replaced.
            record: Further entries of the .json file, such as where the image is from; None adds none.

        Returns:
            The path of the file that was written, in a list.

        Raises:
            OutputError: If the file cannot be written.
        """
        objects = [
            {"name": name, "score": round(score, 4), "box": [round(edge, 2) for edge in box]}
            for name, score, box in zip(self.names, self.scores.tolist(), self.boxes.tolist(), strict=True)
        ]
        content = {"caption": self.caption, "box": "left, top, right, bottom in pixels", "objects": objects}
        return [_save_json(path, content, record)]


def label_of(sample: Sample, name: str) -> Any:
    """A sample's label `name`.

    Raises:
        ValueError: If the sample has no such label.
    """
    label = getattr(sample, name)
    if label is None:
        raise ValueError(f"sample {sample.image_id!r} has no {name}; evaluate on a data set that has it.")
    return label


def loss_text(loss: Tensor | None) -> str:
    """A loss as text, for a repr."""
    return "None" if loss is None else f"{float(loss.detach()):.4f}"


def _image(image: Image.Image | None) -> Image.Image:
    if image is None:
        raise ValueError("this result was made without its image, so there is nothing to draw on.")
    return image


def _as_png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _save_png(path: str | Path, values: np.ndarray) -> Path:
    target = Path(f"{_bare(path)}.png")
    with replace_file(target) as part:
        Image.fromarray(values).save(part, format="PNG")
    return target


def _save_json(path: str | Path, content: dict[str, Any], record: Mapping[str, Any] | None) -> Path:
    target = Path(f"{_bare(path)}.json")
    with replace_file(target) as part:
        text = json.dumps(content | dict(record or {}), indent=2, ensure_ascii=False)
        part.write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")  # an escape that JSON knows
    return target


def _bare(path: str | Path) -> Path:
    """The path without a suffix .png or .json."""
    path = Path(path)
    return path.with_suffix("") if path.suffix.lower() in (".png", ".json") else path
