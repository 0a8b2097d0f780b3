"""Render the training scenes once, to memory-mapped arrays that every training script reads."""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tadp.datasets.scenes import STYLES, Scenes, Style

SIZE = 128
VARIANTS = 6
CHUNK = 500
FIRST_STYLED = 40_000  # first index of styled scenes, which also have seed 0 but come after the cached ones


@dataclass(frozen=True)
class SceneCache:
    """Images, (N, 128, 128, 3), and masks, (N, 128, 128), uint8, with one record of texts per scene.

    A record has `names` (visible classes, from left to right), `caption`, `long`, and `variants` (the same facts in
    other words).
    """

    images: np.ndarray
    masks: np.ndarray
    records: list[dict]


def open_cache(folder: Path, count: int, *, seed: int) -> SceneCache:
    """The first `count` scenes of a seed, 70 % of them plain. They are rendered once; an interrupted call continues."""
    folder.mkdir(parents=True, exist_ok=True)
    chunks = [_chunk(folder, seed, start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    missing = [chunk for chunk in chunks if not chunk.exists()]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        work = pool.map(partial(_render_chunk, seed), missing)
        for _ in tqdm(work, total=len(missing), desc="rendering scenes", unit="chunk", disable=not missing):
            pass
    images = np.concatenate([np.load(chunk / "images.npy", mmap_mode="r") for chunk in chunks])
    masks = np.concatenate([np.load(chunk / "masks.npy", mmap_mode="r") for chunk in chunks])
    records = [json.loads(line) for chunk in chunks for line in (chunk / "records.jsonl").read_text().splitlines()]
    return SceneCache(images[:count], masks[:count], records[:count])


def styled_scenes(folder: Path, style: Style, count: int) -> SceneCache:
    """Scenes of one style with captions, rendered on the first call."""
    start = FIRST_STYLED + STYLES.index(style) * count
    stem = folder / f"{style}-{start}-{count}"
    if not stem.with_suffix(".jsonl").exists():
        folder.mkdir(parents=True, exist_ok=True)
        source = Scenes(10_000_000, seed=0, size=SIZE, style=style)
        images, masks = np.empty((count, SIZE, SIZE, 3), np.uint8), np.empty((count, SIZE, SIZE), np.uint8)
        lines = []
        for row in range(count):
            scene = source[start + row]
            images[row], masks[row] = scene.image, scene.mask
            record = {
                "names": scene.names,
                "style": style,
                "caption": scene.caption(),
                "long": scene.caption(long=True),
            }
            lines.append(json.dumps(record))
        np.save(f"{stem}-images.npy", images)
        np.save(f"{stem}-masks.npy", masks)
        stem.with_suffix(".jsonl").write_text("\n".join(lines))
    records = [json.loads(line) for line in stem.with_suffix(".jsonl").read_text().splitlines()]
    return SceneCache(np.load(f"{stem}-images.npy"), np.load(f"{stem}-masks.npy"), records)


def _chunk(folder: Path, seed: int, start: int, end: int) -> Path:
    return folder / f"seed{seed}" / f"{start:06d}-{end:06d}"


def _render_chunk(seed: int, chunk: Path) -> None:
    scenes = Scenes(10_000_000, seed=seed, size=SIZE, style=None)
    images, masks, records = [], [], []
    for index in range(*map(int, chunk.name.split("-"))):
        scene = scenes[index]
        rng = np.random.default_rng((seed, index, 1))
        images.append(scene.image)
        masks.append(scene.mask)
        records.append(
            {
                "names": scene.names,
                "style": scene.layout.style,
                "caption": scene.caption(),
                "long": scene.caption(long=True),
                "variants": [scene.caption(rng) for _ in range(VARIANTS)],
            }
        )
    part = chunk.with_suffix(".part")
    part.mkdir(parents=True, exist_ok=True)
    np.save(part / "images.npy", np.stack(images))
    np.save(part / "masks.npy", np.stack(masks))
    (part / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    part.rename(chunk)
