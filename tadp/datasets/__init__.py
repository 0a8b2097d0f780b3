"""Data sets in a common form: image, caption, mask, depth and boxes.

    data = PascalVOC("VOCdevkit/VOC2012", split="trainaug", captions=CaptionTable.open("captions.db"))
    train = Augmented(data, [RandomResize((0.5, 2.0)), RandomCrop(512, cat_max_ratio=0.75), RandomFlip(), PadTo(512)])
    loader = torch.utils.data.DataLoader(train, batch_size=4, shuffle=True, collate_fn=collate)

Every name of this package is imported when it is first used, which also imports torch. `tadp.datasets.scenes` does not
need torch.
"""

from typing import TYPE_CHECKING

from tadp._lazy import lazy

if TYPE_CHECKING:
    from tadp.datasets.batch import Batch as Batch
    from tadp.datasets.batch import collate as collate
    from tadp.datasets.readers.ade20k import ADE20K as ADE20K
    from tadp.datasets.readers.cityscapes import Cityscapes as Cityscapes
    from tadp.datasets.readers.coco_json import CocoDataset as CocoDataset
    from tadp.datasets.readers.depth_folder import DepthFolder as DepthFolder
    from tadp.datasets.readers.image_folder import FolderDataset as FolderDataset
    from tadp.datasets.readers.labelme import LabelmeFolder as LabelmeFolder
    from tadp.datasets.readers.mask_folder import MaskFolder as MaskFolder
    from tadp.datasets.readers.night import DarkZurich as DarkZurich
    from tadp.datasets.readers.night import NighttimeDriving as NighttimeDriving
    from tadp.datasets.readers.nyu import NYUDepthV2 as NYUDepthV2
    from tadp.datasets.readers.opening import open as open
    from tadp.datasets.readers.rows import RowDataset as RowDataset
    from tadp.datasets.readers.splitting import split as split
    from tadp.datasets.readers.voc import PascalVOC as PascalVOC
    from tadp.datasets.readers.voc import PascalVOCDetection as PascalVOCDetection
    from tadp.datasets.readers.voc_folder import VOCFolder as VOCFolder
    from tadp.datasets.readers.watercolor_comic import Comic2k as Comic2k
    from tadp.datasets.readers.watercolor_comic import Watercolor2k as Watercolor2k
    from tadp.datasets.readers.yolo_labels import YoloDataset as YoloDataset
    from tadp.datasets.sample import IGNORE_LABEL as IGNORE_LABEL
    from tadp.datasets.sample import Sample as Sample
    from tadp.datasets.scenes.rendered import RenderedScenes as RenderedScenes
    from tadp.datasets.transforms.augmented import Augmented as Augmented
    from tadp.datasets.transforms.geometric import CenterCrop as CenterCrop
    from tadp.datasets.transforms.geometric import PadTo as PadTo
    from tadp.datasets.transforms.geometric import RandomCrop as RandomCrop
    from tadp.datasets.transforms.geometric import RandomFlip as RandomFlip
    from tadp.datasets.transforms.geometric import RandomResize as RandomResize
    from tadp.datasets.transforms.geometric import Resize as Resize
    from tadp.datasets.transforms.photometric import BrightnessContrast as BrightnessContrast
    from tadp.datasets.transforms.photometric import CutDepth as CutDepth
    from tadp.datasets.transforms.photometric import Gamma as Gamma
    from tadp.datasets.transforms.photometric import HueSaturationValue as HueSaturationValue
    from tadp.datasets.transforms.photometric import PhotometricDistortion as PhotometricDistortion

_HOMES = {
    "ADE20K": "readers.ade20k",
    "Augmented": "transforms.augmented",
    "Batch": "batch",
    "BrightnessContrast": "transforms.photometric",
    "CenterCrop": "transforms.geometric",
    "Cityscapes": "readers.cityscapes",
    "CocoDataset": "readers.coco_json",
    "Comic2k": "readers.watercolor_comic",
    "CutDepth": "transforms.photometric",
    "DarkZurich": "readers.night",
    "DepthFolder": "readers.depth_folder",
    "FolderDataset": "readers.image_folder",
    "Gamma": "transforms.photometric",
    "HueSaturationValue": "transforms.photometric",
    "IGNORE_LABEL": "sample",
    "LabelmeFolder": "readers.labelme",
    "MaskFolder": "readers.mask_folder",
    "NYUDepthV2": "readers.nyu",
    "NighttimeDriving": "readers.night",
    "PadTo": "transforms.geometric",
    "PascalVOC": "readers.voc",
    "PascalVOCDetection": "readers.voc",
    "PhotometricDistortion": "transforms.photometric",
    "RandomCrop": "transforms.geometric",
    "RandomFlip": "transforms.geometric",
    "RandomResize": "transforms.geometric",
    "RenderedScenes": "scenes.rendered",
    "Resize": "transforms.geometric",
    "RowDataset": "readers.rows",
    "Sample": "sample",
    "VOCFolder": "readers.voc_folder",
    "Watercolor2k": "readers.watercolor_comic",
    "YoloDataset": "readers.yolo_labels",
    "collate": "batch",
    "open": "readers.opening",
    "split": "readers.splitting",
}
__all__ = [
    "ADE20K",
    "IGNORE_LABEL",
    "Augmented",
    "Batch",
    "BrightnessContrast",
    "CenterCrop",
    "Cityscapes",
    "CocoDataset",
    "Comic2k",
    "CutDepth",
    "DarkZurich",
    "DepthFolder",
    "FolderDataset",
    "Gamma",
    "HueSaturationValue",
    "LabelmeFolder",
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
    "RowDataset",
    "Sample",
    "VOCFolder",
    "Watercolor2k",
    "YoloDataset",
    "collate",
    "open",
    "split",
]
__getattr__, __dir__ = lazy(__name__, _HOMES, names=__all__)
