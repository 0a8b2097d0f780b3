"""The part of a backbone that is exported: pixels and embeddings in, named maps out, all of them tensors."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tadp.backbone import Fused, TADPBackbone
from tadp.diffusion.attention import attach_attention
from tadp.errors import Argument, ModelError, OptionError
from tadp.files.checks import check_ordered, check_whole
from tadp.images.image_files import MIN_SIZE
from tadp.text.conditioning import Conditioning

# Largest batch of a program for any batch size: diffusers' upsampling takes another path from 64 images.
MAX_BATCH = 63
# Longest side in pixels of a program for any size. torch.export needs a bound to reason about sizes.
MAX_SIDE = 16384


class ExportedBackbone(nn.Module):
    """A module that runs a backbone with tensors as inputs and outputs, so that torch.export can trace it.

    Args:
        backbone: A backbone in evaluation mode.
        text: One encoded text for all images, which becomes part of the graph. With None, embeddings are an input.

    Raises:
        ModelError: If the backbone is `Fused`.
    """

    def __init__(self, backbone: TADPBackbone, text: Conditioning | None = None):
        super().__init__()
        if isinstance(backbone, Fused):
            raise ModelError(
                "a Fused backbone cannot be exported, because the graph would lack its timm model. Export the backbone "
                "without the timm model."
            )
        self.backbone = copy.copy(backbone)
        self.backbone._modules = backbone._modules | {"text_encoder": None}  # a T5 is larger than everything else
        self.has_text = text is not None
        tensors = (
            {"embeddings": None, "pooled": None}
            if text is None
            else {"embeddings": text.embeddings, "pooled": text.pooled}
        )
        for name, tensor in tensors.items():
            self.register_buffer(name, None if tensor is None else tensor.detach().to(backbone.device))

    def forward(
        self, pixels: Tensor, embeddings: Tensor | None = None, pooled: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute the maps, and the attention of each level in the option `record_attention`.

        Args:
            pixels: Images (B, 3, H, W) in [0, 1].
            embeddings: Embeddings of the texts, (B, L, D). None if the text is part of the graph.
            pooled: Pooled embeddings of the texts, (B, P), for models that take them; otherwise None.

        Returns:
            The maps, "map_0" (the finest), "map_1" …, and the attention, such as "attention_1" for level 1, all
            float32.
        """
        tokens: Any = self.embeddings if self.has_text else embeddings
        text = Conditioning(tokens, pooled=self.pooled if self.has_text else pooled)  # pyright: ignore[reportArgumentType]
        backbone = self.backbone
        latents, _ = backbone.latents(pixels)
        maps, attention = backbone.maps_and_attention(latents, text, (pixels.shape[2], pixels.shape[3]))
        for level in backbone.options.attached_levels:
            maps[level] = attach_attention(maps[level], attention[level])
        outputs = {f"map_{level}": level_map.float() for level, level_map in maps.items()}
        return outputs | {f"attention_{level}": attention[level].float() for level in backbone.options.record_attention}


@dataclass(frozen=True)
class Shape:
    """The shape of the images that a graph takes.

    Attributes:
        image_size: (height, width) of the images in pixels; None for any size.
        batch_size: Number of images per call; None for any number.
        multiple: Height and width are padded to a multiple of this number of pixels.
    """

    image_size: tuple[int, int] | None
    batch_size: int | None
    multiple: int

    def __post_init__(self) -> None:
        if self.batch_size is not None:
            check_whole(self.batch_size, name="batch_size", note=", or None for any")
        if self.image_size is None:
            return
        check_ordered(image_size=self.image_size)
        if isinstance(self.image_size, int | str) or not all(isinstance(side, int) for side in self.image_size):
            raise TypeError(
                f"image_size must be (height, width) in whole pixels, such as (512, 512), or None for any size; got "
                f"{self.image_size!r}."
            )
        if len(self.image_size) != 2 or min(self.image_size) < MIN_SIZE:
            rule = f" must be (height, width) of {MIN_SIZE} pixels or more each, or None for any size"
            raise OptionError(Argument("image_size"), f"{rule}; got {self.image_size}.")

    @property
    def smallest(self) -> int:
        """Shortest side in pixels that a program for any size takes: two cells of the coarsest level.

        torch.export treats a size of 1 as a constant, not as a size that varies.
        """
        return 2 * self.multiple

    def example(self) -> tuple[int, int, int]:
        """Batch size, height and width to trace with. Values that may vary are chosen to differ from each other."""
        height, width = self.image_size or (2 * self.multiple, 3 * self.multiple)
        return self.batch_size or 2, height, width

    def dynamic(self) -> tuple[dict[int, Any], dict[int, Any]]:
        """The dimensions of pixels and of embeddings that vary, in the form that torch.export takes."""
        batch, sides = {}, {}
        if self.batch_size is None:
            batch = {0: torch.export.Dim("batch", min=1, max=MAX_BATCH)}
        if self.image_size is None:
            for axis, name in ((2, "height"), (3, "width")):
                cells = torch.export.Dim(f"{name}_cells", min=2, max=math.ceil(MAX_SIDE / self.multiple))
                sides[axis] = self.multiple * cells
        return batch | sides, batch


