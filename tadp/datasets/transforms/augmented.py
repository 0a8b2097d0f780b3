"""A data set seen through transforms, whose random numbers depend on seed, epoch and item alone."""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from tadp.datasets.sample import Sample
from tadp.datasets.transforms.geometric import Transform


@runtime_checkable
class SampleSource(Protocol):
    """What has a length and gives samples by index: the data sets here, `torch.utils.data.ConcatDataset`, a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class Augmented:
    """A data set seen through transforms.

    The random numbers of item i in epoch e are those of (seed, e, i). So an item is the same in whichever worker or
    process it is made, and after a training run was resumed. Workers that live through several epochs
    (`persistent_workers=True`) are told of the epoch too.

    Attributes:
        data: What is seen.
        transforms: What it is seen through, in order.
        seed: 0 or more.

    Args:
        data: Samples by index.
        transforms: Functions of a sample and a generator.
        seed: Another seed draws other numbers.

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
        # In shared memory, so that workers which were started in an earlier epoch see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch whose random numbers are drawn, from 0."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw other numbers from now on; call it before each epoch.

        Raises:
            ValueError: If it is negative.
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
