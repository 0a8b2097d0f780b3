"""A captioner that is attached to a backbone, and is no part of it."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from tadp.errors import CaptionError

# A `tadp.Captioner` is one.
CaptionFunction: TypeAlias = Callable[[Tensor], Sequence[str]]


class Attached:
    """Holds a captioner; copies of the backbone share it."""

    def __init__(self, captioner: CaptionFunction):
        self.captioner = captioner

    def __deepcopy__(self, _memo: object) -> "Attached":
        return self

    @torch.no_grad()
    def describe(self, pixels: Tensor | None) -> list[str]:
        """A caption for each of (B, 3, H, W), in [0, 1].

        Raises:
            CaptionError: If there are only latents, or the captioner gave another number of captions.
        """
        if pixels is None:
            raise CaptionError("the attached captioner needs images, and here are latents; pass captions of them.")
        captions = list(self.captioner(pixels))
        if len(captions) != len(pixels):
            raise CaptionError(
                f"the attached captioner gave {len(captions)} captions for {len(pixels)} images; it must give one each."
            )
        return captions


def attachable(captioner: CaptionFunction | str | None, **options: Any) -> Attached | None:
    """A captioner, one loaded by name, or none.

    Raises:
        TypeError: If it cannot be called.
    """
    if captioner is None:
        return None
    if isinstance(captioner, str):
        from tadp.captioner import Captioner

        captioner = Captioner.from_pretrained(captioner, **options)
    if not callable(captioner):
        raise TypeError(
            f"a captioner is a tadp.Captioner, its name, or a function from images to captions; got a "
            f"{type(captioner).__name__}."
        )
    return Attached(captioner)
