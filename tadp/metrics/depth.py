"""Depth metrics: accuracy under thresholds and errors, as in the evaluation of NYU Depth v2."""

from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tadp.files.checks import check_choice, check_numbers
from tadp.metrics.per_class import check_merge, to_maps

Crop = Literal["eigen", "garg"]
# Top, bottom, left and right, as shares of height and width.
_CROPS: dict[str, tuple[Fraction, ...]] = {
    # rows 45:471 and columns 41:601 of 480x640: the released code, for NYU
    "eigen": (Fraction(45, 480), Fraction(471, 480), Fraction(41, 640), Fraction(601, 640)),
    # the released code, for KITTI (Garg et al. 2016)
    "garg": (Fraction("0.40810811"), Fraction("0.99189189"), Fraction("0.03594771"), Fraction("0.96405229")),
}


@dataclass(frozen=True, repr=False)
class DepthMetricsResult:
    """Accuracy and errors of predicted depth, each computed per image and averaged over images.

    In the formulas, p is the predicted depth of a pixel in metres, t its true depth, and e = ln p - ln t.
    `print(result)` shows a table.

    Attributes:
        d1: Share of pixels with max(p / t, t / p) < 1.25, in [0, 1]; higher is better.
        d2: Share of pixels with max(p / t, t / p) < 1.25², in [0, 1]; higher is better.
        d3: Share of pixels with max(p / t, t / p) < 1.25³, in [0, 1]; higher is better.
        rmse: Root of the mean of (p - t)², in metres.
        abs_rel: Mean of |p - t| / t ("REL").
        sq_rel: Mean of (p - t)² / t, in metres.
        log10: Mean of |log10 p - log10 t|.
        rmse_log: Root of the mean of e².
        silog: Root of mean(e²) - mean(e)² / 2. KITTI's own figure subtracts all of mean(e)² and is multiplied by 100.
        images: Number of images over which the figures are averaged.
        skipped: Number of images that were left out because they had no pixel of known depth to compare.
    """

    d1: float
    d2: float
    d3: float
    rmse: float
    abs_rel: float
    sq_rel: float
    log10: float
    rmse_log: float
    silog: float
    images: int
    skipped: int

    def __repr__(self) -> str:
        figures = ", ".join(f"{name}={getattr(self, name):.4f}" for name in _NAMES)
        return f"DepthMetricsResult({figures}, images={self.images}, skipped={self.skipped})"

    def __str__(self) -> str:
        heads = "".join(f"{name:>9}" for name in _NAMES)
        figures = "".join(f"{getattr(self, name):>9.4f}" for name in _NAMES)
        skipped = f", and {self.skipped} without known depth" if self.skipped else ""
        return f"{heads}\n{figures}\nimages: {self.images}{skipped}"


_NAMES = tuple(field.name for field in fields(DepthMetricsResult) if field.name not in ("images", "skipped"))


