"""Carry out runs: those that are not finished, one after the other or several at a time, with a bar and an estimate."""

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


def plan(rows: Sequence[Row], how: argparse.Namespace, *, task: Task, schedule: str) -> list[Run]:
    """All runs of a table: rows, frozen and tuned U-Net, seeds. A plain encoder has nothing to freeze."""
    unets = {"both": (False, True), "frozen": (False,), "tuned": (True,)}[how.unet]
    return [
        Run(task, row, schedule, is_tuned, seed)  # pyright: ignore[reportArgumentType]
        for is_tuned in unets
        for row in rows
        if is_tuned or row.unet != "plain"
        for seed in range(how.seeds)
    ]


def result_of(run: Run, out: Path) -> dict[str, Any] | None:
    """What a finished run left; None if it is not finished."""
    file = out / "runs" / f"{run.name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def carry_out(runs: Sequence[Run], settings: Settings, how: argparse.Namespace) -> None:
    """Do what is left. A kill loses the run that is going on, and nothing else."""
    check_same(settings, how.out)
    left = [run for run in runs if result_of(run, how.out) is None]
    print(f"{len(runs)} runs, {len(runs) - len(left)} are done; {how.out}", flush=True)
    if not left:
        return
    studies: dict[str, Study] = {}
    minutes = estimate(runs, left, settings, how, studies)
    print(f"about {minutes:.0f} minutes, {minutes / how.jobs:.0f} with {how.jobs} job(s)", flush=True)
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
            for one in as_completed(waiting):
                one.result()
                bar.update(waiting[one])


def study_of(task: Task, settings: Settings, how: argparse.Namespace) -> Study:
    return Study(settings, out=how.out, task=task, device=how.device, micro_batch=how.micro_batch)


def finish_all(group: Sequence[Run], settings: Settings, how: argparse.Namespace) -> None:
    """Runs of one row, in a process of their own."""
    torch.set_num_threads(1)
    study = study_of(group[0].task, settings, how)
    for run in group:
        finish(run, study)


def finish(run: Run, study: Study) -> None:
    """One run and its file, which is there whole or not at all; another process may have done it meanwhile."""
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
    """Minutes that are left: by runs of the same sort that are finished, else by a trial of a few steps.

    What a trial needs, captions and latents, is made first and kept, so that it is there for all processes.
    """
    done = [(run.sort, found["seconds"]) for run in runs if (found := result_of(run, how.out)) is not None]
    seconds = 0.0
    for sort in dict.fromkeys(run.sort for run in left):
        mine = [run for run in left if run.sort == sort]
        known = [took for one, took in done if one == sort]
        study = studies.setdefault(mine[0].task, study_of(mine[0].task, settings, how))
        each = sum(known) / len(known) if known else study.carry_out(mine[0], trial=True)["seconds"]
        seconds += each * len(mine)
    for study, text, scaled in {(studies[run.task], run.row.text, run.row.scale_latents) for run in left}:
        study.prepare(text, scale_latents=scaled)
    return seconds / 60
