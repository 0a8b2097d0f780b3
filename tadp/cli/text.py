"""`tadp caption`, `tadp prompt`, `tadp clean`: what is said to the backbone."""

import warnings
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tadp.cli.app import (
    BatchSize,
    Device,
    DtypeOption,
    Images,
    MaxNewTokens,
    MinNewTokens,
    Model,
    Overwrite,
    Revision,
    Variant,
    command,
)
from tadp.cli.captioning import fill_file, fill_table, load_text_encoder
from tadp.cli.terminal import (
    TINY,
    Dtype,
    load_backbone,
    load_captioner,
    own_captioner,
    tell_of_tiny,
    tell_of_warning,
    wrong_usage,
)
from tadp.errors import CaptionError, ModifierError, OutputError

if TYPE_CHECKING:
    from tadp.backbone import TADPBackbone
    from tadp.captions import CaptionRecord, CaptionTable
    from tadp.cleaning import Cleaner, CleaningReport
    from tadp.metrics import Agreement
    from tadp.modifiers import CaptionModifier
    from tadp.text import Conditioning
    from tadp.text_stack import AnyText


TOLERANCE = 0.01  # of the oracle's precision and recall


class Mode(StrEnum):
    """What G of the paper is."""

    null = "null"
    class_names = "class-names"
    class_embeddings = "class-embeddings"
    averaged_eos = "averaged-eos"
    caption = "caption"
    nouns = "nouns"
    oracle = "oracle"


