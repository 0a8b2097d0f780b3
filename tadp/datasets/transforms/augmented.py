"""A data set with transforms, whose random numbers only depend on the seed, the epoch and the index."""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from tadp.datasets.sample import Sample
from tadp.datasets.transforms.geometric import Transform


@runtime_checkable
class SampleSource(Protocol):
    """Anything with a length that returns samples by index, such as a data set, a `ConcatDataset` or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class Augmented:
    """A data set with transforms applied to its samples.

    The random numbers for sample i in epoch e are seeded by (seed, e, i). So a sample is the same in every worker
    process, and after a training run is resumed. Call `set_epoch` before each epoch; it also reaches workers that live
    for several epochs (`persistent_workers=True`).

    Attributes:
        data: The data set before the transforms.
        transforms: The transforms, in the order in which they are applied.
        seed: The seed of the random numbers.

    Args:
        data: A data set that returns a `Sample` for an index.
        transforms: Functions from a sample and a random number generator to a sample, in the order in which they are
            applied.
        seed: Seed of the random numbers, 0 or more; 0 by default.

    Raises:
        ValueError: If the seed is negative.

    Example:
        >>> from tadp.datasets import RenderedScenes
        >>> from tadp.datasets.transforms.geometric import RandomCrop, RandomFlip
        >>> train = Augmented(RenderedScenes(10), [RandomCrop(96), RandomFlip()], seed=0)
        >>> train.set_epoch(3)
        >>> train[0].image.shape
        (96, 96, 3)
    """

    def __init__(self, data: SampleSource, transforms: Sequence[Transform], *, seed: int = 0):
        if seed < 0:
            raise ValueError(f"a seed must be 0 or more; got {seed}.")
        self.data, self.transforms, self.seed = data, list(transforms), seed
        # Shared memory, so that workers that were started in an earlier epoch see the change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch whose random numbers are drawn, from 0."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose random numbers are drawn. Call it before each epoch.

        Raises:
            ValueError: If `epoch` is negative.
        """
        if epoch < 0:
            raise ValueError(f"an epoch must be 0 or more; got {epoch}.")
        self._epoch.fill_(epoch)

    def __repr__(self) -> str:
        return f"<{self.data!r} through {len(self.transforms)} transforms, seed {self.seed}>"

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}.")
        index %= len(self)
        sample = self.data[index]
        generator = np.random.default_rng((self.seed, self.epoch, index))
        for transform in self.transforms:
            sample = transform(sample, generator)
        return sample

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))
