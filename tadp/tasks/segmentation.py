"""Semantic segmentation: a class for each pixel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from tadp.backbone import TADPBackbone, Text
from tadp.backbone.feature_model import refuse_name
from tadp.datasets.sample import Sample
from tadp.drawing.overlays import BACKGROUND
from tadp.features import Features
from tadp.files.checks import check_classes, check_ignore_label
from tadp.files.inference import in_evaluation
from tadp.heads import LinearHead, SegmentationHead, SMPSegmentationHead
from tadp.images.batches import Batches
from tadp.images.reading import ImageLike, to_pil
from tadp.images.windows import mean_tiles
from tadp.metrics import MeanIoU
from tadp.tasks.base import TaskModel
from tadp.tasks.lora_training import Tune
from tadp.tasks.model_text import PromptMode
from tadp.tasks.predictions import SegmentationResult, label_of, loss_text
from tadp.tasks.sliding import (
    batch_features,
    check_result,
    check_side,
    make_views,
    predicting,
    read_one,
    window_and_stride,
)
from tadp.text.conditioning import Conditioning
from tadp.training import losses

HeadKind: TypeAlias = Literal["fpn", "smp_fpn", "linear"]
_HEADS: dict[HeadKind, type[SegmentationHead] | type[LinearHead]] = {
    "fpn": SegmentationHead,
    "smp_fpn": SMPSegmentationHead,
    "linear": LinearHead,
}


@dataclass(frozen=True, eq=False)
class SegmentationOutput:
    """The result of one pass.

    Attributes:
        logits: Logits, (B, K, H, W), at the images' size.
        loss: The mean loss over the labelled pixels; None if no masks were passed.
    """

    logits: Float[Tensor, "_b _k _h _w"]
    loss: Float[Tensor, ""] | None = None

    def __repr__(self) -> str:
        return f"SegmentationOutput(logits {tuple(self.logits.shape)}, loss={loss_text(self.loss)})"


class TADPForSemanticSegmentation(TaskModel):
    """A task model that predicts the class of every pixel: a backbone with a segmentation head.

    Args:
        backbone: The backbone.
        class_names: Names of the K classes. Value k of a mask stands for name k, counted from 0. Background needs a
            name too if it is a class.
        head: Kind of head: "fpn", which the paper uses for ADE20K and Cityscapes (`heads.SegmentationHead`); "smp_fpn",
            which it uses for Pascal VOC (`heads.SMPSegmentationHead`); or "linear", a linear probe
            (`heads.LinearHead`).
        head_options: Further arguments of the head; None passes no further arguments.
        prompt_mode: The text that the model uses, such as "captions" or "null" (the empty prompt); see `TaskModel`.
        prompt_classes: Class names in the text, for prompt modes that need them; None is `class_names` without
            "background".
        tune: The part of the U-Net that trains: "all", "lora" or "nothing".
        lora_rank: Rank of the LoRA if `tune` is "lora".
        loss: The loss: "cross_entropy", as in the paper, or "focal", which gives hard pixels more weight, as in the
            paper's code for Pascal VOC.
        ignore_label: Value of pixels without a label in masks, 255 by default. It must not be the number of a class.
        window_px: Side in pixels of the windows into which `predict` divides an image. Use the size of the training
            crops.
        stride_px: Number of pixels from one window to the next. None is two thirds of a window, as in the paper (341 of
            512 pixels).
        short_side_px: Length in pixels to which `predict` resizes the shorter side of an image, if the model was
            trained on images of this size. None keeps the image's size.

    Raises:
        ValueError: If an option is unknown or out of range.
        ModelError: If the text of the prompt mode has a different number of tokens than the backbone expects.

    Source:
        TADP Sec. 4.1; the FPN, semantic-FPN head and sliding-window test of the paper's released code.

    Example:
        >>> import tadp
        >>> from tadp.datasets.scenes import CLASSES, Scenes
        >>> backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
        >>> model = TADPForSemanticSegmentation(backbone, class_names=["background", *CLASSES], window_px=128)
        >>> scene = Scenes(1, seed=5)[0]
        >>> result = model.predict(scene.image, scene.caption())
        >>> result.class_map.shape, result.plot().width
        (torch.Size([128, 128]), 320)
    """

    pipeline_tag = "image-segmentation"

    def __init__(
        self,
        backbone: TADPBackbone,
        *,
        class_names: Sequence[str],
        head: HeadKind = "fpn",
        head_options: dict[str, Any] | None = None,
        prompt_mode: PromptMode = "captions",
        prompt_classes: Sequence[str] | None = None,
        tune: Tune = "all",
        lora_rank: int = 16,
        loss: Literal["cross_entropy", "focal"] = "cross_entropy",
        ignore_label: int = 255,
        window_px: int = 512,
        stride_px: int | None = None,
        short_side_px: int | None = None,
    ):
        refuse_name(backbone)
        if head not in tuple(_HEADS):
            raise ValueError(f"head must be 'fpn', 'smp_fpn' or 'linear'; got {head!r}.")
        if loss not in ("cross_entropy", "focal"):
            raise ValueError(f"loss must be 'cross_entropy' or 'focal'; got {loss!r}.")
        window_px, stride_px = window_and_stride(window_px, stride_px, thirds=2)
        class_names = check_classes(class_names, name="class_names")
        head_options = head_options or {}
        if prompt_classes is None:
            prompt_classes = [name for name in class_names if name != BACKGROUND]
        super().__init__(
            backbone,
            _HEADS[head](backbone.feature_info, num_classes=len(class_names), **head_options),
            prompt_mode=prompt_mode,
            prompt_classes=prompt_classes,
            tune=tune,
            lora_rank=lora_rank,
        )
        self.class_names = tuple(class_names)
        self.head_kind, self.head_options = head, head_options
        self.loss_kind, self.ignore_label = loss, check_ignore_label(ignore_label, len(class_names))
        self.window_px, self.stride_px = window_px, stride_px
        self.short_side_px = check_side(short_side_px)

    @property
    def options(self) -> dict[str, Any]:
        return {
            "class_names": list(self.class_names),
            "head": self.head_kind,
            "head_options": self.head_options,
            "prompt_mode": self.prompt_mode,
            "prompt_classes": list(self.prompt_classes),
            "tune": self.tuned,
            "lora_rank": self.lora_rank,
            "loss": self.loss_kind,
            "ignore_label": self.ignore_label,
            "window_px": self.window_px,
            "stride_px": self.stride_px,
            "short_side_px": self.short_side_px,
        }

    def forward(
        self,
        images: ImageLike | Sequence[ImageLike] | None,
        text: Text | None = None,
        masks: Integer[Tensor, "_b _h _w"] | None = None,
        *,
        latents: Float[Tensor, "b c _h _w"] | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> SegmentationOutput:
        """Compute the logits of images, and the loss if masks are passed.

        Args:
            images: Images (B, 3, H, W) in [0, 1], or anything that `tadp.images.to_tensor` reads. None if latents are
                passed.
            text: One caption per image, one caption for all images, or a `Conditioning`. None is the text of the prompt
                mode; see `TaskModel.features`.
            masks: The true class of each pixel, (B, H, W), counted from 0; `ignore_label` where the class is not known.
                None computes no loss.
            latents: Results of `backbone.encode_image`, for example from a cache, that are used instead of images.
            image_size: (height, width) in pixels of the images of the latents. None is the size that the latents cover.

        Raises:
            ValueError: If a mask contains an unknown label, or masks and images differ in size.
        """
        return self.from_features(self.features(images, text, latents=latents, image_size=image_size), masks)

    def from_features(self, features: Features, masks: Integer[Tensor, "_b _h _w"] | None = None) -> SegmentationOutput:
        """Like `forward`, from features that were computed before."""
        if masks is not None:
            _check_masks(masks, features)
        logits = self.head(features)
        if masks is None:
            return SegmentationOutput(logits)
        loss = losses.focal if self.loss_kind == "focal" else losses.cross_entropy
        return SegmentationOutput(logits, loss(logits, masks.to(logits.device), ignore_label=self.ignore_label))

    def _probabilities(self, logits: Float[Tensor, "k h w"]) -> Float[Tensor, "k h w"]:
        """With focal loss, each class is judged against the rest; otherwise the probabilities sum to one."""
        return logits.sigmoid() if self.loss_kind == "focal" else logits.softmax(dim=0)

    def predict(
        self,
        image: ImageLike,
        caption: str | Conditioning | None = None,
        *,
        window_px: int | None = None,
        stride_px: int | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        short_side_px: int | None = None,
        return_probabilities: bool = False,
        batch_size: int = 1,
    ) -> SegmentationResult:
        """Predict the class of every pixel of one image, at its own size.

        An image larger than the window is predicted in windows, and the result is assembled in tiles. So only one
        batch of windows, a few tiles and the result are in memory. Each window is predicted once: its logits are kept
        at the head's resolution, before they are enlarged, until no more tiles need them.

        Args:
            image: One image of any size: a path, PIL image, array or tensor.
            caption: A caption of the image, or encoded text. None lets the attached captioner describe the image. It
                must be None if the model uses one text for all images.
            window_px: Side of the windows in pixels; None is the window of the model.
            stride_px: Number of pixels from one window to the next; None is the stride of the model, or two thirds of
                `window_px` if that is passed.
            scales: Factors by which the image is resized before prediction. With several, the probabilities are
                averaged. The paper's multi-scale test ("ms") is (0.5, 0.75, 1.0, 1.25, 1.5, 1.75) with `flip`.
            flip: Whether to also predict the mirrored image and average the two.
            short_side_px: Length in pixels to which the image's shorter side is resized before prediction; the class
                map is resized back. The paper's ADE20K test uses 512. None is that of the model.
            return_probabilities: Whether to return the probabilities of all classes, K floats per pixel. A model that
                was trained with focal loss compares each class with the rest, so they do not sum to one.
            batch_size: Largest number of windows that go through the model at once, from the image and its
                mirrored copy, at all scales. A larger number takes more memory, and less time on a GPU. Results
                differ by rounding.

        Raises:
            ImageError: If the image cannot be read.
            CaptionError: If a caption is needed and there is neither a caption nor a captioner, or if a caption is
                passed although the model uses one text for all images.
            TypeError: If a size in pixels or `batch_size` is not an integer.
            ValueError: If a scale is not above 0, a size or `batch_size` is below 1, or `stride_px` is larger than
                `window_px`.
        """
        start = self.start_prediction(
            image,
            caption,
            Batches(in_evaluation(self).predict_batch, batch_size),
            window_px=window_px,
            stride_px=stride_px,
            scales=scales,
            flip=flip,
            short_side_px=short_side_px,
            return_probabilities=return_probabilities,
        )
        return start()

    def start_prediction(
        self,
        image: ImageLike,
        caption: str | Conditioning | None,
        batches: Batches,
        *,
        window_px: int | None = None,
        stride_px: int | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        short_side_px: int | None = None,
        return_probabilities: bool = False,
    ) -> Callable[[], SegmentationResult]:
        window_px, stride_px = window_and_stride(window_px, stride_px, thirds=2, own=(self.window_px, self.stride_px))
        pixels = read_one(image)
        info: Any = self.head.feature_info
        height, width = int(pixels.shape[2]), int(pixels.shape[3])
        with predicting(image):
            text, words = self.text.for_image(pixels, caption, self.backbone)
        views = make_views(
            batches,
            pixels,
            text,
            window_px=window_px,
            stride_px=stride_px,
            scales=scales,
            short_side_px=self.short_side_px if short_side_px is None else short_side_px,
            flip=flip,
            cell_px=info.reduction[0],
            align_corners=isinstance(self.head, SegmentationHead) and self.head.align_corners,
        )

        def finish() -> SegmentationResult:
            classes, scores = torch.zeros(height, width, dtype=torch.int64), torch.zeros(height, width)
            probabilities = torch.zeros(len(self.class_names), height, width) if return_probabilities else None
            with predicting(image):
                for rows, columns, mean in mean_tiles(views, finish=self._probabilities):
                    scores[rows, columns], classes[rows, columns] = mean.max(dim=0)
                    if probabilities is not None:
                        probabilities[:, rows, columns] = mean
                check_result(scores)
            return SegmentationResult(classes, scores, self.class_names, probabilities, words, to_pil(pixels))

        return finish

    def make_metric(self) -> MeanIoU:
        """Mean IoU over the model's classes."""
        return MeanIoU(self.class_names, ignore_label=self.ignore_label)

    def score(self, metric: MeanIoU, result: SegmentationResult, sample: Sample) -> None:
        """Compare a class map with the sample's mask; see `TaskModel.score`."""
        metric.update(result.class_map, label_of(sample, "mask"))

    def predict_batch(
        self, pixels: Float[Tensor, "b 3 _h _w"], texts: Sequence[Conditioning]
    ) -> Float[Tensor, "b k _h2 _w2"]:
        """Logits of windows at the finest map's size, before the head enlarges them to pixels."""
        features = batch_features(self.features, self.backbone, pixels, texts)
        finest = features.maps[0].shape
        return self.head(features, image_size=(finest[2], finest[3]))


def _check_masks(masks: Tensor, features: Features) -> None:
    batch = features.maps[0].shape[0]
    if not isinstance(masks, Tensor):
        raise TypeError(f"masks must be a tensor; got {type(masks).__name__}. Pass torch.as_tensor(masks).")
    if masks.is_floating_point() or masks.dtype == torch.bool:
        raise TypeError(f"masks must hold class indices, which are integers; got {masks.dtype}. Pass masks.long().")
    if masks.shape != (batch, *features.image_size):
        raise ValueError(
            f"masks must be (B, H, W), at the images' size; got {tuple(masks.shape)} for {batch} images of "
            f"{features.image_size}."
        )