@command(
    "tadp caption photos -o captions.json",
    "tadp caption photos -o captions.db --min-new-tokens 40",
    "tadp caption rex.jpg --num-beams 5",
)
def caption(
    images: Images,
    model: Annotated[str, typer.Option("--model", "-m", help="tadp-tiny, a folder, or a hub id.")] = TINY,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write: .json, .jsonl, .parquet or .db.", show_default=False),
    ] = None,
    min_new_tokens: MinNewTokens = 0,
    max_new_tokens: MaxNewTokens = 77,
    num_beams: Annotated[int, typer.Option("--num-beams", min=1, help="Width of the beam search; 1 is greedy.")] = 1,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="What the model continues or answers.", show_default=False)
    ] = None,
    batch_size: BatchSize = 8,
    text_encoder: Annotated[
        str | None,
        typer.Option(
            "--text-encoder",
            help="Name the captions that this model's text encoder cannot take whole.",
            show_default="the model that the captioner is part of, if any",
        ),
    ] = None,
    dtype: DtypeOption = Dtype.float32,
    device: Device = None,
    revision: Revision = None,
    mix: Annotated[bool, typer.Option("--mix", help="Add to a .db by another model, or with other options.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Describe images in words, a line an image.

    With -o it writes a file by image id: the image's file name without suffix, "rex" for photos/rex.jpg; where two
    images have the same name, their paths below the folder, "a/rex" and "b/rex". A .json has the form of the paper's
    authors, {"rex": {"captions": ["a dog on grass"]}}. Images that cannot be read, or about which the model says
    nothing, are named and left out; captions that are too long for the text encoder are named and kept. Interrupted, it
    writes what it has; killed, it leaves captions.json.part.db, with which the same command goes on.

    A .db is for many images: captions are kept batch by batch, a second run goes on where the first stopped, whatever
    stopped it, and captions by another model or with other options are refused, unless you pass --mix. Its ids are
    paths below the folder you name, pets/rex for photos/pets/rex.jpg of photos, so name the same folder each time; an
    id that another file has already is refused.
    """
    import torch

    from tadp.captions import CaptionTable, Provenance
    from tadp.extract import caption_ids, output_names, path_ids

    is_table = output is not None and _check_caption_file(output, overwrite=overwrite)
    ids = {key: image for image, key in (path_ids(images) if is_table else caption_ids(output_names(images))).items()}
    describe = load_captioner(
        model,
        device,
        batch_size=batch_size,
        min_new_tokens=min_new_tokens,
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        prompt=prompt,
        dtype=getattr(torch, dtype.value),
        revision=revision,
    )
    provenance = Provenance.of(describe)
    how: dict[str, Any] = {"text_encoder": load_text_encoder(model, text_encoder)}
    if output is None:
        failed = fill_table(CaptionTable(provenance=provenance), ids, describe, home=None, **how)
    elif is_table:
        if overwrite:
            output.unlink(missing_ok=True)
        with CaptionTable.create(output, provenance=provenance, mix=mix) as table:
            failed = fill_table(table, ids, describe, home=output.parent, **how)
    else:
        failed = fill_file(lambda table: _write_table(table, output), output, ids, describe, overwrite=overwrite, **how)
    tell_of_tiny(model)
    if failed:
        raise typer.Exit(1)


@command(
    "tadp prompt class-names --classes dog,cat,car",
    "tadp prompt averaged-eos --classes dog,cat,car",
    "tadp prompt oracle --classes dog,cat,car --present dog,car --recall 0.5",
    "tadp prompt caption photo.jpg --modifier watercolor:simple",
)
def prompt(
    mode: Annotated[Mode, typer.Argument(metavar="MODE", help="What is said, see above.", show_default=False)],
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGES", help="For caption and nouns: image files, folders.", show_default=False),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            help="Names with commas between, or @FILE with one a line, where a name may have commas itself.",
            show_default=False,
        ),
    ] = None,
    present: Annotated[
        str | None,
        typer.Option("--present", help="For oracle: the classes in the image, as for --classes.", show_default=False),
    ] = None,
    precision: Annotated[float, typer.Option("--precision", help="Of the oracle: above 0, up to 1.")] = 1.0,
    recall: Annotated[float, typer.Option("--recall", help="Of the oracle: 0 to 1.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Which names the oracle drops and adds.")] = 0,
    modifier: Annotated[
        str | None,
        typer.Option(
            "--modifier",
            help="One of the paper's as DOMAIN:KIND, e.g. watercolor:simple, or a saved modifier's folder.",
            show_default=False,
        ),
    ] = None,
    model: Model = TINY,
    captioner: Annotated[
        str | None, typer.Option("--captioner", help="For caption and nouns.", show_default="the model's own")
    ] = None,
    device: Device = None,
    revision: Revision = None,
    variant: Variant = None,
) -> None:
    """Show the text that a backbone gets in each mode, and how many tokens of the text encoder it takes.

    MODE is null (the empty prompt), class-names (all names in one line), class-embeddings (each name by itself),
    averaged-eos (one embedding a class, over 80 templates), oracle (the names of what is there, with the precision and
    recall that came of it), caption (a captioner's words) or nouns (the nouns of those).
    """
    from tadp import prompts

    backbone = load_backbone(model, dtype=Dtype.float32, device=device, revision=revision, variant=variant)
    encoder = backbone.text_encoder
    if encoder is None:
        raise typer.BadParameter(f"{model} has no text encoder.", param_hint="--model")
    rename = _modifier(modifier, backbone, model) if modifier is not None else None
    said: list[str] | Conditioning
    note = ""
    with wrong_usage(options=("precision", "recall")):
        if mode is Mode.null:
            said = prompts.null(1)
        elif mode is Mode.class_names:
            said = prompts.class_names(_names(classes, "--classes"))
        elif mode is Mode.oracle:
            here = _names(present, "--present")
            named = prompts.oracle_classes(
                [here], _names(classes or present, "--classes"), precision=precision, recall=recall, seed=seed
            )
            said = prompts.class_names(named[0]) if named[0] else prompts.null(1)
            note = _realised(prompts.agreement(named, [here]), precision, recall)
        elif mode in (Mode.caption, Mode.nouns):
            said = _captions(images, captioner or own_captioner(model), device)
            said = prompts.nouns(said) if mode is Mode.nouns else said
        elif rename is not None:
            raise typer.BadParameter(f"{mode} is not said in words, which a modifier needs.", param_hint="--modifier")
        else:
            make = prompts.class_embeddings if mode is Mode.class_embeddings else prompts.averaged_eos
            said = make(_names(classes, "--classes"), backbone)
    if isinstance(said, list):
        _print_prompts(rename(said) if rename else said, encoder)
    else:
        _print_embeddings(said)
    if note:
        typer.echo(note)


@command(
    "tadp clean captions.json -o cleaned.json --domain watercolor",
    "tadp clean captions.json -o cleaned.json --domain comic --language-model Qwen/Qwen2.5-1.5B-Instruct",
    "tadp clean captions.json -o cleaned.json --domain night --endpoint http://localhost:8000/v1 --language-model NAME",
)
def clean(
    captions: Annotated[Path, typer.Argument(metavar="CAPTIONS", help="A caption file.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write: .json, .jsonl or .parquet.", show_default=False)
    ],
    domain: Annotated[
        str,
        typer.Option("--domain", help="watercolor, comic, night, foggy, dashcam; or words with commas between."),
    ] = "watercolor",
    language_model: Annotated[
        str | None,
        typer.Option("--language-model", help="Ask this model of transformers, or of --endpoint.", show_default=False),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", help="An OpenAI-compatible server's address.", show_default=False),
    ] = None,
    key_variable: Annotated[
        str, typer.Option("--key-variable", help="Environment variable that holds the endpoint's key.")
    ] = "OPENAI_API_KEY",
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Drop what captions say of a domain: "a watercolor painting of a dog" becomes "a dog".

    By rules, which need nothing; or by a language model, as the paper did. A caption that cannot be cleaned stays as it
    is and is named, and the exit code is 1; none is lost. Other fields of the file stay, and where captions came from
    is kept with what cleaned them. Interrupted, it writes what it has, the other captions as they were.
    """
    from tadp.captions import CaptionTable
    from tadp.cleaning import CleaningInterrupted

    if _check_caption_file(output, overwrite=overwrite):
        raise typer.BadParameter("write .json, .jsonl or .parquet.", param_hint="--output")
    if endpoint is not None and language_model is None:
        raise typer.BadParameter("an endpoint needs the name of its model.", param_hint="--language-model")
    with warnings.catch_warnings(record=True) as left_out:  # the line that a killed writer did not finish
        table = CaptionTable.open(captions)
    for warning in left_out:
        tell_of_warning(warning.message)
    if not len(table):
        raise CaptionError(f"{captions} has no captions.")
    cleaner = _cleaner(_domain(domain), language_model, endpoint, key_variable, device)
    records = list(table.records())
    stopped = False
    try:
        report = cleaner.clean(
            [text for record in records for text in record.captions], progress=Console(stderr=True).is_terminal
        )
    except CleaningInterrupted as interruption:
        report, stopped = interruption.report, True
        if len(report.failures) == len(report):
            raise
    _write_cleaned(records, report, repr(cleaner), output)
    for number, why in list(report.failures.items())[:20]:
        typer.secho(f"not cleaned: {report.before[number]!r}: {why}", fg="yellow", err=True)
    typer.echo(f"{report.summary()}\nwrote {output}")
    if stopped:
        raise KeyboardInterrupt
    if report.failures or left_out:
        raise typer.Exit(1)


def _check_caption_file(output: Path, *, overwrite: bool) -> bool:
    """Whether it is a table on disk, which a run can resume; refuse what cannot be written before any work is done."""
    from tadp.captions import SUFFIXES

    suffix = output.suffix.lower()
    if suffix in SUFFIXES:
        return True
    if suffix not in (".json", ".jsonl", ".ndjson", ".parquet"):
        raise typer.BadParameter(
            f"{output} has none of the suffixes .json, .jsonl, .parquet, .db.", param_hint="--output"
        )
    if output.exists() and not overwrite:
        raise OutputError(
            f"{output} is there already. Pass --overwrite to replace it, or another name; to resume a run, use a .db."
        )
    return False


def _write_table(table: "CaptionTable", output: Path) -> None:
    suffix = output.suffix.lower()
    if suffix == ".json":
        table.to_json(output)
    elif suffix == ".parquet":
        table.to_parquet(output)
    else:
        table.to_jsonl(output)


def _names(text: str | None, option: str) -> list[str]:
    if text is None:
        raise typer.BadParameter("this mode needs it: names with commas between, or @FILE.", param_hint=option)
    if text.startswith("@"):
        try:
            lines = Path(text[1:]).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise CaptionError(
                f"cannot read the class names in {text[1:]}: {why}. Pass a text file, as @FILE."
            ) from error
    else:
        lines = text.split(",")
    return [line.strip() for line in lines if line.strip()]


def _captions(images: list[str] | None, captioner: str | None, device: str | None) -> list[str]:
    from tadp.images import list_images, to_pil

    if not images:
        raise typer.BadParameter("caption and nouns need images.", param_hint="IMAGES")
    if captioner is None:
        raise typer.BadParameter("this model brings no captioner.", param_hint="--captioner")
    return load_captioner(captioner, device)([to_pil(image) for image in list_images(images)])


def _modifier(name: str, backbone: "TADPBackbone", model: str) -> "CaptionModifier":
    """A modifier, installed into the backbone."""
    from tadp.modifiers import CaptionModifier

    if ":" not in name or Path(name).exists():
        if "/" not in name and not Path(name).exists():
            raise typer.BadParameter(
                f"{name} is neither DOMAIN:KIND, e.g. watercolor:simple, nor a folder.", param_hint="--modifier"
            )
        modifier = CaptionModifier.from_pretrained(name)
        modifier.install(backbone)
        return modifier
    modifier = _paper_modifier(name)
    try:
        modifier.install(backbone)
    except ModifierError as error:
        raise typer.BadParameter(
            f"{name} has a learned token, {modifier.tokens[0]}, which {model} does not know. Pass the folder of a "
            "modifier that was saved with the token's embedding.",
            param_hint="--modifier",
        ) from error
    return modifier


def _paper_modifier(name: str) -> "CaptionModifier":
    from tadp.modifiers import CaptionModifier, Kind, PaperDomain

    domain, _, kind = name.partition(":")
    domains, kinds = get_args(PaperDomain), get_args(Kind)
    if domain not in domains or kind not in kinds:
        raise typer.BadParameter(
            f"{name} is no DOMAIN:KIND; domains are {', '.join(domains)}, kinds {', '.join(kinds)}.",
            param_hint="--modifier",
        )
    return CaptionModifier.for_domain(cast(Any, domain), cast(Any, kind))


def _domain(text: str) -> str | list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    return words[0] if len(words) == 1 else words


def _cleaner(
    domain: str | list[str], language_model: str | None, endpoint: str | None, key_variable: str, device: str | None
) -> "Cleaner":
    from tadp.cleaning import EndpointCleaner, ModelCleaner, RuleCleaner

    if endpoint is not None:
        with wrong_usage("--endpoint", options=("key_variable",)):
            return EndpointCleaner(endpoint, str(language_model), domain=domain, key_variable=key_variable)
    if language_model is not None:
        return ModelCleaner.from_pretrained(language_model, domain=domain, device=device)
    return RuleCleaner(domain)


def _write_cleaned(records: list["CaptionRecord"], report: "CleaningReport", cleaner: str, output: Path) -> None:
    """Write the captions of a report in the records' places, with the cleaner where it is known who captioned."""
    from tadp import __version__
    from tadp.captions import files
    from tadp.captions.records import new_record

    results, place = [], 0
    for record in records:
        end = place + len(record.captions)
        provenance = record.provenance
        if provenance and "interrupted" not in map(report.failures.get, range(place, end)):
            before = provenance.generation.get("cleaner")
            by = f"{f'{before}; ' if before else ''}{cleaner} of tadp {__version__}"
            provenance = replace(provenance, generation={**provenance.generation, "cleaner": by})
        results.append(new_record(record.id, report.after[place:end], dict(record.fields), provenance=provenance))
        place = end
    writers = {".json": files.write_json, ".parquet": files.write_parquet}
    writers.get(output.suffix.lower(), files.write_jsonl)(output, results)
    if output.suffix.lower() == ".json" and any(record.provenance for record in records):
        note = f"{output} has no place for where captions came from; a .jsonl or .parquet keeps it."
        typer.secho(note, fg="yellow", err=True)


def _print_prompts(prompts: list[str], encoder: "AnyText") -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("Prompt", overflow="fold", ratio=5)
    table.add_column("Tokens", no_wrap=True)
    for text, count in zip(prompts, encoder.count_tokens(prompts), strict=True):
        over = "" if count <= encoder.max_length else ", too many"
        table.add_row(Text(text or "(empty prompt)"), f"{count} of {encoder.max_length}{over}")
    Console(highlight=False).print(table)
    typer.echo("(start and end are a token each)")


def _realised(found: "Agreement", precision: float, recall: float) -> str:
    """What the oracle came to, which for one image is seldom what was asked."""
    came = f"{found.precision:.3f}" if found.mentioned else "undefined, nothing is named"
    note = f"realised: recall {found.recall:.3f}, asked {recall:g}; precision {came}, asked {precision:g}"
    if not found.mentioned or abs(found.recall - recall) > TOLERANCE or abs(found.precision - precision) > TOLERANCE:
        note += ". Names are whole, and this is one image: over a data set both are within 0.01."
    return note


def _print_embeddings(text: "Conditioning") -> None:
    _, length, width = text.embeddings.shape
    typer.echo(f"{length} embeddings of width {width}, without start and end, one attention channel each:")
    tokens, words = text.tokens[0] if text.tokens else (), text.words[0] if text.words else ()
    if all(word.stop == word.start + 1 for word in words):
        typer.echo(", ".join(tokens))
        return
    table = Table("Name", "Embeddings", "Tokens", box=None, pad_edge=False)
    for word in words:
        table.add_row(Text(word.text), str(word.stop - word.start), Text(", ".join(tokens[word.start : word.stop])))
    Console(highlight=False).print(table)
