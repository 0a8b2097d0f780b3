"""Parts of a data set: its own, a random fraction, groups, lists and folders."""

import numpy as np
import pytest
from PIL import Image

from tadp.datasets import MaskFolder, RenderedScenes, split
from tadp.datasets.readers.splitting import NameIndex
from tadp.errors import DatasetError, OptionError


@pytest.fixture
def frames(tmp_path):
    """Twelve images in three folders."""
    for number in range(12):
        for kind in ("images", "masks"):
            path = tmp_path / kind / f"seq{number // 4}" / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.eye(8, dtype=np.uint8)).save(path)
    return tmp_path


def open_frames(root, **options) -> MaskFolder:
    return MaskFolder(root / "images", root / "masks", class_names=["ground", "ball"], **options)


def ids(parts):
    return {name: part.image_ids for name, part in parts.items()}


def test_a_fraction_is_held_out_at_random_but_the_same_each_time(frames):
    data = open_frames(frames)
    parts = ids(split(data, fraction=0.25, seed=3))
    assert {name: len(part) for name, part in parts.items()} == {"train": 9, "val": 3}
    assert sorted(parts["train"] + parts["val"]) == data.image_ids
    assert ids(split(data, fraction=0.25, seed=3)) == parts
    assert any(ids(split(data, fraction=0.25, seed=seed)) != parts for seed in range(5))


@pytest.mark.parametrize("group", ["folder", 4, r"seq(\d)", lambda image_id: image_id.split("/")[0]])
def test_groups_never_part(frames, group):
    parts = ids(split(open_frames(frames), fraction=0.3, group=group))
    folders = {name: {image_id.split("/")[0] for image_id in part} for name, part in parts.items()}
    assert len(folders["train"]) == 2
    assert len(folders["val"]) == 1
    assert not folders["train"] & folders["val"]


def test_a_single_group_cannot_be_split(frames):
    with pytest.raises(DatasetError, match="at least two groups of images; 12 images are in 1, such as seq"):
        split(open_frames(frames), group=3)
    with pytest.raises(DatasetError, match=r"the group 'run\\d' is not found in the id 'seq0/00'"):
        split(open_frames(frames), group=r"run\d")
    with pytest.raises(OptionError, match=r"group must be 'folder' or a regular expression; got '\(' \(missing \)"):
        split(open_frames(frames), group="(")


def test_lists_name_images_by_id_file_name_or_path(frames):
    (frames / "train.txt").write_text(
        "seq0/00\n01.png\n/home/me/data/images/seq0/02.png /home/me/data/masks/seq0/02.png\n"
    )
    data = open_frames(frames)
    with pytest.warns(UserWarning, match=r"8 of 12 images are in no part of the split .* 'seq0/03'"):
        parts = ids(split(data, lists={"train": frames / "train.txt", "val": ["seq1\\04.png"]}))
    assert parts == {"train": ["seq0/00", "seq0/01", "seq0/02"], "val": ["seq1/04"]}


def test_lists_that_do_not_fit_are_refused(frames):
    data = open_frames(frames)
    with pytest.raises(DatasetError, match=r"the list of 'train' has 'seq0/99', which is not an image of"):
        split(data, lists={"train": ["seq0/99"], "val": ["seq0/00"]})
    with pytest.raises(DatasetError, match=r"the list of 'train' has '', which is not an image of"):
        split(data, lists={"train": [""], "val": ["seq0/00"]})
    with pytest.raises(DatasetError, match=r"'seq0/00' is in 'train' and in 'val'.* learned by heart"):
        split(data, lists={"train": ["seq0/00"], "val": ["seq0/00"]})
    with pytest.raises(DatasetError, match="the part 'val' of the split is empty"):
        split(data, lists={"train": ["seq0/00"], "val": []})


def test_a_name_in_two_folders_needs_its_folder(frames):
    for kind in ("images", "masks"):
        (frames / kind / "seq1" / "04.png").rename(frames / kind / "seq1" / "00.png")
    data = open_frames(frames)
    with pytest.raises(DatasetError, match=r"'00' fits two images of the same name, 'seq0/00' and 'seq1/00'"):
        split(data, lists={"train": ["00"], "val": ["seq0/01"]})
    with pytest.warns(UserWarning, match="10 of 12"):
        parts = split(data, lists={"train": ["seq1/00"], "val": ["seq0/00"]})
    assert ids(parts) == {"train": ["seq1/00"], "val": ["seq0/00"]}


