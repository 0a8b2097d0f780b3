"""NYU Depth v2 by the split of Eigen et al., in the folder nyu_depth_v2."""

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import numpy as np

from tadp.captions.records import shown
from tadp.datasets.readers.image_folder import Captions, FolderDataset, OnError, Record, require
from tadp.datasets.readers.label_files import check_label_size, read_depth_m, read_list
from tadp.datasets.sample import Sample
from tadp.errors import DatasetError, MissingDataError
from tadp.files.checks import check_choice
from tadp.language.class_names import NYU_ROOMS

NYUSplit = Literal["train", "test"]
_FOLDERS = {"train": "sync", "test": "official_splits/test"}
_GET = {
    "train": "Get sync.zip, the 24,231 pairs that BTS (Lee et al.) took from the raw videos, and unpack it so that "
    "{folder}/kitchen_0028b/rgb_00045.jpg is there.",
    "test": "Make the 654 pairs from nyu_depth_v2_labeled.mat and splits.mat of NYU, with the released code's "
    "datasets/depth/nyu_extract_official_train_test_set_from_mat.py, so that {folder}/bathroom/rgb_00045.jpg is there.",
}
_GET_LIST = (
    "The list has one pair per line, '/kitchen_0028b/rgb_00045.jpg /kitchen_0028b/sync_depth_00045.png'. Copy it from "
    "datasets/depth/filenames/nyudepthv2 of the paper's released code, or pass file_list."
)
_NEAREST_M = 0.4  # the Kinect measures from about 0.5 m to 10 m


class NYUDepthV2(FolderDataset):
    """NYU Depth v2 for depth: 24,231 images to train on and 654 to test, 480x640 pixels, with depths up to 10 m.

    Depth is read from 16-bit pictures in millimetres and converted to metres. It is 0 where the sensor measured
    nothing. A warning is given for the first picture with depths that the sensor cannot measure, because they may have
    another unit. Image ids are the images' names in the file list, such as "/kitchen_0028b/rgb_00045.jpg". The paper's
    released code looks up captions by the same ids.

    A sample's `room` is read from the name of the image's folder: "kitchen" for kitchen_0028b. It is None if the folder
    is named after none of the 27 kinds of rooms. VPD and the paper's released code take the first name in their lists
    that occurs in the folder's name, which makes a study_room a "study" and an office_kitchen a "kitchen" (448 of the
    24,231 images to train on, and 6 to test). Here the longest name counts.

    Attributes:
        room_names: The 27 kinds of rooms, `tadp.language.class_names.NYU_ROOMS`.

    Args:
        root: The folder nyu_depth_v2, with the subfolder sync for "train", or official_splits/test for "test".
        split: The split to read, "train" or "test" (the default).
        file_list: A text file with one image per line: the name of the image, a space, and the name of its depth
            picture, both relative to the split's folder. Further words of a line are ignored. None is
            <root>/train_list.txt or <root>/test_list.txt.
        captions: A `CaptionTable` or another mapping from image id to caption. None gives samples without captions.
        on_error: What happens if an image cannot be read. "raise" raises an error that names the file. "skip" warns and
            returns the next readable image; use it only in training. See `FolderDataset`.

    Raises:
        MissingDataError: If a file or folder is missing. The message says how to get it.
        UnknownIdError: If `captions` lacks the caption of an image.
        DatasetError: If a line of the file list does not name an image and its depth picture.

    Source:
        TADP's datasets/depth/nyudepthv2.py.
    """

    tasks = ("depth",)

    def __init__(
        self,
        root: str | Path,
        *,
        split: NYUSplit = "train",
        file_list: str | Path | None = None,
        captions: Captions | None = None,
        on_error: OnError = "raise",
    ):
        root = Path(root)
        check_choice(split, get_args(NYUSplit), name="split")
        advice = _GET[split].format(folder=root / _FOLDERS[split])
        folder = require(root / _FOLDERS[split], root=root, name="NYU Depth v2", advice=advice)
        list_path = root / f"{split}_list.txt" if file_list is None else Path(file_list)
        if not list_path.is_file():
            raise MissingDataError(f"NYU Depth v2 needs the list {list_path}, which is not there. {_GET_LIST}")
        lines = enumerate(read_list(list_path), 1)
        super().__init__(
            [_record(line, folder, f"{list_path}, line {number}") for number, line in lines],
            name="NYU Depth v2",
            advice=advice,
            captions=captions,
            on_error=on_error,
        )
        self.room_names = NYU_ROOMS

    @property
    def rooms(self) -> list[str | None]:
        """The kind of room in each image, in order; None where the folder's name has none."""
        return [_room(image_id) for image_id in self.image_ids]

    def _label(self, sample: Sample, path: Path) -> Sample:
        depth_m = read_depth_m(path)
        check_label_size(sample, path, depth_m.shape, kind="depth")
        known = np.count_nonzero(depth_m)
        near, far = np.count_nonzero(depth_m < _NEAREST_M) - (depth_m.size - known), np.count_nonzero(depth_m > 10)
        if near > known / 2 or far > known / 10:
            self._warn_once(
                "unit",
                f"{path} has depths {f'under {_NEAREST_M} m' if near > known / 2 else 'over 10 m'} in most places, "
                "which the sensor of NYU Depth v2 cannot measure. Depth is read as millimetres; these files may be in "
                "another unit. Use the files that the data set's page names, or convert them to millimetres.",
            )
        return replace(sample, depth_m=depth_m, room=_room(sample.image_id))


def _room(image_id: str) -> str | None:
    folder = PurePosixPath(image_id).parent.name
    return max((room for room in NYU_ROOMS if room in folder), key=len, default=None)


def _record(line: str, folder: Path, where: str) -> Record:
    names = line.split()
    if len(names) < 2:
        raise DatasetError(
            f"{where}: a line must have an image and its depth, separated by a space; got {shown(line)}."
        )
    return Record(names[0], *(folder / name.lstrip("/") for name in names[:2]))
