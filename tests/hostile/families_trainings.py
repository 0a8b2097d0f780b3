"""The folder of a training in which something is wrong when the training is continued, or its result is read."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from .cases import Kind, family
from .damage import damage
from .families_configs import replaced
from .fixtures import copy, reference, trained

STEP = "checkpoints/step-00000002"
FILES = ("state.json", "trained.safetensors", "optimizer.bin", "random_states_0.pkl",
         "custom_checkpoint_0.pkl", "custom_checkpoint_1.pkl", "custom_checkpoint_2.pkl")  # fmt: skip
SORTS = ("empty", "cut in half", "random bytes", "pickle that runs code", "missing", "fifo")


def continued(sort: str, file: str, folder: Path, rng: Random) -> list[float]:
    run = copy("stopped", folder)
    damage(run / file, sort, rng)
    return trained(run)


def is_same(numbers: list[float]) -> bool:
    return numbers == reference("trained")


@family("training: checkpoint")
def checkpoints() -> Iterator[Kind]:
    for file in FILES:
        for sort in SORTS:
            yield Kind(f"{Path(file).name}, {sort}", partial(continued, sort, f"{STEP}/{file}"), names=STEP, seconds=20)


# A file of a run, a key in it, and another value.
RECORDS: tuple[tuple[str, str, Any], ...] = (
    ("stopped/run.json", "choices", [1]),
    ("stopped/run.json", "choices.lr", "fast"),
    ("stopped/run.json", "choices.steps", 9),
    ("stopped/run.json", "data", None),
    ("stopped/run.json", "data.train", "others"),
    ("stopped/run.json", "task", 7),
    ("finished/result.json", "figures", [1]),
    ("finished/result.json", "figures.mIoU", "good"),
    ("finished/result.json", "figures.mIoU", [1]),
    ("finished/result.json", "baselines", "none"),
    ("finished/result.json", "baselines.trivial", 5),
    (f"stopped/{STEP}/state.json", "step", -2),
    (f"stopped/{STEP}/state.json", "step", "two"),
    (f"stopped/{STEP}/state.json", "step", 10**12),
    (f"stopped/{STEP}/state.json", "identity", [1]),
    (f"stopped/{STEP}/state.json", "identity.class_names", ["sky"]),
    (f"stopped/{STEP}/state.json", "identity.seed", 5),
)


def with_value(file: str, key: str, value: Any, folder: Path, rng: Random) -> list[float]:
    run = copy(file.partition("/")[0], folder)
    path = folder / file
    path.write_text(json.dumps(replaced(json.loads(path.read_text()), key, value)))
    return trained(run)


def with_metrics(text: str, folder: Path, rng: Random) -> list[float]:
    run = copy("stopped", folder)
    (run / "metrics.jsonl").write_text(text)
    return trained(run)


@family("training: records")
def records() -> Iterator[Kind]:
    for file, key, value in RECORDS:
        name = Path(file).name
        named = "another run|has 1 classes" if key.startswith("identity.") else "stopped|finished"
        yield Kind(f"{name}, {key} is {value}", partial(with_value, file, key, value), names=named, seconds=20)
    for sort in ("cut in half", "random bytes", "folder", "fifo", "missing"):
        is_rewritten = sort == "missing"
        for file in ("run.json", "metrics.jsonl"):
            right = is_same if file == "metrics.jsonl" or is_rewritten else None
            yield Kind(f"{file}, {sort}", partial(continued, sort, file), names=file, right=right, seconds=20)
    for name, text in {
        "a number": "5\n",
        "a list": "[1]\n",
        "text as loss": '{"step": 1, "loss": "low"}\n',
        "no step": '{"loss": 1}\n',
        "a step as text": '{"step": "1"}\n',
        "100,000 brackets": "[" * 100_000 + "]" * 100_000 + "\n",
    }.items():
        yield Kind(f"metrics.jsonl, {name}", partial(with_metrics, text), right=is_same, seconds=20)
