"""Write the features of folders of images to files. A run can be killed at any moment and resumed later.

    for outcome in extract_images(backbone, "photos", "features", captions=captioner, model="tadp-tiny"):
        print(outcome.name, outcome.status)

For the image `photos/pets/rex.jpg`, this example writes two files. `features/pets/rex.safetensors` contains one map per
level, `map.0`, `map.1` … (finest first, each (C, h, w)), and `attention.<level>`, (L, h, w) with one channel per token,
for each level whose attention is attached or recorded. `features/pets/rex.json` contains the caption, its tokens and
words, the strides and channels of the maps, and the settings of the run. A file is always complete: none is ever half
written. The JSON is written last, and an image counts as done when its JSON exists.

With `shards=True`, the run writes a feature store instead, which suits any number of images:

    store = FeatureStore.open("features")
    store["pets/rex"].features.maps[0]
"""

from tadp.captions.image_ids import ImageList as ImageList
from tadp.captions.image_ids import caption_ids as caption_ids
from tadp.captions.image_ids import output_names as output_names
from tadp.captions.image_ids import path_ids as path_ids
from tadp.extract.extraction import Outcome as Outcome
from tadp.extract.extraction import extract_images as extract_images
from tadp.extract.feature_store import FeatureStore as FeatureStore
from tadp.extract.feature_store import StoredFeatures as StoredFeatures
from tadp.extract.reading_ahead import shrink as shrink
from tadp.extract.saved_tensors import SavedTensors as SavedTensors
from tadp.files.atomic import writable_folder as writable_folder
from tadp.files.fingerprint import fingerprint as fingerprint

__all__ = [
    "FeatureStore",
    "ImageList",
    "Outcome",
    "SavedTensors",
    "StoredFeatures",
    "caption_ids",
    "extract_images",
    "fingerprint",
    "output_names",
    "path_ids",
    "shrink",
    "writable_folder",
]
