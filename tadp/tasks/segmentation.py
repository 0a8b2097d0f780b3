"""Semantic segmentation: a class for each pixel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from tadp.backbone import TADPBackbone, Text
from tadp.backbone.backbone import refuse_name
from tadp.datasets.sample import Sample
from tadp.drawing.overlays import BACKGROUND
from tadp.features import Features
from tadp.files.checks import check_classes
from tadp.heads import LinearHead, SegmentationHead
from tadp.images.reading import ImageLike, to_pil
from tadp.images.windows import mean_tiles
from tadp.metrics import MeanIoU
from tadp.tasks.base import TaskModel
from tadp.tasks.lora_training import Tune
from tadp.tasks.model_text import PromptMode
from tadp.tasks.predictions import SegmentationResult, label_of, loss_text
from tadp.tasks.sliding import make_views, read_one, window_and_stride
from tadp.text.conditioning import Conditioning
from tadp.training import losses


@dataclass(frozen=True, eq=False)
class SegmentationOutput:
    """The result of one pass.

    Attributes:
        logits: Logits, (B, K, H, W), at the images' size.
        loss: The mean over the labelled pixels; None without masks.
    """

    logits: Float[Tensor, "_b _k _h _w"]
    loss: Float[Tensor, ""] | None = None

    def __repr__(self) -> str:
        return f"SegmentationOutput(logits {tuple(self.logits.shape)}, loss={loss_text(self.loss)})"


class TADPForSemanticSegmentation(TaskModel):
    """A backbone with a segmentation head.

    Args:
        backbone: Images and text in, features out.
        class_names: K names; a mask's value k is the k-th, from 0. If background is a class, it has its place here.
        head: "fpn" is the paper's (`heads.SegmentationHead`), "linear" a probe (`heads.LinearHead`).
        head_options: Further arguments of that head.
        prompt_mode: The text, see `TaskModel`.
        prompt_classes: Names for the text; `class_names` but "background" by default.
        tune: What of the U-Net trains: "all", "lora" or "nothing".
        lora_rank: Rank of the LoRA.
        loss: "cross_entropy" is the paper's; "focal" weighs what is hard.
        ignore_label: The value of pixels without a label.
        window_px: Side of the windows in which `predict` goes through an image; that of the training crops.
        stride_px: Step from one window to the next; two thirds of a window by default, as the paper's 341 of 512.

    Raises:
        ValueError, ModelError: As `TaskModel`.

    Source:
        TADP Sec. 4.1; the released code's FPN, semantic-FPN head and sliding test.

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
        head: Literal["fpn", "linear"] = "fpn",
        head_options: dict[str, Any] | None = None,
        prompt_mode: PromptMode = "captions",
        prompt_classes: Sequence[str] | None = None,
        tune: Tune = "all",
        lora_rank: int = 16,
        loss: Literal["cross_entropy", "focal"] = "cross_entropy",
        ignore_label: int = 255,
        window_px: int = 512,
        stride_px: int | None = None,
    ):
        refuse_name(backbone)
        if head not in ("fpn", "linear"):
            raise ValueError(f"head is 'fpn' or 'linear'; got {head!r}.")
        if loss not in ("cross_entropy", "focal"):
            raise ValueError(f"loss is 'cross_entropy' or 'focal'; got {loss!r}.")
        window_px, stride_px = window_and_stride(window_px, stride_px, thirds=2)
        class_names = check_classes(class_names)
        made = SegmentationHead if head == "fpn" else LinearHead
        head_options = head_options or {}
        if prompt_classes is None:
            prompt_classes = [name for name in class_names if name != BACKGROUND]
        super().__init__(
            backbone,
            made(backbone.feature_info, num_classes=len(class_names), **head_options),
            prompt_mode=prompt_mode,
            prompt_classes=prompt_classes,
            tune=tune,
            lora_rank=lora_rank,
        )
        self.class_names = tuple(class_names)
        self.head_kind, self.head_options = head, head_options
        self.loss_kind, self.ignore_label = loss, ignore_label
        self.window_px, self.stride_px = window_px, stride_px

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
        """Logits of images, and the loss if masks are given.

        Args:
            images: (B, 3, H, W) in [0, 1], or anything `tadp.images.to_tensor` reads; None if latents are given.
            text: As `TaskModel.features`.
            masks: (B, H, W), classes from 0, `ignore_label` where there is none.
            latents: As `TaskModel.features`.
            image_size: (height, width) of the images that the latents came from.

        Raises:
            ValueError: If a mask holds another label, or is of another size than the images.
        """
        return self.from_features(self.features(images, text, latents=latents, image_size=image_size), masks)

    def from_features(self, features: Features, masks: Integer[Tensor, "_b _h _w"] | None = None) -> SegmentationOutput:
        """The same from features that were computed before."""
        if masks is not None:
            _check_masks(masks, features)
        logits = self.head(features)
        if masks is None:
            return SegmentationOutput(logits)
        loss = losses.focal if self.loss_kind == "focal" else losses.cross_entropy
        return SegmentationOutput(logits, loss(logits, masks.to(logits.device), ignore_label=self.ignore_label))

    def _probabilities(self, logits: Float[Tensor, "k h w"]) -> Float[Tensor, "k h w"]:
        """Each class against the rest if it was trained so, which focal loss does; else they sum to one."""
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
    ) -> SegmentationResult:
        """The classes of one image, in its own size.

        An image larger than the window goes through in windows, and the result is put together in tiles, so that memory
        is that of one window, of some tiles, and of the result. Each window is predicted once: of those that the tiles
        across the image's shorter side still need, the logits are kept as the head has them, before it enlarges them.

        Args:
            image: A path, PIL image, array or tensor of any size.
            caption: What is in it; None asks the attached captioner. Without meaning, and refused, if the model's text
                is the same for all images.
            window_px: Side of the windows; None is the model's own.
            stride_px: Step from one window to the next.
            scales: Sizes of the image at which it is predicted; the probabilities are averaged. The paper's "ms" is
                (0.5, 0.75, 1.0, 1.25, 1.5, 1.75) with `flip`.
            flip: Predict the mirrored image too.
            short_side_px: Bring the image's shorter side to this before (and its class map back after); the paper's
                ADE20K test takes 512.
            return_probabilities: Keep the probabilities of all classes, K floats a pixel. A model that was trained with
                focal loss judges each class against the rest, so that they do not sum to one.

        Raises:
            ImageError: If the image cannot be read.
            CaptionError: If there is neither caption nor captioner.
            TypeError: If a size in pixels is no integer.
            ValueError: If a scale is not over 0, a size under 1, or the stride over the window.
        """
        window_px, stride_px = window_and_stride(window_px, stride_px, thirds=2, own=(self.window_px, self.stride_px))
        pixels = read_one(image)
        height, width = int(pixels.shape[2]), int(pixels.shape[3])
        with self._predicting():
            text, said = self._text.for_image(pixels, caption, self.backbone)
            views = make_views(
                lambda part: self._coarse(part, text),
                pixels,
                window_px=window_px,
                stride_px=stride_px,
                scales=scales,
                short_side_px=short_side_px,
                flip=flip,
                cell_px=self.backbone.feature_info.reduction[0],
            )
            classes, scores = torch.zeros(height, width, dtype=torch.int64), torch.zeros(height, width)
            probabilities = torch.zeros(len(self.class_names), height, width) if return_probabilities else None
            for rows, columns, mean in mean_tiles(views, finish=self._probabilities):
                scores[rows, columns], classes[rows, columns] = mean.max(dim=0)
                if probabilities is not None:
                    probabilities[:, rows, columns] = mean
        return SegmentationResult(classes, scores, self.class_names, probabilities, said, to_pil(pixels))

    def make_metric(self) -> MeanIoU:
        """Mean IoU over the model's classes."""
        return MeanIoU(len(self.class_names), ignore_label=self.ignore_label, class_names=self.class_names)

    def score(self, metric: MeanIoU, result: SegmentationResult, sample: Sample) -> None:
        """Compare a class map with the sample's mask; see `TaskModel.score`."""
        metric.update(result.class_map[None], torch.from_numpy(label_of(sample, "mask"))[None])

    def _coarse(self, images: Float[Tensor, "1 3 _h _w"], text: Conditioning) -> Float[Tensor, "1 k _h2 _w2"]:
        """Logits at the finest map's size, before the head enlarges them to pixels."""
        features = self.features(images, text)
        finest = features.maps[0].shape
        return self.head(features, image_size=(finest[2], finest[3]))


def _check_masks(masks: Tensor, features: Features) -> None:
    batch = features.maps[0].shape[0]
    if not isinstance(masks, Tensor):
        raise TypeError(f"masks are a tensor; got {type(masks).__name__}. Pass torch.as_tensor(masks).")
    if masks.is_floating_point() or masks.dtype == torch.bool:
        raise TypeError(f"masks hold classes, whole numbers; got {masks.dtype}. Pass masks.long().")
    if masks.shape != (batch, *features.image_size):
        raise ValueError(
            f"masks are (B, H, W), of the images' size; got {tuple(masks.shape)} for {batch} images of "
            f"{features.image_size}."
        )
