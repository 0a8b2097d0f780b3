"""What the loop takes: the backbone, images or their stored latents, and the parts of each step.

The order of the images depends only on the seed and the epoch. Latents of all images and of their mirror images are
encoded only once, because the VAE does more than half of the work.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from tadp.backbone import TADPBackbone
from tadp.datasets import Augmented, CenterCrop, PadTo, RandomFlip, Resize, Sample, collate
from tadp.datasets.batch import Batch
from tadp.datasets.transforms.augmented import SampleSource
from tadp.datasets.transforms.geometric import Transform
from tadp.errors import Argument, CorruptFileError, TrainingError
from tadp.files.atomic import replace_file
from tadp.files.fingerprint import fingerprint
from tadp.files.hub import check_readable
from tadp.files.progress import tracked
from tadp.images import to_tensor
from tadp.tasks import TaskModel
from tadp.trainer.processes import Accelerator
from tadp.trainer.run_data import contents
from tadp.training.schedules import Schedule

_ALWAYS_THE_SAME = (Resize, CenterCrop, PadTo)  # transforms without random numbers


@dataclass(frozen=True)
class Part:
    """The images that one process takes at a time: a batch, and its latents if they are kept."""

    batch: Batch
    latents: Tensor | None

    def to(self, device: torch.device) -> "Part":
        """The part on another device."""
        latents = None if self.latents is None else self.latents.to(device, non_blocking=True)
        return Part(self.batch.to(device, non_blocking=True), latents)

    def pin_memory(self) -> "Part":
        """The part in pinned memory. A DataLoader calls this."""
        return Part(self.batch.pin_memory(), None if self.latents is None else self.latents.pin_memory())

    @property
    def inputs(self) -> dict[str, Any]:
        """Keyword arguments of a task model: images or their latents, and captions."""
        size = self.batch.images.shape[2:]
        images = self.batch.images if self.latents is None else None
        return {
            "images": images, "latents": self.latents, "text": self.batch.captions, "image_size": (size[0], size[1]),
        }  # fmt: skip


Loss = Callable[[Callable[..., Any], Part], Tensor]  # takes the model, wrapped by accelerate


@runtime_checkable
class TrainingData(Protocol):
    """Samples, or pairs of a sample and its latents. Their random numbers depend on seed, epoch and index."""

    def set_epoch(self, epoch: int) -> None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample | tuple[Sample, Tensor]: ...


def parts_of_epoch(
    data: TrainingData,
    schedule: Schedule,
    accelerator: Accelerator,
    *,
    seed: int,
    micro_batch: int,
    epoch: int,
    start: int = 0,
    workers: int = 0,
) -> Iterator[list[Part]]:
    """Read the images of an epoch, step by step. Of several processes, each reads only its own share of a step.

    Args:
        data: The training data.
        schedule: The schedule, for the number of images per step.
        accelerator: The accelerator, for the number of processes and of accumulated parts.
        seed: Seed of the order.
        micro_batch: Number of images per part.
        epoch: Number of the epoch, from 0.
        start: The first step of the epoch to return.
        workers: Number of processes that read images; 0 reads them in this process.

    Yields:
        The parts of each step.
    """
    data.set_epoch(epoch)
    size, count, rank = micro_batch, accelerator.num_processes, accelerator.process_index
    steps = _order(len(data), schedule, seed=seed, epoch=epoch)
    # (steps, parts, processes, micro batch): a step has the same images however they are split
    split = steps.reshape(-1, accelerator.gradient_accumulation_steps, count, size)[start:, :, rank]
    loader = DataLoader(
        data,  # type: ignore[arg-type]
        batch_sampler=split.reshape(-1, size).tolist(),
        collate_fn=_collate,
        num_workers=workers,
        pin_memory=accelerator.device.type == "cuda",
        generator=torch.Generator().manual_seed(
            epoch
        ),  # otherwise it would draw from the generator whose state is saved
    )
    parts = iter(loader)
    for _ in range(len(split)):
        yield [next(parts) for _ in range(accelerator.gradient_accumulation_steps)]


def _order(count: int, schedule: Schedule, *, seed: int, epoch: int) -> np.ndarray:
    """The images of an epoch in their order, without those that fill no batch."""
    return np.random.default_rng((seed, epoch)).permutation(count)[: schedule.steps_per_epoch(count) * schedule.batch]


def drawn_images(count: int, schedule: Schedule, *, seed: int) -> list[int]:
    """The images that a run takes, by their index: a short run does not take all of them.

    Args:
        count: Number of images.
        schedule: The schedule.
        seed: Seed of the order.
    """
    left, epoch, drawn = schedule.total_steps(count) * schedule.batch, 0, set[int]()
    while left > 0 and len(drawn) < count:
        order = _order(count, schedule, seed=seed, epoch=epoch)[:left]
        drawn.update(order.tolist())
        left, epoch = left - len(order), epoch + 1
    return sorted(drawn)


def _collate(items: Sequence[Sample | tuple[Sample, Tensor]]) -> Part:
    if isinstance(items[0], Sample):
        return Part(collate(items), None)  # type: ignore[arg-type]
    samples, latents = zip(*items, strict=True)
    return Part(collate(samples), torch.stack(latents))


class WithLatents:
    """Samples with the latents of their images. Both are mirrored together at random.

    Sample i in epoch e is the same as in `Augmented(data, transforms)`.

    Args:
        data: The samples before the transforms.
        transforms: Transforms that are always the same, and at most one `RandomFlip`.
        latents: Latents of each image after the transforms, without and with the flip, (2, C, h, w), by its index;
            only without, (1, C, h, w), if no transform flips.
        seed: Seed of the random numbers. See `Augmented`.
    """

    def __init__(
        self, data: SampleSource, transforms: Sequence[Transform], latents: Tensor | Mapping[int, Tensor], *, seed: int
    ):
        self.data, self.transforms, self.latents, self.seed = data, transforms, latents, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Use the random numbers of this epoch from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Sample, Tensor]:
        sample, is_flipped = self.data[index], False
        generator = np.random.default_rng((self.seed, self.epoch, index))
        for transform in self.transforms:
            changed = transform(sample, generator)
            is_flipped |= isinstance(transform, RandomFlip) and changed is not sample
            sample = changed
        return sample, self.latents[index][int(is_flipped)]


def cached_latents(
    backbone: TADPBackbone,
    data: Any,
    transforms: Sequence[Transform],
    path: Path,
    accelerator: Accelerator,
    *,
    drawn: Sequence[int] | None = None,
    batch: int = 16,
) -> Tensor:
    """Return the latents in a file, (N, 2, C, h, w), or (N, 1, C, h, w) if no transform flips.

    The file is made if it is missing, or was made for other images, transforms or weights.

    Args:
        backbone: The backbone whose VAE encodes the images.
        data: Images with `image_ids`.
        transforms: Transforms that give them one size. They are always the same, except for a `RandomFlip`.
        path: Path of the file.
        accelerator: The accelerator. Only its main process encodes.
        drawn: The images to encode, by their index; None is all.
        batch: Images at a time.
    """
    flips = (False, True) if any(isinstance(transform, RandomFlip) for transform in transforms) else (False,)
    views = [_without_chance(transforms, flip=flip) for flip in flips]
    indices = range(len(data)) if drawn is None else drawn
    origin = {"made_from": _identity(backbone, data, views[0], indices)}
    if accelerator.is_main_process and _origin(path) != origin:
        starts = range(0, len(indices), batch)
        parts = [
            _encode(backbone, data, views, indices[start : start + batch])
            for start in tracked(starts, len(starts), what="encoding images", unit="batch")
        ]
        latents = torch.cat(parts)
        with replace_file(path) as part:
            save_file({"latents": latents}, part, metadata=origin)
    accelerator.wait_for_everyone()
    with safe_open(path, "pt") as file:
        return file.get_tensor("latents")


@torch.no_grad()
def _encode(
    backbone: TADPBackbone, data: SampleSource, views: Sequence[Sequence[Transform]], part: Sequence[int]
) -> Tensor:
    samples = [data[index] for index in part]
    encoded = []
    for transforms in views:
        images = [Augmented(samples, transforms)[place].image for place in range(len(samples))]
        encoded.append(backbone.encode_image(torch.cat([to_tensor(image) for image in images])).float().cpu())
    return torch.stack(encoded, dim=1)


def _without_chance(transforms: Sequence[Transform], *, flip: bool) -> list[Transform]:
    """The transforms, with a flip that always or never happens."""
    return [RandomFlip(float(flip)) if isinstance(transform, RandomFlip) else transform for transform in transforms]


def _identity(backbone: TADPBackbone, data: Any, transforms: Sequence[Transform], indices: Sequence[int]) -> str:
    """A hash of the encoder, its options, the transforms, the ids of the images to encode, and the contents of all."""
    parts = (
        fingerprint(backbone.vae),
        backbone.options.to_dict(),
        [data.image_ids[index] for index in indices],
        list(transforms),
        contents([data])["images"],
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _origin(path: Path) -> dict[str, str] | None:
    try:
        check_readable(path)
    except CorruptFileError:  # there is none yet, or it is damaged
        return None
    with safe_open(path, "pt") as file:
        return file.metadata()


def load_backbone(
    name: str, accelerator: Accelerator, *, untrained_seed: int | None = None, **options: Any
) -> TADPBackbone:
    """Load the backbone on the device of this process.

    Args:
        name: "tadp-tiny", a hub id, or a folder in diffusers layout.
        accelerator: The accelerator.
        untrained_seed: Seed with which the weights of the U-Net are drawn at random; None keeps the trained weights.
        **options: Options of `TADPBackbone.from_pretrained`.
    """
    with accelerator.local_main_process_first():  # only one process per machine contacts the hub
        backbone = TADPBackbone.from_pretrained(name, device=accelerator.device, **options)
    if untrained_seed is None:
        return backbone
    torch.manual_seed(untrained_seed)
    network: Any = type(backbone.unet)
    random = network.from_config(backbone.unet.config)
    return TADPBackbone.from_pretrained(name, device=accelerator.device, unet=random, **options)


def training_data(
    model: TaskModel,
    data: Any,
    transforms: Sequence[Transform],
    *,
    seed: int,
    latents: Path | None,
    accelerator: Accelerator,
    drawn: Sequence[int] | None = None,
) -> TrainingData:
    """Augment data, or pair each image with its latents, which are encoded only once.

    Args:
        model: The model whose backbone encodes the images.
        data: The data set.
        transforms: The augmentation.
        seed: Seed of the augmentation.
        latents: File of the latents of each image and its mirror image, which is made if it is missing; None encodes
            images in every step.
        accelerator: The accelerator.
        drawn: The images that the run takes, by their index, as from `drawn_images`; None is all.

    Raises:
        TrainingError: If latents are to be kept but the transforms do more at random than flip.
    """
    if latents is None:
        return Augmented(data, transforms, seed=seed)
    at_random = [transform for transform in transforms if not isinstance(transform, _ALWAYS_THE_SAME)]
    if len(at_random) > 1 or not all(isinstance(transform, RandomFlip) for transform in at_random):
        changes = ", ".join(type(transform).__name__ for transform in at_random)
        raise TrainingError(
            Argument("cache_latents"),
            f" works only if images are at most flipped at random, but they go through {changes}. Leave it out.",
        )
    kept = cached_latents(model.backbone, data, transforms, latents, accelerator, drawn=drawn)
    by_index = kept if drawn is None else dict(zip(drawn, kept, strict=True))
    return WithLatents(data, transforms, by_index, seed=seed)
