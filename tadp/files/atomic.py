"""Write results so that a failure leaves what was there before."""

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from tadp.errors import OutputError


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to; on success it becomes `path`, on failure it vanishes and `path` is untouched.

    Raises:
        OutputError: If the disk is full, or the folder cannot be written.
    """
    # two threads may write one file; `extract` reads the process at the end
    partial = path.with_name(f".{path.name}.{threading.get_ident()}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise _output_error(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; on success its entries replace those of the same name in `path`.

    Raises:
        OutputError: If the disk is full, or the folder cannot be written; what `path` held is still there.
    """
    partial = None
    try:
        path.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".part-", dir=path))
        new, old = partial / "new", partial / "old"
        new.mkdir()
        old.mkdir()
        yield new
        _swap(path, new, old)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise _output_error(path, error) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial / "new", ignore_errors=True)
            for folder in (partial / "old", partial):  # not empty, and kept, if what it holds could not be put back
                with suppress(OSError):
                    folder.rmdir()


def writable_folder(folder: Path) -> Path:
    """The folder, made if it is not there.

    Raises:
        OutputError: If it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}. Choose another.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"no permission to write in {folder}. Choose another folder, or chmod u+w {folder}.")
    return folder


def _swap(path: Path, new: Path, old: Path) -> None:
    """Move what `new` holds into `path`, and what it replaces into `old`; all of it, or none."""
    names = sorted(entry.name for entry in new.iterdir())
    mode = new.stat().st_mode & 0o666  # what the umask gives a file; safetensors writes for the owner alone
    for file in new.rglob("*"):
        if file.is_file():
            file.chmod(mode)
    try:
        for name in names:
            if os.path.lexists(path / name):
                (path / name).replace(old / name)
            (new / name).replace(path / name)
    except BaseException:
        for name in names:
            if not os.path.lexists(new / name):
                (path / name).replace(new / name)
            if os.path.lexists(old / name):
                (old / name).replace(path / name)
        raise


def _output_error(path: Path, error: Exception) -> OutputError:
    if isinstance(error, OutputError):
        return error
    if isinstance(error, FileExistsError | NotADirectoryError):  # of making its folder
        cure = "A file stands where a folder should; choose another name"
    elif isinstance(error, PermissionError):
        cure = "Choose a folder that you may write to"
    else:
        cure = "Free some space or choose another folder"
    return OutputError(f"cannot write {path}: {error}. {cure}; nothing was changed.")
