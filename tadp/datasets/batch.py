"""From samples to a batch of tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor

from tadp.datasets.sample import Sample, sides
from tadp.images.boxes import Boxes


@dataclass(frozen=True, eq=False, repr=False)
class Batch:
    """B samples as tensors; what they do not have is None.

    A DataLoader with `pin_memory=True` pins it, and `to` moves it.

    Attributes:
        images: (B, 3, H, W), float32, in [0, 1].
        image_ids: B names.
        captions: B captions.
        masks: (B, H, W), int64, 255 where nothing is known.
        depth_m: (B, H, W), float32, metres; 0, NaN and infinity where nothing is known.
        boxes: The boxes of each image, in pixels.
    """

    images: Float[Tensor, "_b 3 _h _w"]
    image_ids: list[str]
    captions: list[str] | None = None
    masks: Int64[Tensor, "_b _h _w"] | None = None
    depth_m: Float[Tensor, "_b _h _w"] | None = None
    boxes: list[Boxes] | None = None

    def __repr__(self) -> str:
        known = [name for name in ("captions", "masks", "depth_m", "boxes") if getattr(self, name) is not None]
        return f"Batch({len(self)} images, {', '.join([sides(tuple(self.images.shape[2:])), *known])})"

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """The same on a device; from pinned memory, `non_blocking` goes on while it is copied."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """The same in memory that a GPU can read."""
        return self._with_tensors(Tensor.pin_memory)

    def _with_tensors(self, change: Any) -> "Batch":
        def changed(one: Any) -> Any:
            new = {name: change(value) for name, value in vars(one).items() if isinstance(value, Tensor)}
            return replace(one, **new)

        boxes = None if self.boxes is None else [changed(one) for one in self.boxes]
        return replace(changed(self), boxes=boxes)


def collate(samples: Sequence[Sample]) -> Batch:
    """Put samples into a batch: the `collate_fn` of a DataLoader.

    Args:
        samples: B of one size, B at least 1. All have a caption, a mask, depth, boxes, or none has.

    Returns:
        Tensors on the CPU, with memory of their own.

    Raises:
        ValueError: If there are none, they have several sizes, or some lack what others have.

    Example:
        >>> from tadp.datasets import RenderedScenes
        >>> batch = collate(RenderedScenes(3)[:])
        >>> batch
        Batch(3 images, 128x128, captions, masks, depth_m, boxes)
        >>> tuple(batch.images.shape)
        (3, 3, 128, 128)
    """
    if not samples:
        raise ValueError("a batch has one sample or more; got none.")
    sizes = dict.fromkeys(sample.image_size for sample in samples)
    if len(sizes) > 1:
        found = ", ".join(map(sides, sizes))
        largest = tuple(max(size[axis] for size in sizes) for axis in (0, 1))
        raise ValueError(
            f"the images of a batch have one size; got {found} (height x width). Pad them, "
            f"PadTo({largest}), or crop or resize them to one size first."
        )
    pixels = torch.from_numpy(np.stack([sample.image for sample in samples]))
    masks, depths = _of_all("mask", samples), _of_all("depth_m", samples)
    return Batch(
        images=rearrange(pixels, "b h w c -> b c h w").contiguous().float().div_(255),
        image_ids=[sample.image_id for sample in samples],
        captions=_of_all("caption", samples),
        masks=None if masks is None else torch.from_numpy(np.stack(masks)),
        depth_m=None if depths is None else torch.from_numpy(np.stack(depths)),
        boxes=_of_all("boxes", samples),
    )


def _of_all(name: str, samples: Sequence[Sample]) -> list[Any] | None:
    values = [getattr(sample, name) for sample in samples]
    lacking = [sample.image_id for sample, value in zip(samples, values, strict=True) if value is None]
    if not lacking:
        return values
    if len(lacking) < len(samples):
        raise ValueError(
            f"all samples of a batch have {name}, or none; {lacking[0]!r} has none, and another has. Take them from "
            "one data set, or drop what some lack: dataclasses.replace(sample, "
            f"{name}=None)."
        )
    return None
