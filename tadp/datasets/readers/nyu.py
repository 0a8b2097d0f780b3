"""NYU Depth v2 by the split of Eigen et al., in the folder nyu_depth_v2."""

from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from tadp.datasets.readers.image_folder import Captions, FolderDataset, OnError, Record, require
from tadp.datasets.readers.label_files import read_depth_m, read_lines
from tadp.datasets.sample import Sample, sides
from tadp.errors import DatasetError, MissingDataError
from tadp.files.checks import check_choice

NYUSplit = Literal["train", "test"]
_FOLDERS = {"train": "sync", "test": "official_splits/test"}
_GET = {
    "train": "Get the 24,231 pairs that BTS (Lee et al.) took from the raw videos, sync.zip, and unpack them so that "
    "{folder}/kitchen_0028b/rgb_00045.jpg is there.",
    "test": "Make the 654 pairs from nyu_depth_v2_labeled.mat and splits.mat of NYU, with the released code's "
    "datasets/depth/nyu_extract_official_train_test_set_from_mat.py, so that {folder}/bathroom/rgb_00045.jpg is there.",
}
_GET_LIST = (
    "It has a pair a line, '/kitchen_0028b/rgb_00045.jpg /kitchen_0028b/sync_depth_00045.png'; the paper's released "
    "code has it in datasets/depth/filenames/nyudepthv2. Copy it there, or pass file_list."
)


class NYUDepthV2(FolderDataset):
    """NYU Depth v2 for depth: 24,231 images to train on, 654 to test, 480x640, up to 10 m.

    Depth is in metres, from 16-bit pictures of millimetres, and 0 where the sensor saw nothing. Ids are the images as
    the list has them, "/kitchen_0028b/rgb_00045.jpg", which the released code looks captions up by.

    Args:
        root: The folder nyu_depth_v2, with sync ("train") or official_splits/test ("test").
        split: Which.
        file_list: The list of pairs, by default <root>/train_list.txt or <root>/test_list.txt. What follows the second
            name on a line is not read.
        captions: A `CaptionTable`, or a mapping from id to caption; None for none.
        on_error: As in `FolderDataset`.

    Raises:
        MissingDataError: If something is not there; the message says what to get.
        UnknownIdError: If an image has no caption.
        DatasetError: If the list is none.

    Source:
        TADP's datasets/depth/nyudepthv2.py.
    """

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
        listed = root / f"{split}_list.txt" if file_list is None else Path(file_list)
        if not listed.is_file():
            raise MissingDataError(f"NYU Depth v2 needs the list {listed}, which is not there. {_GET_LIST}")
        super().__init__(
            [_record(line, folder, f"{listed}, line {number}") for number, line in enumerate(read_lines(listed), 1)],
            name="NYU Depth v2",
            advice=advice,
            captions=captions,
            on_error=on_error,
        )

    def _label(self, sample: Sample, path: Path) -> Sample:
        depth_m = read_depth_m(path)
        if depth_m.shape != sample.image_size:
            raise DatasetError(
                f"depth has the size of its image; {path} is {sides(depth_m.shape)}, and the image "
                f"{sample.image_id!r} {sides(sample.image_size)} (height x width). Get both again."
            )
        return replace(sample, depth_m=depth_m)


def _record(line: str, folder: Path, where: str) -> Record:
    names = line.split()
    if len(names) < 2:
        raise DatasetError(f"{where}: a line has an image and its depth, with a space between; got {line!r}.")
    return Record(names[0], *(folder / name.lstrip("/") for name in names[:2]))
