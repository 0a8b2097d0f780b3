import gc
import json
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders_captioner import build_blip
from killing import partial_name
from PIL import Image
from running import run_function
from safetensors.torch import load_file

import tadp
from tadp.backbone import TADPBackbone
from tadp.captioner import Captioner
from tadp.cli import app
from tadp.datasets.scenes import Scenes
from tadp.diffusion.noise import ASSUMED_NOISE
from tadp.errors import CaptionError, ImageError, OutputError
from tadp.extract import ImageList, extract_images, fingerprint, output_names, reading_ahead, shrink
from tadp.images import read_image

CAPTION = "a red car next to a tree on grass"


@pytest.fixture(scope="module")
def backbone() -> TADPBackbone:
    return TADPBackbone.from_pretrained("tadp-tiny")


@pytest.fixture(scope="session")
def captioner(tmp_path_factory) -> Captioner:
    return Captioner.from_pretrained(build_blip(tmp_path_factory.mktemp("blip")), max_new_tokens=8)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Five images of two sizes in two folders."""
    folder = tmp_path / "photos"
    for k, scene in enumerate(Scenes(5, seed=3, size=64)):
        path = folder / ("pets" if k < 2 else "cars") / f"s{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image[: 40 if k == 3 else 64]).save(path)
    return folder


def run(backbone, paths, output, captions=CAPTION, **options) -> dict[str, str]:
    """The status of each image by name."""
    return {
        outcome.name: outcome.status
        for outcome in extract_images(backbone, paths, output, captions=captions, model="tadp-tiny", **options)
    }


def stamps(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def same_tensors(first: Path, second: Path) -> bool:
    a, b = load_file(first), load_file(second)
    return a.keys() == b.keys() and all(torch.allclose(a[key], b[key], atol=1e-4, rtol=1e-3) for key in a)


def test_files_hold_what_the_backbone_returns(backbone, photos, tmp_path):
    assert set(run(backbone, photos, tmp_path / "out", batch_size=2).values()) == {"done"}
    for name in ("pets/s0", "cars/s3"):
        with torch.inference_mode():
            features = backbone(photos / f"{name}.png", CAPTION)
        tensors = load_file(tmp_path / "out" / f"{name}.safetensors")
        expected = {f"map.{level}": one[0] for level, one in enumerate(features.maps)}
        expected |= {f"attention.{level}": features.attention.at(level)[0] for level in (1, 2)}
        assert tensors.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(tensors[key], value, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("tiling", [{}, {"tile_px": 64, "overlap_px": 0}])
def test_alpha_and_16_bits_are_read_as_data_sets_read_them(backbone, tmp_path, tiling):
    levels = np.random.default_rng(0).integers(0, 256, (64, 80, 4), np.uint8)
    files = {"alpha.png": levels, "grey.png": levels[..., 0].astype(np.uint16) * 250 + 9}
    for folder in ("stored", "read"):
        (tmp_path / folder).mkdir()
    for name, values in files.items():
        Image.fromarray(values).save(tmp_path / "stored" / name)
        Image.fromarray(read_image(tmp_path / "stored" / name)).save(tmp_path / "read" / name)
    for folder in ("stored", "read"):
        run(backbone, tmp_path / folder, tmp_path / f"{folder}-out", **tiling)
    for name in ("alpha", "grey"):
        stored, read = (load_file(tmp_path / f"{folder}-out" / f"{name}.safetensors") for folder in ("stored", "read"))
        assert all(torch.equal(stored[key], read[key]) for key in read)


def test_the_record_tells_the_tensors_and_their_origin(backbone, photos, tmp_path):
    run(backbone, photos / "cars" / "s3.png", tmp_path / "out")
    record = json.loads((tmp_path / "out" / "s3.json").read_text())
    tensors = load_file(tmp_path / "out" / "s3.safetensors")
    assert record["caption"] == CAPTION
    assert record["image_size"] == [40, 64]
    assert record["strides"] == [8, 16, 32, 64]
    assert record["channels"] == [tensors[f"map.{level}"].shape[0] for level in range(4)]
    assert len(record["tokens"]) == tensors["attention.1"].shape[0] == 77
    words = {word["text"]: record["tokens"][word["start"] : word["stop"]] for word in record["words"]}
    assert "".join(words["tree"]) == "tree"
    assert record["settings"]["model"] == "tadp-tiny"
    assert record["settings"]["timestep"] == 0
    assert record["settings"]["captions"] == {"text": CAPTION}
    assert record["tadp"] == tadp.__version__


def test_levels_dtype_and_size_are_obeyed(photos, tmp_path):
    backbone = TADPBackbone.from_pretrained("tadp-tiny", dtype=torch.bfloat16, record_attention=(0,))
    run(backbone, photos / "cars" / "s3.png", tmp_path / "out", levels=(2,), max_side_px=32)
    tensors = load_file(tmp_path / "out" / "s3.safetensors")
    assert tensors.keys() == {"map.2", "attention.0", "attention.1", "attention.2"}
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert tensors["attention.0"].shape == (77, 3, 4)
    assert json.loads((tmp_path / "out" / "s3.json").read_text())["image_size"] == [20, 32]


def test_each_image_gets_the_captioner_s_words(backbone, captioner, photos, tmp_path):
    run(backbone, photos, tmp_path / "out", captioner, batch_size=3)
    for name in ("pets/s0", "pets/s1", "cars/s2", "cars/s3", "cars/s4"):
        record = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        assert record["caption"] == captioner(photos / f"{name}.png")[0]
        assert record["settings"]["captions"]["max_new_tokens"] == 8


def test_a_second_run_touches_nothing(backbone, photos, tmp_path):
    first = run(backbone, photos, tmp_path / "out")
    before = stamps(tmp_path / "out")
    assert run(backbone, photos, tmp_path / "out") == dict.fromkeys(first, "skipped")
    assert stamps(tmp_path / "out") == before


def test_a_new_image_alone_is_done(backbone, photos, tmp_path):
    run(backbone, photos, tmp_path / "out")
    shutil.copy(photos / "pets" / "s0.png", photos / "new.png")
    statuses = run(backbone, photos, tmp_path / "out")
    assert [name for name, status in statuses.items() if status == "done"] == ["new"]


def test_results_from_other_settings_are_kept_unless_overwritten(backbone, photos, tmp_path):
    run(backbone, photos, tmp_path / "out")
    before = stamps(tmp_path / "out")
    with pytest.raises(OutputError, match=r"5 of these 5 results.*captions was .* and is .*Pass another folder"):
        run(backbone, photos, tmp_path / "out", "a cat")
    with pytest.raises(OutputError, match=r"levels was \[0, 1, 2, 3\] and is \[1\]"):
        run(backbone, photos, tmp_path / "out", levels=[1])
    assert stamps(tmp_path / "out") == before
    assert set(run(backbone, photos, tmp_path / "out", "a cat", overwrite=True).values()) == {"done"}
    assert set(run(backbone, photos, tmp_path / "out", "a cat", overwrite=True).values()) == {"skipped"}
    assert json.loads((tmp_path / "out" / "pets" / "s1.json").read_text())["caption"] == "a cat"


def test_a_retrained_model_is_another_setting(photos, tmp_path):
    backbone = TADPBackbone.from_pretrained("tadp-tiny")
    before = fingerprint(backbone)
    assert before == fingerprint(TADPBackbone.from_pretrained("tadp-tiny"))
    rescaled = TADPBackbone.from_pretrained("tadp-tiny")
    rescaled.vae.config["scaling_factor"] *= 2
    assert before != fingerprint(rescaled)
    run(backbone, photos / "pets", tmp_path / "out")
    with torch.no_grad():
        backbone.unet.conv_in.bias += 1
    assert fingerprint(backbone) != before
    with pytest.raises(OutputError, match="weights was"):
        run(backbone, photos / "pets", tmp_path / "out")


def test_another_scheduler_is_another_setting_if_noise_is_added(backbone, photos, tmp_path):
    parts = {"unet": backbone.unet, "vae": backbone.vae, "text_encoder": backbone.text_encoder}

    def noisy(**changes: Any) -> TADPBackbone:
        return TADPBackbone(**parts, scheduler=ASSUMED_NOISE | changes, timestep=261, noise_samples=1)

    image = photos / "pets" / "s0.png"
    run(noisy(), image, tmp_path / "out")
    assert run(noisy(), image, tmp_path / "out") == {"s0": "skipped"}
    assert run(noisy(clip_sample=True, prediction_type="v_prediction"), image, tmp_path / "out") == {"s0": "skipped"}
    for changes, words in (
        ({"beta_end": 0.02}, r"scheduler\.beta_end was 0\.012 and is 0\.02"),
        ({"trained_betas": [0.1] * 1000}, r"scheduler\.trained_betas was null and is \[0\.1, "),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, r'scheduler was \{"num_train.* and is \{"flow": true'),
    ):
        with pytest.raises(OutputError, match=rf"for s0, {words}.*Pass another folder"):
            run(noisy(**changes), image, tmp_path / "out")
    run(TADPBackbone(**parts, scheduler=ASSUMED_NOISE), image, tmp_path / "plain")
    other = TADPBackbone(**parts, scheduler=ASSUMED_NOISE | {"beta_end": 0.02})
    assert run(other, image, tmp_path / "plain") == {"s0": "skipped"}


def test_images_are_read_while_earlier_ones_are_computed(backbone, photos, tmp_path, monkeypatch):
    events, read = [], threading.Event()
    decode, forward = reading_ahead.to_pil, type(backbone).forward

    def to_pil(image):
        events.append(image.stem)
        if len(events) == 2:
            read.set()
        return decode(image)

    def wait(self, *arguments, **options):
        assert read.wait(60)  # the second image is read during the first pass
        assert len(events) == 2  # and no further one before it is asked for
        return forward(self, *arguments, **options)

    monkeypatch.setattr(reading_ahead, "to_pil", to_pil)
    monkeypatch.setattr(type(backbone), "forward", wait)
    outcomes = extract_images(backbone, photos, tmp_path / "out", captions=CAPTION, model="tadp-tiny", batch_size=1)
    assert next(outcomes).status == "done"
    outcomes.close()


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_images_that_lack_memory_together_are_read_again_one_by_one(
    backbone, photos, tmp_path, monkeypatch, batch_size
):
    decode, lock, reads = reading_ahead.to_pil, threading.Lock(), []

    def to_pil(image):
        reads.append(image.stem)
        is_alone = lock.acquire(blocking=False)
        try:
            if image.stem == "s3":
                raise ImageError(f"{image} is too large") from MemoryError()
            if not is_alone or reads.count(image.stem) == 1:
                raise MemoryError
            return decode(image)
        finally:
            if is_alone:
                lock.release()

    monkeypatch.setattr(reading_ahead, "to_pil", to_pil)
    options = {"captions": CAPTION, "model": "tadp-tiny", "batch_size": batch_size}
    outcomes = list(extract_images(backbone, photos, tmp_path / "out", **options))
    statuses = {outcome.image.stem: outcome.status for outcome in outcomes}
    assert statuses == {"s0": "done", "s1": "done", "s2": "done", "s3": "failed", "s4": "done"}
    (error,) = [outcome.error for outcome in outcomes if outcome.error is not None]
    assert "s3.png needs more memory than there is. Process it in tiles" in str(error)
    assert {image: reads.count(image) for image in statuses} == dict.fromkeys(statuses, 2)


def test_a_pass_has_the_memory_of_the_pixels_that_were_read(backbone, photos, tmp_path, monkeypatch):
    forward, kept = type(backbone).forward, []

    def count(self, *arguments, **options):
        kept.append(sum(type(thing) is reading_ahead.ReadImage for thing in gc.get_objects()))
        return forward(self, *arguments, **options)

    monkeypatch.setattr(type(backbone), "forward", count)
    assert set(run(backbone, photos, tmp_path / "out").values()) == {"done"}
    assert kept == [0, 0]  # a pass for each size


def test_an_image_that_changes_while_it_is_computed_is_noticed(backbone, photos, tmp_path, monkeypatch):
    image, forward = photos / "pets" / "s0.png", type(backbone).forward

    def change(self, *arguments, **options):
        shutil.copy(photos / "pets" / "s1.png", image)
        return forward(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(backbone), "forward", change)
        run(backbone, image, tmp_path / "out")
    with pytest.raises(OutputError, match="the results are of another image"):
        run(backbone, image, tmp_path / "out")


def test_another_picture_under_the_same_name_is_noticed(backbone, photos, tmp_path):
    run(backbone, photos / "pets" / "s0.png", tmp_path / "out")
    shutil.copy(photos / "pets" / "s1.png", photos / "pets" / "s0.png")
    with pytest.raises(OutputError, match=r"for s0, the results are of another image \(.*s0\.png\)"):
        run(backbone, photos / "pets" / "s0.png", tmp_path / "out")


@pytest.mark.parametrize("damage", ["tensors gone", "tensors cut", "record cut", "record gone", "record of others"])
def test_incomplete_results_are_made_again(backbone, photos, tmp_path, damage):
    run(backbone, photos, tmp_path / "out")
    tensors, record = (tmp_path / "out" / "pets" / f"s0.{suffix}" for suffix in ("safetensors", "json"))
    good = tensors.read_bytes()
    match damage:
        case "tensors gone":
            tensors.unlink()
        case "tensors cut":
            tensors.write_bytes(good[:-100])
        case "record cut":
            record.write_text(record.read_text()[:300])
        case "record gone":
            record.unlink()
        case _:
            record.write_text("[1]")
    statuses = run(backbone, photos, tmp_path / "out")
    assert [name for name, status in statuses.items() if status == "done"] == ["pets/s0"]
    assert len(tensors.read_bytes()) == len(good)


def test_an_unreadable_image_is_named_and_the_others_go_through(backbone, photos, tmp_path):
    (photos / "text.jpg").write_text("hello")
    whole = (photos / "pets" / "s0.png").read_bytes()
    (photos / "cut.png").write_bytes(whole[: len(whole) // 2])
    outcomes = list(
        extract_images(backbone, photos, tmp_path / "out", captions=CAPTION, model="tadp-tiny", batch_size=2)
    )
    failed = {outcome.name: str(outcome.error) for outcome in outcomes if outcome.status == "failed"}
    assert failed.keys() == {"text", "cut"}
    assert "text.jpg" in failed["text"]
    assert sum(outcome.status == "done" for outcome in outcomes) == 5


def test_a_full_disk_stops_the_run_and_keeps_what_was_done(backbone, photos, tmp_path, monkeypatch):
    real, calls = Path.write_bytes, []

    def write_bytes(path, data):
        calls.append(path)
        if len(calls) == 3:
            real(path, data[:100])
            raise OSError(28, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(OutputError, match=r"s\d\.safetensors: .*No space left on device"):
        run(backbone, photos, tmp_path / "out", batch_size=1)
    monkeypatch.undo()
    files = sorted(stamps(tmp_path / "out"))
    assert len(files) == 4
    assert list(run(backbone, photos, tmp_path / "out").values()).count("skipped") == 2


def test_an_interrupted_overwrite_never_leaves_an_old_record_with_new_tensors(backbone, photos, tmp_path, monkeypatch):
    image, out = photos / "pets" / "s0.png", tmp_path / "out"
    run(backbone, image, out)

    real = os.replace

    def replace(source, target):
        real(source, target)
        if str(target).endswith(".safetensors"):
            raise KeyboardInterrupt

    monkeypatch.setattr("tadp.files.atomic.os.replace", replace)
    with pytest.raises(KeyboardInterrupt):
        run(backbone, image, out, "a cat", overwrite=True)
    monkeypatch.undo()
    assert run(backbone, image, out) == {"s0": "done"}


def extract_and_die(number: int, *arguments: str) -> None:
    """`tadp extract`, killed where it would replace a file for the `number`-th time. Runs in a process of its own."""
    real, count = os.replace, 0

    def replace(source, target):
        nonlocal count
        count += str(target).endswith((".safetensors", ".json"))
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)

    os.replace = replace
    app(["extract", *arguments])


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_run_goes_on_and_does_each_image_once(backbone, photos, tmp_path):
    out = tmp_path / "out"
    arguments = (str(photos), "-o", str(out), "--caption", CAPTION, "--batch-size", "1")
    # images in order: cars/s2, cars/s3, cars/s4, pets/s0, pets/s1; the sixth replacement is the third one's record
    for number, done in ((5, 2), (2, 2)):
        killed = run_function(extract_and_die, number, *arguments)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        records = sorted(path.stem for path in out.rglob("*.json"))
        assert records == ["s2", "s3"]
        assert len(records) == done
        assert list(out.rglob(".*.part"))
    # the second run wrote the third image's tensors and died before its record
    assert len(list(out.rglob("*.safetensors"))) == 3
    before = stamps(out)
    statuses = run(backbone, photos, out)
    assert list(statuses.values()).count("skipped") == 2
    assert list(statuses.values()).count("done") == 3
    assert not list(out.rglob(".*.part"))
    after = stamps(out)
    assert all(after[name] == stamp for name, stamp in before.items() if "s2." in name or "s3." in name)
    run(backbone, photos, tmp_path / "undisturbed")
    names = sorted(name for name in after if name.endswith(".safetensors"))
    assert len(names) == 5
    assert all(same_tensors(out / name, tmp_path / "undisturbed" / name) for name in names)


def test_the_part_file_of_a_run_that_lives_is_left_alone(backbone, photos, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    alive = out / partial_name("s0.safetensors", process=os.getppid())
    alive.touch()
    other = out / ".s0.safetensors.notes.part"
    other.touch()
    run(backbone, photos / "pets" / "s0.png", out)
    assert alive.exists()
    assert other.exists()


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("files", "paths", "names"),
    [
        (["p/x.png", "p/a/y.jpg"], ["p"], ["a/y", "x"]),
        (["p/a/x.png", "p/b/x.png"], ["p"], ["a/x", "b/x"]),
        (["p/a/x.png", "p/b/x.png"], ["p/a", "p/b/x.png"], ["a/x", "b/x"]),
        (["p/x.png", "p/x.jpg", "p/y.png"], ["p"], ["x.jpg", "x.png", "y"]),
        (["p/x.png", "p/x.jpg", "p/x.png.gif"], ["p"], ["x.jpg", "x.png", "x.png.gif"]),
        (["p/x.png", "p/X.jpg"], ["p"], ["X.jpg", "x.png"]),
        (["p/a/x.png", "p/a/y.txt"], ["p/**/*.png"], ["a/x"]),
        (["p/a/x.png"], ["p/a/x.png"], ["x"]),
        (["p/a/x.png"], ["p", "p/a", "p/a/../a/x.png"], ["a/x"]),
        (["p/x[1].png", "p/q.v2.png", "p/noext"], ["p/x[1].png", "p/q.v2.png", "p/noext"], ["x[1]", "q.v2", "noext"]),
    ],
)
def test_names_mirror_the_folders_and_never_collide(tmp_path, monkeypatch, files, paths, names):
    touch(tmp_path, *files)
    monkeypatch.chdir(tmp_path)
    assert list(output_names(paths).values()) == names
    assert list(output_names([str(tmp_path / path) for path in paths]).values()) == names


def test_a_name_does_not_change_when_a_folder_grows(tmp_path):
    touch(tmp_path, "p/cats/x.png")
    assert list(output_names(tmp_path / "p").values()) == ["cats/x"]
    touch(tmp_path, "p/dogs/y.png")
    assert list(output_names(tmp_path / "p").values()) == ["cats/x", "dogs/y"]


def test_what_cannot_work_is_refused_before_anything_is_read(backbone, photos, tmp_path):
    with pytest.raises(ValueError, match=r"no level 4; this backbone has levels 0 \(stride 8\), .*, 3 \(stride 64\)"):
        run(backbone, photos, tmp_path / "out", levels=[4])
    with pytest.raises(ValueError, match="batch_size must be 1 or more; got 0"):
        run(backbone, photos, tmp_path / "out", batch_size=0)
    with pytest.raises(CaptionError, match="tokens, but the text encoder takes 77"):
        run(backbone, photos, tmp_path / "out", "cat " * 100)
    with pytest.raises(ImageError, match="is not a file or folder, and no file matches it"):
        run(backbone, tmp_path / "nothing", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot make the folder .*file"):
        run(backbone, photos, tmp_path / "file")


def test_a_captioner_s_long_caption_is_cut_and_said(backbone, photos, tmp_path, captioner, monkeypatch):
    monkeypatch.setattr(Captioner, "__call__", lambda self, images: ["cat " * 100] * len(images))
    with pytest.warns(UserWarning, match="the rest was cut"):
        outcomes = list(
            extract_images(backbone, photos / "pets", tmp_path / "out", captions=captioner, model="m", batch_size=2)
        )
    assert [outcome.truncated for outcome in outcomes] == [True, True]


def test_shrinking_keeps_the_shape_and_never_enlarges():
    picture = Image.fromarray(np.zeros((30, 90, 3), np.uint8))
    assert shrink(picture, 45).size == (45, 15)
    assert shrink(picture, 200) is picture
    assert shrink(picture, 10).size == (10, 8)


# Tiles


def test_large_images_go_through_in_tiles(backbone, captioner, tmp_path):
    (tmp_path / "photos").mkdir()
    for k, scene in enumerate(Scenes(2, seed=3, size=200)):
        Image.fromarray(scene.image[: 150 if k else 200]).save(tmp_path / "photos" / f"s{k}.png")
    tiling = {"tile_px": 128, "overlap_px": 64}
    run(backbone, tmp_path / "photos", tmp_path / "out", captioner, **tiling, batch_size=2)
    for name in ("s0", "s1"):
        record = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        assert record["settings"]["tiling"] == tiling
        assert record["caption"] == captioner(tmp_path / "photos" / f"{name}.png")[0]  # that of the whole image
        expected = backbone.tiled(tmp_path / "photos" / f"{name}.png", record["caption"], **tiling, batch_size=2)
        tensors = load_file(tmp_path / "out" / f"{name}.safetensors")
        for level, one in enumerate(expected.maps):
            torch.testing.assert_close(tensors[f"map.{level}"], one[0], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(tensors["attention.1"], expected.attention.at(1)[0], atol=1e-4, rtol=1e-3)
    again = run(backbone, tmp_path / "photos", tmp_path / "out", captioner, **tiling)
    assert set(again.values()) == {"skipped"}
    with pytest.raises(OutputError, match=r"tiling was .*128.* and is null"):
        run(backbone, tmp_path / "photos", tmp_path / "out", captioner)


def test_an_image_within_a_tile_has_the_features_of_one_pass(backbone, photos, tmp_path):
    run(backbone, photos, tmp_path / "out", batch_size=1)
    run(backbone, photos, tmp_path / "tiled", batch_size=1, tile_px=64, overlap_px=0)
    for name in ("pets/s0", "cars/s3"):
        assert same_tensors(tmp_path / "out" / f"{name}.safetensors", tmp_path / "tiled" / f"{name}.safetensors")
    run(backbone, photos / "pets", tmp_path / "small", max_side_px=32, tile_px=64, overlap_px=0)
    assert json.loads((tmp_path / "small" / "s0.json").read_text())["image_size"] == [32, 32]


def test_what_cannot_be_tiled_is_told(backbone, photos, tmp_path):
    with pytest.raises(ValueError, match=r"tile_px must be a multiple of the coarsest stride, 64; got 100\. Pass 128"):
        run(backbone, photos, tmp_path / "out", tile_px=100)
    assert not (tmp_path / "out").exists()
    (photos / "broken.png").write_text("no image")
    Image.fromarray(np.full((64, 64), 1e9, np.int32)).save(photos / "deep.tif")
    statuses = run(backbone, photos, tmp_path / "out", tile_px=64, overlap_px=0)
    assert {name for name, status in statuses.items() if status == "failed"} == {"broken", "deep"}
    assert sum(status == "done" for status in statuses.values()) == 5


def test_an_image_whose_features_are_not_finite_fails_and_the_others_go_on(photos, tmp_path):
    own = TADPBackbone.from_pretrained("tadp-tiny")
    forward, calls = own.vae.forward, []

    def broken(pixels):
        posterior = forward(pixels)
        calls.append(len(pixels))
        if len(calls) == 1:
            posterior.mean[1] = torch.inf
        return posterior

    own.vae.forward = broken  # type: ignore
    outcomes = list(extract_images(own, photos, tmp_path / "out", captions=CAPTION, model="tadp-tiny"))
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    assert [outcome.status for outcome in outcomes].count("done") == 4
    assert len(failed) == 1
    assert str(failed[0].error).startswith(f"{failed[0].image} has no usable features: the map of level")
    assert not list((tmp_path / "out").rglob(f"{failed[0].image.stem}.*"))


def test_an_image_that_the_captioner_cannot_describe_fails_and_the_others_go_on(backbone, photos, captioner, tmp_path):
    forward = captioner._model.vision_model.forward
    seen = []

    def broken(pixel_values, **options):
        result = forward(pixel_values, **options)
        seen.append(len(pixel_values))
        # the second image of the first batch, and the same image when it is captioned again
        if len(seen) == 1 or len(seen) == 3:
            result[0][1 if len(seen) == 1 else 0] = torch.nan
        return result

    captioner._model.vision_model.forward = broken
    try:
        outcomes = list(extract_images(backbone, photos, tmp_path / "out", captions=captioner, model="tadp-tiny"))
    finally:
        del captioner._model.vision_model.forward
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    assert [outcome.status for outcome in outcomes].count("done") == 4
    assert len(failed) == 1
    assert "computed NaN or infinity for the image, so no caption can be written" in str(failed[0].error)
    assert str(failed[0].image) in str(failed[0].error)


def test_extracting_changes_no_mode_and_no_statistics(photos, tmp_path):
    own = TADPBackbone.from_pretrained("tadp-tiny").train()
    modes = [module.training for module in own.modules()]
    run(own, photos, tmp_path / "out")
    assert [module.training for module in own.modules()] == modes


def out_of_memory(real, *, most_pixels):
    """A pass that fails as torch does if its batch has more pixels than this."""

    def run(self, images, *arguments, **options):
        if images.shape[0] * images.shape[-1] * images.shape[-2] > most_pixels:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")
        return real(self, images, *arguments, **options)

    return run


def test_an_image_that_is_too_large_for_the_memory_costs_no_other(backbone, photos, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(photos, tmp_path / "copy"))
    Image.new("RGB", (320, 256)).save(folder / "large.png")
    real = type(backbone).forward
    with monkeypatch.context() as patch:
        patch.setattr(type(backbone), "forward", out_of_memory(real, most_pixels=200 * 200))
        outcomes = {
            outcome.name: outcome
            for outcome in extract_images(backbone, folder, tmp_path / "out", captions=CAPTION, model="tadp-tiny")
        }
    large = outcomes.pop("large")
    assert large.status == "failed"
    assert "large.png needs more memory than there is. Process it in tiles, tile_px=512, or" in str(large.error)
    assert {outcome.status for outcome in outcomes.values()} == {"done"}
    assert run(backbone, folder, tmp_path / "out")["large"] == "done"


def test_names_that_no_file_can_have_cost_no_other_image(backbone, photos, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    names = ["x" * 240, "x" * 251, "caf\udce9", " ", "plain"]
    for name in names:
        shutil.copy(photos / "pets" / "s0.png", folder / f"{name}.png")
    statuses = run(backbone, folder, tmp_path / "out")
    assert statuses == {name: "failed" if len(name) == 251 else "done" for name in names}
    assert run(backbone, folder, tmp_path / "out")["caf\udce9"] == "skipped"


def test_two_runs_do_not_write_to_one_folder(backbone, photos, tmp_path):
    outcomes = extract_images(backbone, photos, tmp_path / "out", captions=CAPTION, model="tadp-tiny", batch_size=1)
    next(outcomes)
    with pytest.raises(OutputError, match=r"another run is writing .*out\. Wait for it, or choose another folder"):
        run(backbone, photos, tmp_path / "out")
    outcomes.close()
    assert list(run(backbone, photos, tmp_path / "out").values()).count("skipped") == 1
    assert not list((tmp_path / "out").glob(".*"))


def test_a_folder_that_is_deleted_during_a_run_is_an_error(backbone, photos, tmp_path):
    outcomes = extract_images(backbone, photos, tmp_path / "out", captions=CAPTION, model="tadp-tiny", batch_size=1)
    next(outcomes)
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(OutputError, match=r"out was deleted, moved or unmounted while this run was writing"):
        list(outcomes)


def test_an_image_that_is_gone_is_not_done(backbone, photos, tmp_path):
    folder = Path(shutil.copytree(photos / "pets", tmp_path / "copy"))
    run(backbone, folder, tmp_path / "out")
    images = ImageList.of(folder)
    (folder / "s0.png").unlink()
    assert run(backbone, images, tmp_path / "out") == {"s0": "failed", "s1": "skipped"}
    (folder / "s0.png").symlink_to("/mnt/disk/s0.png")
    assert run(backbone, folder, tmp_path / "out") == {f"{folder}/s0.png": "failed", "s1": "skipped"}
