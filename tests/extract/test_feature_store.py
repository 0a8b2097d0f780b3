"""Feature stores: shards, their manifest, and reading them."""

import errno
import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killing import kill_at
from PIL import Image
from pyarrow import parquet
from pyarrow.compute import field
from running import plain, tadp_run
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from tadp.backbone import TADPBackbone
from tadp.datasets.scenes import Scenes
from tadp.errors import DatasetError, ImageError, MissingDataError, MissingExtraError, OutputError, UnknownIdError
from tadp.extract import FeatureStore, Outcome, SavedTensors, StoredFeatures, extract_images, manifest
from tadp.extract.saved_tensors import expected_bytes, readable_bytes
from tadp.extract.store_index import StoreIndex
from tadp.extract.store_writer import StoreWriter
from tadp.files.atomic import writable_folder
from tadp.heads import LinearHead

CAPTION = "a red car next to a tree on grass"


@pytest.fixture(scope="module")
def backbone() -> TADPBackbone:
    return TADPBackbone.from_pretrained("tadp-tiny", record_attention=(0,))


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    """Three images of one size, one of another, and a file that is not an image."""
    folder = tmp_path_factory.mktemp("photos")
    for number, scene in enumerate(Scenes(4, seed=3, size=64)):
        path = folder / ("pets" if number < 2 else "cars") / f"s{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(scene.image[: 40 if number == 3 else 64]).save(path)
    (folder / "broken.png").write_text("hello")
    return folder


@pytest.fixture(scope="module")
def filled(backbone, originals, tmp_path_factory) -> Path:
    """A store of them."""
    folder = tmp_path_factory.mktemp("filled")
    run(backbone, originals, folder)
    return folder


@pytest.fixture
def photos(originals, tmp_path) -> Path:
    return Path(shutil.copytree(originals, tmp_path / "photos"))


@pytest.fixture
def stored(filled, tmp_path) -> Path:
    return Path(shutil.copytree(filled, tmp_path / "store"))


def outcomes(backbone, paths, output, captions: Any = CAPTION, **options) -> list[Outcome]:
    return list(extract_images(backbone, paths, output, captions=captions, model="m", shards=True, **options))


