"""Batches of samples as tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor

from tadp.datasets.readers.row_samples import sample_of_row
from tadp.datasets.sample import Sample, sides
from tadp.images.boxes import Boxes


@dataclass(eq=False, repr=False)  # not frozen, because Lightning sets the fields of a copy
class Batch:
    """A batch of B samples as tensors, as `collate` returns it.

    Captions and labels that the samples do not have are None. A DataLoader with `pin_memory=True` pins a batch, and
    `to` moves it to a device.

    Attributes:
        images: Images, (B, 3, H, W), float32, in [0, 1].
        image_ids: The name of each image in its data set, a list of B strings.
        captions: The caption of each image, a list of B strings; None if the samples have no captions.
        masks: The class of each pixel, (B, H, W), int64, counted from 0; 255 where the class is unknown. None if the
            samples have no masks.
        depth_m: Depth in metres, (B, H, W), float32; 0, NaN or infinity where it is unknown. None if the samples have
            no depth.
        boxes: The boxes of each image, a list of B `Boxes` in pixels; None if the samples have no boxes.
        rooms: The kind of room in each image, a list of B strings; None if the room of any sample is not known.
    """

    images: Float[Tensor, "_b 3 _h _w"]
    image_ids: list[str]
    captions: list[str] | None = None
    masks: Int64[Tensor, "_b _h _w"] | None = None
    depth_m: Float[Tensor, "_b _h _w"] | None = None
    boxes: list[Boxes] | None = None
    rooms: list[str] | None = None

    def __repr__(self) -> str:
        known = [name for name in ("captions", "masks", "depth_m", "boxes") if getattr(self, name) is not None]
        return f"Batch({len(self)} images, {', '.join([sides(tuple(self.images.shape[2:])), *known])})"

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """Return a copy on a device. With `non_blocking` and pinned memory, the call does not wait for the copy."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Return a copy in pinned memory, which a GPU can read directly."""
        return self._with_tensors(Tensor.pin_memory)

    def _with_tensors(self, change: Any) -> "Batch":
        def changed(record: Any) -> Any:
            new = {name: change(value) for name, value in vars(record).items() if isinstance(value, Tensor)}
            return replace(record, **new)

        boxes = None if self.boxes is None else [changed(image_boxes) for image_boxes in self.boxes]
        return replace(changed(self), boxes=boxes)


def collate(samples: Sequence[Sample | Mapping[str, Any]]) -> Batch:
    """Combine samples into a batch. Pass this function to a DataLoader as `collate_fn`.

    Args:
        samples: The samples to combine: at least one, with images of the same size. Captions, masks, depth and boxes
            must each be present in all samples or in none. A sample may also be a mapping, such as a row of Hugging
            Face's `datasets`, a decoded sample of webdataset, or the result of a transform: see docs/frameworks.md.

    Returns:
        A batch of tensors on the CPU. They share no memory with the samples.

    Raises:
        ValueError: If `samples` is empty, if their images differ in size, or if some samples lack a caption, mask,
            depth or boxes that others have.
        DatasetError: If a mapping has no image, or its labels cannot be used.

    Example:
        >>> from tadp.datasets import RenderedScenes
        >>> batch = collate(RenderedScenes(3)[:])
        >>> batch
        Batch(3 images, 128x128, captions, masks, depth_m, boxes)
        >>> tuple(batch.images.shape)
        (3, 3, 128, 128)
    """
    if not samples:
        raise ValueError("a batch needs at least one sample; got none.")
    samples = [
        sample if isinstance(sample, Sample) else sample_of_row(sample, number) for number, sample in enumerate(samples)
    ]
    sizes = dict.fromkeys(sample.image_size for sample in samples)
    if len(sizes) > 1:
        listed = ", ".join(map(sides, sizes))
        largest = tuple(max(size[axis] for size in sizes) for axis in (0, 1))
        raise ValueError(
            f"the images of a batch must have one size; got {listed} (height x width). Pad them with "
            f"PadTo({largest}), or crop or resize them to one size first."
        )
    pixels = torch.from_numpy(np.stack([sample.image for sample in samples]))
    rooms = [sample.room for sample in samples if sample.room is not None]
    masks, depths = _values("mask", samples), _values("depth_m", samples)
    return Batch(
        images=rearrange(pixels, "b h w c -> b c h w").contiguous().float().div_(255),
        image_ids=[sample.image_id for sample in samples],
        captions=_values("caption", samples),
        masks=None if masks is None else torch.from_numpy(np.stack(masks)),
        depth_m=None if depths is None else torch.from_numpy(np.stack(depths)),
        boxes=_values("boxes", samples),
        rooms=rooms if len(rooms) == len(samples) else None,
    )


def _values(name: str, samples: Sequence[Sample]) -> list[Any] | None:
    values = [getattr(sample, name) for sample in samples]
    missing = [sample.image_id for sample, value in zip(samples, values, strict=True) if value is None]
    if not missing:
        return values
    if len(missing) < len(samples):
        raise ValueError(
            f"either all samples of a batch must have {name}, or none; {missing[0]!r} lacks it and others have it. "
            "Take the samples from one data set, or drop the label that some lack: dataclasses.replace(sample, "
            f"{name}=None)."
        )
    return None
