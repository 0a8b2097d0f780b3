"""How well classes are found by how much of the image they fill: small, medium and large regions."""

import numpy as np

SIZES = ("small", "medium", "large")


class RegionSizes:
    """Intersection over union of each class with its region in each image, in three groups of size.

    A region is all that a class fills of one image. The groups are thirds: as many regions in each, over all images.

    Args:
        class_names: "background" is none; pixels of no class (255) count nowhere.
    """

    def __init__(self, class_names: tuple[str, ...]):
        self.classes = [number for number, name in enumerate(class_names) if name != "background"]
        self.shares: list[float] = []
        self.overlaps: list[float] = []

    def update(self, predicted: np.ndarray, truth: np.ndarray) -> None:
        """Take one image: class maps, both (H, W)."""
        for number in self.classes:
            here = truth == number
            if not here.any():
                continue
            said = (predicted == number) & (truth != 255)
            self.shares.append(float(here.mean()))
            self.overlaps.append(float((here & said).sum() / (here | said).sum()))

    def compute(self) -> dict[str, float]:
        """Mean over the regions of each group, in [0, 1], as "IoU small", "IoU medium" and "IoU large"."""
        ordered = np.array(self.overlaps)[np.argsort(self.shares, kind="stable")]
        groups = np.array_split(ordered, len(SIZES))
        return {f"IoU {size}": float(one.mean()) for size, one in zip(SIZES, groups, strict=True) if len(one)}