def run(backbone, paths, output, captions: Any = CAPTION, **options) -> dict[str, str]:
    """The status of each image by its id."""
    return {outcome.name: outcome.status for outcome in outcomes(backbone, paths, output, captions, **options)}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of the manifest, read by pyarrow alone, in the order of their ids."""
    rows = [
        row for path in sorted((folder / "manifest").glob("*.parquet")) for row in parquet.read_table(path).to_pylist()
    ]
    return sorted(rows, key=lambda row: row["id"])


def shards_of(folder: Path) -> list[Path]:
    return sorted((folder / "shards").glob("*.safetensors"))


# What is stored


def test_a_store_returns_what_the_backbone_returned(backbone, originals, filled):
    store = FeatureStore.open(filled)
    assert sorted(store.ids()) == ["cars/s2", "cars/s3", "pets/s0", "pets/s1"]
    assert len(store) == 4
    for image_id in ("pets/s0", "cars/s3"):
        with torch.inference_mode():
            expected = backbone(originals / f"{image_id}.png", CAPTION)
        item = store[image_id]
        assert (item.ids, item.captions) == ((image_id,), (CAPTION,))
        assert item.features.image_size == expected.image_size
        for kept, original in zip(item.features.maps, expected.maps, strict=True):
            torch.testing.assert_close(kept, original, atol=1e-4, rtol=1e-3)
        attention = item.features.attention
        assert attention.levels == expected.attention.levels == (0, 1, 2)
        assert attention.cells == {level: expected.attention.cells[level] for level in range(4)}
        assert attention.tokens == expected.attention.tokens
        torch.testing.assert_close(
            attention.pool(["car"], 1).maps, expected.attention.pool(["car"], 1).maps, atol=1e-4, rtol=1e-3
        )
        assert attention.words(1)[0].words == expected.attention.words(1)[0].words


def test_items_have_numbers_in_the_order_of_the_ids(filled):
    store = FeatureStore.open(filled)
    assert [store[number].ids[0] for number in range(-4, 4)] == store.ids() * 2
    assert [item.ids[0] for item in store] == store.ids()
    with pytest.raises(IndexError):
        store[4]


def test_the_manifest_has_a_row_for_each_image(originals, filled):
    rows = {row["id"]: row for row in rows_of(filled)}
    assert [row["status"] for row in rows.values()] == ["failed", "done", "done", "done", "done"]
    row = rows["cars/s3"]
    assert (row["height"], row["width"], row["caption"], row["levels"]) == (40, 64, CAPTION, [0, 1, 2, 3])
    assert row["dtype"] == "float32"
    assert row["source"] == str(originals / "cars" / "s3.png")
    words = {word["text"]: row["tokens"][word["start"] : word["stop"]] for word in row["words"]}
    assert "".join(words["tree"]) == "tree"
    assert "broken.png" in rows["broken"]["reason"]
    assert rows["broken"]["shard"] is None


def test_shards_are_safetensors_files(filled):
    tensors = {name: tensor for path in shards_of(filled) for name, tensor in load_file(path).items()}
    store = FeatureStore.open(filled)
    row = next(row for row in rows_of(filled) if row["id"] == "cars/s2")
    for level, level_map in enumerate(store["cars/s2"].features.maps):
        assert torch.equal(tensors[f"{row['row']}.map.{level}"], level_map[0])
    assert json.loads(bytes(tensors[f"{row['row']}.record"].tolist()))["id"] == "cars/s2"


def test_a_shard_has_at_most_the_size_that_was_asked_for(tmp_path):
    with_rows(tmp_path, 7, shard_mb=1, values=100_000)  # 400 kB each
    assert [path.stat().st_size < 1e6 for path in shards_of(tmp_path)] == [True] * 4
    assert sorted(FeatureStore.open(tmp_path).ids()) == sorted(f"image/{number}" for number in range(7))


def test_the_store_works_in_the_workers_of_a_loader(filled):
    store = FeatureStore.open(filled).where(field("height") == 64)
    options: dict[str, Any] = {"batch_size": 3, "collate_fn": StoredFeatures.stack, "num_workers": 1}
    (batch,) = DataLoader(store, **options, multiprocessing_context="fork")
    assert list(batch.ids) == store.ids()
    for number, image_id in enumerate(batch.ids):
        assert torch.equal(batch.features.maps[1][number], store[image_id].features.maps[1][0])
        assert torch.equal(batch.features.attention.at(2)[number], store[image_id].features.attention.at(2)[0])
    again = pickle.loads(pickle.dumps(store))  # as a spawned worker receives it
    assert again.ids() == store.ids()
    assert torch.equal(again[1].features.maps[0], store[1].features.maps[0])


def test_a_head_takes_stored_features(backbone, filled):
    head = LinearHead(backbone.feature_info, num_classes=3).eval()
    assert head(FeatureStore.open(filled)["pets/s0"].features).shape[:2] == (1, 3)


def test_images_of_different_sizes_make_no_batch(filled):
    store = FeatureStore.open(filled)
    with pytest.raises(
        ValueError, match=r"a batch must have images of one size; got 40x64, 64x64\. Extract with a fixed"
    ):
        StoredFeatures.stack(list(store))


def test_part_of_a_store_is_chosen_by_the_manifest(filled):
    store = FeatureStore.open(filled)
    tall = store.where(field("height") == 64)
    assert sorted(tall.ids()) == ["cars/s2", "pets/s0", "pets/s1"]
    pets = tall.where(field("id").isin(["pets/s1", "cars/s3"]))
    assert [item.ids[0] for item in pets] == ["pets/s1"]
    assert "pets/s1" in pets
    assert "pets/s0" not in pets
    with pytest.raises(UnknownIdError, match=r"'pets/s0' is not in this part of"):
        pets["pets/s0"]
    assert len(store.where(field("height") == 1)) == 0
    with pytest.raises(ValueError, match=r"hight.*The columns are id, status"):
        store.where(field("hight") == 64)


def test_an_id_that_is_not_there_is_an_error(filled):
    store = FeatureStore.open(filled)
    with pytest.raises(UnknownIdError, match=r"no image 'pets/s9' in .*store\.ids\(\) lists the ids"):
        store["pets/s9"]
    with pytest.raises(UnknownIdError, match=r"'broken' in .* has no features, because it failed: .*broken\.png"):
        store["broken"]
    with pytest.raises(UnknownIdError, match=r"no image 'PETS/s1' in .*; there is 'pets/s1'"):
        store["PETS/s1"]
    assert "broken" not in store


# Less disk space


def test_saved_attention_can_be_averaged_by_name(backbone, originals, tmp_path):
    names = ("tree", "dog")
    run(backbone, originals / "cars", tmp_path, saved=SavedTensors(names=names, dtype=torch.float16))
    item = FeatureStore.open(tmp_path)["cars/s3" if (originals / "cars" / "cars").exists() else "s3"]
    expected = backbone(originals / "cars" / "s3.png", CAPTION)
    for level in (0, 1, 2):
        kept = item.features.attention.at(level)
        assert kept.dtype == torch.float16
        pooled = expected.attention.pool(names, level).maps
        torch.testing.assert_close(kept.float(), pooled, atol=1e-3, rtol=1e-2)
    assert item.features.attention.words(1)[0].words == names
    assert not item.features.attention.at(1)[:, 1].any()
    assert {level_map.dtype for level_map in item.features.maps} == {torch.float16}


def test_cells_can_be_averaged(backbone, originals, tmp_path):
    image = originals / "cars" / "s3.png"
    expected = backbone(image, CAPTION)
    run(backbone, image, tmp_path / "pooled", saved=SavedTensors(pool=2))
    pooled = FeatureStore.open(tmp_path / "pooled")["s3"].features
    for level, kept in enumerate(pooled.maps):
        full = expected.maps[level]
        assert kept.shape[2:] == (-(-full.shape[2] // 2), -(-full.shape[3] // 2))
        torch.testing.assert_close(
            kept[0, :, -1, -1], full[0, :, 2 * kept.shape[2] - 2 :, 2 * kept.shape[3] - 2 :].mean((1, 2))
        )
    assert pooled.attention.cells[1] == (40 / 32, 64 / 32)
    run(backbone, image, tmp_path / "grid", saved=SavedTensors(grid=(1, 1)), levels=[0])
    grid = FeatureStore.open(tmp_path / "grid")["s3"].features
    torch.testing.assert_close(grid.maps[0][..., 0, 0], expected.maps[0].mean((2, 3)), atol=1e-4, rtol=1e-3)
    assert {tuple(grid.attention.at(level).shape) for level in (0, 1, 2)} == {(1, 77, 1, 1)}


def test_with_a_grid_images_of_different_sizes_are_one_batch(backbone, originals, tmp_path):
    run(backbone, originals, tmp_path, saved=SavedTensors(grid=(4, 4)))
    batch = StoredFeatures.stack(list(FeatureStore.open(tmp_path)))
    assert [tuple(level_map.shape[2:]) for level_map in batch.features.maps] == [(4, 4)] * 4
    assert len(batch.ids) == 4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pool": 0}, ValueError, "pool must be"),
        ({"grid": (0, 4)}, ValueError, "a side of grid must be"),
        (
            {"grid": (4, 4), "pool": 2},
            ValueError,
            r"grid must be \(height, width\), without pool; got \(4, 4\) and pool 2",
        ),
        ({"dtype": torch.int8}, ValueError, "dtype must be one of float32, float16, bfloat16, float64; got int8"),
        ({"names": "dog"}, TypeError, r"names must be a list of names; got 'dog'\. Pass \['dog'\]"),
    ],
)
def test_a_form_that_cannot_be_saved_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        SavedTensors(**options)


@pytest.mark.parametrize("saved", [SavedTensors(), SavedTensors(names=("car",), pool=2, dtype=torch.float16)])
def test_the_expected_size_is_that_of_the_tensors(backbone, originals, tmp_path, saved):
    heads = backbone.with_options(record_heads=True)
    images = sorted((originals / "cars").glob("*.png"))
    expected = expected_bytes(images, saved, backbone=heads, levels=[0, 2])
    run(heads, images, tmp_path, saved=saved, levels=[0, 2])
    tensors = sum(row["bytes"] - row["record_bytes"] for row in rows_of(tmp_path))
    assert 0 < expected - tensors < 2 * 2001  # 2 kB per image for its text


def test_a_disk_that_is_too_small_is_noticed_before_the_run(backbone, originals, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 5000))
    with pytest.raises(
        OutputError, match=r"the results need about \d+ kB, but .* has only 5 kB free\. Save fewer levels"
    ):
        run(backbone, originals, tmp_path)
    assert not shards_of(tmp_path)
    assert readable_bytes(12_345_678_901) == "12.3 GB"


# A run that continues another


def test_a_second_run_writes_nothing(backbone, originals, stored):
    before = {path: path.stat().st_mtime_ns for path in stored.rglob("*.*")}
    assert run(backbone, originals, stored) == {
        "broken": "failed", "cars/s2": "skipped", "cars/s3": "skipped", "pets/s0": "skipped", "pets/s1": "skipped",
    }  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in stored.rglob("*.*")} == before


def test_images_are_recognised_by_id_and_not_by_their_order(backbone, photos, stored):
    shutil.copy(photos / "pets" / "s0.png", photos / "a.png")
    statuses = run(backbone, photos, stored)
    assert [image_id for image_id, status in statuses.items() if status == "done"] == ["a"]
    assert len(FeatureStore.open(stored)) == 5


def test_a_failed_image_is_tried_again_if_it_changed_or_on_request(backbone, photos, stored, monkeypatch):
    error = next(outcome.error for outcome in outcomes(backbone, photos, stored) if outcome.status == "failed")
    assert "broken.png' is not an image" in str(error)
    assert "This was in an earlier run; to try again, pass retry_failed=True." in str(error)
    again = outcomes(backbone, photos, stored, retry_failed=True)
    assert "earlier run" not in str(next(outcome.error for outcome in again if outcome.status == "failed"))
    assert [row["status"] for row in rows_of(stored)].count("failed") == 1
    shutil.copy(photos / "pets" / "s0.png", photos / "broken.png")
    assert run(backbone, photos, stored)["broken"] == "done"
    assert [row["status"] for row in rows_of(stored)] == ["done"] * 5
    assert not FeatureStore.open(stored).failures()


def test_a_changed_image_or_caption_is_computed_again_only_on_request(backbone, photos, stored, tmp_path):
    shutil.copy(photos / "pets" / "s1.png", photos / "pets" / "s0.png")
    with pytest.raises(
        OutputError, match=r"holds 1 of these 5 results with other settings: for pets/s0, the results are"
    ):
        run(backbone, photos, stored)
    before = FeatureStore.open(stored)["pets/s0"].features.maps[0].clone()
    assert run(backbone, photos, stored, overwrite=True)["pets/s0"] == "done"
    store = FeatureStore.open(stored)
    assert not torch.equal(store["pets/s0"].features.maps[0], before)
    assert [row["id"] for row in rows_of(stored)] == ["broken", "cars/s2", "cars/s3", "pets/s0", "pets/s1"]
    assert len(store) == 4
    assert not list(store.verify())  # although a shard has a row that does not count anymore
    captions = dict.fromkeys(("cars/s2", "cars/s3", "pets/s0", "pets/s1", "broken"), CAPTION)
    run(backbone, photos, tmp_path / "table", captions)
    with pytest.raises(OutputError, match=r"for cars/s2, caption was \"a red car"):
        run(backbone, photos, tmp_path / "table", captions | {"cars/s2": "a cat"})


def test_other_settings_need_another_store(backbone, originals, stored):
    with pytest.raises(
        OutputError, match=r"is a feature store with other settings: levels was \[0, 1, 2, 3\] and is \[1\]"
    ):
        run(backbone, originals, stored, levels=[1])
    with pytest.raises(OutputError, match=r"other settings: saved was null and is .*choose another folder"):
        run(backbone, originals, stored, saved=SavedTensors(pool=2), overwrite=True)
    with pytest.raises(OutputError, match=r"is a feature store\. Choose another folder, or pass shards=True"):
        list(extract_images(backbone, originals, stored, captions=CAPTION, model="m"))
    description = json.loads((stored / "store.json").read_text())
    (stored / "store.json").write_text(json.dumps(description | {"feature_store": 99}))
    with pytest.raises(OutputError, match=r"of format 99; this version of tadp knows 1"):
        run(backbone, originals, stored)
    with pytest.raises(DatasetError, match=r"of format 99; this version of tadp knows 1"):
        FeatureStore.open(stored)


def test_only_one_run_at_a_time_writes_to_a_store(backbone, originals, tmp_path):
    options: dict[str, Any] = {"captions": CAPTION, "model": "m", "shards": True, "batch_size": 1}
    outcomes = extract_images(backbone, originals, tmp_path / "out", **options)
    assert [next(outcomes).status for _ in range(3)] == ["failed", "done", "done"]
    with pytest.raises(OutputError, match=r"another run is writing .*out\. Wait for it, or choose another folder"):
        run(backbone, originals, tmp_path / "out")
    outcomes.close()
    assert sorted(FeatureStore.open(tmp_path / "out").ids()) == ["cars/s2", "cars/s3"]  # what was computed is kept


@pytest.mark.parametrize("names", [("x.png", "X.png"), ("caf\u00e9.png", "cafe\u0301.png"), ("x.png", "x.jpg")])
def test_ids_that_could_be_confused_are_refused(backbone, originals, tmp_path, names):
    (tmp_path / "in").mkdir()
    for name in names:
        shutil.copy(originals / "pets" / "s0.png", tmp_path / "in" / name)
    with pytest.raises(
        ImageError, match=r"would have the ids '.*' and '.*', but ids must differ in more than case and"
    ):
        run(backbone, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "in" / names[1]).unlink()
    run(backbone, tmp_path / "in", tmp_path / "out")
    assert Path(names[0]).stem in FeatureStore.open(tmp_path / "out")


def test_an_id_in_another_case_than_the_stored_one_is_refused(backbone, photos, stored):
    (photos / "pets" / "s0.png").rename(photos / "pets" / "S0.png")
    with pytest.raises(
        ImageError, match=r"has the id 'pets/S0', and .* has 'pets/s0'\. Ids must differ in more than case"
    ):
        run(backbone, photos, stored)


def test_an_id_in_another_unicode_form_is_the_same_image(backbone, originals, tmp_path):
    (tmp_path / "in").mkdir()
    first, second = (tmp_path / "in" / f"caf{accent}.png" for accent in ("\u00e9", "e\u0301"))
    shutil.copy(originals / "pets" / "s0.png", first)
    run(backbone, tmp_path / "in", tmp_path / "out")
    first.rename(second)
    assert list(run(backbone, tmp_path / "in", tmp_path / "out").values()) == ["skipped"]
    assert "cafe\u0301" in FeatureStore.open(tmp_path / "out")


@pytest.mark.parametrize("count", [1, 2, 9, 5000])
def test_a_key_is_found_in_the_index(count):
    keys = np.unique(np.random.default_rng(count).integers(0, 2**64 - 1, count, dtype=np.uint64, endpoint=True))
    for known in (keys, np.arange(count, dtype=np.uint64)):  # the second are far from evenly distributed
        index = StoreIndex(*[known] * 6, shards=[], parts={}, replaced=[], superseded=0, last_run=0)
        for number in {0, count // 2, count - 1}:
            assert index.find(known[number : number + 1]).tolist() == [number]
        for missing in {0, 2**63, 2**64 - 1}.difference(known.tolist()):
            assert index.find(np.array([missing], np.uint64)).tolist() == [-1]
        assert index.find(known[::-1]).tolist() == list(range(count))[::-1]


# Damage


def test_a_missing_shard_is_an_error_and_is_computed_again(backbone, originals, stored):
    (shard,) = shards_of(stored)
    shard.unlink()
    store = FeatureStore.open(stored)
    with pytest.raises(MissingDataError, match=rf"the shard .*{shard.name} is missing, but the manifest names it"):
        store[0]
    assert "is missing" in next(store.verify())
    statuses = run(backbone, originals, stored)
    assert sorted(statuses.values()) == ["done", "done", "done", "done", "failed"]
    store = FeatureStore.open(stored)
    assert not list(store.verify())
    assert len(rows_of(stored)) == 5


def test_a_shard_that_is_cut_short_is_an_error(stored):
    (shard,) = shards_of(stored)
    os.truncate(shard, shard.stat().st_size - 1)
    store = FeatureStore.open(stored)
    with pytest.raises(DatasetError, match=rf"the shard .*{shard.name} is damaged: it is cut short"):
        list(store)
    assert list(store.verify()) == [f"{shard} has {shard.stat().st_size} bytes instead of {shard.stat().st_size + 1}"]
    shard.write_bytes(b"")
    with pytest.raises(DatasetError, match="it is empty"):
        FeatureStore.open(stored)[0]


def test_a_byte_that_changed_is_found(stored):
    (shard,) = shards_of(stored)
    content = shard.read_bytes()
    places = np.random.default_rng(0).integers(0, len(content), 40).tolist()
    header = 8 + int.from_bytes(content[:8], "little")
    for place in (0, 3, 7, 8, header - 1, header, *places, len(content) - 1):
        shard.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert any(str(shard) in damage for damage in FeatureStore.open(stored).verify()), place
    shard.write_bytes(content + b"0")
    assert list(FeatureStore.open(stored).verify())


@pytest.mark.parametrize("damage", ["cut", "other columns"])
def test_a_damaged_manifest_is_an_error(stored, damage):
    (part,) = (stored / "manifest").glob("*.parquet")
    shutil.rmtree(stored / "index")
    if damage == "cut":
        part.write_bytes(part.read_bytes()[:-50])
    else:
        parquet.write_table(parquet.read_table(part).drop_columns(["key"]), part)
    with pytest.raises(
        DatasetError, match=r"\.parquet cannot be read as a part of a manifest: .*Get the file from a copy"
    ):
        FeatureStore.open(stored)


def test_a_lost_manifest_is_made_again_from_the_shards(backbone, originals, stored):
    rows = [row for row in rows_of(stored) if row["status"] == "done"]
    shutil.rmtree(stored / "manifest")
    assert run(backbone, originals, stored) == {
        "broken": "failed", "cars/s2": "skipped", "cars/s3": "skipped", "pets/s0": "skipped", "pets/s1": "skipped",
    }  # fmt: skip
    assert [row for row in rows_of(stored) if row["status"] == "done"] == rows


@pytest.mark.parametrize("damage", ["gone", "cut", "of an older manifest"])
def test_the_index_is_made_again(stored, damage):
    (index,) = (stored / "index").iterdir()
    match damage:
        case "gone":
            shutil.rmtree(index)
        case "cut":
            os.truncate(index / "keys.npy", 100)
        case _:
            index.rename(index.with_name("0" * 16))
    assert FeatureStore.open(stored)["pets/s1"].ids == ("pets/s1",)
    assert [path.name for path in (stored / "index").iterdir()] == [index.name]


def test_a_folder_that_is_not_a_store_is_an_error(tmp_path):
    for content in (None, "{", "[1]", '{"feature_store": 1}'):
        if content is not None:
            (tmp_path / "store.json").write_text(content)
        with pytest.raises(
            MissingDataError, match=r"is not a feature store: it lacks store\.json, or that file is damaged"
        ):
            FeatureStore.open(tmp_path)


def test_without_pyarrow_the_error_says_how_to_install_it(backbone, originals, filled, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for action in (lambda: FeatureStore.open(filled), lambda: run(backbone, originals, tmp_path / "out")):
        with pytest.raises(MissingExtraError, match=r"a feature store needs pyarrow.*pip install 'tadp\[parquet\]'"):
            action()


# The writer by itself, with made-up features


def with_rows(
    folder: Path, count: int, *, shard_mb: int = 1, values: int = 3, each: bool = False, start: int = 0
) -> None:
    """Write rows whose only map is full of their number; with `each`, every row gets a shard of its own."""
    writer = StoreWriter(writable_folder(folder), {"made": "up"}, shard_mb=shard_mb)
    for number in range(start, start + count):
        name = f"image/{number}"
        if StoreIndex.open(folder).find(np.array([key(name)], np.uint64))[0] >= 0:
            continue
        record: dict[str, Any] = {
            "image": f"{name}.png", "image_sha256": f"{number:064x}", "image_size": [8, 8], "caption": name,
            "tokens": ["a"], "words": [], "levels": [0], "cells": {}, "has_grid": False,
        }  # fmt: skip
        writer.write(name, record, {"map.0": torch.full((values, 1, 1), float(number))})
        if each:
            writer.flush()
    writer.close()


def key(image_id: str) -> int:
    from tadp.extract.store_index import key_of_id

    return key_of_id(image_id)


def check_rows(folder: Path, count: int) -> None:
    store = FeatureStore.open(folder)
    assert sorted(store.ids()) == sorted(f"image/{number}" for number in range(count))
    assert sorted(row["id"] for row in rows_of(folder)) == sorted(store.ids())
    for number in range(count):
        assert store[f"image/{number}"].features.maps[0].unique().tolist() == [number]
    assert not list(store.verify())


def test_small_parts_of_the_manifest_are_merged(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "_FAN_IN", 4)
    with_rows(tmp_path, 37, each=True)
    check_rows(tmp_path, 37)
    assert len(list((tmp_path / "manifest").glob("*.parquet"))) <= 3 * 3
    assert len(shards_of(tmp_path)) == 37


def test_a_part_that_was_merged_but_not_deleted_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "_FAN_IN", 4)
    copies = tmp_path / "copies"
    copies.mkdir()
    write_part = manifest.write_part

    def write(path, rows):
        write_part(path, rows)
        shutil.copy(path, copies)

    monkeypatch.setattr(manifest, "write_part", write)
    with_rows(tmp_path / "store", 4, each=True)
    (merged,) = (tmp_path / "store" / "manifest").glob("*.parquet")
    for copy in copies.iterdir():
        shutil.copy(copy, tmp_path / "store" / "manifest")
    assert len(FeatureStore.open(tmp_path / "store")) == 4
    with_rows(tmp_path / "store", 1)
    check_rows(tmp_path / "store", 4)
    assert list((tmp_path / "store" / "manifest").glob("*.parquet")) == [merged]


@pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")
def test_a_run_that_is_killed_at_any_file_event_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "_FAN_IN", 2)
    folder, kills = tmp_path / "store", 0
    while kill_at(kills * 9, lambda: with_rows(folder, 3, each=True), folder=folder):  # a fork takes half a second
        if (folder / "store.json").exists():  # what was complete can be read
            assert {item.ids[0] for item in FeatureStore.open(folder)} <= {f"image/{row}" for row in range(3)}
        with_rows(folder, 3, each=True)
        check_rows(folder, 3)
        assert not list(folder.rglob(".*.part"))
        shutil.rmtree(folder)
        kills += 1
    assert kills >= 8


def test_a_full_disk_stops_the_run_and_keeps_earlier_shards(tmp_path, monkeypatch):
    real = Path.open

    def full(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if "w" in mode and "-000002.safetensors" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(
        OutputError, match=r"000002\.safetensors: .*No space left.* The last 1 images are not in the store"
    ):
        with_rows(tmp_path, 5, each=True)
    monkeypatch.undo()
    check_rows(tmp_path, 2)
    with_rows(tmp_path, 5, each=True)
    check_rows(tmp_path, 5)


# The command line


def test_the_commands_write_and_report_a_store(originals, tmp_path):
    out = tmp_path / "out"
    arguments = (
        "extract",
        originals,
        "-o",
        out,
        "--shards",
        "--caption",
        CAPTION,
        "--level",
        1,
        "--save-dtype",
        "float16",
    )
    result = tadp_run(*arguments, "--grid", "2x3", "--pool-attention", "car", code=1)
    assert "5 images, about " in plain(result.output)
    assert "65x2x3" in plain(result.output)  # 64 channels and attention to the car
    result = tadp_run("features", out, "--verify")
    assert "4 images done, 1 failed; " in plain(result.output)
    assert "broken.png' is not an image that Pillow can read" in plain(result.output)
    assert "all shards are as they were written" in plain(result.output)
    assert tuple(FeatureStore.open(out)["pets/s0"].features.maps[0].shape) == (1, 65, 2, 3)
    (shard,) = shards_of(out)
    os.truncate(shard, 5000)
    assert f"{shard.name} has 5000 bytes instead of" in plain(tadp_run("features", out, "--verify", code=1).output)
    assert "is not a grid; pass rows x columns" in plain(tadp_run(*arguments, "--grid", "16", code=2).output)
    assert "without pool" in plain(tadp_run(*arguments, "--grid", "2x3", "--pool", "2", code=2).output)
