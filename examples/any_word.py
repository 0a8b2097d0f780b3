"""Does `features.attend` find the object of a word that the caption does not contain?

    python examples/any_word.py

In rendered scenes with several objects, maps are compared with those of the same words inside the full caption, for
four texts of the pass and three ways to compute maps from its queries. Prints and writes a Markdown page.
"""

import argparse
import platform
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

import tadp
from tadp.datasets.scenes import CLASSES, Scene, Scenes
from tadp.datasets.scenes.scene_captions import sentence
from tadp.features import Features, LayerQueries

BATCH, FIRST_SEED = 50, 300
TEXTS = ("full caption", "one object left out", "only the place", "empty text")
WAYS = {
    "with the text": "one softmax over the tokens of the text and of all names: `features.attend`",
    "only the names": "one softmax over the names",
    "a text of its own": "one softmax over the tokens of each name's own text, with its start and padding tokens",
}


def text_of(scene: Scene, kind: str, left_out: str) -> str:
    """The text of a scene's pass."""
    place, kept = scene.layout.background, [k for k, name in enumerate(scene.names) if name != left_out]
    if kind == "one object left out":
        objects, shares = tuple(scene.visible[k] for k in kept), tuple(scene.shares[k] for k in kept)
        return sentence(objects, shares, place, scene.layout.style, None)
    return {"full caption": scene.caption(), "only the place": f"a photo of {place}", "empty text": ""}[kind]


def maps_of(backbone: tadp.TADPBackbone, features: Features, level: int, way: str) -> torch.Tensor:
    """Maps of all classes, (B, classes, h, w)."""
    if way == "with the text":
        return features.attend(CLASSES, level).maps
    own, parts = backbone.encode_text(CLASSES), []
    modules = dict(backbone.unet.named_modules())
    for name, layer in features.recorded_queries().at(level).items():
        scores = scores_of(layer, modules[name].to_k(own.embeddings))
        spans = [slice(words[0].start, words[-1].stop) for words in own.words]
        if way == "only the names":
            named = torch.stack([scores[:, k, ..., span].mean(-1) for k, span in enumerate(spans)], dim=1)
            parts.append(named.softmax(dim=1).mean(dim=2))
        else:
            shares = scores.softmax(dim=-1).mean(dim=2)
            parts.append(torch.stack([shares[:, k, :, span].mean(-1) for k, span in enumerate(spans)], dim=1))
    return torch.stack(parts).mean(0).unflatten(2, layer.query.shape[2:])


def scores_of(layer: LayerQueries, keys: torch.Tensor) -> torch.Tensor:
    """Products of queries with the keys of each name's text, (B, names, heads, cells, tokens)."""
    query = rearrange(layer.query, "b (k d) h w -> b k d (h w)", k=layer.heads)
    keys = rearrange(keys, "c l (k d) -> c k l d", k=layer.heads)
    return torch.einsum("bkdn,ckld->bcknl", query * query.shape[2] ** -0.5, keys)


def rank_correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    """Spearman's rank correlation of two maps without equal values."""
    ranks = torch.stack([values.flatten().argsort().argsort().float() for values in (first, second)])
    return float(torch.corrcoef(ranks)[0, 1])


def is_right(maps: torch.Tensor, scene: Scene, name: str, names: list[str]) -> float:
    """Whether the mean of a word's map is highest on its own object, of all objects of the scene."""
    stride = len(scene.mask) // maps.shape[-1]
    large = maps.repeat_interleave(stride, 0).repeat_interleave(stride, 1).numpy()
    means = [large[scene.mask == CLASSES.index(other) + 1].mean() for other in names]
    return float(names[int(np.argmax(means))] == name)


