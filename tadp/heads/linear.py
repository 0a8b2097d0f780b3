"""A linear probe: what the features say by themselves."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from tadp.features import FeatureInfo, Features
from tadp.files.checks import check_whole
from tadp.heads.maps import check_batch, check_info, enlarge, read_maps


class LinearHead(nn.Module):
    """One 1x1 convolution over all levels, brought to the finest one's size and joined.

    A convolution of 1x1 and bilinear enlarging may change places without a change in numbers: so each level is weighed
    at its own size, and what is enlarged and added has K channels rather than all.

    Channels of a U-Net differ in scale by powers of ten: attention channels lie near 1 / L for L tokens, features near
    1. So each channel is standardised by its mean and deviation over the batch in training, and in evaluation over all
    batches that were seen, as is usual for probes; there the probe stays linear in the features. Standardising each
    cell over its channels would not be linear, and would leave attention at a thousandth.

    Args:
        feature_info: `backbone.feature_info`: channels and strides of the levels.
        num_classes: K outputs a cell; 1 for a quantity.
        standardize: Whether channels are brought to mean 0 and deviation 1 first. It has no parameters.

    Raises:
        TypeError: If `feature_info` is none, or `num_classes` no integer.
        ValueError: If there are no outputs, or strides do not double from level to level.

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
        # momentum=None: the mean over all batches, right from the first; the features of a probe do not move.
        # eps: attention's variances are about 1e-6, under PyTorch's default of 1e-5.
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
        """Weigh the channels of each cell.

        Args:
            features: What the backbone returned, or a list of its maps (B, C, h, w), finest first. They are brought to
                the head's dtype.
            image_size: (height, width) to come out with. None is that of the images, and for a list of maps the finest
                map's size times its stride.

        Returns:
            (B, K, height, width).

        Raises:
            TypeError: If `features` are no maps.
            ValueError: If they are not the maps the head was built for, or channels are to be standardised in training
                over one image of one cell.
        """
        maps, size = read_maps(features, self.feature_info, image_size=image_size, head=self)
        finest = (maps[0].shape[2], maps[0].shape[3])
        strides = self.feature_info.reduction
        total: Tensor | None = None
        for level, (one, scale, classifier) in enumerate(zip(maps, self.scales, self.classifiers, strict=True)):
            check_batch(scale, one, level=level, instead="standardize=False")
            weighed = enlarge(classifier(scale(one)), strides[level] // strides[0], size=finest)
            total = weighed if total is None else total + weighed
        return enlarge(total, strides[0], size=size)  # type: ignore
