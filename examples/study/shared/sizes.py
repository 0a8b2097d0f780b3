"""How well regions are segmented depending on their size: small, medium and large."""

import numpy as np

SIZES = ("small", "medium", "large")


class RegionSizes:
    """Intersection over union of each region, in three groups by size.

    A region is all pixels of a class in one image. The groups are thirds of all regions of all images.

    Args:
        class_names: Names of the classes. "background" has no regions, and unlabelled pixels (255) are ignored.
    """

    def __init__(self, class_names: tuple[str, ...]):
        self.classes = [number for number, name in enumerate(class_names) if name != "background"]
        self.shares: list[float] = []
        self.overlaps: list[float] = []

    def update(self, predicted: np.ndarray, truth: np.ndarray) -> None:
        """Add one image: the predicted and the true class map, both (H, W)."""
        for number in self.classes:
            here = truth == number
            if not here.any():
                continue
            predicted_here = (predicted == number) & (truth != 255)
            self.shares.append(float(here.mean()))
            self.overlaps.append(float((here & predicted_here).sum() / (here | predicted_here).sum()))

    def compute(self) -> dict[str, float]:
        """The mean over the regions of each group, in [0, 1]: "IoU small", "IoU medium" and "IoU large"."""
        ordered = np.array(self.overlaps)[np.argsort(self.shares, kind="stable")]
        groups = np.array_split(ordered, len(SIZES))
        return {f"IoU {size}": float(group.mean()) for size, group in zip(SIZES, groups, strict=True) if len(group)}
