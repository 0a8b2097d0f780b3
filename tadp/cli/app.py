"""The app of the command line, how a command is registered, and the options that several commands share."""

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Annotated

import typer
from rich.markup import escape

from tadp._version import __version__
from tadp.cli.terminal import Commands, Dtype

_EXAMPLE_WIDTH = 70  # fits 80 columns with two characters of indent and a backslash at the end
_EXIT_CODES = "Exit codes: 0 success, 1 something failed (see the errors), 2 wrong usage, 130 interrupted."

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
        help="Image files, folders (including subfolders) and quoted patterns.",
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
        help="The model that captions each image: tadp-tiny, a folder, or a hub id. The default is the model's own "
        "captioner, as tadp-tiny has; a model without a captioner needs --caption or --captioner.",
        show_default=False,
    ),
]
MinNewTokens = Annotated[
    int, typer.Option("--min-new-tokens", min=0, help="Minimum length of a generated caption, in tokens.")
]
MaxNewTokens = Annotated[
    int, typer.Option("--max-new-tokens", min=1, help="Maximum length of a generated caption, in tokens.")
]
Truncate = Annotated[
    bool,
    typer.Option("--truncate", help="Cut a --caption that is too long for the text encoder instead of refusing it."),
]
Revision = Annotated[
    str | None, typer.Option("--revision", help="Branch, tag or commit of a hub model.", show_default=False)
]
Variant = Annotated[
    str | None, typer.Option("--variant", help="Variant of the weight files, e.g. fp16.", show_default=False)
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", help="Device to run on, e.g. cpu, cuda, cuda:1 or mps.", show_default="cuda if available, else cpu"
    ),
]
DtypeOption = Annotated[
    Dtype, typer.Option("--dtype", help="Data type of the model and of the tensors that are written.")
]
MaxSide = Annotated[
    int | None,
    typer.Option("--max-side", min=8, help="Shrink images whose longer side has more pixels than this."),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Number of images processed at once.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")]


def _print_version(requested: bool) -> bool:
    if requested:
        typer.echo(f"tadp {__version__}")
        raise typer.Exit
    return requested


def help_text(text: str | None, examples: Iterable[str]) -> str:
    """The help of a command: its docstring, one line per paragraph so that any terminal can wrap it, and examples."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text or "").split("\n\n")]
    paragraphs.append("Examples:\n" + "\n".join(f"  {_wrap_example(example)}" for example in examples))
    return escape("\n\n".join(paragraphs))


def _wrap_example(example: str) -> str:
    r"""Wrap an example command to 80 columns, with a backslash at the end of every line but the last.

    Example:
        >>> example = "tadp clean captions.json -o cleaned.json --domain comic --language-model owner/a-long-name"
        >>> print(_wrap_example(example))
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
        "Use a diffusion model as a vision backbone: get features, captions, and an attention map of each word.",
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
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """The options that come before the name of a command."""