class DepthMetrics:
    """Measures predicted depth: share of accurate pixels and several errors, per image and then averaged over images.

    A pixel is compared if its true depth lies strictly between the two bounds and the pixel is inside the crop. A true
    depth of 0, NaN or infinity is unknown. Each figure is computed per image and then averaged over images, as in the
    paper's released code. So an image with few known pixels counts as much as any other, and the root of RMSE is taken
    per image. An image without pixels to compare is left out and counted in `skipped`; the released code would return
    NaN.

    Predictions are first clamped to the bounds. The released code only does this for infinite predictions. For its own
    head, whose depth is always below 10 m, the only difference is that depths under `min_depth_m` become `min_depth_m`.

    Args:
        min_depth_m: Lower bound of the true depth in metres, above 0.
        max_depth_m: Upper bound of the true depth in metres: 10 for NYU Depth v2 (the default), 80 for KITTI.
        crop: The part of the image to compare. "eigen" is the usual crop for NYU Depth v2: rows 45 to 470 and columns
            41 to 600 of 480x640 pixels, and the same part of images of other sizes (where the released code uses these
            rows and columns at any size). "garg" is the usual crop for KITTI. None compares the whole image.

    Attributes:
        images: Number of images that were compared.
        skipped: Number of images without pixels to compare.

    Raises:
        ValueError: If not 0 < `min_depth_m` < `max_depth_m`, or `crop` is unknown.

    Source:
        `eval_depth` and `cropping_img` of the paper's released models/depth/utils_depth/metrics.py (from GLPDepth), and
        the loop of test_tadp_depth.py. The default bounds are those of the latter.

    Example:
        >>> metric = DepthMetrics()
        >>> metric.update(torch.tensor([[[2.0, 4.0, 5.0]]]), torch.tensor([[[2.0, 5.0, 0.0]]]))
        >>> metric.compute()
        DepthMetricsResult(d1=0.5000, d2=1.0000, d3=1.0000, rmse=0.7071, abs_rel=0.1000, sq_rel=0.1000, log10=0.0485,
            rmse_log=0.1578, silog=0.1366, images=1, skipped=0)
    """

    def __init__(self, *, min_depth_m: float = 1e-3, max_depth_m: float = 10.0, crop: Crop | None = None):
        check_numbers(min_depth_m=min_depth_m, max_depth_m=max_depth_m)
        if not 0 < min_depth_m < max_depth_m:
            raise ValueError(
                f"the bounds must satisfy 0 < min_depth_m < max_depth_m; got {min_depth_m} and {max_depth_m}."
            )
        check_choice(crop, (*_CROPS, None), name="crop")
        self.min_depth_m, self.max_depth_m = min_depth_m, max_depth_m
        self.crop: Crop | None = crop
        self.images = self.skipped = 0
        self._sums = dict.fromkeys(_NAMES, 0.0)

    def update(
        self, depth_m: Float[Tensor | np.ndarray, "*b h w"], target_m: Float[Tensor | np.ndarray, "*b h w"]
    ) -> None:
        """Compare the predicted and the true depth of a batch of images, or of a single image.

        Args:
            depth_m: Predicted depth in metres, (B, H, W) or (H, W). A tensor or an array.
            target_m: True depth in metres, of the same size; 0, NaN or infinity where it is unknown. A tensor or an
                array.

        Raises:
            TypeError: If `depth_m` or `target_m` is not a tensor or an array of floats. Integers, as in depth files,
                are refused because they are usually not in metres.
            ValueError: If the two differ in size, or `depth_m` contains a NaN. Nothing is counted in this case.
        """
        depth_m, target_m = to_maps(depth_m, name="depth_m"), to_maps(target_m, name="target_m")
        for name, maps in (("depth_m", depth_m), ("target_m", target_m)):
            if not maps.is_floating_point():
                raise TypeError(f"{name} must be metres as floats; got {maps.dtype}. Divide millimetres by 1000.")
        if depth_m.ndim == target_m.ndim == 2:
            depth_m, target_m = depth_m[None], target_m[None]
        if depth_m.shape != target_m.shape or depth_m.ndim != 3:
            raise ValueError(
                f"depth_m and target_m must both be (B, H, W) or (H, W), of one size; got {tuple(depth_m.shape)} and "
                f"{tuple(target_m.shape)}. Resize the prediction to the target's size, and leave out a channel axis."
            )
        for index, depth in enumerate(depth_m):
            if depth.isnan().any():
                number = self.images + self.skipped + index
                raise ValueError(
                    f"the predicted depth of image {index} of the batch (image {number} since the start) contains NaN."
                )
        for depth, target in zip(depth_m.detach().cpu(), target_m.detach().cpu(), strict=True):
            self._add(depth, target)

    def compute(self) -> DepthMetricsResult:
        """The means over all images that were compared.

        Raises:
            ValueError: If no image was compared.
        """
        if not self.images:
            where = f" inside the crop {self.crop!r}" if self.crop else ""
            raise ValueError(
                f"no depth was compared: none of the {self.skipped} images has a true depth between "
                f"{self.min_depth_m:g} and {self.max_depth_m:g} m{where}. Depth must be in metres."
            )
        means = {name: value / self.images for name, value in self._sums.items()}
        return DepthMetricsResult(**means, images=self.images, skipped=self.skipped)

    def merge(self, other: "DepthMetrics") -> None:
        """Add the images of another metric, which does not change.

        Raises:
            TypeError: If `other` is not a `DepthMetrics`.
            ValueError: If its bounds or its crop differ.
        """
        check_merge(self, other, ("min_depth_m", "max_depth_m", "crop"))
        self._sums = {name: value + other._sums[name] for name, value in self._sums.items()}
        self.images += other.images
        self.skipped += other.skipped

    def _add(self, depth: Tensor, target: Tensor) -> None:
        # Compared in the target's own precision, as in the released code: 0.001 in float32 is over 0.001 in float64.
        # NaN is never within the bounds.
        known = (target > self.min_depth_m) & (target < self.max_depth_m)
        if self.crop:
            inside = torch.zeros_like(known)
            inside[_window(*known.shape, crop=self.crop)] = True
            known &= inside
        if not known.any():
            self.skipped += 1
            return
        compared = depth[known].double().clamp(self.min_depth_m, self.max_depth_m)
        for name, value in _figures(compared, target[known].double()).items():
            self._sums[name] += value
        self.images += 1


def _window(height: int, width: int, *, crop: Crop) -> tuple[slice, slice]:
    top, bottom, left, right = _CROPS[crop]
    return slice(int(top * height), int(bottom * height)), slice(int(left * width), int(right * width))


def _figures(depth: Float[Tensor, " n"], target: Float[Tensor, " n"]) -> dict[str, float]:
    """Compute the figures of one image from its compared pixels, in float64."""
    ratio = torch.maximum(depth / target, target / depth)
    error, log_error = depth - target, depth.log() - target.log()
    silog = log_error.square().mean() - log_error.mean().square() / 2
    figures = {f"d{power}": (ratio < 1.25**power).double().mean() for power in (1, 2, 3)} | {
        "rmse": error.square().mean().sqrt(),
        "abs_rel": (error.abs() / target).mean(),
        "sq_rel": (error.square() / target).mean(),
        "log10": (depth.log10() - target.log10()).abs().mean(),
        "rmse_log": log_error.square().mean().sqrt(),
        "silog": silog.sqrt(),
    }
    return {name: value.item() for name, value in figures.items()}
