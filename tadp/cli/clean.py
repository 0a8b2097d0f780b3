"""`tadp clean`: remove the words of a domain from captions."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from tadp.cli.app import Device, Overwrite, command
from tadp.cli.caption import check_caption_file, told_where
from tadp.cli.terminal import echo, print_warning, wrong_usage
from tadp.errors import CaptionError

if TYPE_CHECKING:
    from tadp.captions import CaptionRecord
    from tadp.cleaning import Cleaner, CleaningReport


@command(
    "tadp clean captions.json -o cleaned.json --domain watercolor",
    "tadp clean captions.json -o cleaned.json --domain comic --language-model Qwen/Qwen2.5-1.5B-Instruct",
    "tadp clean captions.json -o cleaned.json --domain night --endpoint http://localhost:8000/v1 --language-model NAME",
)
def clean(
    captions: Annotated[
        Path, typer.Argument(metavar="CAPTIONS", help="The caption file to clean.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write: .json, .jsonl or .parquet.", show_default=False)
    ],
    domain: Annotated[
        str,
        typer.Option(
            "--domain",
            help="watercolor, comic, night, foggy or dashcam; or words of your own, with a comma after each.",
        ),
    ] = "watercolor",
    language_model: Annotated[
        str | None,
        typer.Option(
            "--language-model",
            help="Clean with this language model: a hub id for transformers, or a model of --endpoint.",
            show_default=False,
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", help="Address of an OpenAI-compatible server.", show_default=False),
    ] = None,
    key_variable: Annotated[
        str, typer.Option("--key-variable", help="Environment variable that holds the API key of the endpoint.")
    ] = "OPENAI_API_KEY",
    budget_s: Annotated[
        float, typer.Option("--budget-s", min=1, help="Time limit in seconds for cleaning with --endpoint.")
    ] = 24 * 3600.0,
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Remove what captions say about a domain: "a watercolor painting of a dog" becomes "a dog".

    A domain is a kind of image, such as watercolors or photographs at night. Captions are cleaned by rules, which need
    no model, or by a language model, as in the paper. No caption is lost: one that cannot be cleaned is kept unchanged
    and reported, and the exit code is then 1. Other fields of the file are kept, and the record of where the captions
    came from also names the cleaner.

    The output file is written once every caption was tried. Until then, whether the command is interrupted, fails or is
    killed, or the server stops answering, the cleaned captions are in cleaned.json.part.db (next to cleaned.json), and
    the same command continues from there. The command stops if a server keeps timing out, and --budget-s limits the
    time of the whole command.
    """
    from tadp.captions import CaptionTable, Provenance
    from tadp.captions.partial import partial_captions
    from tadp.captions.records import shown

    check_caption_file(output, overwrite=overwrite, tables=False)
    if endpoint is not None and language_model is None:
        raise typer.BadParameter("--endpoint needs the name of a model.", param_hint="--language-model")
    with warnings.catch_warnings(record=True) as left_out:  # an unfinished last line, left by a killed writer
        table = CaptionTable.open(captions)
    for warning in left_out:
        print_warning(warning.message)
    if not len(table):
        raise CaptionError(f"{captions} has no captions.")
    cleaner = _cleaner(_domain(domain), language_model, endpoint, key_variable, budget_s, device)
    records = list(table.records())
    origin = Provenance(repr(cleaner), generation={"words": sorted(cleaner.domain.words)})
    with partial_captions(output, origin, overwrite=overwrite) as partial, told_where(output, partial):
        report = cleaner.clean(
            [text for record in records for text in record.captions],
            progress=Console(stderr=True).is_terminal,
            kept=partial.table,
        )
        for number, why in list(report.failures.items())[:20]:
            echo(f"not cleaned: {shown(report.before[number])}: {why}", fg="yellow", err=True)
        if report.untried:
            echo(report.summary())
            raise typer.Exit(1)
        partial.run.check()
        _write_cleaned(records, report, repr(cleaner), output)
        partial.remove()
    echo(f"{report.summary()}\nwrote {output}")
    if report.failures or left_out:
        raise typer.Exit(1)


def _domain(text: str) -> str | list[str]:
    from tadp.cleaning import DOMAINS

    words = [word.strip() for word in text.split(",") if word.strip()]
    if "," in text and words:
        return words
    if text not in DOMAINS:
        raise typer.BadParameter(
            f"{text!r} is not a domain; the domains are {', '.join(DOMAINS)}. Words of your own need a comma after "
            f"them: {words[0] if words else 'sketch'},",
            param_hint="--domain",
        )
    return text


def _cleaner(
    domain: str | list[str],
    language_model: str | None,
    endpoint: str | None,
    key_variable: str,
    budget_s: float,
    device: str | None,
) -> "Cleaner":
    from tadp.cleaning import EndpointCleaner, ModelCleaner, RuleCleaner

    if endpoint is not None:
        with wrong_usage("--endpoint"):
            return EndpointCleaner(
                endpoint, str(language_model), domain=domain, key_variable=key_variable, budget_s=budget_s
            )
    if language_model is not None:
        return ModelCleaner.from_pretrained(language_model, domain=domain, device=device)
    return RuleCleaner(domain)


def _write_cleaned(records: list["CaptionRecord"], report: "CleaningReport", cleaner: str, output: Path) -> None:
    """Write the cleaned captions in place of the records' own. Records with a provenance also name the cleaner."""
    from tadp._version import __version__
    from tadp.captions import formats
    from tadp.captions.records import new_record

    results, place = [], 0
    for record in records:
        end = place + len(record.captions)
        provenance = record.provenance
        if provenance:
            before = provenance.generation.get("cleaner")
            by = f"{f'{before}; ' if before else ''}{cleaner} of tadp {__version__}"
            provenance = replace(provenance, generation={**provenance.generation, "cleaner": by})
        results.append(new_record(record.id, report.after[place:end], dict(record.fields), provenance=provenance))
        place = end
    writers = {".json": formats.write_json, ".parquet": formats.write_parquet}
    writers.get(output.suffix.lower(), formats.write_jsonl)(output, results)
    if output.suffix.lower() == ".json" and any(record.provenance for record in records):
        note = f"{output} does not say where the captions came from; write a .jsonl or .parquet to keep that."
        echo(note, fg="yellow", err=True)
