"""`tadp personalize token`, `tadp personalize dreambooth`: bring a model nearer to a domain with a few images of it."""

import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import Field, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tadp.cli.app import Device, Images, Model, Revision, Variant, app, help_text
from tadp.cli.terminal import TINY, Commands, Dtype, find_device, silence, wrong_usage
from tadp.personalize.run_options import DREAMBOOTH_DEFAULTS, TOKEN_DEFAULTS, RunOptions

if TYPE_CHECKING:
    from tadp.captions import CaptionTable
    from tadp.modifiers import CaptionModifier

_EXIT_CODES = "Exit codes: 0 all went well, 1 something failed (it is named), 2 wrong usage, 130 interrupted."

personalize = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(
    personalize,
    name="personalize",
    help="Teach a model a style or a thing with five to twenty images: a new word, or a tuned U-Net.",
    epilog=_EXIT_CODES,
)


class Kind(StrEnum):
    """What the images share."""

    style = "style"
    object = "object"


Output = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for the result, samples, and the checkpoint to continue from.")
]
Captions = Annotated[
    Path | None,
    typer.Option("--captions", help="Caption file by image name, from tadp caption.", show_default=False),
]
Template = typer.Option(
    help="Template of the modifier, with {caption}.", show_default="a TOKEN style painting of {caption}"
)


def run_parameters(defaults: Mapping[str, Any]) -> list[inspect.Parameter]:
    """The options of a command that come from the fields of `RunOptions`, as parameters that typer reads.

    Args:
        defaults: What the command's method takes where a field is None.
    """
    texts = field_texts(RunOptions)
    # as for every command: the device is found, types have names, and a bar is shown on a terminal
    found = {"device": (Device, None)}
    for option in fields(RunOptions):
        if option.name == "dtype":
            found["dtype"] = _option(option, texts["dtype"], Dtype.float32, kind=Dtype)
        elif option.name not in ("device", "progress"):
            default = defaults.get(option.name, option.default)
            found[option.name] = _option(option, texts[option.name], default, kind=option.type)
    keyword = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(name, keyword, default=found[name][1], annotation=found[name][0])
        for name in texts
        if name in found
    ]


def field_texts(options: type) -> dict[str, str]:
    """What the `Attributes` of a dataclass's docstring say, by field.

    Example:
        >>> field_texts(RunOptions)["lr"]
        'Learning rate, constant over all steps; None is 1e-4 for a token or a LoRA and 5e-6 for a whole U-Net.'
    """
    attributes = (inspect.getdoc(options) or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^    (\w+): (.+(?:\n {5,}.+)*)", attributes, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def _option(option: Field[Any], text: str, default: Any, *, kind: Any) -> tuple[Any, Any]:
    """The annotation and default of a field's option. "…; None is X." at the end of its text names the default None."""
    meaning, _, instead = text.removesuffix(".").partition("; None is ")
    name = option.name.replace("_", "-")
    if kind == Sequence[str] | None:
        name, kind = name.removesuffix("s"), list[str] | None
        meaning += "; may be given again"
    info = typer.Option(
        f"--{name}/--no-{name}" if default is True else f"--{name}",
        min=option.metadata.get("least"),
        help=f"{meaning}.",
        show_default=instead if default is None else True,
    )
    return Annotated[kind, info], default


def _command(defaults: Mapping[str, Any], *examples: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command, with the fields of `RunOptions` as options in place of its `**run`."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function)
        *own, _ = signature.parameters.values()
        own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        parameters = [*own, *run_parameters(defaults)]
        function.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportFunctionMemberAccess]
        return personalize.command(help=help_text(function.__doc__, examples), epilog=_EXIT_CODES)(function)

    return register


@_command(
    TOKEN_DEFAULTS,
    "tadp personalize token watercolors --token '<watercolor>' --initializer painting -o watercolor -m MODEL",
    "tadp personalize token nights --token '<night>' --initializer night --text 'a dark {token} photo' -o night",
)
def token(
    images: Images,
    token: Annotated[str, typer.Option(help="The new word.")],
    initializer: Annotated[str, typer.Option(help="A word of one token whose vector the new word starts from.")],
    output: Output,
    model: Model = TINY,
    vectors: Annotated[int, typer.Option(min=1, help="How many vectors the word has.")] = 1,
    kind: Annotated[Kind, typer.Option(help="What the images share.")] = Kind.style,
    template: Annotated[str | None, Template] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="What images are called in training, with {token}; may be given again.",
            show_default="textual inversion's lists",
        ),
    ] = None,
    captions: Captions = None,
    revision: Revision = None,
    variant: Variant = None,
    **run: Any,
) -> None:
    """Learn a word that means what the images share, by textual inversion.

    Nothing else of the model changes. The folder gets learned_embeds.safetensors, which diffusers reads, modifier.json
    for tadp.CaptionModifier.from_pretrained, and samples/. If the run is killed, the same command continues it.
    """
    from tadp.files.hub import HubOptions
    from tadp.personalize import learn_token

    with _reported():
        modifier = learn_token(
            model,
            images,
            token=token,
            initializer=initializer,
            vectors=vectors,
            kind=kind.value,
            template=template,
            texts=text,
            captions=_table(captions),
            output=output,
            options=_run_options(run),
            hub=HubOptions(revision=revision, variant=variant),
        )
    _report(output, modifier)


