"""Figures that need no training, kept in a file so that they are computed only once."""

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tadp.files.atomic import replace_file


def machine(device: str) -> str:
    """The machine, threads and torch version behind a figure."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' * (threads > 1)}, torch {torch.__version__}"


def kept(file: Path, make: Callable[[], dict[str, Any]], *, device: str) -> dict[str, Any]:
    """The result of `make` with "machine" and "cpu_seconds", or the content of the file if it exists."""
    if not file.exists():
        cpu = time.process_time()
        result = make()
        result |= {"machine": machine(device), "cpu_seconds": round(time.process_time() - cpu, 1)}
        file.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(file) as part:
            part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def cost(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The machines and the total minutes of several results, for the JSON file of a page."""
    return {
        "machine": sorted({result["machine"] for result in results}),
        "minutes": round(sum(result["cpu_seconds"] for result in results) / 60, 1),
    }
