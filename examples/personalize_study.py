r"""Does a learned token mean its style? Rendered watercolors, comics and nights, ten images each, several seeds.

    python examples/personalize_study.py --out study --choose
    python examples/personalize_study.py --out study --page docs/results/personalize

The first tries settings on images that the second does not use. The second learns a token, a U-Net (DreamBooth)
and a LoRA of each style from each seed's ten images, and compares them with the caption alone, with the same words
before learning, with what was learned of the other styles, and with the style's own words: by the denoising loss of
held-out images, and by the colour and texture of samples. Whatever is finished is not done again, and a learning that
was stopped goes on.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from personalizing.conditions import ALONE, METHODS, STYLES, WORDS, before, fixed
from personalizing.learning import BATCH, CHOSEN, SECONDS, STEPS, TRIED, Setting, learn
from personalizing.report import choice_table, page_of
from personalizing.sheets import comparison
from personalizing.statistics import colour_distance, texture_distance
from tqdm import tqdm

from tadp import CaptionModifier
from tadp.datasets.scenes import Scenes, restyle
from tadp.files import replace_file
from tadp.personalize import DiffusionModel, denoising_loss, load_diffusion
from tadp.personalize.sampling import Sampler

# Of each seed of the study, beside its ten images: held-out ones, and captions to draw.
HELD_OUT, DRAWN = 2_000, 3_000
CHOICE_SEED, CHOICE_STYLE = 100, "night"
SECONDS_A_PASS, SECONDS_A_SAMPLE = 0.007, 0.2


class Job(NamedTuple):
    """Something to do once, and about how long it takes."""

    file: Path
    seconds: float
    make: Callable[[], object]


class Study:
    """The runs in a folder, and what was measured of them."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.model = options, load_diffusion("tadp-tiny")
        self.folder: Path = options.out
        self.sampler = Sampler(self.model)

    def runs(self, setting: Setting, style: str, seed: int) -> Path:
        return self.folder / "runs" / f"{style}-{seed}-{setting.name}"

    def learned(self, setting: Setting, style: str, seed: int) -> CaptionModifier:
        return learn(setting, style, seed, output=self.runs(setting, style, seed), steps=self.options.steps)

    def modifier(self, condition: str, style: str, seed: int) -> CaptionModifier:
        """Of a condition, for a style: what a method learned of it, or fixed words."""
        return self.learned(CHOSEN[condition], style, seed) if condition in METHODS else fixed(condition, style)

    def losses(self, modifier: CaptionModifier, style: str, seed: int) -> list[float]:
        """The denoising loss of each held-out image; noise and times are the same under each modifier."""
        scenes = Scenes(self.options.images, seed=HELD_OUT + seed, style=style)[:]
        captions = [restyle(scene.layout, "plain").render().caption() for scene in scenes]
        return denoising_loss(
            self.model,
            [scene.image for scene in scenes],
            captions=captions,
            modifier=modifier,
            draws=self.options.draws,
            seed=seed,
            batch_size=16,
        ).tolist()

    def drawn(self, modifier: CaptionModifier, seed: int) -> np.ndarray:
        """Samples of captions, each from its own noise, the same under each modifier: (N, H, W, 3)."""
        captions = [scene.caption() for scene in Scenes(self.options.samples, seed=DRAWN + seed)]
        images = []
        with modifier.install(self.model.backbone):
            for start in range(0, len(captions), 8):
                texts = modifier(captions[start : start + 8])
                keys = [(seed, start + number) for number in range(len(texts))]
                images += self.sampler.draw(texts, keys=keys, steps=self.options.denoising_steps)
        return np.stack(images)

    def targets(self, style: str, seed: int) -> np.ndarray:
        """Held-out images as the VAE gives them back, twice as many as samples, since it blurs whatever it draws."""
        return reconstructed(self.model, Scenes(2 * self.options.samples, seed=HELD_OUT + seed, style=style))

    def distances(self, drawn: np.ndarray, style: str, seed: int) -> dict[str, float]:
        """From the first half of the targets; also how far their halves are apart, which is what chance makes."""
        targets = kept_array(self.folder / "targets" / f"{style}-{seed}.npy", lambda: self.targets(style, seed))
        one, other = targets[: len(targets) // 2], targets[len(targets) // 2 :]
        return {
            "colour": colour_distance(drawn, one), "texture": texture_distance(drawn, one),
            "colour of halves": colour_distance(other, one), "texture of halves": texture_distance(other, one),
        }  # fmt: skip

    def jobs(self) -> list[Job]:
        """All of the study, in an order in which each finds what it needs."""
        seeds, methods = range(self.options.seeds), self.options.methods
        learning = [
            Job(
                self.runs(CHOSEN[method], style, seed) / "modifier.json",
                (self.options.steps or STEPS[method]) * SECONDS[method],
                lambda method=method, style=style, seed=seed: self.learned(CHOSEN[method], style, seed),
            )
            for seed in seeds
            for method in methods
            for style in STYLES
        ]
        passes = self.options.images * self.options.draws
        losses = [
            Job(
                self.losses_file(name, style, seed),
                passes * SECONDS_A_PASS,
                lambda name=name, style=style, seed=seed: self.kept_losses(name, style, seed),
            )
            for seed in seeds
            for style in STYLES
            for name in loss_conditions(methods, style)
        ]
        seconds = self.options.samples * SECONDS_A_SAMPLE * self.options.denoising_steps / 16
        draws = [
            Job(
                self.samples_file(condition, style, seed),
                seconds,
                lambda c=condition, s=style, n=seed: self.samples(c, s, n),
            )
            for seed in seeds
            for condition, style in sample_conditions(methods)
        ]
        return [*learning, *losses, *draws]

    def losses_file(self, name: str, style: str, seed: int) -> Path:
        return self.folder / "losses" / f"{file_name(name)}-{style}-{seed}.json"

    def kept_losses(self, name: str, style: str, seed: int) -> list[float]:
        file = self.losses_file(name, style, seed)
        if not file.exists():
            condition, _, other = name.partition(" of ")
            write_json(file, self.losses(self.modifier(condition, other or style, seed), style, seed))
        return read_json(file)

    def samples_file(self, condition: str, style: str, seed: int) -> Path:
        return self.folder / "samples" / f"{file_name(condition)}-{style}-{seed}.npy"

    def samples(self, condition: str, style: str, seed: int) -> np.ndarray:
        return kept_array(
            self.samples_file(condition, style, seed),
            lambda: self.drawn(self.modifier(condition, style, seed), seed),
        )


def loss_conditions(methods: list[str], style: str) -> list[str]:
    """Conditions under which a style's images are measured; "token of comic" is what was learned of another style."""
    others = [other for other in STYLES if other != style]
    fixed_ones = [ALONE, WORDS, *dict.fromkeys(before(method) for method in methods)]
    return [*fixed_ones, *methods, *(f"{method} of {other}" for method in methods for other in others)]


def sample_conditions(methods: list[str]) -> list[tuple[str, str]]:
    """Conditions and styles to draw; what does not depend on a style is drawn once, as "any"."""
    fixed_ones = [(name, "any") for name in (ALONE, *dict.fromkeys(before(method) for method in methods))]
    return [*fixed_ones, *((condition, style) for condition in (WORDS, *methods) for style in STYLES)]


def main() -> None:
    options = read_options()
    torch.set_num_threads(options.threads)
    study = Study(options)
    if options.choose:
        choose(study)
        return
    run(study.jobs(), minutes=study.folder / "minutes.json")
    seeds = range(options.seeds)
    losses = {
        style: [
            {name: study.kept_losses(name, style, seed) for name in loss_conditions(options.methods, style)}
            for seed in seeds
        ]
        for style in STYLES
    }
    distances = {style: [distances_of(study, style, seed) for seed in seeds] for style in STYLES}
    results = {
        "command": "python examples/personalize_study.py " + " ".join(without_paths(sys.argv[1:])),
        "machine": f"{platform.machine()}, {options.threads} thread(s), torch {torch.__version__}",
        "cpu_minutes": round(read_json(study.folder / "minutes.json"), 1),
        "settings": {
            method: {
                "called": CHOSEN[method].called, "steps": options.steps or STEPS[method], "batch_size": BATCH[method],
                "lr": CHOSEN[method].lr,
            }
            for method in options.methods
        },
        "seeds": list(seeds), "images": options.images, "draws": options.draws, "samples": options.samples,
        "denoising_steps": options.denoising_steps, "losses": losses, "distances": distances,
        "choice": read_json(study.folder / "choice.json"),
    }  # fmt: skip
    page = page_of(results)
    print(page)
    if options.page:
        for style in STYLES:
            with replace_file(options.page.with_name(f"{options.page.name}-{style}.png")) as part:
                picture_of(study, style).save(part, format="PNG", optimize=True)
            page += f"\n![Pictures of held-out scenes, and samples: {style}]({options.page.name}-{style}.png)\n"
        with replace_file(options.page.with_suffix(".md")) as part:
            part.write_text(page, encoding="utf-8")
        write_json(options.page.with_suffix(".json"), results)


def run(jobs: list[Job], *, minutes: Path) -> None:
    """Do what is not done, under a bar of seconds; MINUTES counts those of the CPU over all calls."""
    left = [job for job in jobs if not job.file.exists()]
    seconds = round(sum(job.seconds for job in left))
    if left:
        print(
            f"{len(left)} of {len(jobs)} parts are left, about {seconds / 60:.0f} minutes on one free core.", flush=True
        )
    with tqdm(total=seconds, desc="study", unit="s", bar_format="{l_bar}{bar}| {elapsed}<{remaining}") as bar:
        for job in left:
            bar.set_postfix_str(job.file.parent.name if job.file.name == "modifier.json" else job.file.name)
            started = time.process_time()
            job.make()
            write_json(minutes, (read_json(minutes) or 0.0) + (time.process_time() - started) / 60)
            bar.update(job.seconds)


def choose(study: Study) -> None:
    """Settings, on images of a seed of their own; writes OUT/choice.json, which the page shows."""
    file = study.folder / "choice.json"
    rows = read_json(file) or []
    done = {(row["method"], row["called"], row["lr"]) for row in rows}
    style = CHOICE_STYLE
    for setting in tqdm([one for one in TRIED if one not in done], desc="settings"):
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
    """Of each condition's samples from a style's pictures, those of what was learned of other styles among them."""
    return {
        condition if of in ("any", style) else f"{condition} of {of}": study.distances(
            study.samples(condition, of, seed), style, seed
        )
        for condition, of in sample_conditions(study.options.methods)
        if condition != WORDS or of == style
    }


def picture_of(study: Study, style: str):
    """Of the first seed: the targets, and samples without and with."""
    targets = kept_array(study.folder / "targets" / f"{style}-0.npy", lambda: study.targets(style, 0))
    rows = [("held-out pictures, from the VAE", targets), (ALONE, study.samples(ALONE, "any", 0))]
    labels = {"token": "learned token", "dreambooth": "DreamBooth", "lora": "DreamBooth, a LoRA"}
    rows += [(labels[method], study.samples(method, style, 0)) for method in study.options.methods]
    return comparison([*rows, (WORDS, study.samples(WORDS, style, 0))], columns=5)


@torch.no_grad()
def reconstructed(model: DiffusionModel, scenes: Scenes) -> np.ndarray:
    """Images through the VAE and back, (N, H, W, 3)."""
    vae = AutoencoderKL.from_pretrained(model.folder, subfolder="vae").float().eval()
    made = []
    for scene in scenes:
        pixels = torch.from_numpy(scene.image).permute(2, 0, 1)[None].float() / 127.5 - 1
        decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
        made.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().byte()[0].permute(1, 2, 0).numpy())
    return np.stack(made)


def kept_array(file: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array in a file, made if it is not there."""
    if not file.exists():
        with replace_file(file) as part, part.open("wb") as opened:
            np.save(opened, make())
    return np.load(file)


def file_name(condition: str) -> str:
    return condition.replace(" ", "-").replace("'", "")


def write_json(file: Path, content: object) -> None:
    with replace_file(file) as part:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_json(file: Path):
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def without_paths(arguments: list[str]) -> list[str]:
    """A command's arguments less where its files go on this machine."""
    given = iter(arguments)
    shown = []
    for one in given:
        if one in ("--out", "--page"):
            next(given)
        else:
            shown.append(one)
    return shown


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("study"), help="folder of the runs")
    parser.add_argument("--page", type=Path, help="write PAGE.md, PAGE.json and pictures")
    parser.add_argument("--choose", action="store_true", help="try settings on images of their own")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of learning; by default as many as the method needs")
    parser.add_argument("--images", type=int, default=24, help="held-out images whose loss is measured")
    parser.add_argument("--draws", type=int, default=8, help="times and noises an image")
    parser.add_argument("--samples", type=int, default=32, help="drawn under each condition")
    parser.add_argument("--denoising-steps", type=int, default=16, help="of a sample")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
