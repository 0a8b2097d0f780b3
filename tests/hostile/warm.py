"""The warm process: it has imported everything, never computes, and forks a child for each case."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from . import cases, child, controls, fixtures, kills

MODULES = (  # what tadp imports late, in functions or lazily
    "accelerate", "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion", "peft", "pyarrow.parquet",
    "inflect", "torch.utils.data", "transformers.models.auto.processing_auto", "transformers.models.blip.modeling_blip",
    "transformers.models.bert.tokenization_bert", "transformers.models.clip.modeling_clip",
    "safetensors.torch", "diffusers.models.unets.unet_2d_condition", "diffusers.models.autoencoders.autoencoder_kl",
    "tadp.cli", "tadp.backbone", "tadp.captioner", "tadp.captions", "tadp.cleaning", "tadp.convert", "tadp.datasets",
    "tadp.drawing", "tadp.export", "tadp.extract", "tadp.heads", "tadp.metrics", "tadp.modifiers", "tadp.personalize",
    "tadp.prompts", "tadp.tasks", "tadp.training.schedules", "tadp.training.losses", "tadp.datasets.readers",
    "tadp.language.grammar", "tadp.inspection", "tadp.trainer",
)  # fmt: skip


@contextmanager
def warm() -> Iterator[None]:
    """Import everything and build the fixtures."""
    for module in MODULES:
        import_module(module)
    import torch

    torch.set_num_threads(1)
    place = Path(tempfile.mkdtemp(prefix="hostile-fixtures-"))
    os.environ[fixtures.ROOT] = str(place)
    try:
        log = place / "log"
        ended = child.fork(lambda: fixtures.build() or True, log=log, wait_s=600)
        assert ended.value is True, f"the fixtures cannot be built: {log.read_text()}"
        yield
    finally:
        shutil.rmtree(place, ignore_errors=True)


def run(name: str, seed: int) -> child.Outcome:
    """Run a kind, a kill or a control by its full name."""
    kind = cases.all_kinds().get(name) or controls.CONTROLS.get(name)
    if kind is not None:
        return child.run_kind(kind, seed)
    return kills.run_kill(kills.all_kills()[name], seed)


def serve(pipe: Connection) -> None:
    """Answer requests (name, seed) with outcomes until None arrives."""
    with warm():
        pipe.send("ready")
        while (request := pipe.recv()) is not None:
            answer: Any = run(*request)
            pipe.send(answer)
