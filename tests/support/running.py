"""Three ways to run tadp's command, scripts and functions in tests. Use the first that suffices.

- `tadp_run` calls the command in this process.
- `run_script` and `run_function` start a process, which may also end by a signal. It is forked from
  `multiprocessing`'s fork server, which has already imported torch, diffusers and transformers: importing them takes
  seven seconds, longer than most scripts run. Each fork imports tadp and the examples itself.
- `subprocess` with `sys.executable` and `ENVIRONMENT`, for tests of imports, Ctrl-C and torchrun.
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
IMPORTED_ONCE = [  # diffusers and transformers import most modules lazily, so they are listed here
    "accelerate", "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion", "peft", "PIL.Image",
    "rich.progress", "torch.utils.data", "torch.utils.flop_counter", "transformers.models.auto.processing_auto",
    "transformers.models.bert.tokenization_bert", "transformers.models.blip.modeling_blip",
    "transformers.models.blip_2.modeling_blip_2", "typer",
]  # fmt: skip


def tadp_run(*arguments: object, code: int = 0) -> Result:
    """Run `tadp ARGUMENTS`, check that it exits with `code`, and return its result."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def plain(text: str) -> str:
    """A message of the command without line breaks and the frame that rich draws."""
    return " ".join(re.sub(r"[│╭╮╰╯─]|\x1b\[[\d;]*m", " ", text).split())


def run_script(script: Path, *options: object) -> subprocess.CompletedProcess[str]:
    """Run `python SCRIPT OPTIONS`; return its output and exit code, which is `-N` if signal `N` ended it."""
    return run_function(_run_script, str(script), *map(str, options))


def run_function(function: Callable[..., object], *arguments: object) -> subprocess.CompletedProcess[str]:
    """Call an importable function in a separate process; return its output and exit code, like `run_script`."""
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "stdout"), Path(folder, "stderr")
        process = fork_server().Process(target=_run_into, args=(files, dict(os.environ), function, *arguments))
        process.start()
        try:
            process.join()
        finally:  # also when the test times out
            process.kill()
        outputs = [file.read_text() if file.exists() else "" for file in files]
    return subprocess.CompletedProcess([function, *arguments], process.exitcode, *outputs)


def fork_server() -> ForkServerContext:
    """A `multiprocessing` context whose fork server has imported `IMPORTED_ONCE`. Each process has one such server."""
    multiprocessing.set_forkserver_preload(IMPORTED_ONCE)
    with patch.dict(os.environ, OFFLINE_ON_ONE_THREAD):
        ensure_running()
    return multiprocessing.get_context("forkserver")


def _run_into(
    files: tuple[Path, Path], environment: dict[str, str], function: Callable[..., object], *arguments: object
) -> None:
    for path, stream in zip(files, (sys.stdout, sys.stderr), strict=True):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())  # also redirects the output of native libraries and child processes
    os.environ.clear()  # a fork inherits the environment in which the server started
    os.environ.update(environment | {"PYTHONPATH": str(ROOT)} | OFFLINE_ON_ONE_THREAD)
    function(*arguments)


def _run_script(script: str, *options: str) -> None:
    sys.argv = [script, *options]
    test_folders = ROOT / "tests", ROOT / "examples"  # pytest and the tests add these to the path
    sys.path[:] = [path for path in sys.path if not any(Path(path).is_relative_to(folder) for folder in test_folders)]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")