@_command(
    DREAMBOOTH_DEFAULTS,
    "tadp personalize dreambooth watercolors -o sks -m MODEL",
    "tadp personalize dreambooth watercolors --lora-rank 8 --draw-prior 200 --prior-prompt 'a painting' -o sks",
)
def dreambooth(
    images: Images,
    output: Output,
    model: Model = TINY,
    token: Annotated[str, typer.Option(help="A word with hardly a meaning of its own.")] = "sks",
    prompt: Annotated[str | None, Template] = None,
    instance_prompt: Annotated[
        str | None, typer.Option(help="What every image is called in training.", show_default="the prompt")
    ] = None,
    captions: Captions = None,
    prior: Annotated[
        list[str] | None, typer.Option(help="Images to remember; may be given again.", show_default=False)
    ] = None,
    draw_prior: Annotated[
        int | None, typer.Option(min=1, help="Draw this many images to remember.", show_default=False)
    ] = None,
    prior_prompt: Annotated[
        str | None, typer.Option(help="What the images to remember show.", show_default=False)
    ] = None,
    prior_weight: Annotated[float, typer.Option(help="Weight of the loss of the images to remember.")] = 1.0,
    lora_rank: Annotated[
        int | None, typer.Option(min=1, help="Train a LoRA of this rank.", show_default="the whole U-Net")
    ] = None,
    revision: Revision = None,
    variant: Variant = None,
    **run: Any,
) -> None:
    """Tune the U-Net, or a LoRA of it, until a rare word means what the images share.

    The folder gets unet/, which diffusers reads, modifier.json for tadp.CaptionModifier.from_pretrained, and samples/;
    with a LoRA also pytorch_lora_weights.safetensors. If the run is killed, the same command continues it.
    """
    from tadp.files.hub import HubOptions
    from tadp.personalize import dreambooth as tune

    if prior and draw_prior:
        raise typer.BadParameter("give --prior or --draw-prior, not both.", param_hint="--prior")
    with _reported():
        modifier = tune(
            model,
            images,
            token=token,
            prompt=prompt,
            instance_prompt=instance_prompt,
            captions=_table(captions),
            prior_images=prior or draw_prior,
            prior_prompt=prior_prompt,
            prior_weight=prior_weight,
            lora_rank=lora_rank,
            output=output,
            options=_run_options(run),
            hub=HubOptions(revision=revision, variant=variant),
        )
    _report(output, modifier)


def _run_options(run: Mapping[str, Any]) -> RunOptions:
    import torch

    found = {"device": find_device(run["device"]), "dtype": getattr(torch, run["dtype"].value)}
    return RunOptions(**{**run, **found}, progress=sys.stderr.isatty())


def _table(path: Path | None) -> "CaptionTable | None":
    from tadp.captions import CaptionTable

    return None if path is None else CaptionTable.open(path)


@contextmanager
def _reported() -> Iterator[None]:
    """Print the library's warnings, such as an image left out or a schedule assumed; a wrong value is wrong usage."""
    silence()
    with warnings.catch_warnings(), wrong_usage():
        warnings.filterwarnings("always", message=r"no scheduler/|\d+ of \d+ images")
        warnings.showwarning = lambda message, *_: typer.secho(str(message), fg="yellow", err=True)
        yield


def _report(output: Path, modifier: "CaptionModifier") -> None:
    typer.echo(f"{modifier('a dog')[0]!r} is what captions become now. Wrote {output}.")
    samples = output / "samples"
    if samples.is_dir():
        typer.echo(f"samples: {samples}")
