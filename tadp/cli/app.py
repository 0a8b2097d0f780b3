"""The app of the command line, how a command is registered, and the options that several commands share."""

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Annotated

import typer
from rich.markup import escape

from tadp._version import __version__
from tadp.cli.terminal import Commands, Dtype

_EXAMPLE_WIDTH = 70  # in 80 columns, with two before and a backslash after
_EXIT_CODES = "Exit codes: 0 all went well, 1 something failed (it is named), 2 wrong usage, 130 interrupted."

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EXIT_CODES,
)

Images = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGES",
        help="Image files, folders (with all below them) and quoted patterns.",
        show_default=False,
    ),
]
Model = Annotated[str, typer.Option("--model", "-m", help="tadp-tiny, a folder in diffusers layout, or a hub id.")]
Caption = Annotated[
    str | None,
    typer.Option("--caption", help="One caption for all images; '' is the empty prompt.", show_default=False),
]
CaptionerName = Annotated[
    str | None,
    typer.Option(
        "--captioner",
        help="The model that captions each image: tadp-tiny, a folder, or a hub id. Without --caption and "
        "--captioner a model that brings its own captioner, as tadp-tiny does, uses that; others need one of the two.",
        show_default=False,
    ),
]
MinNewTokens = Annotated[int, typer.Option("--min-new-tokens", min=0, help="The fewest tokens a captioner says.")]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", min=1, help="The most tokens a captioner says.")]
Truncate = Annotated[
    bool, typer.Option("--truncate", help="Cut a --caption that is too long for the text encoder, not refuse it.")
]
Revision = Annotated[
    str | None, typer.Option("--revision", help="Branch, tag or commit of a hub model.", show_default=False)
]
Variant = Annotated[str | None, typer.Option("--variant", help="Which weight files, e.g. fp16.", show_default=False)]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps.", show_default="cuda if there is one, else cpu")
]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Of the model, and of the tensors written.")]
MaxSide = Annotated[
    int | None,
    typer.Option("--max-side", min=8, help="Shrink images whose longer side is over this, in pixels."),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Images at once.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"tadp {__version__}")
        raise typer.Exit
    return wanted


def help_text(text: str | None, examples: Iterable[str]) -> str:
    """A docstring, refilled for any terminal, with examples."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text or "").split("\n\n")]
    paragraphs.append("Examples:\n" + "\n".join(f"  {_broken(example)}" for example in examples))
    return escape("\n\n".join(paragraphs))


def _broken(example: str) -> str:
    r"""A command over lines that fit 80 columns, each but the last with the backslash of a shell.

    Example:
        >>> print(_broken("tadp clean captions.json -o cleaned.json --domain comic --language-model owner/a-long-name"))
        tadp clean captions.json -o cleaned.json --domain comic \
              --language-model owner/a-long-name
    """
    first, *parts = re.split(r" (?=--?[a-z])", example)
    lines = [first]
    for part in parts:
        if len(lines[-1]) + len(part) > _EXAMPLE_WIDTH:
            lines[-1] += " \\"
            lines.append(f"      {part}")
        else:
            lines[-1] += f" {part}"
    return "\n".join(lines)


def command(*examples: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command whose help is its docstring and examples."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        return app.command(help=help_text(function.__doc__, examples), epilog=_EXIT_CODES)(function)

    return register


@app.callback(
    help=help_text(
        "A diffusion model as a vision backbone: features, captions, and what each word looks at.",
        (
            "tadp show photo.jpg",
            "tadp extract photos -o features",
            "tadp caption photos -o captions.json",
            "tadp info tadp-tiny",
        ),
    )
)
def _tadp(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What stands before the commands."""