def text_inputs(backbone: TADPBackbone) -> dict[str, tuple[int, ...]]:
    """Name and shape, without the batch dimension, of each input of a graph besides pixels.

    Raises:
        ValueError: If the number of tokens of a text is unknown.
    """
    layout = backbone.layout
    if backbone.text_length is None:
        raise ValueError(
            "without a text encoder the number of tokens is unknown, but a graph needs it; build the backbone with "
            "text_length=77."
        )
    shapes: dict[str, tuple[int, ...]] = {"embeddings": (backbone.text_length, layout.text_width)}
    return shapes if layout.pooled_width is None else shapes | {"pooled": (layout.pooled_width,)}


def output_names(backbone: TADPBackbone) -> list[str]:
    """Names of a graph's outputs, in order."""
    maps = [f"map_{level}" for level in backbone.chosen_levels()]
    return maps + [f"attention_{level}" for level in backbone.options.record_attention]


def check_exportable(backbone: TADPBackbone) -> None:
    """Refuse a backbone whose maps depend on more than pixels and embeddings.

    Raises:
        ValueError: If an option or a captioner stands in the way; the message says which.
    """
    if backbone.options.sample_posterior:
        raise ValueError(
            "sample_posterior draws random numbers, but an exported graph has none; load the backbone with "
            "sample_posterior=False, which gives an image the same features every time."
        )
    if backbone.options.noise_samples:
        raise ValueError(
            "noise_samples draws noise in Python, which cannot be exported; load the backbone with noise_samples=0. "
            "Several timesteps can be exported."
        )
    if backbone.options.pool_attention:
        raise ValueError(
            "pool_attention looks names up in each text, but an exported graph gets only embeddings. Load the backbone "
            "with attach_attention=(), pool_attention=() and record_attention=(…), and pool the recorded attention: "
            "features.attention.pool(names, level)."
        )
    if backbone.options.record_queries:
        raise ValueError("queries are not exported; pass backbone.with_options(record_queries=False).")
    if backbone.options.record_heads:
        raise ValueError("attention per head is not exported; pass backbone.with_options(record_heads=False).")
    if backbone.captioner is not None:
        raise ValueError(
            "the attached captioner cannot be exported, because a graph takes embeddings; detach it with "
            "backbone.attach_captioner(None), and caption images before the call."
        )


def checked_shape(backbone: TADPBackbone, image_size: tuple[int, int] | None, batch_size: int | None) -> Shape:
    """The shape of the images that a graph of a backbone takes.

    Raises:
        TypeError: If a size is not a whole number.
        ValueError: If a size is too small, or if no image size was chosen although the graph depends on it in this
            family of base models.
    """
    shape = Shape(image_size, batch_size, backbone.vae.reduction * backbone.layout.multiple)
    if image_size is None and not backbone.family.takes_any_size:
        raise ValueError(
            f"{backbone.family.name} receives the image's size or the position of each cell, so its graph works for a "
            "single size; pass image_size=(height, width). The batch size may still vary."
        )
    return shape


def checked_text(backbone: TADPBackbone, text: str | Conditioning | None) -> Conditioning | None:
    """Encode and check the text that becomes part of a graph.

    Raises:
        ValueError: If it is not a single text, or has a mask.
    """
    if text is None:
        return None
    conditioning = text if isinstance(text, Conditioning) else backbone.encode_text(text)
    if len(conditioning) != 1:
        raise ValueError(
            f"a graph holds one text for all images; got {len(conditioning)} texts. Leave text out, and pass "
            "embeddings for each image in each call."
        )
    check_unmasked(conditioning)
    return conditioning


def check_unmasked(text: Conditioning) -> None:
    """Refuse text with a mask.

    Raises:
        ValueError: If the text has a mask, which a graph cannot take.
    """
    if text.mask is not None:
        raise ValueError("an exported graph takes no mask of the text; encode the text without mask_padding.")
