"""How well does attention segment rendered scenes without training?

    python examples/zero_shot.py

mIoU of `tadp.zero_shot.segment` next to a head that was trained with masks, and next to chance; and how well the
regions of `tadp.zero_shot.regions` fit the objects. Prints and writes a Markdown page with one column per model.
"""

import argparse
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import tadp
from tadp.datasets.scenes import CLASSES, Scene, Scenes
from tadp.metrics import MeanIoU
from tadp.zero_shot import regions, segment

FIRST_SEED, GRID = 400, 3
HEAD = "tadp-tiny-segmentation"
Predict = Callable[[Scene], torch.Tensor]


def predictions(model: str, shares: np.ndarray, seed: int) -> dict[str, Predict]:
    """Label maps of a scene by method, 0 for background and k for class k."""
    backbone = tadp.TADPBackbone.from_pretrained(model, attach_attention=()).freeze()
    rng = np.random.default_rng(seed)

    def with_names_of(scene: Scene) -> torch.Tensor:
        names = list(dict.fromkeys(scene.names))
        numbers = torch.tensor([0, *(CLASSES.index(name) + 1 for name in names)])
        return numbers[segment(scene.image, names, backbone).labels]

    methods: dict[str, Predict] = {
        "`segment`, all names": lambda scene: segment(scene.image, CLASSES, backbone).labels,
        "`segment`, all names, without self-attention": lambda scene: (
            segment(scene.image, CLASSES, backbone, spread=0).labels
        ),
        "`segment`, names of the image": with_names_of,
        "chance": lambda scene: torch.from_numpy(rng.choice(len(shares), size=scene.mask.shape, p=shares)),
    }
    if model == "tadp-tiny":
        head = tadp.TADPForSemanticSegmentation.from_pretrained(HEAD)
        methods = {f"trained head (`{HEAD}`)": lambda scene: head.predict(scene.image).class_map, **methods}
    return methods


def best_overlaps(parts: torch.Tensor, scene: Scene) -> list[float]:
    """For each object, the intersection over union with the region that fits it best."""
    overlaps = []
    for label in dict.fromkeys(scene.labels.tolist()):
        own = torch.from_numpy(scene.mask == label)
        ious = [((parts == k) & own).sum() / ((parts == k) | own).sum() for k in parts.unique().tolist()]
        overlaps.append(float(max(ious)))
    return overlaps


def grid(scene: Scene) -> torch.Tensor:
    """A grid of equal rectangles, as regions."""
    height, width = scene.mask.shape
    rows, columns = torch.arange(height) * GRID // height, torch.arange(width) * GRID // width
    return rows[:, None] * GRID + columns


@torch.inference_mode()
def measure(model: str, seed: int, count: int) -> dict[str, float]:
    """MIoU by method, the best overlap of objects with regions and with a grid, and the number of regions."""
    scenes = list(Scenes(count, seed=seed))
    pixels = np.bincount(np.concatenate([scene.mask.ravel() for scene in scenes]), minlength=len(CLASSES) + 1)
    results = {}
    for name, predict in predictions(model, pixels / pixels.sum(), seed).items():
        metric = MeanIoU(["background", *CLASSES])
        for scene in scenes:
            metric.update(predict(scene)[None], torch.from_numpy(scene.mask.astype(np.int64))[None])
        results[name] = metric.compute().miou
    backbone = tadp.TADPBackbone.from_pretrained(model, attach_attention=()).freeze()
    parts = [regions(scene.image, backbone) for scene in scenes]
    results["`regions`"] = float(np.mean(np.concatenate(list(map(best_overlaps, parts, scenes)))))
    results["grid"] = float(np.mean(np.concatenate(list(map(best_overlaps, map(grid, scenes), scenes)))))
    results["regions per image"] = float(np.mean([len(labels.unique()) for labels in parts]))
    return results


def table(results: dict[str, list[dict[str, float]]], rows: list[str], digits: int = 3) -> list[str]:
    """A table with one column per model: mean and standard deviation over seeds."""
    lines = [f"| method | {' | '.join(f'`{model}`' for model in results)} |", f"|{'---|' * (len(results) + 1)}"]
    for row in rows:
        cells = []
        for runs in results.values():
            values = [run[row] for run in runs if row in run]
            cells.append(f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}" if values else "")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="'tadp-tiny', a hub id, or a folder; repeatable")
    parser.add_argument("--scenes", type=int, default=100, help="scenes per seed (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/results/zero-shot.md"), help="path of the page (default: %(default)s)"
    )
    options = parser.parse_args()
    models = options.model or ["tadp-tiny"]
    seeds = range(FIRST_SEED, FIRST_SEED + options.seeds)
    results = {model: [measure(model, seed, options.scenes) for seed in seeds] for model in models}
    methods = list(results[models[0]][0])
    chosen = "".join(f" --model {model}" for model in options.model or ())
    missing = (
        "The cross-attention of `tadp-tiny` was trained with masks of these very classes, so its figures say little "
        "about other models. A model without this supervision was not measured: `--model` adds a column for one."
    )
    lines = [
        "# How well does attention segment scenes without training?",
        "",
        "[`tadp.zero_shot`](../zero-shot.md) segments images with the attention of a backbone, "
        "without a trained head. " + (missing if models == ["tadp-tiny"] else ""),
        "",
        f"Command: `python examples/zero_shot.py --scenes {options.scenes} --seeds {options.seeds}{chosen}`; "
        "held-out [rendered scenes](../concepts.md#glossary); mean ± standard deviation over seeds; "
        f"{platform.machine()}, torch {torch.__version__}.",
        "",
        "## With names: mIoU",
        "",
        f"mIoU from 0 to 1 over the {len(CLASSES)} classes and background; higher is better. *All names* are those of "
        "all classes, most of which a scene does not contain. *Chance* draws the class of each pixel at random, as "
        "often as it occurs.",
        "",
        *table(results, methods[:-3]),
        "",
        "## Without names: best overlap",
        "",
        "The intersection over union of an object with the region that fits it best, from 0 to 1, as the mean over "
        f"objects. *Grid* is a grid of {GRID}x{GRID} rectangles.",
        "",
        *table(results, methods[-3:-1]),
        "",
        *(
            f"`regions` divides an image into {np.mean([run[methods[-1]] for run in runs]):.1f} regions on average "
            f"(`{model}`)."
            for model, runs in results.items()
        ),
    ]
    page = "\n".join(lines) + "\n"
    print(page, end="")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
