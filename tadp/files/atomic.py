"""Write results so that a failure leaves the previous files in place."""

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
    """Yield a temporary path to write to: on success it replaces `path`, on failure it is removed and `path` is kept.

    Raises:
        OutputError: If the disk is full, or the folder cannot be written to.
    """
    # Two threads may write the same file. `extract` reads the process id from the end of the name.
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
    """Yield an empty temporary folder to fill. If the block succeeds, its entries are moved to `path`.

    An entry of `path` with the same name is replaced; other entries of `path` are kept.

    Raises:
        OutputError: If the disk is full, or `path` cannot be written to. `path` then still has its old entries.
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
            for folder in (partial / "old", partial):  # kept, as it is not empty, if an old entry was not put back
                with suppress(OSError):
                    folder.rmdir()


def writable_folder(folder: Path) -> Path:
    """Return the folder, and create it first if it does not exist.

    Raises:
        OutputError: If the folder cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}. Choose another.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"no permission to write in {folder}. Choose another folder, or chmod u+w {folder}.")
    return folder


def _swap(path: Path, new: Path, old: Path) -> None:
    """Move the entries of `new` into `path` and the entries they replace into `old`: all of them, or none."""
    names = sorted(entry.name for entry in new.iterdir())
    mode = new.stat().st_mode & 0o666  # the umask's mode for a file; safetensors lets only the owner read
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
    if isinstance(error, FileExistsError | NotADirectoryError):  # raised while its folder was created
        hint = "A file stands where a folder should be; choose another name"
    elif isinstance(error, PermissionError):
        hint = "Choose a folder that you may write to"
    else:
        hint = "Free some space or choose another folder"
    return OutputError(f"cannot write {path}: {error}. {hint}; nothing was changed.")
