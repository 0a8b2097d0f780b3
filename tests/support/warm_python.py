"""A Python in which torch, diffusers and transformers are imported already, for tests that start many processes.

To import them takes seven seconds of CPU, more than most of the commands and scripts do themselves. `warm_python()`
starts a server that imports them once, and gives the path of a program that is called as `python` is. Each call makes
the server fork; the fork runs what was asked, in the caller's folder and environment and with its files, and the caller
gets its exit status or its signal. tadp and the examples are imported in the fork, as in a fresh process, and what a
script starts with `sys.executable` is forked too.

A fork does not show what a module forgot to import of those big ones, and all forks of a server have one hash seed:
what is about either starts a Python of its own.

    python warm_python.py FOLDER    # the server; writes FOLDER/python, and ends when its standard input does
"""

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

PRELOADED = {
    "accelerate": ("Accelerator",),
    "diffusers": ("AutoencoderKL", "DDIMScheduler", "DDPMScheduler", "StableDiffusionPipeline", "UNet2DConditionModel"),
    "peft": (),
    "PIL.Image": (),
    "rich.progress": (),
    "torch.utils.data": (),
    "torch.utils.flop_counter": (),
    "transformers": (
        "AutoProcessor", "BertTokenizer", "BlipForConditionalGeneration", "Blip2ForConditionalGeneration",
        "CLIPTextModel", "CLIPTokenizer",
    ),
    "typer": (),
}  # fmt: skip
CLIENT = """\
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect(os.path.join(os.path.dirname(os.path.abspath(__file__)), "socket"))
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: server.send(bytes([number])))
call = {"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}
socket.send_fds(server, [json.dumps(call).encode()], [0, 1, 2])
code = os.waitstatus_to_exitcode(int(server.recv(16)))
if code < 0:
    if code != -signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@functools.cache
def warm_python() -> str:
    """The path of a program to call in place of `sys.executable`; which it is where there is no Linux."""
    if sys.platform != "linux":
        return sys.executable
    folder = Path(tempfile.mkdtemp())  # a socket's path may have a hundred letters, which pytest's own folders exceed
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # both are read at import
    server = subprocess.Popen(
        [sys.executable, __file__, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        cwd="/",
        start_new_session=True,  # a terminal's Ctrl-C is for who calls, and reaches the forks through them
    )

    @atexit.register
    def stop() -> None:
        if server.stdin is not None:
            server.stdin.close()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
        shutil.rmtree(folder, ignore_errors=True)

    if server.stdout is None or not server.stdout.readline():
        raise RuntimeError("the server of warm_python.py did not start; it said why above")
    return str(folder / "python")


class Call(NamedTuple):
    """What a process was asked to do, and its standard files."""

    arguments: list[str]
    folder: str
    environment: dict[str, str]
    files: list[int]


def serve(folder: Path) -> Call | None:
    """Answer calls until standard input ends. Returns in each fork too, with its call."""
    for module, names in PRELOADED.items():
        for name in names or (None,):
            loaded = importlib.import_module(module)
            _ = name and getattr(loaded, name)  # what is lazy is imported when it is asked for
    gc.freeze()  # no collection in a fork touches, and so copies, what is shared
    program = folder / "python"
    program.write_text(f"#!{sys.executable} -SE\n{CLIENT}")
    program.chmod(0o755)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen()
        print("ready", flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that no fork holds the pipe of who started the server
        children: set[int] = set()
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            with connection:
                if not (child := os.fork()):
                    return answer(connection)
                children = {one for one in children | {child} if os.waitpid(one, os.WNOHANG) == (0, 0)}
    shutil.rmtree(folder, ignore_errors=True)  # whoever started this may have been killed
    return None


def answer(connection: socket.socket) -> Call | None:
    """In a fork: fork again, and let pass signals and the exit status. Returns in that second fork."""
    said, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    if not (child := os.fork()):
        return Call(**json.loads(said), files=files)
    for file in files:
        os.close(file)
    ended = os.pidfd_open(child)
    while True:
        ready, _, _ = select.select([connection, ended], [], [])
        if ended in ready:
            connection.send(str(os.waitpid(child, 0)[1]).encode())
            os._exit(0)
        asked = connection.recv(1)
        signal.pidfd_send_signal(ended, asked[0] if asked else signal.SIGKILL)  # the caller was killed
        if not asked:
            os._exit(0)


def run(call: Call, program: Path) -> None:
    """Do as `python` does with these arguments: a file, -m a module or -c a program."""
    for number, file in enumerate(call.files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(call.folder)
    os.environ.clear()
    os.environ.update(call.environment)
    sys.executable = str(program)
    kind, *others = call.arguments
    own = [str(Path(kind).resolve().parent)] if not kind.startswith("-") else [call.folder if kind == "-m" else ""]
    more = [one for one in call.environment.get("PYTHONPATH", "").split(os.pathsep) if one and one not in sys.path]
    sys.path[:1] = own + more
    if kind == "-m":
        sys.argv = others
        runpy.run_module(others[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *others[1:]]
        exec(compile(others[0], "<string>", "exec"), sys.modules["__main__"].__dict__)
    else:
        sys.argv = call.arguments
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    called = serve(Path(sys.argv[1]))
    if called is not None:
        run(called, Path(sys.argv[1]) / "python")
