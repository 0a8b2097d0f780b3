"""Object detection: boxes with classes and scores. Needs the extra `detection`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tadp.backbone import TADPBackbone, Text
from tadp.backbone.feature_model import refuse_name
from tadp.datasets.sample import Sample
from tadp.features import Features
from tadp.files.checks import check_classes, check_whole
from tadp.heads import DetectionHead
from tadp.images.boxes import Boxes, Detections
from tadp.images.reading import ImageLike, to_pil
from tadp.metrics import COCODetection, VOCDetection
from tadp.tasks.base import TaskModel
from tadp.tasks.lora_training import Tune
from tadp.tasks.model_text import PromptMode
from tadp.tasks.predictions import DetectionResult, label_of, loss_text
from tadp.tasks.sliding import read_one
from tadp.text.conditioning import Conditioning


@dataclass(frozen=True, eq=False)
class DetectionOutput:
    """The result of one pass.

    Attributes:
        losses: The losses by name; empty if no boxes were passed.
        loss: The sum of the losses; None if no boxes were passed.
        detections: The objects detected in each image; empty if boxes were passed.
    """

    losses: dict[str, Float[Tensor, ""]]
    loss: Float[Tensor, ""] | None
    detections: list[Detections]

    def __repr__(self) -> str:
        return f"DetectionOutput(loss={loss_text(self.loss)}, detections={self.detections})"


class TADPForObjectDetection(TaskModel):
    """A backbone with an FPN and torchvision's Faster R-CNN.

    Args:
        backbone: The backbone.
        class_names: K names. Label k of a box means name k, counted from 0. Background is not a class.
        head_options: Further arguments of `heads.DetectionHead`.
        prompt_mode: The text that the model uses; see `TaskModel`.
        prompt_classes: Class names in the text; `class_names` by default.
        tune: The part of the U-Net that trains: "all", "lora" or "nothing".
        lora_rank: Rank of the LoRA.
        image_px: Side of the square to which `predict` resizes an image, as in the paper's training. Boxes are scaled
            back to the image's own pixels.

    Raises:
        ValueError, ModelError: See `TaskModel`.
        MissingExtraError: If torchvision is not installed.

    Source:
        TADP Sec. 4.3; the released detection model, whose images are squares of 512 pixels.

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
    ):
        refuse_name(backbone)
        class_names, head_options = check_classes(class_names), head_options or {}
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
        self.image_px = check_whole(image_px, name="image_px", unit="pixel")

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
        """Losses if boxes are passed, detections otherwise.

        Args:
            images: (B, 3, H, W) in [0, 1], or anything `tadp.images.to_tensor` reads. They are not resized here. None
                if latents are passed.
            text: One caption per image, one for all images, or `Conditioning`; see `TaskModel.features`.
            boxes: The true boxes of each image, in its pixels.
            latents: Cached results of `backbone.encode_image`, used instead of images.
            image_size: (height, width) of the images that the latents came from.
        """
        return self.from_features(self.features(images, text, latents=latents, image_size=image_size), boxes)

    def from_features(self, features: Features, boxes: Sequence[Boxes] | None = None) -> DetectionOutput:
        """Like `forward`, from features that were computed before."""
        if boxes is None:
            return DetectionOutput({}, None, self.head(features))
        losses = self.head(features, boxes)
        return DetectionOutput(losses, torch.stack(list(losses.values())).sum(), [])

    def predict(
        self, image: ImageLike, caption: str | Conditioning | None = None, *, image_px: int | None = None
    ) -> DetectionResult:
        """The objects of one image, in its own pixels.

        Args:
            image: A path, PIL image, array or tensor of any size.
            caption: A caption of the image; None calls the attached captioner. It must be None if the model uses one
                text for all images.
            image_px: Side of the square to which the image is resized; the model's own by default. It determines how
                much memory is needed.

        Raises:
            ImageError: If the image cannot be read.
            CaptionError: If there is neither a caption nor a captioner.
            TypeError: If `image_px` is not an integer.
            ValueError: If `image_px` is below 1.
        """
        pixels = read_one(image)
        height, width = int(pixels.shape[2]), int(pixels.shape[3])
        side = self.image_px if image_px is None else check_whole(image_px, name="image_px", unit="pixel")
        square = pixels
        if (height, width) != (side, side):
            square = F.interpolate(pixels.float(), size=(side, side), mode="bilinear", antialias=True).clamp(0, 1)
        with self._predicting():
            text, words = self._text.for_image(pixels, caption, self.backbone)
            objects = self.forward(square, text).detections[0]
        scale = torch.tensor([width / side, height / side] * 2)
        return DetectionResult(
            objects.boxes.float().cpu() * scale,
            objects.labels.cpu(),
            objects.scores.float().cpu(),
            self.class_names,
            words,
            to_pil(pixels),
        )

    def make_metric(self, *, rule: Literal["voc07", "voc12", "coco"] = "voc07") -> VOCDetection | COCODetection:
        """Average precision over the model's classes.

        Args:
            rule: The rule for average precision: "voc07" (VOC 2007, used by the paper), "voc12" (VOC 2012) or "coco".
        """
        return COCODetection(self.class_names) if rule == "coco" else VOCDetection(self.class_names, rule=rule)

    def score(self, metric: VOCDetection | COCODetection, result: DetectionResult, sample: Sample) -> None:
        """Compare the detected objects with the sample's boxes; see `TaskModel.score`."""
        metric.update([result.detections], [label_of(sample, "boxes")])
