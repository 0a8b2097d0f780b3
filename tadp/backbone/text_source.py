"""The text of a call: its argument, the text of an open block, the words of a captioner, or the default; in this order.

Each thread has its own `with backbone.conditioning(text)` blocks. Gradient checkpointing around a backbone calls it
again during backward, on a GPU in a thread of its own; it then takes the text of the one block that is open.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from tadp.captioner import Captioner
from tadp.errors import CaptionError
from tadp.images.tiles import TileGrid
from tadp.text.conditioning import Conditioning
from tadp.text.encoder import check_captions

Text = str | Sequence[str] | Conditioning
# A `tadp.Captioner` is one.
CaptionFunction: TypeAlias = Callable[[Tensor], Sequence[str]]
Encode: TypeAlias = Callable[..., Conditioning]  # `TADPBackbone.encode_text`
Function = TypeVar("Function", bound=Callable[..., Any])


def never_compiled(function: Function) -> Function:
    """Keep a function out of graphs that torch.compile makes."""
    return cast(Function, torch.compiler.disable(function))


class Blocks:
    """The `conditioning()` blocks of a backbone, in all threads; a copy of the backbone has its own."""

    def __init__(self) -> None:
        self._open: dict[object, Text] = {}
        self._was_opened = False

    def __deepcopy__(self, _memo: object) -> "Blocks":
        return Blocks()

    def __reduce__(self) -> tuple[type["Blocks"], tuple[()]]:
        return Blocks, ()

    @contextmanager
    def open(self, text: Text) -> Iterator[None]:
        """Within the block, `current()` is this text.

        Raises:
            CaptionError: If there is no text.
        """
        if text is None or (isinstance(text, Sequence | Conditioning) and not isinstance(text, str) and not len(text)):
            raise CaptionError(
                f"a context needs captions: one an image, or a single string for all; got {text!r}. The empty prompt "
                "is ''."
            )
        reset = _TEXTS.set({**_TEXTS.get(), self: text})
        block = object()
        self._was_opened = True
        self._open[block] = text
        try:
            yield
        finally:
            del self._open[block]
            _TEXTS.reset(reset)

    def current(self) -> Text | None:
        """The text of this thread's block; None outside of any.

        Raises:
            CaptionError: If it is needed during backward, after its block.
        """
        text = _TEXTS.get().get(self)
        if text is not None:
            return text
        if not self._was_opened or torch._C._current_graph_task_id() == -1:  # what torch.utils.checkpoint asks, too
            return None
        if len(self._open) == 1:  # on a GPU, backward has a thread of its own
            return next(iter(self._open.values()))
        raise CaptionError(
            "gradient checkpointing calls backbone(images) again during backward, when its captions are gone: "
            f"{len(self._open)} blocks of conditioning() are open. Call loss.backward() within the one block, or "
            "checkpoint inside the backbone instead: backbone.enable_gradient_checkpointing()."
        )


_TEXTS: ContextVar[Mapping[Blocks, Text]] = ContextVar("tadp_conditioning", default={})  # noqa: B039  never changed


@dataclass(frozen=True, eq=False)
class TextSource:
    """Finds the text of a call.

    Attributes:
        captioner: Describes images that come without text; it is no part of the backbone, and copies share it.
        blocks: The open `conditioning()` blocks.
    """

    captioner: CaptionFunction | None = None
    blocks: Blocks = field(default_factory=Blocks)

    def __deepcopy__(self, _memo: object) -> "TextSource":
        return replace(self, blocks=Blocks())

    def with_captioner(self, captioner: CaptionFunction | str | None, **options: Any) -> "TextSource":
        """The same, with a captioner, one loaded by name, or none.

        Raises:
            TypeError: If it cannot be called.
        """
        if isinstance(captioner, str):
            captioner = Captioner.from_pretrained(captioner, **options)
        if captioner is not None and not callable(captioner):
            raise TypeError(
                f"a captioner is a tadp.Captioner, its name, or a function from images to captions; got a "
                f"{type(captioner).__name__}."
            )
        return replace(self, captioner=captioner)

    @never_compiled  # of strings, and a compiled call would keep the first text that it saw
    def resolve(
        self,
        text: Text | None,
        count: int,
        encode: Encode,
        *,
        default: str | None,
        pixels: Float[Tensor, "b 3 h w"] | None = None,
        truncate: bool = False,
    ) -> Conditioning:
        """The text of a call, encoded.

        Args:
            text: The call's argument.
            count: Images of the call.
            encode: From captions and `truncate=` to `Conditioning`.
            default: The text where nothing else gives one; None refuses such a call.
            pixels: The images, in [0, 1], for the captioner; None if there are only latents.
            truncate: Cut captions over the limit, with a warning; those of the captioner are cut in any case.

        Raises:
            CaptionError: If there is no text, or not one caption per image.
        """
        text = self._without_images(text, default)
        if text is None:
            text, truncate = self._describe(pixels), True
        if isinstance(text, Conditioning):
            return text
        captions = check_captions(text)
        if not isinstance(text, str) and len(captions) != count:
            raise CaptionError(
                f"{count} images but {len(captions)} captions; give one an image, or a single string for all."
            )
        return encode(captions, truncate=truncate)

    def resolve_tiles(
        self, text: Text | None, tiles: TileGrid, encode: Encode, *, default: str | None, truncate: bool = False
    ) -> Conditioning | None:
        """The text of an image in tiles, encoded: one for all tiles, or one each; None if a captioner describes each.

        Args:
            text: The call's argument.
            tiles: The image's tiles.
            encode: From captions and `truncate=` to `Conditioning`.
            default: The text where nothing else gives one; None refuses such a call.
            truncate: Cut captions over the limit, with a warning.

        Raises:
            CaptionError: If there is no text, or neither one nor one per tile.
        """
        text = self._without_images(text, default)
        if text is None:
            return None
        if not isinstance(text, Conditioning):
            text = check_captions(text)
        if len(text) not in (1, len(tiles)):
            what = "texts" if isinstance(text, Conditioning) else "captions"
            height, width = tiles.image_size
            raise CaptionError(
                f"one caption for the image, or one for each of its {tiles}; got {len(text)} {what}. "
                f"tadp.images.tiles.grid(({height}, {width}), tile_px=…, overlap_px=…) lists the tiles."
            )
        return text if isinstance(text, Conditioning) else encode(text, truncate=truncate)

    def _without_images(self, text: Text | None, default: str | None) -> Text | None:
        """The text of a call, unless the captioner has to look at its images: None."""
        if text is None:
            text = self.blocks.current()
        if text is not None or self.captioner is not None:
            return text
        if default is None:
            raise CaptionError(
                "no text for these images, and default_text is None. Pass captions, call within `with "
                "backbone.conditioning(captions):`, or attach a captioner: backbone.attach_captioner('tadp-tiny')."
            )
        return default

    @torch.no_grad()
    def _describe(self, pixels: Tensor | None) -> list[str]:
        """A caption of each image, from the captioner."""
        if pixels is None or self.captioner is None:
            raise CaptionError("the attached captioner needs images, and here are latents; pass captions of them.")
        captions = list(self.captioner(pixels))
        if len(captions) != len(pixels):
            raise CaptionError(
                f"the attached captioner gave {len(captions)} captions for {len(pixels)} images; it must give one each."
            )
        return captions
