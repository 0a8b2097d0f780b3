"""Captions of a run whose file can only be written at its end: until then they are in a table on disk next to it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tadp.captions.records import Provenance, differences
from tadp.captions.table import CaptionTable
from tadp.errors import Argument, CaptionError, TADPError
from tadp.files.atomic import remove_leftovers
from tadp.files.run_lock import Run, only_run


@dataclass(frozen=True)
class Partial:
    """The captions of a run that may be stopped at any moment; the next run continues with them.

    Attributes:
        path: The table's file, FILE.part.db.
        table: The table.
        run: The run, which holds the lock on the output file.
    """

    path: Path
    table: CaptionTable
    run: Run

    def remove(self) -> None:
        """Delete the table, once its captions are in the output file."""
        self.table.close()
        _remove(self.path)

    def replace(self, output: Path) -> None:
        """Put the table in the place of an older one."""
        self.table.close()
        output.with_name(f"{output.name}-journal").unlink(missing_ok=True)  # of the older table
        self.path.replace(output)


@contextmanager
def partial_captions(output: Path, provenance: Provenance, *, overwrite: bool) -> Iterator[Partial]:
    """Lock a file for this run, and keep the captions of the run next to the file until `Partial.remove`.

    Args:
        output: The file that is written at the end.
        provenance: Where the captions come from.
        overwrite: Whether to replace partial captions from elsewhere instead of refusing them.

    Raises:
        CaptionError: If there are partial captions from another model or other options and `overwrite` is false.
        OutputError: If another run is writing the file, or the folder cannot be written.
    """
    path = _path(output)
    with only_run(output, is_folder=False) as run:
        remove_leftovers(output.parent)
        with closing(_open(path, provenance, overwrite=overwrite)) as table:
            yield Partial(path, table, run)


def tidy(output: Path, *, same_ids: bool) -> None:
    """Remove the partial captions of a run that was killed after it had written its file.

    Nothing is removed while another run is writing the file.

    Args:
        output: The file.
        same_ids: Whether the partial captions have the ids of the file.
    """
    path = _path(output)
    with suppress(TADPError), only_run(output, is_folder=False):
        remove_leftovers(output.parent)
        if path.exists() and _is_written(path, output, same_ids=same_ids):
            _remove(path)


def _path(output: Path) -> Path:
    return output.with_name(f"{output.name}.part.db")


def _remove(path: Path) -> None:
    for suffix in ("-journal", ""):  # a journal without its table would be applied to the next table of that name
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _is_written(path: Path, output: Path, *, same_ids: bool) -> bool:
    """Whether all partial captions are in the file."""
    written = CaptionTable.open(output)
    known = {(record.id if same_ids else "", text) for record in written.records() for text in record.captions}
    with CaptionTable.open(path) as table:
        return all(
            (record.id if same_ids else "", text) in known for record in table.records() for text in record.captions
        )


def _open(path: Path, provenance: Provenance, *, overwrite: bool) -> CaptionTable:
    """The partial captions to continue with, or a new table; `overwrite` replaces captions of another origin."""
    try:
        table = CaptionTable.create(path, provenance=provenance, mix=True)
        foreign = [origin for origin in table.provenances if origin != provenance]
        if not foreign:
            return table
        table.close()
        why = ["its captions have another origin: ", *differences(foreign[0], provenance), "."]
    except CaptionError as error:
        why = list(error.args)
    if not overwrite:
        raise CaptionError(
            f"{path} was left by a run that did not finish, and this run cannot continue it: ",
            *why,
            " Pass ",
            Argument("overwrite", True),
            " to replace it, or the options of that run to continue it.",
        )
    _remove(path)
    return CaptionTable.create(path, provenance=provenance, mix=True)
