"""Write results so that a failure leaves the previous files in place.

A process that is killed leaves at most hidden partial files, which the next run removes, or a folder whose new entries
are complete but not all in place, which is completed when the folder is read or written again.
"""

import hashlib
import os
import re
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from errno import EILSEQ, EINVAL, ENAMETOOLONG, ENOSYS, ENOTSUP
from fnmatch import fnmatchcase
from pathlib import Path

from safetensors import SafetensorError

from tadp.errors import ModelError, OutputError
from tadp.files.checks import check_utf8
from tadp.files.run_lock import locked, only_run

_MOST_BYTES = 200  # of a name within the name of its partial file; file systems allow 255
_FOLDER_LOCK = ".part.lock"
_COMPLETE = "complete"  # the file that marks a partial folder whose entries are complete
_SWAP_S = 30.0  # how long to wait while another process moves entries, which takes milliseconds
_WRITER = r"tadp-(?P<host>[0-9a-f]{8})\.(?P<thread>\d+)\.(?P<process>\d+)"  # in the name of a partial file
_OLD_S = 24 * 3600.0  # a partial file that has not changed for so long belongs to no running process


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to: on success it replaces `path`, on failure it is removed and `path` is kept.

    Raises:
        OutputError: If the disk is full, the folder cannot be written to, or `path` is a pipe or a device.
    """
    name = path.name
    if len(os.fsencode(name)) > _MOST_BYTES:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    partial = path.with_name(f".{name}.{_writer()}.part")
    try:
        check_target(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:
        raise _output_error(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def check_target(path: Path) -> None:
    """Refuse to write a result in place of a pipe or a device. Long runs call this before they begin.

    Raises:
        OutputError: If `path` is a pipe or a device.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OutputError(
            f"{path} is a pipe or a device, which a finished file cannot replace. Pass the path of a file."
        )


@contextmanager
def replace_alone(path: Path) -> Iterator[Path]:
    """Replace a file as `replace_file` does, as the only run that writes it, and remove what killed runs left there.

    Raises:
        OutputError: If another run is writing the file, or it cannot be written.
    """
    with only_run(path, is_folder=False):
        remove_leftovers(path.parent)
        with replace_file(path) as partial:
            yield partial


def remove_leftovers(folder: Path) -> None:
    """Delete the partial files that killed processes left in a folder, but not in its subfolders."""
    for partial in folder.glob(".*.part"):
        match = re.fullmatch(rf"\..+\.{_WRITER}\.part", partial.name, re.DOTALL)
        if match and not _is_in_use(partial, match):
            with suppress(OSError):
                partial.unlink(missing_ok=True)


@contextmanager
def replace_folder(path: Path, *, parts: Collection[str] = ()) -> Iterator[Path]:
    """Yield an empty temporary folder to fill. If the block succeeds, its entries are moved to `path`.

    An entry of `path` with the same name is replaced; other entries of `path` are kept, except for `parts`.

    If the process is killed while they are moved, `complete_folder` moves the rest.

    Args:
        path: The folder, which is created if it does not exist.
        parts: Patterns of the names of a model's parts. Parts in `path` that are not written again are deleted, because
            they are of an older model.

    Raises:
        OutputError: If the disk is full, `path` cannot be written to, or an entry to replace is a pipe or a device.
            `path` then still has its old entries.
    """
    partial = None
    check_utf8(path, OutputError)
    try:
        path.mkdir(parents=True, exist_ok=True)
        remove_partial_folders(path)
        partial = Path(tempfile.mkdtemp(prefix=f".part-{_writer()}-", dir=path))
        new, old = partial / "new", partial / "old"
        new.mkdir()
        old.mkdir()
        yield new
        mode = new.stat().st_mode & 0o666  # the umask's mode for a file; safetensors lets only the owner read
        for entry in sorted(new.rglob("*")):
            if entry.is_file():
                entry.chmod(mode)
            sync(entry)
        for entry in new.iterdir():
            check_target(path / entry.name)
        with _moving(path):
            _complete_all(path)
            _swap(path, partial, parts)
    except (OSError, SafetensorError) as error:
        raise _output_error(path, error) from error
    finally:
        if partial is not None and not (partial / _COMPLETE).exists():  # kept if an old entry was not put back
            shutil.rmtree(partial, ignore_errors=True)


def complete_folder(path: Path) -> bool:
    """Finish a call of `replace_folder` that was killed while it moved files; return whether there was one.

    Raises:
        ModelError: If this is not possible, so that the folder holds parts of two models.
    """
    if not _complete_parts(path):
        return False
    try:
        with _moving(path):
            _complete_all(path)
        remove_partial_folders(path)
    except OSError as error:
        raise ModelError(
            f"{path} holds parts of two models, because the process that was replacing one by the other was killed, "
            f"and the rest cannot be moved: {error} Load it once as a user who may write there, or save it again."
        ) from error
    return True


def remove_partial_folders(path: Path) -> None:
    """Delete what killed processes left, except for folders that `complete_folder` can complete."""
    for partial in path.glob(".part-*"):
        match = re.fullmatch(rf"\.part-{_WRITER}-\w+", partial.name)
        if match and not _is_in_use(partial, match) and not (partial / _COMPLETE).exists():
            shutil.rmtree(partial, ignore_errors=True)
    if (path / _FOLDER_LOCK).exists():
        with suppress(OutputError), locked(path / _FOLDER_LOCK, busy="another run holds it"):
            pass  # a lock file that nobody holds is removed


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


