"""Object detection: boxes with classes and scores. Needs the extra `detection`."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tadp.backbone import TADPBackbone, Text
from tadp.backbone.feature_model import refuse_name
from tadp.datasets.sample import Sample
from tadp.datasets.transforms.geometry import GREY, fit
from tadp.errors import Argument, OptionError
from tadp.features import Features
from tadp.files.checks import check_classes, check_whole
from tadp.files.inference import in_evaluation
from tadp.heads import DetectionHead
from tadp.images.batches import Batches, Place
from tadp.images.boxes import Boxes, Detections
from tadp.images.reading import MAX_PIXELS, ImageLike, to_pil
from tadp.metrics import COCODetection, VOCDetection
from tadp.tasks.base import TaskModel
from tadp.tasks.lora_training import Tune
from tadp.tasks.model_text import PromptMode
from tadp.tasks.predictions import DetectionResult, label_of, loss_text
from tadp.tasks.sliding import batch_features, predicting, read_one
from tadp.text.conditioning import Conditioning

_WHOLE: Place = (0, 0)


@dataclass(frozen=True, eq=False)
class DetectionOutput:
    """The result of `TADPForObjectDetection` for a batch: losses if true boxes were passed, otherwise detections.

    Attributes:
        losses: The losses by name, scalars; empty if no boxes were passed.
        loss: The sum of the losses, a scalar; None if no boxes were passed.
        detections: The objects detected in each image, one `Detections` per image; empty if boxes were passed.
    """

    losses: dict[str, Float[Tensor, ""]]
    loss: Float[Tensor, ""] | None
    detections: list[Detections]

    def __repr__(self) -> str:
        return f"DetectionOutput(loss={loss_text(self.loss)}, detections={self.detections})"


class TADPForObjectDetection(TaskModel):
    """A task model that detects objects: a backbone with a feature pyramid and torchvision's Faster R-CNN.

    Args:
        backbone: The backbone.
        class_names: Names of the K classes. Label k of a box stands for name k, counted from 0. Background is not a
            class.
        head_options: Further arguments of `heads.DetectionHead`; None passes no further arguments.
        prompt_mode: The text that the model uses, such as "captions" or "null" (the empty prompt); see `TaskModel`.
        prompt_classes: Class names in the text, for prompt modes that need them; None is `class_names`.
        tune: The part of the U-Net that trains: "all", "lora" or "nothing".
        lora_rank: Rank of the LoRA if `tune` is "lora".
        image_px: Side in pixels of the square that the model sees of an image. `predict` resizes the image to it, and
            scales the boxes back to the image's own pixels.
        keep_ratio: Whether an image keeps the ratio of its sides. Its longer side then becomes `image_px`, and grey is
            added on the right or at the bottom, as `Resize(image_px, longest=image_px)` and `PadTo(image_px,
            fill="grey")` do in training. If False, images are stretched to the square, as in the paper. Converted
            models have False, and so have models that were saved before this option existed.

    Raises:
        ValueError: If an option is unknown or out of range.
        ModelError: If the text of the prompt mode has a different number of tokens than the backbone expects.
        MissingExtraError: If torchvision is not installed.

    Source:
        TADP Sec. 4.3; the paper's released detection model, whose images are squares of 512 pixels.

    Example:
        >>> import tadp
        >>> from tadp.datasets.scenes import CLASSES, Scenes
        >>> backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
        >>> model = TADPForObjectDetection(backbone, class_names=CLASSES, image_px=128)
        >>> scene = Scenes(1, seed=5)[0]
        >>> model.predict(scene.image, scene.caption()).boxes.shape[1]
        4
    """

    pipeline_tag = "object-detection"
    earlier_options = MappingProxyType({"keep_ratio": False})

    def __init__(
        self,
        backbone: TADPBackbone,
        *,
        class_names: Sequence[str],
        head_options: dict[str, Any] | None = None,
        prompt_mode: PromptMode = "captions",
        prompt_classes: Sequence[str] | None = None,
        tune: Tune = "all",
        lora_rank: int = 16,
        image_px: int = 512,
        keep_ratio: bool = True,
    ):
        refuse_name(backbone)
        class_names, head_options = check_classes(class_names, name="class_names"), head_options or {}
        super().__init__(
            backbone,
            DetectionHead(backbone.feature_info, num_classes=len(class_names), **head_options),
            prompt_mode=prompt_mode,
            prompt_classes=class_names if prompt_classes is None else prompt_classes,
            tune=tune,
            lora_rank=lora_rank,
        )
        self.class_names = tuple(class_names)
        self.head_options = head_options
        self.image_px = _check_side(image_px)
        self.keep_ratio = keep_ratio

    @property
    def options(self) -> dict[str, Any]:
        return {
            "class_names": list(self.class_names),
            "head_options": self.head_options,
            "prompt_mode": self.prompt_mode,
            "prompt_classes": list(self.prompt_classes),
            "tune": self.tuned,
            "lora_rank": self.lora_rank,
            "image_px": self.image_px,
            "keep_ratio": self.keep_ratio,
        }

    def forward(
        self,
        images: ImageLike | Sequence[ImageLike] | None,
        text: Text | None = None,
        boxes: Sequence[Boxes] | None = None,
        *,
        latents: Float[Tensor, "b c _h _w"] | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> DetectionOutput:
        """Compute the losses if true boxes are passed; otherwise detect objects.

        Args:
            images: Images (B, 3, H, W) in [0, 1], or anything that `tadp.images.to_tensor` reads. They are not resized
                here. None if latents are passed.
            text: One caption per image, one caption for all images, or a `Conditioning`. None is the text of the prompt
                mode; see `TaskModel.features`.
            boxes: The true boxes of each image in pixels, one `Boxes` per image. None detects objects.
            latents: Results of `backbone.encode_image`, for example from a cache, that are used instead of images.
            image_size: (height, width) in pixels of the images of the latents. None is the size that the latents cover.
        """
        return self.from_features(self.features(images, text, latents=latents, image_size=image_size), boxes)

    def from_features(self, features: Features, boxes: Sequence[Boxes] | None = None) -> DetectionOutput:
        """Like `forward`, from features that were computed before."""
        if boxes is None:
            return DetectionOutput({}, None, self.head(features))
        losses = self.head(features, boxes)
        return DetectionOutput(losses, torch.stack(list(losses.values())).sum(), [])

    def predict(
        self,
        image: ImageLike,
        caption: str | Conditioning | None = None,
        *,
        image_px: int | None = None,
        batch_size: int = 1,
    ) -> DetectionResult:
        """Detect the objects of one image. Boxes are in pixels of the image as it was passed.

        Args:
            image: One image of any size: a path, PIL image, array or tensor.
            caption: A caption of the image, or encoded text. None lets the attached captioner describe the image. It
                must be None if the model uses one text for all images.
            image_px: Side in pixels of the square that the model sees; None is that of the model. It determines how
                much memory is needed.
            batch_size: Largest number of squares that go through the model at once. It changes nothing here, because an
                image is one square. `evaluate` puts the squares of several images into a batch.

        Raises:
            ImageError: If the image cannot be read.
            CaptionError: If a caption is needed and there is neither a caption nor a captioner, or if a caption is
                passed although the model uses one text for all images.
            TypeError: If `image_px` or `batch_size` is not an integer.
            ValueError: If `image_px` or `batch_size` is below 1.
        """
        batches = Batches(in_evaluation(self).predict_batch, batch_size)
        return self.start_prediction(image, caption, batches, image_px=image_px)()

    def start_prediction(
        self,
        image: ImageLike,
        caption: str | Conditioning | None,
        batches: Batches,
        *,
        image_px: int | None = None,
    ) -> Callable[[], DetectionResult]:
        pixels = read_one(image)
        height, width = int(pixels.shape[2]), int(pixels.shape[3])
        side = self.image_px if image_px is None else _check_side(image_px)
        size = fit((height, width), side, longest=side) if self.keep_ratio else (side, side)
        square = pixels
        if (height, width) != size:
            square = F.interpolate(pixels.float(), size=size, mode="bilinear", antialias=True).clamp(0, 1)
        if size != (side, side):
            square = F.pad(square, (0, side - size[1], 0, side - size[0]), value=GREY / 255)
        with predicting(image):
            text, words = self.text.for_image(pixels, caption, self.backbone)
        seen = _Square(square, text)
        batches.expect([(seen, _WHOLE)])

        def finish() -> DetectionResult:
            if seen.objects is None:
                with predicting(image):
                    batches.read(seen, _WHOLE)
            objects: Any = seen.objects
            edges, scale = torch.tensor(size[::-1] * 2), torch.tensor([width / size[1], height / size[0]] * 2)
            boxes = objects.boxes.float().cpu().minimum(edges) * scale
            inside = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)  # others lie in the padding
            return DetectionResult(
                boxes[inside],
                objects.labels.cpu()[inside],
                objects.scores.float().cpu()[inside],
                self.class_names,
                words,
                to_pil(pixels),
            )

        return finish

    def predict_batch(self, pixels: Float[Tensor, "b 3 _h _w"], texts: Sequence[Conditioning]) -> list[Detections]:
        """The objects in each square."""
        return self.from_features(batch_features(self.features, self.backbone, pixels, texts)).detections

    def make_metric(self, *, rule: Literal["voc07", "voc12", "coco"] = "voc07") -> VOCDetection | COCODetection:
        """Average precision over the model's classes.

        Args:
            rule: The rule for average precision: "voc07" (VOC 2007, used by the paper), "voc12" (VOC 2012) or "coco".
        """
        return COCODetection(self.class_names) if rule == "coco" else VOCDetection(self.class_names, rule=rule)

    def score(self, metric: VOCDetection | COCODetection, result: DetectionResult, sample: Sample) -> None:
        """Compare the detected objects with the sample's boxes; see `TaskModel.score`."""
        metric.update([result.detections], [label_of(sample, "boxes")])


class _Square:
    """The square of an image that the model sees, as a `BatchedImage` with a single part.

    Attributes:
        objects: The objects that were detected; None until the square is read.
    """

    def __init__(self, image: Float[Tensor, "1 3 h w"], text: Conditioning):
        self.image, self.text = image, text
        self.objects: Detections | None = None

    @property
    def kind(self) -> Hashable:
        return self.image.shape, self.image.device, self.text.kind

    def pixels(self, place: Place) -> Float[Tensor, "1 3 h w"]:
        return self.image

    def keep(self, place: Place, values: Detections) -> None:
        self.objects = values


def _check_side(image_px: int) -> int:
    side = check_whole(image_px, name="image_px", unit="pixel")
    if side**2 > MAX_PIXELS:
        raise OptionError(Argument("image_px"), f" must be at most {math.isqrt(MAX_PIXELS)}; got {side}.")
    return side
