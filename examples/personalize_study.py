r"""Do a learned token and DreamBooth capture a style? Ten rendered watercolors, comics or nights per seed.

    python examples/personalize_study.py --out study --choose
    python examples/personalize_study.py --out study --page docs/results/personalize

The first command tries settings on images that the second does not use. The second learns a token, a U-Net (DreamBooth)
and a LoRA for each style from each seed's ten images. It compares each with only the caption, with the same words
before learning, with what was learned from other styles, and with the style's own words, by the denoising loss of
held-out images and by the colour and texture of samples. Finished parts are not repeated, and learning that was
stopped continues. With --rewrite, nothing runs, and PAGE.md is written again from PAGE.json.
"""

import argparse
import platform
import shlex
import sys
from pathlib import Path

import numpy as np
import torch
from personalizing.conditions import ALONE, METHODS, STYLES, WORDS, before, fixed, loss_conditions, sample_conditions
from personalizing.files import kept_array, read_json, without_paths, write_json
from personalizing.jobs import jobs_of, run
from personalizing.learning import BATCH, STEPS, TRIED
from personalizing.measuring import Study
from personalizing.report import choice_table, page_of
from personalizing.sheets import comparison
from tqdm import tqdm

from tadp.files.atomic import replace_file

CHOICE_SEED, CHOICE_STYLE = 100, "night"


def main() -> None:
    options = read_options()
    if options.rewrite:
        write_page(options.page, read_json(options.page.with_suffix(".json")))
        return
    torch.set_num_threads(options.threads)
    study = Study(options)
    if options.choose:
        choose(study)
        return
    run(jobs_of(study), minutes=study.folder / "minutes.json")
    seeds = range(options.seeds)
    losses = {
        style: [
            {name: study.kept_losses(name, style, seed) for name in loss_conditions(options.methods, style)}
            for seed in seeds
        ]
        for style in STYLES
    }
    distances = {style: [distances_of(study, style, seed) for seed in seeds] for style in STYLES}
    threads = "1 thread" if options.threads == 1 else f"{options.threads} threads"
    results = {
        "command": shlex.join(["python", "examples/personalize_study.py", *without_paths(sys.argv[1:])]),
        "machine": f"{platform.machine()}, {threads}, torch {torch.__version__}",
        "cpu_minutes": round(read_json(study.folder / "minutes.json"), 1),
        "settings": {
            method: {
                "called": study.setting(method).called, "steps": options.steps or STEPS[method],
                "batch_size": BATCH[method], "lr": study.setting(method).lr,
            }
            for method in options.methods
        },
        "seeds": list(seeds), "images": options.images, "draws": options.draws, "samples": options.samples,
        "denoising_steps": options.denoising_steps, "losses": losses, "distances": distances,
        "choice": read_json(study.folder / "choice.json"), "model": options.model,
    }  # fmt: skip
    print(page_of(results))
    if options.page:
        for style in STYLES:
            with replace_file(options.page.with_name(f"{options.page.name}-{style}.png")) as part:
                picture_of(study, style).save(part, format="PNG", optimize=True)
        write_page(options.page, results)
        write_json(options.page.with_suffix(".json"), results)


PICTURES = """## Pictures

The first row of each picture shows held-out images of the style, encoded and decoded by the VAE. The other rows show
samples for the same captions: *only caption* and *own words* as in the tables, and *learned* for each method."""


def write_page(page: Path, results: dict) -> None:
    """Write PAGE.md with links to its pictures."""
    text = f"{page_of(results)}\n{PICTURES}\n"
    for style in STYLES:
        text += f"\n![Held-out images and samples: {style}]({page.name}-{style}.png)\n"
    with replace_file(page.with_suffix(".md")) as part:
        part.write_text(text, encoding="utf-8")


def choose(study: Study) -> None:
    """Try settings on images of a separate seed, and write OUT/choice.json, which the page shows."""
    file = study.folder / "choice.json"
    rows = read_json(file) or []
    done = {(row["method"], row["called"], row["lr"]) for row in rows}
    style = CHOICE_STYLE
    for setting in tqdm([setting for setting in TRIED if setting not in done], desc="settings"):
        modifier = study.learned(setting, style, CHOICE_SEED)
        drawn = study.drawn(modifier, CHOICE_SEED)
        start = study.losses(fixed(before(setting.method), style), style, CHOICE_SEED)
        rows.append(
            {
                **setting._asdict(),
                "before": float(np.mean(start)),
                "loss": float(np.mean(study.losses(modifier, style, CHOICE_SEED))),
                **study.distances(drawn, style, CHOICE_SEED),
            }
        )
        write_json(file, rows)
    print(choice_table(rows))


def distances_of(study: Study, style: str, seed: int) -> dict[str, dict[str, float]]:
    """Distances of each condition's samples from a style's images, including those learned from other styles."""
    return {
        condition if of in ("any", style) else f"{condition} of {of}": study.distances(
            study.samples(condition, of, seed), style, seed
        )
        for condition, of in sample_conditions(study.options.methods)
        if condition != WORDS or of == style
    }


def picture_of(study: Study, style: str):
    """A picture for the first seed: held-out images, and samples without and with what was learned."""
    targets = kept_array(study.folder / "targets" / f"{style}-0.npy", lambda: study.targets(style, 0))
    rows = [("held-out images", targets), ("only caption", study.samples(ALONE, "any", 0))]
    labels = {"token": "learned token", "dreambooth": "DreamBooth", "lora": "DreamBooth, LoRA"}
    rows += [(labels[method], study.samples(method, style, 0)) for method in study.options.methods]
    return comparison([*rows, ("own words", study.samples(WORDS, style, 0))], columns=5)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("study"), help="folder of the runs")
    parser.add_argument("--page", type=Path, help="write PAGE.md, PAGE.json and pictures")
    parser.add_argument("--choose", action="store_true", help="try settings on separate images")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="methods to compare")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--model", default="tadp-tiny", help="'tadp-tiny', a hub id, or a folder in diffusers layout")
    parser.add_argument("--lr", type=float, help="learning rate; by default the one chosen for tadp-tiny")
    parser.add_argument("--steps", type=int, help="steps of learning; by default as many as the method needs")
    parser.add_argument("--images", type=int, default=24, help="held-out images whose loss is measured")
    parser.add_argument("--draws", type=int, default=8, help="timesteps and noises per image")
    parser.add_argument("--samples", type=int, default=32, help="number of samples for each condition")
    parser.add_argument("--denoising-steps", type=int, default=16, help="denoising steps of a sample")
    parser.add_argument("--threads", type=int, default=1, help="number of threads")
    parser.add_argument("--rewrite", action="store_true", help="run nothing; write PAGE.md again from PAGE.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
