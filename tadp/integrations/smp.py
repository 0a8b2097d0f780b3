"""segmentation_models_pytorch: an encoder that decoders find by its name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tadp.backbone import TADPBackbone
from tadp.errors import ModelError
from tadp.files.checks import need
from tadp.integrations.pyramid import Pyramid, Stride4

INSTALL = "pip install 'tadp[smp]'."


class SmpEncoder(nn.Module):
    """A backbone as an encoder for the decoders of segmentation_models.pytorch (smp).

    It returns maps at strides 1, 2, 4, 8, 16 and 32. Stride 1 is the image, stride 2 a map without channels, stride 4
    the additional map of `Pyramid`, and the others are the backbone's levels. The level of stride 64 is left out.

    Args:
        base_model: Name, folder or hub id of a base model, for `TADPBackbone.from_pretrained`. Each encoder loads its
            own backbone.
        depth: Number of times that the image is halved, 3 to 5; 5 ends at stride 32.
        output_stride: Largest stride of the returned maps, 8, 16 or 32. Coarser maps are enlarged to it by
            interpolation, where other encoders use dilation. DeepLab needs 8 or 16.
        stride4: Source of the map at stride 4, which smp's decoders need: "vae" (the VAE's encoder) or "upsampled" (a
            trained layer that enlarges level 0); see `Pyramid`.
        mean: Mean that was subtracted from pixels in [0, 1], for red, green and blue; None if pixels are in [0, 1].
        std: Standard deviation by which pixels were divided, for red, green and blue; None if `mean` is None.
        **options: Options of `TADPBackbone.from_pretrained`.

    Raises:
        ValueError: If `depth` is not 3, 4 or 5, or `output_stride` is not 8, 16 or 32.
        ModelError: If the backbone's strides are not 8, 16 and 32.
    """

    def __init__(
        self,
        *,
        base_model: str | Path,
        depth: int = 5,
        output_stride: int = 32,
        stride4: Stride4 = "vae",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **options: Any,
    ):
        super().__init__()
        if depth not in (3, 4, 5):
            raise ValueError(f"depth must be 3, 4 or 5, for strides up to 8, 16 or 32; got {depth}.")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride must be 8, 16 or 32; got {output_stride}.")
        backbone = TADPBackbone.from_pretrained(base_model, **options)
        reduction = backbone.feature_info.reduction
        if reduction[: depth - 2] != (8, 16, 32)[: depth - 2]:
            raise ModelError(f"smp needs strides 8, 16 and 32; this backbone has {reduction}.")
        self.pyramid = Pyramid(backbone, levels=range(depth - 2), stride4=stride4, mean=mean, std=std)
        self._depth, self._stride = depth, output_stride

    @property
    def out_channels(self) -> list[int]:
        """Channels at strides 1, 2, 4, …; depth + 1 of them."""
        return [3, 0, *self.pyramid.feature_info.channels]

    @property
    def output_stride(self) -> int:
        """Stride of the last map."""
        return min(self._stride, 2**self._depth)

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        """Check that images have three channels; the VAE takes no others.

        Raises:
            ValueError: If `in_channels` is not 3.
        """
        if in_channels != 3:
            raise ValueError(f"the VAE takes images of 3 channels; got in_channels={in_channels}.")

    def make_dilated(self, output_stride: int) -> None:
        """Do nothing: the encoder was built with its `output_stride`."""

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _c _h _w"]]:
        """Compute the maps; see `Pyramid`."""
        height, width = x.shape[2:]
        maps = self.pyramid(x)
        for number, stride in enumerate(self.pyramid.feature_info.reduction):
            if stride > self._stride:
                size = (-(-height // self._stride), -(-width // self._stride))
                maps[number] = F.interpolate(maps[number], size, mode="bilinear")
        return [x, x.new_zeros(len(x), 0, -(-height // 2), -(-width // 2)), *maps]


def register(base_model: str | Path = "tadp-tiny", *, name: str = "tadp", **options: Any) -> None:
    """Register a base model as an encoder, so that `smp.Unet("tadp", encoder_weights=None)` and other models use it.

    `encoder_weights` must be None, because the base model's own weights are always loaded.

    Args:
        base_model: Name, folder or hub id of a base model, for `TADPBackbone.from_pretrained`.
        name: Name of the encoder in smp, "tadp" by default. A registered encoder with the same name is replaced.
        **options: Options of `SmpEncoder` and `TADPBackbone.from_pretrained`.

    Raises:
        MissingExtraError: If segmentation_models.pytorch is not installed.
    """
    encoders = need("segmentation_models_pytorch", install=INSTALL).encoders.encoders
    encoders[name] = {"encoder": SmpEncoder, "params": {"base_model": base_model, **options}, "pretrained_settings": {}}
