"""Transforms of an image together with its labels. `Augmented` gives each sample its own random number generator.

train = Augmented(data, [RandomResize((0.5, 2.0)), RandomCrop(512), RandomFlip(), PhotometricDistortion(), PadTo(512)])
"""

from tadp.datasets.transforms.augmented import Augmented as Augmented
from tadp.datasets.transforms.geometric import CenterCrop as CenterCrop
from tadp.datasets.transforms.geometric import PadTo as PadTo
from tadp.datasets.transforms.geometric import RandomCrop as RandomCrop
from tadp.datasets.transforms.geometric import RandomFlip as RandomFlip
from tadp.datasets.transforms.geometric import RandomResize as RandomResize
from tadp.datasets.transforms.geometric import Resize as Resize
from tadp.datasets.transforms.geometric import Transform as Transform
from tadp.datasets.transforms.photometric import BrightnessContrast as BrightnessContrast
from tadp.datasets.transforms.photometric import CutDepth as CutDepth
from tadp.datasets.transforms.photometric import Gamma as Gamma
from tadp.datasets.transforms.photometric import HueSaturationValue as HueSaturationValue
from tadp.datasets.transforms.photometric import PhotometricDistortion as PhotometricDistortion

__all__ = [
    "Augmented",
    "BrightnessContrast",
    "CenterCrop",
    "CutDepth",
    "Gamma",
    "HueSaturationValue",
    "PadTo",
    "PhotometricDistortion",
    "RandomCrop",
    "RandomFlip",
    "RandomResize",
    "Resize",
    "Transform",
]
