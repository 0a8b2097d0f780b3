"""Losses for heads: cross-entropy and focal loss for segmentation, and SILog for depth.

`tadp.heads.DetectionHead` computes Faster R-CNN's losses itself. All losses here are computed in float32 or higher
precision, and check their targets. If a batch has no labelled pixel, the loss is 0 and still differentiable, so
training can continue.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from tadp.files.checks import check_ignore_label

_NEAREST_M = 1e-6  # a saturated sigmoid predicts 0 m, and the logarithm of 0 would end the run


def cross_entropy(
    logits: Float[Tensor, "_b _k _h _w"], masks: Integer[Tensor, "_b2 _h2 _w2"], *, ignore_label: int = 255
) -> Float[Tensor, ""]:
    """Cross-entropy of the softmax over classes, averaged over labelled pixels.

    mmsegmentation, with which the paper's released code trains, instead divides by the number of all pixels, including
    ignored ones, unless `avg_non_ignore` is set. If no pixel is ignored, the two agree.

    Args:
        logits: The output of a head for K classes, (B, K, H, W).
        masks: The true class of each pixel, (B, H, W), 0 to K - 1, or `ignore_label`.
        ignore_label: Label of pixels that do not count, 255 by default. It must not be one of the K classes.

    Returns:
        The loss, a scalar; 0 if every pixel is ignored.

    Raises:
        ValueError: If masks and logits differ in size, a label is not from 0 to K - 1, or `ignore_label` is a class.

    Source:
        TADP's mm_configs, `CrossEntropyLoss` with `use_sigmoid=False`.

    Example:
        >>> logits = torch.zeros(1, 4, 2, 2)  # all four classes are as likely: log 4
        >>> round(float(cross_entropy(logits, torch.tensor([[[0, 1], [3, 255]]]))), 4)
        1.3863
    """
    masks, labelled = _check_masks(logits, masks, ignore_label)
    total = F.cross_entropy(_precise(logits), masks, ignore_index=ignore_label, reduction="sum")
    return total / labelled.sum().clamp(min=1)


def focal(
    logits: Float[Tensor, "_b _k _h _w"],
    masks: Integer[Tensor, "_b2 _h2 _w2"],
    *,
    gamma: float = 2.0,
    ignore_label: int = 255,
) -> Float[Tensor, ""]:
    """Focal loss, which gives little weight to pixels whose prediction is already right.

    For each class there is a separate question: does the pixel belong to the class? The sigmoid of the class's logit is
    the probability of yes. The binary cross-entropy is weighted by (1 - p)^gamma, where p is the probability of the
    true answer, summed over classes, and averaged over labelled pixels. The sigmoids do not sum to one over the
    classes. As with cross-entropy, the class with the highest logit is the prediction.

    Args:
        logits: The output of a head for K classes, (B, K, H, W).
        masks: The true class of each pixel, (B, H, W), 0 to K - 1, or `ignore_label`.
        gamma: Exponent of the weight, 0 or more. The larger it is, the less easy pixels count; 0 is binary
            cross-entropy.
        ignore_label: Label of pixels that do not count, 255 by default. It must not be one of the K classes.

    Returns:
        The loss, a scalar; 0 if every pixel is ignored.

    Raises:
        ValueError: If masks and logits differ in size, a label is not from 0 to K - 1, `ignore_label` is a class, or
            `gamma` is negative.

    Source:
        Lin et al., Focal Loss for Dense Object Detection, Eq. 4; TADP's tadp_seg.py (Pascal VOC), which uses the
        implementation of segmentation_models_pytorch without class weights.

    Example:
        >>> logits = torch.zeros(1, 2, 1, 1)  # two sigmoids of 1/2: 2 * (1/2)^2 * log 2
        >>> round(float(focal(logits, torch.tensor([[[1]]]))), 4)
        0.3466
    """
    if not gamma >= 0:
        raise ValueError(f"gamma must be 0 or more; got {gamma}.")
    masks, labelled = _check_masks(logits, masks, ignore_label)
    logits = _precise(logits)
    classes = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
    signed = torch.where(masks.unsqueeze(1) == classes, logits, -logits)  # sigmoid(signed) is p
    weighted = -F.logsigmoid(signed) * (gamma * F.logsigmoid(-signed)).exp()  # (1 - p)^gamma
    total = torch.where(labelled.unsqueeze(1), weighted, 0).sum()
    return total / labelled.sum().clamp(min=1)


def silog(
    depth_m: Float[Tensor, "_b _h _w"], target_m: Float[Tensor, "_b2 _h2 _w2"], *, variance_focus: float = 0.5
) -> Float[Tensor, ""]:
    """Scale-invariant logarithmic error of predicted depth, SILog.

    It is the root of mean(d²) - variance_focus * mean(d)², where d = log target - log depth for a pixel, and the means
    are over all pixels of the batch with known depth.

    Args:
        depth_m: Predicted depth in metres, (B, H, W). Depths below a micrometre count as a micrometre.
        target_m: True depth in metres, (B, H, W). It is unknown, and the pixel does not count, where it is 0, negative,
            NaN or infinite.
        variance_focus: Weight of the squared mean, in [0, 1]. With 1, a prediction that is wrong by the same factor
            everywhere has no loss. With 0, such an error counts as much as any other.

    Returns:
        The loss, a scalar, 0 or more; 0 if no depth is known. A NaN in the prediction gives NaN.

    Raises:
        ValueError: If the two depths differ in size, a prediction is negative, or `variance_focus` is outside [0, 1].

    Source:
        Eigen et al., Depth Map Prediction from a Single Image, of which this is the root of Eq. 4. 0.5 is the value in
        the released code of TADP and VPD (criterion.py). Other depth models use 0.85 and a factor of 10.

    Example:
        >>> target = torch.tensor([[[1.0, 2.0, 0.0]]])  # the last is unknown
        >>> round(float(silog(2 * target + 1e-3, target, variance_focus=1.0)), 3)
        0.0
    """
    if not 0 <= variance_focus <= 1:
        raise ValueError(f"variance_focus must be in [0, 1]; got {variance_focus}.")
    if depth_m.shape != target_m.shape or depth_m.ndim != 3:
        raise ValueError(
            f"prediction and target must both be depth in metres, (B, H, W); got {tuple(depth_m.shape)} and "
            f"{tuple(target_m.shape)}. Resize the prediction, and drop a channel axis with [:, 0]."
        )
    depth, target = _precise(depth_m), _precise(target_m)
    known = target.isfinite() & (target > 0)
    if (known & (depth < 0)).any():
        raise ValueError(f"predicted depth must not be negative; got {depth[known].min().item():g} m.")
    ones = torch.ones_like(depth)
    # Unknown pixels are replaced before the logarithm: its gradient at 0 or inf would be NaN even if masked afterwards.
    difference = torch.where(known, target, ones).log() - torch.where(known, depth, ones).clamp(min=_NEAREST_M).log()
    count = known.sum().clamp(min=1)
    mean, mean_square = difference.sum() / count, difference.square().sum() / count
    return _root(mean_square - variance_focus * mean.square())


def _root(value: Tensor) -> Tensor:
    """The square root, with a gradient of 0 rather than NaN at 0 and where rounding left a value below 0. NaN stays."""
    flat = value <= 0
    return torch.where(flat, value * 0, torch.where(flat, torch.ones_like(value), value).sqrt())


def _precise(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _check_masks(logits: Tensor, masks: Tensor, ignore_label: int) -> tuple[Tensor, Tensor]:
    """Return masks as int64, and which pixels count."""
    count = logits.shape[1] if logits.ndim == 4 else 0
    if logits.ndim != 4 or masks.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"logits must be (B, K, H, W) and masks (B, H, W) of the same size; got {tuple(logits.shape)} and "
            f"{tuple(masks.shape)}. Resize the logits, or resize the masks with nearest-neighbour interpolation."
        )
    check_ignore_label(ignore_label, count)
    masks = masks.long()
    labelled = masks != ignore_label
    outside = labelled & ((masks < 0) | (masks >= count))
    if outside.any():
        image, row, column = outside.nonzero()[0].tolist()
        raise ValueError(
            f"labels must be 0 to {count - 1} for {count} classes, or {ignore_label} for ignored pixels; got "
            f"{masks[image, row, column].item()} in image {image}, row {row}, column {column}."
        )
    return masks, labelled
