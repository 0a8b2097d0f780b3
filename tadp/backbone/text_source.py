"""The choice of the text for a call of the backbone.

The first of these that exists is used: the argument of the call, the text of an open `with backbone.conditioning(text)`
block, captions from the attached captioner, the default text. Each thread has its own blocks. Gradient checkpointing
around a backbone calls it again during backward, on a GPU in a separate thread; that call then uses the text of the
only block that is open.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from tadp.captioner import Captioner
from tadp.errors import CaptionError
from tadp.files.inference import is_tracing
from tadp.images.tiles import TileGrid
from tadp.text.conditioning import Conditioning
from tadp.text.encoder import check_captions

Text = str | Sequence[str] | Conditioning
# For instance a `tadp.Captioner`.
CaptionFunction: TypeAlias = Callable[[Tensor], Sequence[str]]
Encode: TypeAlias = Callable[..., Conditioning]  # `TADPBackbone.encode_text`
IN_GRAPH = (
    "a graph (torch.export, ONNX, torch.compile with fullgraph=True) has no text encoder for the text of each call; "
    "give the adapter one text for all images, as in Pyramid(backbone, text='a photo'), or export the backbone by "
    "itself with tadp.export, whose graph takes encoded text."
)
Function = TypeVar("Function", bound=Callable[..., Any])
_changing = threading.Lock()  # of the open blocks


def never_compiled(function: Function, reason: str | None = None) -> Function:
    """Keep a function out of the graphs that torch.compile makes; the reason is in torch's error for a whole graph."""
    return cast(Function, torch.compiler.disable(function, reason=reason))


class Blocks:
    """The `conditioning()` blocks of a backbone in all threads. A copy of the backbone has its own blocks."""

    def __init__(self) -> None:
        self._open: dict[object, Text] = {}
        self._was_opened = False
        self.any_open = False  # in any thread; torch.compile would compile again for each key of the dictionary

    def __deepcopy__(self, _memo: object) -> "Blocks":
        return Blocks()

    def __reduce__(self) -> tuple[type["Blocks"], tuple[()]]:
        return Blocks, ()

    @contextmanager
    def open(self, text: Text) -> Iterator[None]:
        """Make this text the result of `current()` within a `with` block.

        Raises:
            CaptionError: If `text` is None or empty.
        """
        if text is None or (isinstance(text, (Sequence, Conditioning)) and not isinstance(text, str) and not len(text)):
            raise CaptionError(
                f"conditioning() needs captions: one per image, or a single string for all; got {text!r}. The empty "
                "prompt is ''."
            )
        reset = _TEXTS.set({**_TEXTS.get(), self: text})
        block = object()
        self._was_opened = True
        with _changing:
            self._open[block] = text
            self.any_open = True
        try:
            yield
        finally:
            with _changing:
                del self._open[block]
                self.any_open = bool(self._open)
            _TEXTS.reset(reset)

    def current(self) -> Text | None:
        """The text of this thread's innermost block; None if no block is open.

        Raises:
            CaptionError: If the text is needed during backward, after its block was closed.
        """
        text = _TEXTS.get().get(self)
        if text is not None:
            return text
        if not self._was_opened or torch._C._current_graph_task_id() == -1:  # torch.utils.checkpoint asks this too
            return None
        if len(self._open) == 1:  # on a GPU, backward runs in a separate thread
            return next(iter(self._open.values()))
        raise CaptionError(
            "gradient checkpointing calls backbone(images) again during backward, when its captions are gone: "
            f"{len(self._open)} blocks of conditioning() are open. Call loss.backward() within a single block, or "
            "checkpoint inside the backbone instead: backbone.enable_gradient_checkpointing()."
        )


_TEXTS: ContextVar[Mapping[Blocks, Text]] = ContextVar("tadp_conditioning", default={})  # noqa: B039  never changed


