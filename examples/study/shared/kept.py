"""Figures of something that is not trained, kept in a file, so that it is worked out once."""

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tadp.files.atomic import replace_file


def machine(device: str) -> str:
    """What a figure was made on."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    return f"{name}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"


def kept(file: Path, make: Callable[[], dict[str, Any]], *, device: str) -> dict[str, Any]:
    """What `make` gives, as JSON, with "machine" and "cpu_seconds"; read from the file if it is there."""
    if not file.exists():
        cpu = time.process_time()
        found = make()
        found |= {"machine": machine(device), "cpu_seconds": round(time.process_time() - cpu, 1)}
        file.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(file) as part:
            part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def cost(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Machines and minutes of several, as a page's JSON has them."""
    return {
        "machine": sorted({one["machine"] for one in found}),
        "minutes": round(sum(one["cpu_seconds"] for one in found) / 60, 1),
    }
