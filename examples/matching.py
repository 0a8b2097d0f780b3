"""How often are points of an object found in another image? PCK on pairs of rendered scenes.

    python examples/matching.py

Both scenes of a pair have an object of one class, in another pose, size, place, style and colours, on another
background and next to another object. The points are corners and centres of the object's parts, of which the drawing
says where they are in both images. Compares features with raw pixels and with a U-Net of random weights. Prints and
writes a Markdown page.
"""

import argparse
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pairing.pairs import POINTS, Pair, pair

import tadp
from tadp.datasets.scenes import Scene
from tadp.features import Features
from tadp.images.reading import to_tensor

TIMESTEPS = (0, 101, 261)
SHARES = (0.1, 0.2)  # a point is found within this share of the longer side of the object's box
SETS = {"level 0": (0,), "level 1": (1,), "level 2": (2,), "levels 0, 1": (0, 1)}
METHODS = ("nearest", "soft", "windowed")
PIXELS_PX = 4  # cell of the raw pixels, whose vectors are the colours of its 8x8 surroundings


def pixel_features(scene: Scene) -> Features:
    """The colours around each place of an image as features."""
    pixels = to_tensor(scene.image)
    padding = PIXELS_PX // 2
    patches = F.unfold(pixels - 0.5, kernel_size=2 * PIXELS_PX, stride=PIXELS_PX, padding=padding)
    side = scene.image.shape[0] // PIXELS_PX
    return Features((patches.unflatten(2, (side, side)),), None, scene.image.shape[:2])


def found(features: tuple[Features, Features], sample: Pair, levels: Sequence[int], method: str) -> torch.Tensor:
    """Whether each point of a pair is found, for each of `SHARES`, (P, shares)."""
    matches = tadp.match(*features, sample.points[0], levels=levels, method=method)
    errors = (matches.matched - sample.points[1]).norm(dim=1, keepdim=True)
    return errors <= torch.tensor(SHARES) * sample.side_px


def backbones(model: str) -> dict[str, tadp.TADPBackbone]:
    """The backbones to compare, by name: the model at each timestep, and one with a U-Net of random weights."""
    options = {"attach_attention": (), "record_attention": ()}
    trained = tadp.TADPBackbone.from_pretrained(model, **options).freeze()
    torch.manual_seed(0)
    untrained = tadp.TADPBackbone(
        vae=trained.vae,
        unet=type(trained.unet).from_config(trained.unet.config),
        text_encoder=trained.text_encoder.model,
        tokenizer=trained.text_encoder.tokenizer,
        **options,
    ).freeze()
    models = {"untrained U-Net, timestep 0": untrained}
    for step in TIMESTEPS:
        noisy = {"timestep": step, "noise_samples": 1} if step else {}
        models[f"{model}, timestep {step}"] = trained.with_options(**noisy) if noisy else trained
    return models


@torch.inference_mode()
def shares(pairs: list[Pair], model: str) -> dict[str, dict[str, list[float]]]:
    """For each source of features, the shares of points that are found, by levels and method."""
    counts: dict[str, dict[str, list[torch.Tensor]]] = {"raw pixels": {"level 0, nearest": []}}
    for sample in pairs:
        sides = tuple(pixel_features(scene) for scene in sample.scenes)
        counts["raw pixels"]["level 0, nearest"].append(found(sides, sample, [0], "nearest"))
    for name, backbone in backbones(model).items():
        rows = counts.setdefault(name, {})
        for sample in pairs:
            sides = tuple(backbone(scene.image, scene.caption()) for scene in sample.scenes)
            for column, levels in SETS.items():
                for method in METHODS if len(levels) > 1 else ("nearest",):
                    rows.setdefault(f"{column}, {method}", []).append(found(sides, sample, levels, method))
    return {
        name: {column: torch.cat(parts).float().mean(dim=0).tolist() for column, parts in rows.items()}
        for name, rows in counts.items()
    }


def markdown(options: argparse.Namespace, results: list[dict], counts: list[tuple[int, int]]) -> str:
    """The page with the mean over seeds and the standard deviation."""
    columns = list(dict.fromkeys(column for rows in results[0].values() for column in rows))
    lines = [
        "# How often are points of an object found in another image?",
        "",
        "[`tadp.match`](../matching.md) finds points of one image in another by the similarity of their features. Each "
        "pair consists of two [rendered scenes](../concepts.md#glossary) with an object of the same class, in another "
        "pose, size, place, style and colours, on another background and next to another object. Its parts have up to "
        f"{POINTS} points that are visible in both scenes. A point is found if the match is within {SHARES[0]:g} times "
        "the longer side of the object's box from the right place. The table shows the share of points that are found "
        "(PCK, the percentage of correct keypoints, as a share from 0 to 1; higher is better), and in brackets the "
        f"share within {SHARES[1]:g} times the side.",
        "",
        f"Command: `python examples/matching.py --pairs {options.pairs} --seeds {options.seeds}"
        + (f" --model {options.model}" if options.model != "tadp-tiny" else "")
        + f"`; {', '.join(f'{pairs} pairs with {points:,} points' for pairs, points in counts)} for the seeds; mean ± "
        f"standard deviation over seeds; {platform.machine()}, torch {torch.__version__}.",
        "",
        "- *raw pixels* compares the colours of 8x8 pixels around each place.",
        "- *untrained U-Net* has random weights.",
        "- Columns name the compared levels and the `method`. Level 0 has a stride of 8 pixels, level 1 of 16, and "
        "level 2 of 32. The images have 128x128 pixels.",
        "",
        f"| features | {' | '.join(columns)} |",
        f"|{'---|' * (len(columns) + 1)}",
    ]
    for name in results[0]:
        cells = []
        for column in columns:
            values = [result[name][column] for result in results if column in result[name]]
            (close, near), spread = (np.mean(values, axis=0), np.std(values, axis=0)) if values else ((0, 0), (0, 0))
            cells.append(f"{close:.2f} ± {spread[0]:.2f} ({near:.2f})" if values else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tadp-tiny", help="'tadp-tiny', a hub id, or a folder in diffusers layout")
    parser.add_argument("--pairs", type=int, default=200, help="pairs that are drawn per seed (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/results/matching.md"), help="path of the page (default: %(default)s)"
    )
    options = parser.parse_args()
    results, counts = [], []
    for seed in range(options.seeds):
        pairs = [sample for number in range(options.pairs) if (sample := pair(1000 + seed, number)) is not None]
        results.append(shares(pairs, options.model))
        counts.append((len(pairs), sum(len(sample.points[0]) for sample in pairs)))
    page = markdown(options, results, counts)
    print(page, end="")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