@dataclass(frozen=True, eq=False)
class TextSource:
    """Finds the text of a call.

    Attributes:
        captioner: Captioner for images that come without text. It does not belong to the backbone; copies share it.
        blocks: The open `conditioning()` blocks.
    """

    captioner: CaptionFunction | None = None
    blocks: Blocks = field(default_factory=Blocks)

    def __deepcopy__(self, _memo: object) -> "TextSource":
        return replace(self, blocks=Blocks())

    def with_captioner(self, captioner: CaptionFunction | str | None, **options: Any) -> "TextSource":
        """Return the same source with another captioner. A string loads a captioner by name; None removes it.

        Raises:
            TypeError: If `captioner` cannot be called.
        """
        if isinstance(captioner, str):
            captioner = Captioner.from_pretrained(captioner, **options)
        if captioner is not None and not callable(captioner):
            raise TypeError(
                f"captioner must be a tadp.Captioner, its name, or a function from images to captions; got "
                f"{type(captioner).__name__}."
            )
        return replace(self, captioner=captioner)

    def is_empty(self) -> bool:
        """Whether neither a block nor a captioner has a text for a call."""
        if self.captioner is not None:
            return False
        return not self.blocks.any_open if torch.compiler.is_compiling() else self.blocks.current() is None

    @partial(never_compiled, reason=IN_GRAPH)  # a compiled call would keep the first text that it saw
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
        """Find the text of a call, and encode it.

        Args:
            text: The text that was passed to the call; None if none was passed.
            count: Number of images in the call.
            encode: Function from captions and the keyword argument `truncate` to a `Conditioning`.
            default: Text to use as the last resort; None raises an error in this case.
            pixels: The images, (B, 3, H, W) in [0, 1], for the captioner. None if the call only has latents.
            truncate: Whether captions over the token limit are cut, with a warning, instead of refused. Captions from
                the captioner are always cut.

        Raises:
            CaptionError: If no text is available, or the number of captions is neither one nor that of the images.
        """
        text = self._find_without_images(text, default)
        if torch.compiler.is_compiling() or (is_tracing() and not isinstance(text, (str, Conditioning))):
            raise CaptionError(f"the text of this call cannot be encoded: {IN_GRAPH}")
        if text is None:
            text, truncate = self._describe(pixels), True
        if isinstance(text, Conditioning):
            return text
        captions = check_captions(text)
        if not isinstance(text, str) and len(captions) != count:
            raise CaptionError(
                f"{count} images but {len(captions)} captions; pass one caption per image, or a single string for all."
            )
        return encode(captions, truncate=truncate)

    def resolve_tiles(
        self, text: Text | None, tiles: TileGrid, encode: Encode, *, default: str | None, truncate: bool = False
    ) -> Conditioning | None:
        """Find the text of an image that is divided into tiles, and encode it.

        Args:
            text: The text that was passed to the call; None if none was passed.
            tiles: Tiles of the image.
            encode: Function from captions and the keyword argument `truncate` to a `Conditioning`.
            default: Text to use as the last resort; None raises an error in this case.
            truncate: Whether captions over the token limit are cut, with a warning, instead of refused.

        Returns:
            One text for all tiles or one per tile. None if the attached captioner describes each tile.

        Raises:
            CaptionError: If no text is available, or the number of texts is neither one nor that of the tiles.
        """
        text = self._find_without_images(text, default)
        if text is None:
            return None
        if not isinstance(text, Conditioning):
            text = check_captions(text)
        if len(text) not in (1, len(tiles)):
            kind = "texts" if isinstance(text, Conditioning) else "captions"
            height, width = tiles.image_size
            raise CaptionError(
                f"pass one caption for the image, or one for each of its {tiles}; got {len(text)} {kind}. "
                f"tadp.images.tiles.grid(({height}, {width}), tile_px=…, overlap_px=…) lists the tiles."
            )
        return text if isinstance(text, Conditioning) else encode(text, truncate=truncate)

    def _find_without_images(self, text: Text | None, default: str | None) -> Text | None:
        """Find the text of a call without looking at its images; None if the captioner has to."""
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
        """Let the captioner describe each image."""
        if pixels is None or self.captioner is None:
            raise CaptionError("the attached captioner needs images, but this call has only latents; pass captions.")
        captions = list(self.captioner(pixels))
        if len(captions) != len(pixels):
            raise CaptionError(
                f"the attached captioner gave {len(captions)} captions for {len(pixels)} images; it must give one per "
                "image."
            )
        return captions
