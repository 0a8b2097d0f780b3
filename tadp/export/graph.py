"""What is exported of a backbone: pixels and embeddings in, named maps out, and nothing but tensors."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tadp.backbone import TADPBackbone
from tadp.diffusion.attention import attach_attention
from tadp.errors import Argument, OptionError
from tadp.files.checks import check_whole
from tadp.images.reading import MIN_SIZE
from tadp.text.conditioning import Conditioning

# The most images of a program of any batch: diffusers' upsampling goes another way from 64.
MAX_BATCH = 63
# The longest side of a program of any size. A bound is needed, as torch.export reasons about sizes.
MAX_SIDE = 16384


class ExportedBackbone(nn.Module):
    """A backbone from tensors to tensors, which is what torch.export traces.

    Args:
        backbone: In evaluation mode.
        text: One text for all images, which becomes a part of the graph; None takes embeddings in each call.
    """

    def __init__(self, backbone: TADPBackbone, text: Conditioning | None = None):
        super().__init__()
        self.backbone = copy.copy(backbone)
        self.backbone._modules = backbone._modules | {"text_encoder": None}  # a T5 is larger than all else
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
        """The maps, `map_0` the finest, and `attention_1` and so on for the levels of `record_attention`; all float32.

        Args:
            pixels: (B, 3, H, W) in [0, 1].
            embeddings: (B, L, D); none if the text is a part of the graph.
            pooled: (B, P), for models that take it.
        """
        given: Any = self.embeddings if self.has_text else embeddings
        text = Conditioning(given, pooled=self.pooled if self.has_text else pooled)  # pyright: ignore[reportArgumentType]
        backbone = self.backbone
        latents, _ = backbone.latents(pixels)
        maps, attention = backbone.levels(latents, text, (pixels.shape[2], pixels.shape[3]))
        for level in backbone.options.attach_attention:
            maps[level] = attach_attention(maps[level], attention[level])
        outputs = {f"map_{level}": one.float() for level, one in enumerate(maps)}
        return outputs | {f"attention_{level}": attention[level].float() for level in backbone.options.record_attention}


@dataclass(frozen=True)
class Shape:
    """What images a graph takes.

    Attributes:
        image_size: (height, width) in pixels; None for any.
        batch_size: Images of a call; None for any.
        multiple: In pixels, of which the padded height and width are multiples.
    """

    image_size: tuple[int, int] | None
    batch_size: int | None
    multiple: int

    def __post_init__(self) -> None:
        if self.batch_size is not None:
            check_whole(self.batch_size, name="batch_size", note=", or None for any")
        if self.image_size is None:
            return
        if isinstance(self.image_size, int | str) or not all(isinstance(side, int) for side in self.image_size):
            raise TypeError(
                f"image_size is (height, width) in whole pixels, such as (512, 512), or None for any; got "
                f"{self.image_size!r}."
            )
        if len(self.image_size) != 2 or min(self.image_size) < MIN_SIZE:
            least = f" is (height, width) of {MIN_SIZE} pixels or more each, or None for any; got {self.image_size}."
            raise OptionError(Argument("image_size"), least)

    @property
    def smallest(self) -> int:
        """The shortest side that a program of any size takes; two cells of the coarsest level.

        torch.export takes a size of 1 for a constant, never for one of many.
        """
        return 2 * self.multiple

    def example(self) -> tuple[int, int, int]:
        """Images, height and width to trace with; of what may vary, numbers that are not equal by chance."""
        height, width = self.image_size or (2 * self.multiple, 3 * self.multiple)
        return self.batch_size or 2, height, width

    def dynamic(self) -> tuple[dict[int, Any], dict[int, Any]]:
        """What varies of pixels and of embeddings, as torch.export takes it."""
        batch, sides = {}, {}
        if self.batch_size is None:
            batch = {0: torch.export.Dim("batch", min=1, max=MAX_BATCH)}
        if self.image_size is None:
            for axis, name in ((2, "height"), (3, "width")):
                cells = torch.export.Dim(f"{name}_cells", min=2, max=math.ceil(MAX_SIDE / self.multiple))
                sides[axis] = self.multiple * cells
        return batch | sides, batch


def text_inputs(backbone: TADPBackbone) -> dict[str, tuple[int, ...]]:
    """Name and shape, without the batch, of what a graph takes besides pixels.

    Raises:
        ValueError: If nothing says how many tokens a text has.
    """
    layout = backbone.layout
    if backbone.text_length is None:
        raise ValueError(
            "without a text encoder the number of tokens is unknown, and a graph has one; build the backbone with "
            "text_length=77."
        )
    shapes: dict[str, tuple[int, ...]] = {"embeddings": (backbone.text_length, layout.text_width)}
    return shapes if layout.pooled_width is None else shapes | {"pooled": (layout.pooled_width,)}


def output_names(backbone: TADPBackbone) -> list[str]:
    """Names of what a graph gives, in its order."""
    maps = [f"map_{level}" for level in range(len(backbone.layout.channels))]
    return maps + [f"attention_{level}" for level in backbone.options.record_attention]


def check_exportable(backbone: TADPBackbone) -> None:
    """A backbone whose maps are a function of pixels and embeddings, or a ValueError that says what is in the way."""
    if backbone.options.sample_posterior:
        raise ValueError(
            "sample_posterior draws random numbers, and an exported graph has none; load the backbone with "
            "sample_posterior=False, so that one image gives one feature."
        )
    if backbone.options.noise_samples:
        raise ValueError(
            "noise_samples draws noise in Python, which is no part of an exported graph; load the backbone with "
            "noise_samples=0. Several timesteps may be exported."
        )
    if backbone.options.pool_attention:
        raise ValueError(
            "pool_attention looks names up in each text, and an exported graph gets embeddings alone. Load the "
            "backbone with attach_attention=(), pool_attention=() and record_attention=(…), and pool what comes out: "
            "features.attention.pool(names, level)."
        )
    if backbone.captioner is not None:
        raise ValueError(
            "the attached captioner is no part of a graph, which takes embeddings; take it off with "
            "backbone.attach_captioner(None), and caption images before the call."
        )


def check_any_size(backbone: TADPBackbone, shape: Shape) -> None:
    """A graph of one size, or a backbone whose graph is the same for all sizes; else a ValueError."""
    if shape.image_size is None and not backbone.family.takes_any_size:
        raise ValueError(
            f"{backbone.family.name} receives the image's size, or where each cell is, so a graph of it has one size; "
            "pass image_size=(height, width). The batch may still vary."
        )


def checked_text(backbone: TADPBackbone, text: str | Conditioning | None) -> Conditioning | None:
    """The text that becomes a part of a graph.

    Raises:
        ValueError: If it is not one text, or has a mask.
    """
    if text is None:
        return None
    conditioning = text if isinstance(text, Conditioning) else backbone.encode_text(text)
    if len(conditioning) != 1:
        raise ValueError(
            f"a graph holds one text, for all images; got {len(conditioning)}. Leave text out, and pass the embeddings "
            "of each image in each call."
        )
    check_unmasked(conditioning)
    return conditioning


def check_unmasked(text: Conditioning) -> None:
    """Text without a mask, which graphs do not take, or a ValueError."""
    if text.mask is not None:
        raise ValueError("an exported graph takes no mask of the text; encode it without mask_padding.")
