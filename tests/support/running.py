"""Three ways to run tadp's command, scripts and functions in tests. Use the first that suffices.

- `tadp_run` calls the command in this process.
- `run_script` and `run_function` start a process, which may also end by a signal. It is forked from
  `multiprocessing`'s fork server, which has already imported torch, diffusers, transformers and tadp: importing them
  takes eight seconds, longer than most scripts run. Each fork imports the examples itself, and forks for the scripts
  and processes that a script starts.
- `subprocess` with `sys.executable` and `ENVIRONMENT`, for tests of imports, Ctrl-C and torchrun.
"""

import gc
import inspect
import multiprocessing
import os
import re
import runpy
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Any
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
    "transformers.models.blip_2.modeling_blip_2", "typer", "tadp.captioner", "tadp.cli", "tadp.tasks",
    "tadp.trainer.training_loop",
]  # fmt: skip


def tadp_run(*arguments: object, code: int = 0) -> Result:
    """Run `tadp ARGUMENTS`, check that it exits with `code`, and return its result."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def plain(text: str) -> str:
    """A message of the command without line breaks and the frame that rich draws, in the words of the newest typer."""
    text = " ".join(re.sub(r"[│╭╮╰╯─]|\x1b\[[\d;]*m", " ", text).split())
    return re.sub(r"is not in the range x>=(\d+)", r"should be greater than or equal to \1", text)


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


def run_processes(script: Path, *options: object, count: int) -> list[subprocess.CompletedProcess[str]]:
    """Run a script in `count` processes of `torch.distributed`, with the environment that torchrun gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(count)}
    ranks = [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    words = str(script), *map(str, options)
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda environment: run_function(_run_rank, environment, *words), ranks))


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
    gc.freeze()  # a collection would look at all that was imported, and so copy its memory
    os.environ.clear()  # a fork inherits the environment in which the server started
    os.environ.update(environment | {"PYTHONPATH": str(ROOT)} | OFFLINE_ON_ONE_THREAD)
    function(*arguments)


class _Forked(subprocess.Popen):
    """`Popen` that forks for `python SCRIPT OPTIONS`, so that the script need not import torch and the rest again."""

    def _execute_child(self, *arguments: Any) -> None:
        call = inspect.signature(super()._execute_child).bind(*arguments).arguments
        words, pipes = call["args"], ("p2cread", "c2pread", "errread")
        is_script = not isinstance(words, str) and words[0] == sys.executable and str(words[1]).endswith(".py")
        if not is_script or any(call[pipe] != -1 for pipe in pipes) or threading.active_count() > 1:
            super()._execute_child(*arguments)
            return
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid:
            self._child_created = True
            return
        code = 1
        try:
            for file, target in ((call["c2pwrite"], 1), (call["errwrite"], 2)):
                if file != -1:
                    os.dup2(file, target)
            os.environ.update(call["env"] or {})
            _run_script(*map(str, words[1:]))
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def _run_rank(environment: dict[str, str], script: str, *options: str) -> None:
    os.environ.update(environment)
    _run_script(script, *options)


def _run_script(script: str, *options: str) -> None:
    subprocess.Popen = _Forked
    fork = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: fork  # another fork server would import torch and the rest again
    sys.argv = [script, *options]
    test_folders = ROOT / "tests", ROOT / "examples"  # pytest and the tests add these to the path
    sys.path[:] = [path for path in sys.path if not any(Path(path).is_relative_to(folder) for folder in test_folders)]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")
