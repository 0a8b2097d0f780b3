"""Depth of a single image, in metres."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tadp.backbone import TADPBackbone, Text
from tadp.backbone.feature_model import refuse_name
from tadp.datasets.sample import Sample
from tadp.features import Features
from tadp.files.inference import in_evaluation
from tadp.heads import DepthHead
from tadp.images.batches import Batches
from tadp.images.reading import ImageLike, to_pil, to_tensor
from tadp.images.windows import mean_tiles
from tadp.metrics import DepthMetrics
from tadp.metrics.depth import Crop
from tadp.tasks.base import TaskModel
from tadp.tasks.lora_training import Tune
from tadp.tasks.model_text import PromptMode
from tadp.tasks.predictions import DepthResult, label_of, loss_text
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

_GREY = 0.5  # the released code pads with zeros in [-1, 1]; this is the same value in [0, 1]


@dataclass(frozen=True, eq=False)
class DepthOutput:
    """The result of one pass.

    Attributes:
        depth_m: (B, H, W), metres, at the images' size.
        loss: The loss over the pixels whose true depth is known; None if no true depth was passed.
    """

    depth_m: Float[Tensor, "_b _h _w"]
    loss: Float[Tensor, ""] | None = None

    def __repr__(self) -> str:
        return f"DepthOutput(depth_m {tuple(self.depth_m.shape)}, loss={loss_text(self.loss)})"


class TADPForDepthEstimation(TaskModel):
    """A task model that predicts the depth of every pixel: a backbone with the paper's depth head.

    Args:
        backbone: The backbone. The paper attaches no attention for depth: `attach_attention=()`.
        max_depth_m: Largest depth that can be predicted, in metres; 10 for NYU Depth v2.
        head_options: Further arguments of `heads.DepthHead`; None passes no further arguments.
        prompt_mode: The text that the model uses, such as "captions" or "null" (the empty prompt); see `TaskModel`.
        prompt_classes: Class names in the text, for prompt modes that need them, such as the kinds of rooms of NYU
            Depth v2, `tadp.language.class_names.NYU_ROOMS`.
        own_class: Whether each image only gets the text of its own class, which is its kind of room in the paper. If
            False, a prompt mode that is made of class names gives every image the text of all classes. True needs a
            prompt mode that is made of class names, or "stored" with one embedding per class. `evaluate` takes the
            class from the samples. Calls of the model and `predict` take it in place of a caption:
            `model.predict(image, "kitchen")`.
        default_class: The class of images whose class is not known, if `own_class` is set; None refuses such images.
        tune: The part of the U-Net that trains: "all", "lora" or "nothing".
        lora_rank: Rank of the LoRA if `tune` is "lora".
        window_px: Side in pixels of the windows into which `predict` divides an image. Use the size of the training
            crops, because depth in metres depends on how large objects appear. The default is that of the paper.
        stride_px: Number of pixels from one window to the next. None is a third of a window, which gives two windows
            for NYU's images of 640x480 pixels, as in the paper's released code.
        taper_windows: Whether the weight of a window falls from its centre to its border where windows overlap, so that
            no seams show. If False, overlapping windows are averaged with equal weights, as in the paper's released
            code; this is the default of converted models, and of models that were saved before this option existed.
        short_side_px: Length in pixels to which `predict` resizes the shorter side of an image, if the model was
            trained on images of this size. None keeps the image's size.
        pad_with_grey: Whether images are padded as in the paper's released code: with mid-grey, to a multiple of the
            coarsest level's stride. The head then leaves out cells that contain only padding, before its transposed
            convolutions. This is the default of converted models. The released code takes only 352x352, 480x480 and
            512x512 pixels; other sizes follow the same rule. If False, edges are repeated, and the head never sees the
            padding.

    Raises:
        ValueError: If an option is unknown or out of range, or `prompt_classes` is missing in a mode that needs it.
        ModelError: If the text of the prompt mode has a different number of tokens than the backbone expects.

    Source:
        TADP Sec. 4.1; the paper's released depth model, which follows VPD's.

    Example:
        >>> import tadp
        >>> from tadp.datasets.scenes import Scenes
        >>> backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny", attach_attention=())
        >>> model = TADPForDepthEstimation(backbone, max_depth_m=20.0, window_px=128)
        >>> scene = Scenes(1, seed=5)[0]
        >>> model.predict(scene.image, scene.caption()).depth_m.shape
        torch.Size([128, 128])
    """

    pipeline_tag = "depth-estimation"
    earlier_options = MappingProxyType({"taper_windows": False})

    def __init__(
        self,
        backbone: TADPBackbone,
        *,
        max_depth_m: float = 10.0,
        head_options: dict[str, Any] | None = None,
        prompt_mode: PromptMode = "captions",
        prompt_classes: Sequence[str] = (),
        tune: Tune = "all",
        lora_rank: int = 16,
        window_px: int = 480,
        stride_px: int | None = None,
        taper_windows: bool = True,
        short_side_px: int | None = None,
        pad_with_grey: bool = False,
        own_class: bool = False,
        default_class: str | None = None,
    ):
        refuse_name(backbone)
        window_px, stride_px = window_and_stride(window_px, stride_px, thirds=1)
        head_options = head_options or {}
        super().__init__(
            backbone,
            DepthHead(backbone.feature_info, max_depth_m=max_depth_m, **head_options),
            prompt_mode=prompt_mode,
            prompt_classes=prompt_classes,
            tune=tune,
            lora_rank=lora_rank,
            own_class=own_class,
            default_class=default_class,
        )
        self.max_depth_m = float(max_depth_m)
        self.head_options = head_options
        self.window_px, self.stride_px = window_px, stride_px
        self.taper_windows = taper_windows
        self.short_side_px = check_side(short_side_px)
        self.pad_with_grey = pad_with_grey

    @property
    def options(self) -> dict[str, Any]:
        return {
            "max_depth_m": self.max_depth_m,
            "head_options": self.head_options,
            "prompt_mode": self.prompt_mode,
            "prompt_classes": list(self.prompt_classes),
            "tune": self.tuned,
            "lora_rank": self.lora_rank,
            "window_px": self.window_px,
            "stride_px": self.stride_px,
            "taper_windows": self.taper_windows,
            "short_side_px": self.short_side_px,
            "pad_with_grey": self.pad_with_grey,
            "own_class": self.text.own_class,
            "default_class": self.text.default_class,
        }

    def forward(
        self,
        images: ImageLike | Sequence[ImageLike] | None,
        text: Text | None = None,
        depth_m: Float[Tensor, "b h w"] | None = None,
        *,
        latents: Float[Tensor, "b c _h _w"] | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> DepthOutput:
        """Predict the depth of images, and compute the loss if the true depth is passed.

        Args:
            images: Images (B, 3, H, W) in [0, 1], or anything that `tadp.images.to_tensor` reads. None if latents are
                passed.
            text: One caption per image, one caption for all images, or a `Conditioning`; if the model was built
                with `own_class=True`, one class name per image, or one for all images. None is the text of
                the prompt mode; see `TaskModel.features`.
            depth_m: The true depth in metres, (B, H, W); 0, NaN or infinity where it is unknown. None computes no loss.
            latents: Results of `backbone.encode_image`, for example from a cache, that are used instead of images.
            image_size: (height, width) in pixels of the images of the latents. None is the size that the latents cover.
                A model that pads with grey needs latents of images that were padded with grey.

        Raises:
            ValueError: If `depth_m` and the images differ in size.
        """
        if not self.pad_with_grey:
            return self.from_features(self.features(images, text, latents=latents, image_size=image_size), depth_m)
        if images is not None:
            images, image_size = self._padded(to_tensor(images))
        return self.from_features(self.features(images, text, latents=latents), depth_m, image_size=image_size)

    def _padded(self, pixels: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b 3 _h _w"], tuple[int, int] | None]:
        """Images padded with grey if the model does that, and their size before; None if there is nothing to crop."""
        if not self.pad_with_grey:
            return pixels, None
        height, width = int(pixels.shape[2]), int(pixels.shape[3])
        multiple = max(self.backbone.strides)
        return F.pad(pixels, (0, -width % multiple, 0, -height % multiple), value=_GREY), (height, width)

    def predict_batch(
        self, pixels: Float[Tensor, "b 3 h w"], texts: Sequence[Conditioning]
    ) -> Float[Tensor, "b 1 h w"]:
        """The depth in each window."""
        padded, size = self._padded(pixels)
        features = batch_features(self.features, self.backbone, padded, texts)
        return self.from_features(features, image_size=size).depth_m[:, None]

    def from_features(
        self,
        features: Features,
        depth_m: Float[Tensor, "b h w"] | None = None,
        *,
        image_size: tuple[int, int] | None = None,
    ) -> DepthOutput:
        """Like `forward`, from features that were computed before; `image_size` removes padding."""
        if depth_m is not None:
            _check_depth(depth_m, self.max_depth_m)
        predicted_m = self.head(features, image_size=image_size, drop_padding=image_size is not None)
        loss = None if depth_m is None else losses.silog(predicted_m, depth_m.to(predicted_m.device))
        return DepthOutput(predicted_m, loss)

    def predict(
        self,
        image: ImageLike,
        caption: str | Conditioning | None = None,
        *,
        window_px: int | None = None,
        stride_px: int | None = None,
        flip: bool = False,
        short_side_px: int | None = None,
        batch_size: int = 1,
    ) -> DepthResult:
        """Predict the depth of one image, at its own size.

        Args:
            image: One image of any size: a path, PIL image, array or tensor.
            caption: A caption of the image, or encoded text; if the model was built with `own_class=True`, the name
                of the image's class. With None, the attached captioner describes the image or, with `own_class=True`,
                the default class is used. It must be None if the model uses one text for all images.
            window_px: Side of the windows in pixels; None is the window of the model. Depth is averaged where windows
                overlap, with the weights of `taper_windows`.
            stride_px: Number of pixels from one window to the next; None is the stride of the model, or a third of
                `window_px` if that is passed.
            flip: Whether to also predict the mirrored image and average the two, as the paper's released code does.
            short_side_px: Length in pixels to which the image's shorter side is resized before prediction; the depth
                map is resized back. Use it for a camera whose resolution differs from that of the training data: 480
                for a model trained on NYU Depth v2. None is that of the model.
            batch_size: Largest number of windows that go through the model at once, from the image and its
                mirrored copy. A larger number takes more memory, and less time on a GPU. Results differ by rounding.

        Raises:
            ImageError: If the image cannot be read.
            CaptionError: If a caption is needed and there is neither a caption nor a captioner, if a caption is passed
                although the model uses one text for all images, or if the class of the image is needed and it is
                missing or unknown.
            TypeError: If a size in pixels or `batch_size` is not an integer.
            ValueError: If a size or `batch_size` is below 1, or `stride_px` is larger than `window_px`.
        """
        start = self.start_prediction(
            image,
            caption,
            Batches(in_evaluation(self).predict_batch, batch_size),
            window_px=window_px,
            stride_px=stride_px,
            flip=flip,
            short_side_px=short_side_px,
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
        flip: bool = False,
        short_side_px: int | None = None,
    ) -> Callable[[], DepthResult]:
        window_px, stride_px = window_and_stride(window_px, stride_px, thirds=1, own=(self.window_px, self.stride_px))
        pixels = read_one(image)
        with predicting(image):
            text, words = self.text.for_image(pixels, caption, self.backbone)
        views = make_views(
            batches,
            pixels,
            text,
            window_px=window_px,
            stride_px=stride_px,
            short_side_px=self.short_side_px if short_side_px is None else short_side_px,
            flip=flip,
            tapered=self.taper_windows,
        )

        def finish() -> DepthResult:
            depth_m = torch.zeros(int(pixels.shape[2]), int(pixels.shape[3]))
            with predicting(image):
                for rows, columns, mean in mean_tiles(views):
                    depth_m[rows, columns] = mean[0]
                check_result(depth_m)
            return DepthResult(depth_m, words, to_pil(pixels))

        return finish

    def make_metric(self, *, crop: Crop | None = None) -> DepthMetrics:
        """The paper's depth metrics, up to the model's greatest depth.

        Args:
            crop: The part of an image that is compared: "eigen" or "garg". None compares the whole image.
        """
        return DepthMetrics(max_depth_m=self.max_depth_m, crop=crop)

    def score(self, metric: DepthMetrics, result: DepthResult, sample: Sample) -> None:
        """Compare a depth map with the sample's true depth; see `TaskModel.score`."""
        metric.update(result.depth_m, label_of(sample, "depth_m"))


def _check_depth(depth_m: Tensor, most_m: float) -> None:
    """Refuse anything but a tensor, and millimetres: every known depth is over ten times the model's greatest."""
    if not isinstance(depth_m, Tensor):
        raise TypeError(f"depth_m must be a tensor; got {type(depth_m).__name__}. Pass torch.as_tensor(depth_m).")
    known = depth_m[depth_m.isfinite() & (depth_m > 0)]
    if known.numel() and (nearest := known.min().item()) > 10 * most_m:
        raise ValueError(
            f"depth_m must be in metres; the model predicts up to {most_m:g} m, but the nearest pixel is at "
            f"{nearest:g}. Divide millimetres by 1000."
        )
