"""Folders of images with links, pipes and folders that cannot be read."""

import os
from pathlib import Path

import pytest

from tadp.errors import ImageError
from tadp.images import list_images
from tadp.images.listing import find_images, summary

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs links and pipes")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Two folders with images, which links join to a loop."""
    for name in ("p/a.png", "p/sub/c.jpg", "q/d.png", "p/.hidden/x.png", "p/b.HEIC", "p/n.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for link, target in {"p/up": "..", "p/self": ".", "p/0q": "../q", "q/back": "../p"}.items():
        (tmp_path / link).symlink_to(target)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "images"),
    [
        ("p", ["p/0q/d.png", "p/a.png", "p/sub/c.jpg"]),
        ("q", ["q/back/a.png", "q/back/sub/c.jpg", "q/d.png"]),
        (".", ["p/a.png", "p/sub/c.jpg", "q/d.png"]),
        ("p/**/*.png", ["p/0q/d.png", "p/a.png"]),
        ("**", ["p/a.png", "p/sub/c.jpg", "q/d.png"]),
        ("**/*", ["p/a.png", "p/sub/c.jpg", "q/d.png"]),
        ("p/**/sub", ["p/sub/c.jpg"]),
        ("p/*", ["p/0q/d.png", "p/a.png", "p/sub/c.jpg"]),
    ],
)
def test_linked_folders_are_followed_once(folder, path, images):
    assert [str(image) for image in list_images(path)] == images
    assert [str(image.relative_to(folder)) for image in list_images(folder / path)] == images


def test_many_links_to_each_other_take_no_time(tmp_path):
    for number in range(12):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "x.png").touch()
        for other in range(12):
            (tmp_path / str(number) / f"to{other}").symlink_to(f"../{other}")
    assert len(list_images(tmp_path)) == 12
    assert len(list_images(f"{tmp_path}/**/*.png")) == 12


def test_what_is_left_out_is_counted(folder):
    os.mkfifo(folder / "p" / "pipe.png")
    listing = find_images("p")
    assert summary(listing.left_out) == (
        "2 files that are not images (.heic 1, .txt 1) and 1 entry that is not a file, such as p/pipe.png; "
        ".heic needs a plug-in, pip install pillow-heif, or convert it to JPEG"
    )
    assert not listing.unreadable
    with pytest.raises(ImageError, match=r"'p/pipe\.png' is not a regular file"):
        list_images("p/pipe.png")


def test_a_broken_link_is_reported(folder):
    (folder / "p" / "z.png").symlink_to("/mnt/disk/z.png")
    (folder / "p" / "more").symlink_to("/mnt/disk/more")
    listing = find_images("p")
    assert len(listing.images) == 3
    assert sorted(map(str, listing.unreadable)) == ["p/more", "p/z.png"]
    with pytest.warns(UserWarning, match=r"images may be missing: p/\w+.* is a link to /mnt/disk/.*1 more entries"):
        list_images("p")
    with pytest.raises(ImageError, match=r"p/z\.png is a link to /mnt/disk/z\.png, which is not there\. Mount its"):
        list_images("p/z.png")


def test_a_folder_that_cannot_be_read_does_not_stop_the_others(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("tadp.images.listing.os.scandir", refuse)
    listing = find_images("p")
    assert [image.name for image in listing.images] == ["d.png", "a.png"]
    assert "p/sub cannot be read: Permission denied" in str(listing.unreadable[Path("p/sub")])
    with pytest.raises(ImageError, match=r"the folder p/sub cannot be read: Permission denied"):
        find_images("p/sub")
