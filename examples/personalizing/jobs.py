"""The parts of a study, each done only once, with a progress bar over estimated seconds."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from personalizing.conditions import STYLES, loss_conditions, sample_conditions
from personalizing.files import read_json, write_json
from personalizing.learning import SECONDS, STEPS
from personalizing.measuring import Study

SECONDS_PER_PASS, SECONDS_PER_SAMPLE = 0.007, 0.2


class Job(NamedTuple):
    """A part of a study, with its file and the estimated time."""

    file: Path
    seconds: float
    make: Callable[[], object]


def jobs_of(study: Study) -> list[Job]:
    """All parts of the study, ordered so that each finds what it needs."""
    seeds, methods = range(study.options.seeds), study.options.methods
    learning = [
        Job(
            study.runs(study.setting(method), style, seed) / "modifier.json",
            (study.options.steps or STEPS[method]) * SECONDS[method],
            lambda method=method, style=style, seed=seed: study.learned(study.setting(method), style, seed),
        )
        for seed in seeds
        for method in methods
        for style in STYLES
    ]
    passes = study.options.images * study.options.draws
    losses = [
        Job(
            study.losses_file(name, style, seed),
            passes * SECONDS_PER_PASS,
            lambda name=name, style=style, seed=seed: study.kept_losses(name, style, seed),
        )
        for seed in seeds
        for style in STYLES
        for name in loss_conditions(methods, style)
    ]
    seconds = study.options.samples * SECONDS_PER_SAMPLE * study.options.denoising_steps / 16
    draws = [
        Job(
            study.samples_file(condition, style, seed),
            seconds,
            lambda c=condition, s=style, n=seed: study.samples(c, s, n),
        )
        for seed in seeds
        for condition, style in sample_conditions(methods)
    ]
    return [*learning, *losses, *draws]


def run(jobs: list[Job], *, minutes: Path) -> None:
    """Do the unfinished parts, with a progress bar. The file `minutes` adds up the CPU minutes of all calls."""
    left = [job for job in jobs if not job.file.exists()]
    seconds = round(sum(job.seconds for job in left))
    if left:
        print(
            f"{len(left)} of {len(jobs)} parts remain, about {seconds / 60:.0f} minutes on one free core.", flush=True
        )
    with tqdm(total=seconds, desc="study", unit="s", bar_format="{l_bar}{bar}| {elapsed}<{remaining}") as bar:
        for job in left:
            bar.set_postfix_str(job.file.parent.name if job.file.name == "modifier.json" else job.file.name)
            started = time.process_time()
            job.make()
            write_json(minutes, (read_json(minutes) or 0.0) + (time.process_time() - started) / 60)
            bar.update(job.seconds)