def is_about_name(error: OutputError) -> bool:
    """Whether a file could not be written because of its name, so that other files still can."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in (ENAMETOOLONG, EILSEQ)


def _moving(path: Path) -> AbstractContextManager[None]:
    """Be the only process that moves entries of a folder."""
    return locked(path / _FOLDER_LOCK, busy=f"another run is writing {path}. Wait for it.", wait_s=_SWAP_S)


def _swap(path: Path, partial: Path, parts: Collection[str]) -> None:
    """Move the entries of `new` into `path` and the entries they replace into `old`: all of them, or none."""
    new, old, mark = partial / "new", partial / "old", partial / _COMPLETE
    names = sorted(entry.name for entry in new.iterdir())
    entries = {entry.name for entry in path.iterdir()}.difference(names)
    obsolete = sorted(name for name in entries if any(fnmatchcase(name, part) for part in parts))
    gone = partial / "gone"  # with an empty file per entry to delete
    gone.mkdir()
    for name in obsolete:
        (gone / name).touch()
    sync(gone)
    mark.touch()  # from here, a killed process has its entries moved by `complete_folder`
    sync(partial)
    try:
        for name in (*obsolete, *names):
            _move(name, path, new, old)
    except BaseException:
        for name in (*obsolete, *names):
            if name in names and not os.path.lexists(new / name):
                (path / name).replace(new / name)
            if os.path.lexists(old / name):
                (old / name).replace(path / name)
        mark.unlink()
        raise
    _finish(path, mark)


def _move(name: str, path: Path, new: Path, old: Path) -> None:
    if os.path.lexists(path / name):
        (path / name).replace(old / name)
    if os.path.lexists(new / name):
        (new / name).replace(path / name)


def _complete_all(path: Path) -> None:
    """Move the remaining entries of replacements that were killed. The caller holds the lock on the folder."""
    for partial in _complete_parts(path):
        new, old = partial / "new", partial / "old"
        folders = new, old, partial / "gone"
        names, moved, gone = ([entry.name for entry in place.iterdir()] if place.is_dir() else [] for place in folders)
        for name in (*set(gone).difference(moved), *names):
            _move(name, path, new, old)
        _finish(path, partial / _COMPLETE)


def _complete_parts(path: Path) -> list[Path]:
    """The partial folders of `replace_folder` that are complete. Links are left out, because they lead elsewhere."""
    partials = [mark.parent for mark in path.glob(f".part-*/{_COMPLETE}")]
    inside = ("new", "old", "gone", _COMPLETE)
    return [
        partial
        for partial in partials
        if re.fullmatch(rf"\.part-{_WRITER}-\w+", partial.name)
        and not any(entry.is_symlink() for entry in (partial, *(partial / name for name in inside)))
    ]


def _finish(path: Path, mark: Path) -> None:
    """Delete the entries that were replaced. They are marked until then, so that what a kill leaves is deleted too."""
    sync(path)
    shutil.rmtree(mark.with_name("old"), ignore_errors=True)
    mark.unlink()
    shutil.rmtree(mark.parent, ignore_errors=True)


def _writer() -> str:
    """The writer of a partial file, as a part of its name. Two threads, or two machines, may write the same file."""
    host = hashlib.sha256(os.fsencode(socket.gethostname())).hexdigest()[:8]
    return f"tadp-{host}.{threading.get_ident()}.{os.getpid()}"


def _is_in_use(partial: Path, writer: re.Match[str]) -> bool:
    """Whether the writer of a partial file or folder may still be writing it."""
    try:
        if time.time() - partial.stat().st_mtime > _OLD_S:  # another process may have the same number by now
            return False
    except OSError:
        return False
    thread, process = int(writer["thread"]), int(writer["process"])
    if os.name != "posix" or not _writer().startswith(f"tadp-{writer['host']}."):  # on another machine
        return True
    if process == os.getpid():  # a container's processes often have the same id at each start
        return thread in {running.ident for running in threading.enumerate()}
    try:
        os.kill(process, 0)  # signal 0 only checks that the process exists
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # a process of another user
        return True
    return True


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk, so that they survive a power cut."""
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (EINVAL, ENOSYS, ENOTSUP):  # some network disks cannot do this
            raise
    finally:
        os.close(handle)


def _output_error(path: Path, error: Exception) -> OutputError:
    if isinstance(error, OutputError):
        return error
    if isinstance(error, IsADirectoryError):
        hint = "A folder stands where a file should be; move it away"
    elif isinstance(error, FileExistsError | NotADirectoryError):  # raised while its folder was created
        hint = "A file stands where a folder should be; choose another name"
    elif isinstance(error, PermissionError):
        hint = "Choose a folder that you may write to"
    elif isinstance(error, OSError) and error.errno in (ENAMETOOLONG, EILSEQ):
        hint = "The disk allows no such name; rename the file that it comes from"
    else:
        hint = "Free some space or choose another folder"
    return OutputError(f"cannot write {path}: {error}. {hint}; nothing was changed.")
