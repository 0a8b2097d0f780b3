"""A linear probe, which measures what the features contain without a deep head."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from tadp.features import FeatureInfo, Features
from tadp.files.checks import check_whole
from tadp.heads.maps import check_batch, check_info, enlarge, read_maps


class LinearHead(nn.Module):
    """A linear probe: a 1x1 convolution over the maps of all levels, enlarged to the finest level and concatenated.

    A 1x1 convolution and bilinear enlarging give the same result in either order. So each level is convolved at its
    own size, and only the K output channels are enlarged and added.

    The channels of a U-Net differ in scale by powers of ten: attention channels are near 1 / L for L tokens, feature
    channels near 1. So each channel is standardised by its mean and standard deviation: those of the batch in training,
    and their averages over all training batches in evaluation. This is usual for probes, and in evaluation it is linear
    in the features. Standardising each cell over its channels would not be linear, and attention would stay a thousand
    times smaller than the features.

    Args:
        feature_info: Channels and strides of the levels, as in `backbone.feature_info`.
        num_classes: Number of outputs K per pixel: the number of classes, or 1 for a quantity such as depth.
        standardize: Whether channels are first standardised to mean 0 and standard deviation 1. Standardising has no
            trainable parameters.

    Raises:
        TypeError: If `feature_info` is not a `FeatureInfo`, or `num_classes` is not an integer.
        ValueError: If `num_classes` is below 1, or the strides do not double from level to level.

    Example:
        >>> import torch
        >>> info = FeatureInfo(channels=(32, 141), reduction=(8, 16))
        >>> head = LinearHead(info, num_classes=13)
        >>> tuple(head([torch.rand(2, 32, 16, 16), torch.rand(2, 141, 8, 8)]).shape)
        (2, 13, 128, 128)
    """

    def __init__(self, feature_info: FeatureInfo, *, num_classes: int, standardize: bool = True):
        super().__init__()
        num_classes = check_whole(num_classes, name="num_classes")
        check_info(feature_info)
        self.feature_info, self.num_classes = feature_info, num_classes
        # momentum=None: average over all batches equally, as a probe's features do not change during training.
        # eps: variances of attention are about 1e-6, below PyTorch's default of 1e-5.
        self.scales = nn.ModuleList(
            nn.BatchNorm2d(width, eps=1e-8, momentum=None, affine=False) if standardize else nn.Identity()
            for width in feature_info.channels
        )
        self.classifiers = nn.ModuleList(
            nn.Conv2d(width, num_classes, 1, bias=level == 0) for level, width in enumerate(feature_info.channels)
        )

    def forward(
        self, features: Features | Sequence[Tensor], *, image_size: tuple[int, int] | None = None
    ) -> Float[Tensor, "b k height width"]:
        """Compute the outputs of every pixel, linear combinations of the channels of its cells.

        Args:
            features: The output of the backbone, or a list of its maps (B, C, h, w), finest first. The maps are
                converted to the head's dtype.
            image_size: (height, width) of the output in pixels. None is the size of the images; for a list of maps, the
                size of the finest map times its stride.

        Returns:
            Outputs, (B, K, height, width).

        Raises:
            TypeError: If `features` is neither `Features` nor a list of maps.
            ValueError: If the maps do not fit the head's `feature_info`, or if channels should be standardised in
                training but a map has a single value per channel.
        """
        maps, size = read_maps(features, self.feature_info, image_size=image_size, head=self)
        finest = (maps[0].shape[2], maps[0].shape[3])
        strides = self.feature_info.reduction
        total: Tensor | None = None
        for level, (level_map, scale, classifier) in enumerate(zip(maps, self.scales, self.classifiers, strict=True)):
            check_batch(scale, level_map, level=level, instead="standardize=False")
            outputs = enlarge(classifier(scale(level_map)), strides[level] // strides[0], size=finest)
            total = outputs if total is None else total + outputs
        return enlarge(total, strides[0], size=size)  # type: ignore
