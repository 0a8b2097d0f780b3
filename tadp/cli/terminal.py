"""Functions that the commands share: quiet loading, one-line errors, and progress on the error stream."""

import gc
import io
import logging
import shlex
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from enum import StrEnum
from errno import EPIPE
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console, OverflowMethod
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from typer.core import TyperGroup

from tadp.errors import Argument, OptionError, TADPError, escaped

if TYPE_CHECKING:
    import torch

    from tadp.backbone import TADPBackbone
    from tadp.captioner import Captioner

TINY = "tadp-tiny"
PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}  # pictures that commands write
_TINY_WARNING = "the captioner 'tadp-tiny' knows only"  # commands say it with their own options: `warn_about_tiny`
_UNKNOWN_TOKEN = "the text encoder has no token"  # the beginning of a warning of `tadp.text.encoder`


_context: ContextVar[Any] = ContextVar("context", default=None)  # of the command that runs, which spells arguments


class Dtype(StrEnum):
    """Data types of a model and of the tensors that it writes."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Commands(TyperGroup):
    """Commands that print tadp's own errors in one line with exit code 1, and end with 130 on Ctrl-C."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # on a terminal without UTF-8, an arrow would end the command
                stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        if isinstance(sys.stdout, io.TextIOWrapper):  # names that are not UTF-8, or that the terminal cannot show
            sys.stdout.reconfigure(errors="backslashreplace")
        _context.set(ctx)
        try:
            with warnings.catch_warnings():
                # Warnings of other libraries are for developers; tadp's own are for users of the command.
                warnings.simplefilter("ignore")
                warnings.filterwarnings("always", category=UserWarning, module=r"tadp\.")
                warnings.filterwarnings("always", message=_UNKNOWN_TOKEN)
                warnings.filterwarnings("ignore", message=_TINY_WARNING)
                warnings.showwarning = _print_each_once()
                return super().invoke(ctx)
        except typer.BadParameter as error:
            message = error.message.removeprefix("Value error, ")  # pydantic's, in newer releases of typer
            error.message = escaped(message)
            raise
        except TADPError as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            message = error.spelled(partial(as_option, command=command))
            if isinstance(error, OptionError):
                own = type(ctx)(command, info_name=ctx.invoked_subcommand, parent=ctx) if command else ctx
                raise typer.BadParameter(message, ctx=own) from error
            fail(message)
            raise typer.Exit(1) from error
        except OSError as error:
            if error.errno == EPIPE:  # typer ends the command without a word
                raise
            name = "the output" if error.filename is None else f"{str(error.filename)!r}"
            fail(f"{name} cannot be read or written: {error.strerror or error}.")
            raise typer.Exit(1) from error
        except (MemoryError, RuntimeError) as error:
            from tadp.files.checks import is_out_of_memory

            if not is_out_of_memory(error):
                raise
            why = str(error).strip().partition("\n")[0].rstrip(".") or "no memory is left"
            fail(f"this needs more memory than there is: {why}. Use smaller images, batches or models.")
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            echo("interrupted; finished work is kept.", fg="yellow", err=True)
            raise typer.Exit(130) from error


def _print_each_once() -> Callable[..., None]:
    """A function for `warnings.showwarning` that prints each text only once."""
    shown: set[str] = set()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        if (text := str(message)) not in shown:
            shown.add(text)
            print_warning(text)

    return show


def as_option(argument: Argument, command: Any) -> str:
    """A library argument written as an option of a command, quoted for a shell; as in Python if there is none."""
    parameters = command.params if command else []
    option = next((parameter for parameter in parameters if parameter.name == argument.name), None)
    if option is None or option.param_type_name != "option":
        return str(argument)
    names = option.secondary_opts if argument.value is False and option.secondary_opts else option.opts
    flag = next(name for name in names if name.startswith("--"))
    if not argument.has_value or isinstance(argument.value, bool):
        return flag
    values = argument.value if isinstance(argument.value, list) else [argument.value]
    return " ".join([flag, *("…" if value is ... else shlex.quote(str(value)) for value in values)])


def echo(text: str, *, err: bool = False, fg: str | None = None, dim: bool | None = None) -> None:
    """Print a text, in which file names and captions cannot change the terminal."""
    text = escaped(text)
    typer.echo(typer.style(text, fg=fg, dim=dim) if fg or dim else text, err=err)


def cell(text: str, *, overflow: OverflowMethod | None = None) -> Text:
    """A text in a table or status line, in which nothing is markup, and control characters cannot change the terminal.

    Args:
        text: The text.
        overflow: How rich treats a text that is too long for its column, such as "fold".
    """
    return Text(escaped(text), overflow=overflow)


def fail(error: TADPError | str) -> None:
    """Print an error in one line."""
    if isinstance(error, TADPError):
        context = _context.get()
        command = context and context.command.get_command(context, context.invoked_subcommand or "")
        error = error.spelled(partial(as_option, command=command))
    echo(f"error: {' '.join(error.split())}", fg="red", err=True)


def report_left_out(left_out: Sequence[Path]) -> None:
    """Print how many files of a folder are left out, and of which kinds."""
    from tadp.images.listing import summary

    if left_out:
        echo(f"left out: {summary(left_out)}", fg="yellow", err=True)


def print_warning(message: Warning | str) -> None:
    """Print a warning in one line."""
    echo(f"warning: {' '.join(str(message).split())}", fg="yellow", err=True)


