"""Three ways in which tests run tadp's command, scripts and functions. The first that suffices is the right one.

- `tadp_run` calls the command in this process.
- `run_script` and `run_function` start a process that ends as any other does, also by a signal. It is a fork of
  `multiprocessing`'s fork server, which has imported torch, diffusers and transformers: to import them takes seven
  seconds, more than most scripts take themselves. tadp and the examples are imported in each fork.
- `subprocess` with `sys.executable` and `ENVIRONMENT`, for tests of what a process imports, of Ctrl-C, of torchrun.
"""

import multiprocessing
import os
import re
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from unittest.mock import patch

from click.testing import Result
from typer.testing import CliRunner

from tadp.cli import app

ROOT = Path(__file__).parents[2]
OFFLINE_ON_ONE_THREAD = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # torch and the hub read these at import
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)} | OFFLINE_ON_ONE_THREAD
IMPORTED_ONCE = [  # diffusers and transformers import most modules when they are asked for, so they are named here
    "accelerate", "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion", "peft", "PIL.Image",
    "rich.progress", "torch.utils.data", "torch.utils.flop_counter", "transformers.models.auto.processing_auto",
    "transformers.models.bert.tokenization_bert", "transformers.models.blip.modeling_blip",
    "transformers.models.blip_2.modeling_blip_2", "typer",
]  # fmt: skip


def tadp_run(*arguments: object, code: int = 0) -> Result:
    """What `tadp ARGUMENTS` wrote, having ended with this exit code."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def plain(text: str) -> str:
    """A message of the command without the frame that rich draws, and its line breaks."""
    return " ".join(re.sub(r"[│╭╮╰╯─]|\x1b\[[\d;]*m", " ", text).split())


def run_script(script: Path, *options: object) -> subprocess.CompletedProcess[str]:
    """What `python SCRIPT OPTIONS` wrote, and its exit code; minus the number of the signal that ended it."""
    return run_function(_run_script, str(script), *map(str, options))


def run_function(function: Callable[..., object], *arguments: object) -> subprocess.CompletedProcess[str]:
    """The same of a call in a process of its own. It needs a function that can be imported."""
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "stdout"), Path(folder, "stderr")
        process = fork_server().Process(target=_run_into, args=(files, dict(os.environ), function, *arguments))
        process.start()
        try:
            process.join()
        finally:  # a test that ran out of time
            process.kill()
        written = [file.read_text() if file.exists() else "" for file in files]
    return subprocess.CompletedProcess([function, *arguments], process.exitcode, *written)


def fork_server() -> ForkServerContext:
    """The context of `multiprocessing` whose server has imported what takes long. There is one server per process."""
    multiprocessing.set_forkserver_preload(IMPORTED_ONCE)
    with patch.dict(os.environ, OFFLINE_ON_ONE_THREAD):
        ensure_running()
    return multiprocessing.get_context("forkserver")


def _run_into(
    files: tuple[Path, Path], environment: dict[str, str], function: Callable[..., object], *arguments: object
) -> None:
    for path, stream in zip(files, (sys.stdout, sys.stderr), strict=True):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())  # what libraries and further processes write goes there too
    os.environ.clear()  # a fork has the environment of the server's start
    os.environ.update(environment | {"PYTHONPATH": str(ROOT)} | OFFLINE_ON_ONE_THREAD)
    function(*arguments)


def _run_script(script: str, *options: str) -> None:
    sys.argv = [script, *options]
    tests_only = ROOT / "tests", ROOT / "examples"  # pytest and tests have put these on the path
    sys.path[:] = [path for path in sys.path if not any(Path(path).is_relative_to(folder) for folder in tests_only)]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")
