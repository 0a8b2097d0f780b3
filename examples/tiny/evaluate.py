"""What has the bundled checkpoint learned? Localisation of words, captions, and frozen features, on held-out scenes.

    python examples/tiny/evaluate.py --model tadp-tiny --out docs/results/tadp-tiny
    python examples/tiny/evaluate.py --model DIR/plain/model --out docs/results/tadp-tiny-control

The second command evaluates a model from train_unet.py, such as the control without supervised attention. It also uses
the captions of `tadp-tiny`'s captioner. Prints the tables and writes OUT.json and OUT.md. With --rewrite, nothing is
measured, and OUT.md is written again from OUT.json.
"""

import argparse
import json
import platform
import time
import tomllib
from pathlib import Path

import numpy as np
import torch
from caption_quality import TEST_SEED, caption_quality
from frozen_features import frozen_features
from localisation import BATCH, localisation
from tqdm import tqdm

import tadp
from tadp.datasets.scenes import Scenes

TRAIN_SEED = 101  # the checkpoint was trained on seed 0, and seed 1 was its held-out set
CONTROL = ("plain", "model")  # the end of the path of the control, as docs/tadp-tiny.md trains it


def main() -> None:
    options = _options()
    if options.rewrite:
        results = json.loads(options.out.with_suffix(".json").read_text())
        options.out.with_suffix(".md").write_text(_markdown(results))
        return
    torch.set_num_threads(options.threads)
    started = time.time()
    backbone = tadp.TADPBackbone.from_pretrained(options.model, attach_attention=(), record_attention=(0, 1, 2))
    test = list(tqdm(Scenes(options.test_scenes, seed=TEST_SEED), desc="rendering test scenes"))
    results = {"localisation": localisation(backbone, test)}
    if options.captioner:
        captioner = tadp.Captioner.from_pretrained(options.captioner, batch_size=BATCH)
        train = list(tqdm(Scenes(options.train_scenes, seed=TRAIN_SEED), desc="rendering training scenes"))
        words = {"train": captioner([s.image for s in train]), "test": captioner([s.image for s in test])}
        results["captions"] = caption_quality(captioner, test, words["test"], options.test_scenes)
        results["miou"] = frozen_features(backbone, train, test, words, options)
    threads = "1 thread" if options.threads == 1 else f"{options.threads} threads"
    results["run"] = {
        "command": f"python examples/tiny/evaluate.py --model {options.model}",
        "test_scenes": options.test_scenes,
        "train_scenes": options.train_scenes,
        "head_seeds": list(range(options.seeds)),
        "machine": f"{platform.machine()}, {threads}, torch {torch.__version__}",
        "minutes": round((time.time() - started) / 60, 1),
    }
    report = _markdown(results)
    print(report)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
        options.out.with_suffix(".md").write_text(report)


def _markdown(results: dict) -> str:
    run, chance = results["run"], results["localisation"].pop("chance")
    texts = tomllib.loads((Path(__file__).parents[1] / "openings.toml").read_text(encoding="utf-8"))
    model = run["command"].split()[-1]
    lines = [
        f"# What {_shown(model)} knows about held-out scenes",
        "\n" + texts["tadp-tiny" if _shown(model) == model else "tadp-tiny-control"],
        f"Command: `{run['command']}`; {run['test_scenes']} held-out scenes (seed {TEST_SEED}); {run['machine']}; "
        f"{run['minutes']} minutes of wall time.",
        "\n" + texts["tiny-localisation"],
        "| measure, text | level 0 (stride 8) | level 1 (stride 16) | level 2 (stride 32) | by chance |",
        "|---|---|---|---|---|",
    ]
    for prompt, scores in results["localisation"].items():
        for name, levels in scores.items():
            shares = " | ".join(f"{share:.2f}" for share in levels.values())
            lines.append(f"| {name}, {prompt} | {shares} | {chance[name]:.2f} |")
    results["localisation"]["chance"] = chance
    if "captions" in results:
        lines += ["\n" + texts["tiny-captions"], "| style | recall | precision |", "|---|---|---|"]
        lines += [
            f"| {style} | {score['recall']:.3f} | {score['precision']:.3f} |"
            for style, score in results["captions"].items()
        ]
    if "miou" in results:
        lines += ["\n" + texts["tiny-miou"].format(seeds=len(run["head_seeds"]))]
        lines += ["| text | without attention | with attention |", "|---|---|---|"]
        for name, scores in results["miou"].items():
            cells = [
                f"{np.mean(scores[k]):.1f} ± {np.std(scores[k], ddof=1) if len(scores[k]) > 1 else 0:.1f}"
                for k in ("features", "with attention")
            ]
            lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def _shown(model: str) -> str:
    return "the control without supervised attention" if Path(model).parts[-2:] == CONTROL else model


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tadp-tiny", help="name or folder of a tadp model")
    parser.add_argument("--captioner", default="tadp-tiny", help="captioner; '' leaves out the captions and the heads")
    parser.add_argument("--train-scenes", type=int, default=1000, help="scenes that train the head")
    parser.add_argument("--test-scenes", type=int, default=500, help="scenes for testing")
    parser.add_argument("--epochs", type=int, default=12, help="epochs of training the head")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds of the head")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="number of threads")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    parser.add_argument("--rewrite", action="store_true", help="measure nothing; write OUT.md again from OUT.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
