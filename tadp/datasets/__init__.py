"""Data sets in one form: image, caption, mask, depth, boxes.

    data = PascalVOC("VOCdevkit/VOC2012", split="trainaug", captions=CaptionTable.open("captions.db"))
    train = Augmented(data, [RandomResize((0.5, 2.0)), RandomCrop(512, cat_max_ratio=0.75), RandomFlip(), PadTo(512)])
    loader = torch.utils.data.DataLoader(train, batch_size=4, shuffle=True, collate_fn=collate)

The names below load when first used, and torch with them; `tadp.datasets.scenes` has no use for it.
"""

from typing import TYPE_CHECKING

from tadp._lazy import lazy

if TYPE_CHECKING:
    from tadp.datasets.ade20k import ADE20K as ADE20K
    from tadp.datasets.augmented import Augmented as Augmented
    from tadp.datasets.batch import Batch as Batch
    from tadp.datasets.batch import collate as collate
    from tadp.datasets.cityscapes import Cityscapes as Cityscapes
    from tadp.datasets.cross_domain import Comic2k as Comic2k
    from tadp.datasets.cross_domain import Watercolor2k as Watercolor2k
    from tadp.datasets.folder import FolderDataset as FolderDataset
    from tadp.datasets.mask_folder import MaskFolder as MaskFolder
    from tadp.datasets.night import DarkZurich as DarkZurich
    from tadp.datasets.night import NighttimeDriving as NighttimeDriving
    from tadp.datasets.nyu import NYUDepthV2 as NYUDepthV2
    from tadp.datasets.photometric import BrightnessContrast as BrightnessContrast
    from tadp.datasets.photometric import CutDepth as CutDepth
    from tadp.datasets.photometric import Gamma as Gamma
    from tadp.datasets.photometric import HueSaturationValue as HueSaturationValue
    from tadp.datasets.photometric import PhotometricDistortion as PhotometricDistortion
    from tadp.datasets.rendered import RenderedScenes as RenderedScenes
    from tadp.datasets.sample import IGNORE_LABEL as IGNORE_LABEL
    from tadp.datasets.sample import Sample as Sample
    from tadp.datasets.transforms import CenterCrop as CenterCrop
    from tadp.datasets.transforms import PadTo as PadTo
    from tadp.datasets.transforms import RandomCrop as RandomCrop
    from tadp.datasets.transforms import RandomFlip as RandomFlip
    from tadp.datasets.transforms import RandomResize as RandomResize
    from tadp.datasets.transforms import Resize as Resize
    from tadp.datasets.voc import PascalVOC as PascalVOC
    from tadp.datasets.voc import PascalVOCDetection as PascalVOCDetection

_HOMES = {
    "ADE20K": "ade20k",
    "Augmented": "augmented",
    "Batch": "batch",
    "BrightnessContrast": "photometric",
    "CenterCrop": "transforms",
    "Cityscapes": "cityscapes",
    "Comic2k": "cross_domain",
    "CutDepth": "photometric",
    "DarkZurich": "night",
    "FolderDataset": "folder",
    "Gamma": "photometric",
    "HueSaturationValue": "photometric",
    "IGNORE_LABEL": "sample",
    "MaskFolder": "mask_folder",
    "NYUDepthV2": "nyu",
    "NighttimeDriving": "night",
    "PadTo": "transforms",
    "PascalVOC": "voc",
    "PascalVOCDetection": "voc",
    "PhotometricDistortion": "photometric",
    "RandomCrop": "transforms",
    "RandomFlip": "transforms",
    "RandomResize": "transforms",
    "RenderedScenes": "rendered",
    "Resize": "transforms",
    "Sample": "sample",
    "Watercolor2k": "cross_domain",
    "collate": "batch",
}
__all__ = [
    "ADE20K",
    "IGNORE_LABEL",
    "Augmented",
    "Batch",
    "BrightnessContrast",
    "CenterCrop",
    "Cityscapes",
    "Comic2k",
    "CutDepth",
    "DarkZurich",
    "FolderDataset",
    "Gamma",
    "HueSaturationValue",
    "MaskFolder",
    "NYUDepthV2",
    "NighttimeDriving",
    "PadTo",
    "PascalVOC",
    "PascalVOCDetection",
    "PhotometricDistortion",
    "RandomCrop",
    "RandomFlip",
    "RandomResize",
    "RenderedScenes",
    "Resize",
    "Sample",
    "Watercolor2k",
    "collate",
]
__getattr__, __dir__ = lazy(__name__, _HOMES, names=__all__)
