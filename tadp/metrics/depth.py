"""Depth: accuracy under thresholds and errors, as NYU Depth v2 is evaluated."""

from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tadp.files.checks import check_choice
from tadp.metrics.per_class import check_merge

Crop = Literal["eigen", "garg"]
# Top, bottom, left, right, as shares of height and width.
_CROPS: dict[str, tuple[Fraction, ...]] = {
    # rows 45:471 and columns 41:601 of 480x640: the released code, for NYU
    "eigen": (Fraction(45, 480), Fraction(471, 480), Fraction(41, 640), Fraction(601, 640)),
    # the released code, for KITTI (Garg et al. 2016)
    "garg": (Fraction("0.40810811"), Fraction("0.99189189"), Fraction("0.03594771"), Fraction("0.96405229")),
}


@dataclass(frozen=True, repr=False)
class DepthMetricsResult:
    """Each figure is the mean over images of the image's own figure. `print(result)` is a table.

    With p the predicted depth of a pixel, t the true one and e = ln p - ln t:

    Attributes:
        d1: Share of pixels with max(p / t, t / p) < 1.25, in [0, 1]; higher is better.
        d2: The same under 1.25².
        d3: The same under 1.25³.
        rmse: Root of the mean of (p - t)², in metres.
        abs_rel: Mean of |p - t| / t ("REL").
        sq_rel: Mean of (p - t)² / t, in metres.
        log10: Mean of |log10 p - log10 t|.
        rmse_log: Root of the mean of e².
        silog: Root of mean(e²) - mean(e)² / 2. KITTI's own page takes all of mean(e)² and multiplies by 100.
        images: How many images the means are over.
        skipped: How many were fed that had no pixel of known depth to compare.
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
    """Thresholded accuracy and errors of predicted depth, image by image, then averaged.

    Pixels are compared where the true depth lies strictly between the two bounds and inside the crop; 0, NaN and
    infinity mean that it is unknown. Each figure is that of one image; the result is the mean over images, as the
    released code has it, so an image with few known pixels weighs as much as another. The root of RMSE is thus taken
    in each image. An image with no pixel to compare is skipped and counted in `skipped`; the released code would
    return NaN.

    Predictions are brought between the bounds first. The released code does so for infinity alone; for its head,
    whose depth is below 10 m by construction, the difference is that a depth under `min_depth_m` is raised to it.

    Args:
        min_depth_m: Least depth, over 0, in metres.
        max_depth_m: Greatest depth in metres: NYU 10, KITTI 80.
        crop: "eigen" is NYU's, rows 45 to 470 and columns 41 to 600 of 480x640, and the same share of another size
            (the released code takes those rows and columns of any size). "garg" is KITTI's. None compares all of the
            image.

    Attributes:
        images: How many images were compared.
        skipped: How many had nothing to compare.

    Raises:
        ValueError: If the bounds are not 0 < min < max, or the crop is unknown.

    Source:
        `eval_depth` and `cropping_img` of the released models/depth/utils_depth/metrics.py (from GLPDepth), and the
        loop of test_tadp_depth.py, whose defaults the bounds are.

    Example:
        >>> metric = DepthMetrics()
        >>> metric.update(torch.tensor([[[2.0, 4.0, 5.0]]]), torch.tensor([[[2.0, 5.0, 0.0]]]))
        >>> metric.compute()
        DepthMetricsResult(d1=0.5000, d2=1.0000, d3=1.0000, rmse=0.7071, abs_rel=0.1000, sq_rel=0.1000, log10=0.0485,
            rmse_log=0.1578, silog=0.1366, images=1, skipped=0)
    """

    def __init__(self, *, min_depth_m: float = 1e-3, max_depth_m: float = 10.0, crop: Crop | None = None):
        if not 0 < min_depth_m < max_depth_m:
            raise ValueError(f"0 < min_depth_m < max_depth_m; got {min_depth_m} and {max_depth_m}.")
        check_choice(crop, (*_CROPS, None), name="crop")
        self.min_depth_m, self.max_depth_m = min_depth_m, max_depth_m
        self.crop: Crop | None = crop
        self.images = self.skipped = 0
        self._sums = dict.fromkeys(_NAMES, 0.0)

    def update(self, depth_m: Float[Tensor, "b h w"], target_m: Float[Tensor, "b h w"]) -> None:
        """Compare a batch.

        Args:
            depth_m: Predicted depth (B, H, W) in metres.
            target_m: True depth (B, H, W) in metres; 0, NaN or infinite where unknown.

        Raises:
            TypeError: If one of them is no float: depth files hold integers of another unit.
            ValueError: If sizes differ, or a prediction is NaN, anywhere in its image. Nothing is counted then.
        """
        for name, maps in (("depth_m", depth_m), ("target_m", target_m)):
            if not maps.is_floating_point():
                raise TypeError(f"{name} is in metres, as floats; got {maps.dtype}. Divide millimetres by 1000.")
        if depth_m.shape != target_m.shape or depth_m.ndim != 3:
            raise ValueError(
                f"depth_m and target_m are (B, H, W), of one size; got {tuple(depth_m.shape)} and "
                f"{tuple(target_m.shape)}. Resize the prediction to the target's size, and leave out a channel axis."
            )
        for index, one in enumerate(depth_m):
            if one.isnan().any():
                fed = self.images + self.skipped + index
                raise ValueError(f"the predicted depth of image {index} of the batch ({fed} since the start) has NaN.")
        for depth, target in zip(depth_m.detach().cpu(), target_m.detach().cpu(), strict=True):
            self._add(depth, target)

    def compute(self) -> DepthMetricsResult:
        """The means over all images that were compared.

        Raises:
            ValueError: If none was.
        """
        if not self.images:
            where = f" inside the crop {self.crop!r}" if self.crop else ""
            raise ValueError(
                f"no depth was compared: of {self.skipped} images none has a true depth between {self.min_depth_m:g} "
                f"and {self.max_depth_m:g} m{where}. Depth is in metres."
            )
        means = {name: value / self.images for name, value in self._sums.items()}
        return DepthMetricsResult(**means, images=self.images, skipped=self.skipped)

    def merge(self, other: "DepthMetrics") -> None:
        """Add what another has compared, which stays as it is.

        Raises:
            TypeError: If it is another metric.
            ValueError: If its bounds or its crop differ.
        """
        check_merge(self, other, ("min_depth_m", "max_depth_m", "crop"))
        self._sums = {name: value + other._sums[name] for name, value in self._sums.items()}
        self.images += other.images
        self.skipped += other.skipped

    def _add(self, depth: Tensor, target: Tensor) -> None:
        # In the target's own precision, as released: 0.001 in float32 is over 0.001 in float64. NaN is in no bounds.
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
    """The figures of one image from its compared pixels, in float64."""
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