def test_folders_are_parts(frames):
    with pytest.warns(UserWarning, match="4 of 12 images"):
        parts = ids(split(open_frames(frames), folders={"train": "seq0", "val": "seq2"}))
    assert parts == {"train": [f"seq0/{n:02d}" for n in range(4)], "val": [f"seq2/{n:02d}" for n in range(8, 12)]}
    with pytest.raises(DatasetError, match="no image is below a folder 'seq7'"):
        split(open_frames(frames), folders={"train": "seq0", "val": "seq7"})


def test_folders_named_train_and_valid_are_the_data_sets_own_split(frames):
    for kind in ("images", "masks"):
        for old, new in (("seq0", "valid"), ("seq1", "train"), ("seq2", "test")):
            (frames / kind / old).rename(frames / kind / new)
    data = open_frames(frames)
    assert {name: len(part) for name, part in data.splits.items()} == {"test": 4, "train": 4, "val": 4}
    parts = ids(split(data))
    assert list(parts) == ["train", "val", "test"]
    assert parts["val"] == [f"valid/{n:02d}" for n in range(4)]


def test_without_val_a_fraction_of_train_is_held_out(frames):
    for kind in ("images", "masks"):
        for old, new in (("seq0", "train/0"), ("seq1", "train/1"), ("seq2", "test")):
            (frames / kind / new).parent.mkdir(exist_ok=True)
            (frames / kind / old).rename(frames / kind / new)
    parts = ids(split(open_frames(frames), fraction=0.25))
    assert {name: len(part) for name, part in parts.items()} == {"train": 6, "val": 2, "test": 4}
    assert all(image_id.startswith("train/") for image_id in parts["val"])


def test_options_out_of_range_are_refused(frames):
    data = open_frames(frames)
    for fraction in (0.0, 1.0, -1.0):
        with pytest.raises(OptionError, match="fraction must be between 0 and 1"):
            split(data, fraction=fraction)
    with pytest.raises(OptionError, match="pass lists or folders, not both"):
        split(data, lists={}, folders={})


def test_subsets_and_captions_leave_the_data_set_as_it_is(frames):
    data = open_frames(frames)
    part = data.subset(["seq1/05", "seq0/01"])
    assert part.image_ids == ["seq1/05", "seq0/01"]
    assert [sample.image_id for sample in part] == part.image_ids
    assert len(data) == 12
    described = part.with_captions({"seq1/05": "a ball", "seq0/01": "ground"})
    assert [sample.caption for sample in described] == ["a ball", "ground"]
    assert part[0].caption is None
    assert described.subset(["seq0/01"])[0].caption == "ground"
    with pytest.raises(DatasetError, match="images has no image 'seq9/00'; its ids look like 'seq0/00'"):
        data.subset(["seq9/00"])
    with pytest.raises(DatasetError, match="'seq0/01' occurs twice"):
        data.subset(["seq0/01", "seq0/01"])
    with pytest.raises(DatasetError, match="no ids"):
        data.subset([])


def test_rendered_scenes_have_parts_too():
    scenes = RenderedScenes(6, seed=2)
    parts = split(scenes, fraction=0.5)
    assert sorted(parts["train"].image_ids + parts["val"].image_ids) == scenes.image_ids
    place = scenes.image_ids.index(parts["val"].image_ids[1])
    assert np.array_equal(parts["val"][1].image, scenes[place].image)
    captions = {image_id: f"scene {image_id}" for image_id in parts["val"].image_ids}
    assert parts["val"].with_captions(captions)[-1].caption == captions[parts["val"].image_ids[-1]]
    with pytest.raises(IndexError, match="scene 3 of 3"):
        parts["val"][3]


def test_a_part_without_a_class_is_told_of(frames):
    for number in range(12):
        value = 1 if number == 11 else 0
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(
            frames / "masks" / f"seq{number // 4}" / f"{number:02d}.png"
        )
    data = open_frames(frames)
    with pytest.warns(
        UserWarning, match=r"the part 'val' .* has no ball, which other parts have; their scores are unknown"
    ):
        split(data, group="folder", lists={"train": data.image_ids[4:], "val": data.image_ids[:4]})
    with pytest.warns(UserWarning, match=r"the part 'train' .* has no ball, .*; the model cannot learn them"):
        split(data, lists={"train": data.image_ids[:4], "val": data.image_ids[4:]})
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(frames / "masks/seq0/00.png")  # later errors name this file
    split(data, lists={"train": data.image_ids[:4], "val": data.image_ids[4:]})


def test_a_line_that_names_another_folder_of_the_data_does_not_fit():
    index = NameIndex({"train/a": "photos/train/a.jpg", "valid/b": "photos/valid/b.jpg"})
    assert index.find("images/val/b.jpg", "list") == "valid/b"
    assert index.find("elsewhere/b.jpg", "list") == "valid/b"
    assert index.find("train/b.jpg", "list") is None
    assert index.find("test/b.jpg", "list") is None
