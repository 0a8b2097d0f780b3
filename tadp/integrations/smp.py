"""segmentation_models_pytorch: an encoder by name."""

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
    """A backbone as smp's decoders take an encoder: maps at strides 1, 2, 4, 8, 16 and 32.

    Stride 1 is the image, stride 2 a map without channels, stride 4 the pyramid's further one, the others the
    backbone's levels; the level of stride 64 is left out.

    Args:
        base_model: What `TADPBackbone.from_pretrained` takes; each encoder loads its own.
        depth: How often the image is halved, 3 to 5.
        output_stride: 8 or 16 for DeepLab: coarser maps are enlarged to this stride, by interpolation, where other
            encoders dilate.
        stride4: See `Pyramid`; a decoder of smp needs one.
        mean: See `Pyramid`.
        std: See `Pyramid`.
        **options: `TADPBackbone.from_pretrained`'s own.

    Raises:
        ValueError: If depth or output stride is another.
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
            raise ValueError(f"depth is 3, 4 or 5, for strides to 8, 16 or 32; got {depth}.")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride is 8, 16 or 32; got {output_stride}.")
        backbone = TADPBackbone.from_pretrained(base_model, **options)
        reduction = backbone.feature_info.reduction
        if reduction[: depth - 2] != (8, 16, 32)[: depth - 2]:
            raise ModelError(f"smp wants strides 8, 16 and 32; this backbone has {reduction}.")
        self.pyramid = Pyramid(backbone, levels=range(depth - 2), stride4=stride4, mean=mean, std=std)
        self._depth, self._stride = depth, output_stride

    @property
    def out_channels(self) -> list[int]:
        """Channels at strides 1, 2, 4, …; depth + 1 of them."""
        return [3, 0, *self.pyramid.feature_info.channels]

    @property
    def output_stride(self) -> int:
        """Of the last map."""
        return min(self._stride, 2**self._depth)

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        """Images have three channels.

        Raises:
            ValueError: If others are asked for.
        """
        if in_channels != 3:
            raise ValueError(f"the VAE takes images of 3 channels; got in_channels={in_channels}.")

    def make_dilated(self, output_stride: int) -> None:
        """Nothing to do: `output_stride` was given when the encoder was built."""

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _c _h _w"]]:
        """The maps; see `Pyramid`."""
        height, width = x.shape[2:]
        maps = self.pyramid(x)
        for number, stride in enumerate(self.pyramid.feature_info.reduction):
            if stride > self._stride:
                size = (-(-height // self._stride), -(-width // self._stride))
                maps[number] = F.interpolate(maps[number], size, mode="bilinear")
        return [x, x.new_zeros(len(x), 0, -(-height // 2), -(-width // 2)), *maps]


def register(base_model: str | Path = "tadp-tiny", *, name: str = "tadp", **options: Any) -> None:
    """Let `smp.Unet(name, encoder_weights=None)`, `smp.FPN` and so on build an encoder from a base model.

    `encoder_weights` stays None: the base's own weights are always loaded.

    Args:
        base_model: What `TADPBackbone.from_pretrained` takes.
        name: What smp is to call it; in place of an encoder that had the name.
        **options: `SmpEncoder`'s and `TADPBackbone.from_pretrained`'s own.

    Raises:
        MissingExtraError: If smp is missing.
    """
    encoders = need("segmentation_models_pytorch", install=INSTALL).encoders.encoders
    encoders[name] = {"encoder": SmpEncoder, "params": {"base_model": base_model, **options}, "pretrained_settings": {}}
