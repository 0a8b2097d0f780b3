"""`tadp prompt`: show the text that a backbone gets in each prompt mode."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer
from rich.console import Console
from rich.table import Table

from tadp.cli.app import Device, Model, Revision, Variant, command
from tadp.cli.terminal import TINY, Dtype, cell, echo, load_backbone, load_captioner, no_gc, own_captioner, wrong_usage
from tadp.errors import CaptionError, ModifierError
from tadp.files.checks import read_lines

if TYPE_CHECKING:
    from tadp.backbone import TADPBackbone
    from tadp.metrics import Agreement
    from tadp.modifiers import CaptionModifier
    from tadp.text.conditioning import Conditioning
    from tadp.text.stack import AnyText

TOLERANCE = 0.01  # difference in the oracle's precision and recall that is not worth a note


class Mode(StrEnum):
    """The source of the text, which is G in the paper."""

    null = "null"
    class_names = "class-names"
    class_embeddings = "class-embeddings"
    averaged_eos = "averaged-eos"
    caption = "caption"
    nouns = "nouns"
    oracle = "oracle"


@command(
    "tadp prompt class-names --classes dog,cat,car",
    "tadp prompt averaged-eos --classes dog,cat,car",
    "tadp prompt oracle --classes dog,cat,car --present dog,car --recall 0.5",
    "tadp prompt caption photo.jpg --modifier watercolor:simple",
)
def prompt(
    mode: Annotated[Mode, typer.Argument(metavar="MODE", help="The prompt mode, see above.", show_default=False)],
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGES", help="For caption and nouns: image files and folders.", show_default=False),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            help="Class names separated by commas, or @FILE with one name per line, which may contain commas.",
            show_default=False,
        ),
    ] = None,
    present: Annotated[
        str | None,
        typer.Option(
            "--present", help="For oracle: the classes in the image, written like --classes.", show_default=False
        ),
    ] = None,
    precision: Annotated[
        float, typer.Option("--precision", help="Precision of the oracle, above 0 and at most 1.")
    ] = 1.0,
    recall: Annotated[float, typer.Option("--recall", help="Recall of the oracle, from 0 to 1.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Seed for the names that the oracle drops and adds.")] = 0,
    modifier: Annotated[
        str | None,
        typer.Option(
            "--modifier",
            help="One of the paper's modifiers as DOMAIN:KIND, e.g. watercolor:simple, or a saved modifier's folder.",
            show_default=False,
        ),
    ] = None,
    model: Model = TINY,
    captioner: Annotated[
        str | None,
        typer.Option("--captioner", help="For caption and nouns: the captioner.", show_default="the model's own"),
    ] = None,
    device: Device = None,
    revision: Revision = None,
    variant: Variant = None,
) -> None:
    """Show the text that a prompt mode gives to the backbone, and its length in tokens of the text encoder.

    MODE is one of: null (the empty prompt), class-names (all names in one line), class-embeddings (each name encoded
    separately), averaged-eos (one embedding per class, averaged over 80 templates), oracle (the names of the classes in
    the image, with the precision and recall that they reach), caption (a captioner's caption) or nouns (the nouns of
    that caption).
    """
    with no_gc():
        from tadp import prompts

    if images and mode not in (Mode.caption, Mode.nouns):
        raise typer.BadParameter(f"{mode} takes no images; got {images[0]}.", param_hint="IMAGES")
    backbone = load_backbone(model, dtype=Dtype.float32, device=device, revision=revision, variant=variant)
    encoder = backbone.text_encoder
    if encoder is None:
        raise typer.BadParameter(f"{model} has no text encoder.", param_hint="--model")
    rename = _modifier(modifier, backbone, model) if modifier is not None else None
    text: list[str] | Conditioning
    note = ""
    with wrong_usage():
        if mode is Mode.null:
            text = prompts.null(1)
        elif mode is Mode.class_names:
            text = prompts.class_names(_names(classes, "--classes"))
        elif mode is Mode.oracle:
            present_names = _names(present, "--present")
            named = prompts.oracle_classes(
                [present_names], _names(classes or present, "--classes"), precision=precision, recall=recall, seed=seed
            )
            text = prompts.class_names(named[0]) if named[0] else prompts.null(1)
            note = _realised(prompts.agreement(named, [present_names]), precision, recall)
        elif mode in (Mode.caption, Mode.nouns):
            text = _captions(images, captioner or own_captioner(model), device)
            text = prompts.nouns(text) if mode is Mode.nouns else text
        elif rename is not None:
            raise typer.BadParameter(f"a modifier needs words, which {mode} does not have.", param_hint="--modifier")
        else:
            make = prompts.class_embeddings if mode is Mode.class_embeddings else prompts.averaged_eos
            text = make(_names(classes, "--classes"), backbone)
    if isinstance(text, list):
        _print_prompts(rename(text) if rename else text, encoder)
    else:
        _print_embeddings(text)
    if note:
        echo(note)


def _names(text: str | None, option: str) -> list[str]:
    if text is None:
        raise typer.BadParameter("this mode needs it: names separated by commas, or @FILE.", param_hint=option)
    if text.startswith("@"):
        return read_lines(Path(text[1:]), of="class name", error=CaptionError)
    if _exists(text) and Path(text).is_file():
        raise typer.BadParameter(f"{text} is a file; pass @{text} for the names in it.", param_hint=option)
    return [name.strip() for name in text.split(",") if name.strip()]


def _exists(name: str) -> bool:
    """Whether a file or folder has this name; False for a text that is too long to be a file name."""
    try:
        return Path(name).exists()
    except OSError:
        return False


def _captions(images: list[str] | None, captioner: str | None, device: str | None) -> list[str]:
    from tadp.images.listing import list_images
    from tadp.images.reading import to_pil

    if not images:
        raise typer.BadParameter("caption and nouns need images.", param_hint="IMAGES")
    if captioner is None:
        raise typer.BadParameter("this model has no captioner of its own; pass one.", param_hint="--captioner")
    return load_captioner(captioner, device)([to_pil(image) for image in list_images(images)])


def _modifier(name: str, backbone: "TADPBackbone", model: str) -> "CaptionModifier":
    """A modifier, installed into the backbone."""
    from tadp.modifiers import CaptionModifier

    if ":" not in name or _exists(name):
        if "/" not in name and not _exists(name):
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
            f"{name} is not a valid DOMAIN:KIND; domains are {', '.join(domains)}; kinds are {', '.join(kinds)}.",
            param_hint="--modifier",
        )
    return CaptionModifier.for_domain(cast(Any, domain), cast(Any, kind))


def _print_prompts(prompts: list[str], encoder: "AnyText") -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("Prompt", overflow="fold", ratio=5)
    table.add_column("Tokens", no_wrap=True)
    for text, count in zip(prompts, encoder.count_tokens(prompts), strict=True):
        over = "" if count <= encoder.max_length else ", too many"
        table.add_row(cell(text or "(empty prompt)"), f"{count} of {encoder.max_length}{over}")
    Console(highlight=False).print(table)
    echo("(start and end are one token each)")


def _realised(agreement: "Agreement", precision: float, recall: float) -> str:
    """The oracle's realised precision and recall, which for one image usually differ from the requested ones."""
    reached = f"{agreement.precision:.3f}" if agreement.mentioned else "undefined because no class is named"
    note = f"recall is {agreement.recall:.3f}, requested {recall:g}; precision is {reached}, requested {precision:g}"
    off = max(abs(agreement.recall - recall), abs(agreement.precision - precision))
    if not agreement.mentioned or off > TOLERANCE:
        note += ". One image has only a few whole names; over a data set both are within 0.01."
    return note


def _print_embeddings(text: "Conditioning") -> None:
    _, length, width = text.embeddings.shape
    echo(f"{length} embeddings of width {width} (no start or end token), each with one attention channel:")
    tokens, words = text.tokens[0] if text.tokens else (), text.words[0] if text.words else ()
    if all(word.stop == word.start + 1 for word in words):
        echo(", ".join(tokens))
        return
    table = Table("Name", "Embeddings", "Tokens", box=None, pad_edge=False)
    for word in words:
        table.add_row(cell(word.text), str(word.stop - word.start), cell(", ".join(tokens[word.start : word.stop])))
    Console(highlight=False).print(table)
