"""`tadp features`: report what is in a feature store."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from tadp.cli.app import command
from tadp.cli.terminal import echo, fail, no_gc
from tadp.language.grammar import counted

_REASONS_SHOWN = 20


@command(
    "tadp features features",
    "tadp features features --verify",
)
def features(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="A feature store: the output of tadp extract --shards.", show_default=False
        ),
    ],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all shards and compare them with their checksums.")
    ] = False,
) -> None:
    """Report how many images of a feature store are done, how many failed, and why.

    With --verify, each shard that is missing, cut short or changed is listed, and the exit code is 1 if there is one.
    """
    with no_gc():
        from tadp.extract import FeatureStore
        from tadp.extract.saved_tensors import readable_bytes

    store = FeatureStore.open(folder)
    size = sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file())
    failures = store.failures()
    echo(f"{counted(len(store), 'image')} done, {len(failures)} failed; {readable_bytes(size)} in {folder}")
    echo(f"model {store.settings.get('model')}, {store.settings.get('dtype')}, levels {store.settings.get('levels')}")
    reasons = Counter(failures.values())
    for reason, count in reasons.most_common(_REASONS_SHOWN):
        echo(f"failed: {reason}" if count == 1 else f"{count} failed: {reason}")
    if len(reasons) > _REASONS_SHOWN:
        echo(f"… and {len(reasons) - _REASONS_SHOWN} more reasons; FeatureStore.failures() has all of them")
    if verify:
        damages = list(store.verify())
        for damage in damages:
            fail(damage)
        if damages:
            echo("Delete damaged shards, and run tadp extract again, which computes their images again.")
            raise typer.Exit(1)
        echo("all shards are as they were written")
