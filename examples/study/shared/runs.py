"""Carry out the unfinished runs, one by one or several at a time, with an estimate of the time and a progress bar."""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from tadp.files.atomic import replace_file

from .fitting import Study
from .kept import machine
from .rows import Row, Run, Task
from .settings import Settings, check_same


def plan(
    rows: Sequence[Row], how: argparse.Namespace, *, task: Task, schedule: str, is_multi_scale: bool = False
) -> list[Run]:
    """All runs of a table: every row, frozen and tuned, with every seed. A plain encoder has nothing to freeze."""
    unets = {"both": (False, True), "frozen": (False,), "tuned": (True,)}[how.unet]
    return [
        Run(task, row, schedule, is_tuned, seed, is_multi_scale)  # pyright: ignore[reportArgumentType]
        for is_tuned in unets
        for row in rows
        if is_tuned or row.unet != "plain"
        for seed in range(how.seeds)
    ]


def result_of(run: Run, out: Path) -> dict[str, Any] | None:
    """The result of a run, or None if it is not finished."""
    file = out / "runs" / f"{run.name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def carry_out(runs: Sequence[Run], settings: Settings, how: argparse.Namespace) -> None:
    """Do the unfinished runs. If the process is killed, only the current run is lost."""
    check_same(settings, how.out)
    left = [run for run in runs if result_of(run, how.out) is None]
    print(f"{len(runs)} runs, {len(runs) - len(left)} finished; {how.out}", flush=True)
    if not left:
        return
    studies: dict[str, Study] = {}
    minutes = estimate(runs, left, settings, how, studies)
    print(f"about {minutes:.0f} minutes; {minutes / how.jobs:.0f} at --jobs {how.jobs}", flush=True)
    groups = [
        list(group) for _, group in groupby(left, key=lambda run: (run.task, run.row, run.schedule, run.is_tuned))
    ]
    with tqdm(total=len(runs), initial=len(runs) - len(left), unit="run", smoothing=0) as bar:
        if how.jobs == 1:
            for group in groups:
                for run in group:
                    bar.set_description(run.name)
                    finish(run, studies.setdefault(run.task, study_of(run.task, settings, how)))
                    bar.update()
            return
        with ProcessPoolExecutor(how.jobs, get_context("spawn")) as pool:
            waiting = {pool.submit(finish_all, group, settings, how): len(group) for group in groups}
            for future in as_completed(waiting):
                future.result()
                bar.update(waiting[future])


def study_of(task: Task, settings: Settings, how: argparse.Namespace) -> Study:
    return Study(settings, out=how.out, task=task, device=how.device, micro_batch=how.micro_batch)


def finish_all(group: Sequence[Run], settings: Settings, how: argparse.Namespace) -> None:
    """Do the runs of one row, in a separate process."""
    torch.set_num_threads(1)
    study = study_of(group[0].task, settings, how)
    for run in group:
        finish(run, study)


def finish(run: Run, study: Study) -> None:
    """Do one run and write its file, complete or not at all, unless another process has done it in the meantime."""
    if result_of(run, study.out) is not None:
        return
    result = study.carry_out(run)
    result |= {"machine": machine(study.device)}
    file = study.out / "runs" / f"{run.name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(file) as part:
        part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def estimate(
    runs: Sequence[Run], left: Sequence[Run], settings: Settings, how: argparse.Namespace, studies: dict[str, Study]
) -> float:
    """The remaining minutes, from finished runs of the same sort or else from a trial of a few steps.

    The captions and latents are made first and kept, so that all processes find them.
    """
    finished = [(run.sort, result["seconds"]) for run in runs if (result := result_of(run, how.out)) is not None]
    seconds = 0.0
    for sort in dict.fromkeys(run.sort for run in left):
        alike = [run for run in left if run.sort == sort]
        known = [duration for other_sort, duration in finished if other_sort == sort]
        study = studies.setdefault(alike[0].task, study_of(alike[0].task, settings, how))
        per_run = sum(known) / len(known) if known else study.carry_out(alike[0], trial=True)["seconds"]
        seconds += per_run * len(alike)
    for study, text, scaled in {(studies[run.task], run.row.text, run.row.scale_latents) for run in left}:
        study.prepare(text, scale_latents=scaled)
    return seconds / 60