@contextmanager
def wrong_usage(option: str | None = None) -> Iterator[None]:
    """Report a ValueError of the library as wrong usage of an option, unless it is one of tadp's own errors."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, TADPError):
            raise
        raise typer.BadParameter(str(error), param_hint=option) from error


def silence(*libraries: str) -> None:
    """Stop the loading bars and log lines of libraries; without arguments, those of transformers and diffusers."""
    for name in libraries or ("transformers", "diffusers"):
        library = import_module(f"{name}.utils.logging")
        library.set_verbosity_error()
        library.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


@contextmanager
def no_gc() -> Iterator[None]:
    """Import libraries without garbage collection, so that a command starts sooner.

    Later collections skip what was imported. Load weights after the block, because loading them may leave garbage.
    """
    was_enabled, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > modules:
            gc.freeze()
        if was_enabled:
            gc.enable()


def warn_about_tiny(captioner: str, *, others: str) -> None:
    """Warn that the bundled captioner is not made for photographs, if it was used.

    Args:
        captioner: The captioner that was used.
        others: The options of the command that choose another one.
    """
    if captioner == TINY:
        note = f"{TINY} knows only rendered scenes. For photographs, choose another {others}."
        echo(note, dim=True, err=True)


def warn_about_cut(whose: str) -> None:
    """Warn that the end of a caption was cut."""
    note = f"{whose}: the caption is too long for the text encoder; its end was cut."
    echo(note, fg="yellow", err=True)


def is_cut(backbone: "TADPBackbone", caption: str) -> bool:
    """Whether a caption is too long for a backbone's text encoder."""
    encoder = backbone.text_encoder
    return encoder is not None and encoder.count_tokens([caption])[0] > encoder.max_length


def own_captioner(model: str) -> str | None:
    """The captioner that comes with a model."""
    if model == TINY:
        return TINY
    folder = Path(model) / "captioner"
    return str(folder) if folder.is_dir() else None


def caption_source(model: str, caption: str | None, captioner: str | None) -> str:
    """The captioner to use; "" if there is a caption."""
    if caption is not None and captioner is not None:
        raise typer.BadParameter("pass --caption or --captioner, not both.", param_hint="--caption")
    if caption is not None:
        return ""
    source = captioner or own_captioner(model)
    if source is None:
        raise typer.BadParameter(
            f"{model} has no captioner of its own. Pass --caption TEXT for all images (--caption '' is the empty "
            f"prompt), or --captioner NAME, such as {TINY} or blip2.",
            param_hint="--captioner",
        )
    return source


def load_backbone(
    model: str, *, dtype: Dtype, device: str | None, revision: str | None, variant: str | None
) -> "TADPBackbone":
    """A backbone on its device."""
    with no_gc():
        import torch

        from tadp.backbone import TADPBackbone

        silence()
    place = find_device(device)
    with status(f"loading {model}"):
        return TADPBackbone.from_pretrained(
            model,
            revision=revision,
            variant=variant,
            dtype=getattr(torch, dtype.value),
            # the faster layout for each data type: docs/speed.md
            memory_format=torch.channels_last if dtype is Dtype.bfloat16 else torch.contiguous_format,
        ).to(place)


def native_px(backbone: "TADPBackbone") -> int:
    """The side of the images that a model was trained on, in pixels."""
    native = backbone.family.native_cells(backbone.unet)
    return 512 if native is None else native * backbone.vae.reduction


def check_levels(levels: list[int] | None, known: Collection[int], backbone: "TADPBackbone", option: str) -> None:
    """Refuse unknown levels as wrong usage of an option."""
    for level in levels or ():
        if level not in known:
            strides = ", ".join(f"{k} (stride {backbone.strides[k]})" for k in known)
            raise typer.BadParameter(f"unknown level {level}; the levels are {strides}.", param_hint=option)


def load_captioner(name: str, device: str | None, *, dtype: Dtype | None = None, **options: Any) -> "Captioner":
    """A captioner on its device; options are those of `Captioner.from_pretrained`."""
    if options.get("min_new_tokens", 0) > options.get("max_new_tokens", 77):
        raise typer.BadParameter(
            f"{options['min_new_tokens']} is more than --max-new-tokens {options['max_new_tokens']}.",
            param_hint="--min-new-tokens",
        )
    with no_gc():
        import torch
        from transformers import PreTrainedModel  # noqa: F401  imports most of what any captioner needs

        from tadp.captioner import Captioner

        silence("transformers")  # a captioner does not use diffusers, whose import takes seconds
    place, number_type = find_device(device), None if dtype is None else getattr(torch, dtype.value)
    with status(f"loading the captioner {name}"):
        return Captioner.from_pretrained(name, device=place, dtype=number_type, **options)


def find_device(name: str | None) -> "torch.device":
    """The device with this name; None is the GPU if there is one, else the CPU."""
    import torch

    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch built without CUDA
        raise typer.BadParameter(
            f"{name!r} cannot be used: {str(error).splitlines()[0]}", param_hint="--device"
        ) from error
    return device


def status(text: str) -> AbstractContextManager[Any]:
    """A spinner with a text, shown only on a terminal."""
    console = Console(stderr=True)
    return console.status(cell(text)) if console.is_terminal else nullcontext()


def progress() -> Progress:
    """A progress bar that disappears when it is complete, shown only on a terminal."""
    console = Console(stderr=True)
    console.quiet = not console.is_terminal  # before 14.3, rich ends a disabled bar with an empty line
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        # Above the bar on a terminal, unchanged in a file or pipe. There is no stream if the caller closed it.
        redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        disable=not console.is_terminal,
    )
