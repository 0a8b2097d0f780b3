"""segmentation_models_pytorch: an encoder that decoders find by its name."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tadp.backbone import TADPBackbone
from tadp.captioner import Captioner
from tadp.errors import ModelError
from tadp.files.checks import need
from tadp.integrations.call_text import CaptionSource
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
        captioner: A captioner, or its name, for images that come without text; see `Pyramid`.
        captions: Captions for images that come without text; see `Pyramid`.
        text: One text for all images that come without text.
        clamp: Whether pixels out of range are cut to [0, 1] instead of refused; see `Pyramid`.
        **options: Options of `TADPBackbone.from_pretrained`.

    Raises:
        ValueError: If `depth` is not 3, 4 or 5, or `output_stride` is not 8, 16 or 32.
        ModelError: If the backbone's strides are not 8, 16 and 32.
    """

    # Read by smp's tests and examples, and by code that exports smp's models.
    _is_torch_scriptable = False
    _is_torch_exportable = True
    _is_torch_compilable = True

    def __init__(
        self,
        *,
        base_model: str | Path,
        depth: int = 5,
        output_stride: int = 32,
        stride4: Stride4 = "vae",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        captioner: Captioner | str | None = None,
        captions: CaptionSource | None = None,
        text: str | None = None,
        clamp: bool = False,
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
        self.pyramid = Pyramid(
            backbone, levels=range(depth - 2), stride4=stride4, mean=mean, std=std, captioner=captioner,
            captions=captions, text=text, clamp=clamp,
        )  # fmt: skip
        self._depth, self._stride = depth, output_stride
        self._trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """The parameters that train: those of the U-Net that the maps need, and of "upsampled".

        smp's `freeze_encoder` and `unfreeze_encoder` freeze and unfreeze these, so the VAE and the text encoder stay
        frozen. `named_parameters` and `state_dict` have all of them.
        """
        for name, parameter in self.named_parameters(recurse=recurse):
            if name.replace("_orig_mod.", "") in self._trained:  # torch.compile's wrapper adds to the name
                yield parameter

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

    def get_stages(self) -> dict[int, Sequence[nn.Module]]:
        """Refuse: a level of the U-Net is not one module that smp could dilate.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("the levels of a U-Net cannot be dilated; pass encoder_output_stride to the model.")

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


class _OwnWeights(Mapping[str, Any]):
    """An empty mapping in place of the pretrained weights that smp could download."""

    def __init__(self, name: str):
        self._name = name

    def __contains__(self, weights: object) -> bool:
        raise ValueError(
            f"smp has no weights {weights!r} to download for {self._name!r}, which always loads those of its base "
            "model: pass encoder_weights=None, and for preprocessing use "
            "tadp.integrations.smp.preprocessing_params()."
        )

    def __getitem__(self, weights: str) -> Any:
        raise KeyError(weights)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


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
    params = {"base_model": base_model, **options}
    encoders[name] = {"encoder": SmpEncoder, "params": params, "pretrained_settings": _OwnWeights(name)}


def preprocessing_params(name: str = "tadp") -> dict[str, Any]:
    """Return what `smp.encoders.get_preprocessing_params` returns for smp's own encoders.

    Args:
        name: Name of a registered encoder.

    Returns:
        "input_space", which is "RGB"; "input_range", which is [0, 1]; and "mean" and "std", the options with which the
        encoder was registered, or a mean of 0 and a standard deviation of 1 without them.

    Raises:
        MissingExtraError: If segmentation_models.pytorch is not installed.
        ValueError: If `register` has not registered an encoder of this name.

    Example:
        >>> register("tadp-tiny", name="tadp")
        >>> preprocessing_params()
        {'input_space': 'RGB', 'input_range': [0, 1], 'mean': [0.0, 0.0, 0.0], 'std': [1.0, 1.0, 1.0]}
    """
    encoder = need("segmentation_models_pytorch", install=INSTALL).encoders.encoders.get(name)
    if encoder is None or encoder["encoder"] is not SmpEncoder:
        raise ValueError(f"{name!r} is not an encoder of tadp; call register(…, name={name!r}) first.")
    mean, std = (encoder["params"].get(option) for option in ("mean", "std"))
    return {
        "input_space": "RGB",
        "input_range": [0, 1],
        "mean": [0.0] * 3 if mean is None else [float(value) for value in mean],
        "std": [1.0] * 3 if std is None else [float(value) for value in std],
    }