@torch.inference_mode()
def measure(model: str, seed: int, scenes: int, levels: tuple[int, ...]) -> dict[tuple[str, str, int], list[float]]:
    """By way, text and level: the share of right objects, and the mean rank correlation."""
    backbone = tadp.TADPBackbone.from_pretrained(
        model, attach_attention=(), record_attention=levels, record_queries=True, levels=levels
    )
    chosen = [scene for scene in Scenes(scenes, seed=seed) if len(set(scene.names)) > 1]
    left_out = [scene.names[number % len(scene.names)] for number, scene in enumerate(chosen)]
    results: dict[tuple[str, str, int], list[list[float]]] = {}
    for start in range(0, len(chosen), BATCH):
        part, out = chosen[start : start + BATCH], left_out[start : start + BATCH]
        images = np.stack([scene.image for scene in part])
        reference = {}
        for kind in TEXTS:
            texts = [text_of(scene, kind, name) for scene, name in zip(part, out, strict=True)]
            features = backbone(images, texts)
            for level in levels:
                if kind == "full caption":
                    reference[level] = features.attention.pool(CLASSES, level).maps
                for way in ("inside the caption", *WAYS) if kind == "full caption" else WAYS:
                    maps = reference[level] if way not in WAYS else maps_of(backbone, features, level, way)
                    rows = results.setdefault((way, kind, level), [])
                    for number, scene in enumerate(part):
                        names = list(dict.fromkeys(scene.names))
                        for name in [out[number]] if kind == "one object left out" else names:
                            k = CLASSES.index(name)
                            right = is_right(maps[number, k], scene, name, names)
                            rows.append([right, rank_correlation(maps[number, k], reference[level][number, k])])
    chance = np.mean([1 / len(set(scene.names)) for scene in chosen for _ in set(scene.names)])
    means = {key: [*np.mean(rows, axis=0), len(rows)] for key, rows in results.items()}
    return means | {("chance", "", 0): [float(chance), 0.0, len(chosen)]}


def table(results: list[dict], level: int) -> list[str]:
    """The table of a level: right object, and rank correlation in brackets."""
    lines = [f"| maps | {' | '.join(TEXTS)} |", "|---|---|---|---|---|"]
    for way in ("inside the caption", *WAYS):
        cells = []
        for kind in TEXTS:
            values = np.array([result[way, kind, level][:2] for result in results if (way, kind, level) in result])
            if len(values):
                (right, rank), spread = values.mean(axis=0), values.std(axis=0)
            cells.append(f"{right:.2f} ± {spread[0]:.2f} ({rank:.2f})" if len(values) else "")
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tadp-tiny", help="'tadp-tiny', a hub id, or a folder in diffusers layout")
    parser.add_argument("--scenes", type=int, default=100, help="scenes that are drawn per seed (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/results/any-word.md"), help="path of the page (default: %(default)s)"
    )
    options, levels = parser.parse_args(), (0, 1)
    results = [measure(options.model, FIRST_SEED + seed, options.scenes, levels) for seed in range(options.seeds)]
    chances, _, counts = zip(*(result["chance", "", 0] for result in results), strict=True)
    lines = [
        "# Does the map of a word that is not in the caption show its object?",
        "",
        "[`features.attend`](../any-word.md) computes maps of words that the text of the pass does not contain. On "
        "[rendered scenes](../concepts.md#glossary) with two or more objects, the tables show the share of words whose "
        f"mean attention is highest on their own object (higher is better; by chance {np.mean(chances):.2f}), and in "
        "brackets the mean rank correlation with the map of the same word inside the full caption.",
        "",
        f"Command: `python examples/any_word.py --scenes {options.scenes} --seeds {options.seeds}"
        + (f" --model {options.model}" if options.model != "tadp-tiny" else "")
        + f"`; {', '.join(map(str, counts))} scenes for the seeds; mean ± standard deviation over seeds; "
        f"{platform.machine()}, torch {torch.__version__}. The cross-attention of `tadp-tiny` was trained with masks "
        "of these classes; a model without this supervision was not measured.",
        "",
        "Columns are texts of the pass. With *one object left out*, only the map of its word counts. All "
        f"{len(CLASSES)} classes of the scenes are given as names. Rows are ways to compute the maps:",
        "",
        "- *inside the caption*: the attention to the word, which the text contains;",
        *[f"- *{way}*: {meaning}{';' if way != list(WAYS)[-1] else '.'}" for way, meaning in WAYS.items()],
    ]
    for level in levels:
        lines += ["", f"## Level {level} (stride {8 * 2**level} pixels)", "", *table(results, level)]
    page = "\n".join(lines) + "\n"
    print(page, end="")
    options.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
