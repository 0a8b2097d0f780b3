"""Detection: boxes of objects, with classes and scores. Extra `detection`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tadp.backbone import TADPBackbone, Text
from tadp.backbone.backbone import refuse_name
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
        losses: By name; empty without boxes.
        loss: Their sum; None without boxes.
        detections: What was found in each image; empty with boxes.
    """

    losses: dict[str, Float[Tensor, ""]]
    loss: Float[Tensor, ""] | None
    detections: list[Detections]

    def __repr__(self) -> str:
        return f"DetectionOutput(loss={loss_text(self.loss)}, detections={self.detections})"


class TADPForObjectDetection(TaskModel):
    """A backbone with an FPN and torchvision's Faster R-CNN.

    Args:
        backbone: Images and text in, features out.
        class_names: K names; a box's label k is the k-th, from 0. Background is not one of them.
        head_options: Further arguments of `heads.DetectionHead`.
        prompt_mode: The text, see `TaskModel`.
        prompt_classes: Names for the text; `class_names` by default.
        tune: What of the U-Net trains: "all", "lora" or "nothing".
        lora_rank: Rank of the LoRA.
        image_px: `predict` brings an image to a square of this side, as in the paper's training, and boxes back.

    Raises:
        ValueError, ModelError: As `TaskModel`.
        MissingExtraError: If torchvision is not installed.

    Source:
        TADP Sec. 4.3; the released detection model, whose images are squares of 512.

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
        """Losses if boxes are given, else what is found.

        Args:
            images: (B, 3, H, W) in [0, 1], or anything `tadp.images.to_tensor` reads, at the size they are to be seen
                in: nothing is resized here. None if latents are given.
            text: As `TaskModel.features`.
            boxes: Boxes of each image, in its pixels.
            latents: As `TaskModel.features`.
            image_size: (height, width) of the images that the latents came from.
        """
        return self.from_features(self.features(images, text, latents=latents, image_size=image_size), boxes)

    def from_features(self, features: Features, boxes: Sequence[Boxes] | None = None) -> DetectionOutput:
        """The same from features that were computed before."""
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
            caption: As in segmentation: None asks the attached captioner.
            image_px: The side of the square to which it is brought; the model's own by default. It bounds memory.

        Raises:
            ImageError: If the image cannot be read.
            CaptionError: If there is neither caption nor captioner.
            TypeError: If the side is no integer.
            ValueError: If it is under 1.
        """
        pixels = read_one(image)
        height, width = int(pixels.shape[2]), int(pixels.shape[3])
        side = self.image_px if image_px is None else check_whole(image_px, name="image_px", unit="pixel")
        square = pixels
        if (height, width) != (side, side):
            square = F.interpolate(pixels.float(), size=(side, side), mode="bilinear", antialias=True).clamp(0, 1)
        with self._predicting():
            text, said = self._text.for_image(pixels, caption, self.backbone)
            found = self.forward(square, text).detections[0]
        scale = torch.tensor([width / side, height / side] * 2)
        return DetectionResult(
            found.boxes.float().cpu() * scale,
            found.labels.cpu(),
            found.scores.float().cpu(),
            self.class_names,
            said,
            to_pil(pixels),
        )

    def make_metric(self, *, rule: Literal["voc07", "voc12", "coco"] = "voc07") -> VOCDetection | COCODetection:
        """Average precision over the model's classes.

        Args:
            rule: VOC's rule of 2007, which is the paper's, that of 2012, or COCO's.
        """
        return COCODetection(self.class_names) if rule == "coco" else VOCDetection(self.class_names, rule=rule)

    def score(self, metric: VOCDetection | COCODetection, result: DetectionResult, sample: Sample) -> None:
        """Compare what was found with the sample's boxes; see `TaskModel.score`."""
        metric.update([result.detections], [label_of(sample, "boxes")])
