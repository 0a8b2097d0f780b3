"""`tadp personalize token` and `tadp personalize dreambooth`: adapt a model to a domain with a few images of it."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tadp.cli.app import Device, Images, Model, Revision, Variant, app, help_text
from tadp.cli.field_options import field_option, field_texts
from tadp.cli.terminal import TINY, Commands, Dtype, echo, find_device, report_left_out, silence, wrong_usage
from tadp.personalize.run_options import DREAMBOOTH_DEFAULTS, TOKEN_DEFAULTS, RunOptions

if TYPE_CHECKING:
    from tadp.captions import CaptionTable
    from tadp.modifiers import CaptionModifier

_EXIT_CODES = "Exit codes: 0 success, 1 something failed (see the errors), 2 wrong usage, 130 interrupted."

personalize = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(
    personalize,
    name="personalize",
    help="Teach a model a style or an object from five to twenty images: as a new word, or by tuning the U-Net.",
    epilog=_EXIT_CODES,
)


class Kind(StrEnum):
    """The kind of concept that the images share."""

    style = "style"
    object = "object"


Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the result, samples, and the checkpoint.")]
Captions = Annotated[
    Path | None,
    typer.Option("--captions", help="Caption file written by tadp caption.", show_default=False),
]
Template = typer.Option(
    help="Template of the modifier, with {caption}.", show_default="a TOKEN style painting of {caption}"
)


def run_parameters(defaults: Mapping[str, Any]) -> list[inspect.Parameter]:
    """The options of a command that come from the fields of `RunOptions`, as parameters for typer.

    Args:
        defaults: The command's own defaults for fields that are None.
    """
    texts = field_texts(RunOptions)
    # as for every command: --device has a default, --dtype takes a name, and the progress is always shown
    options = {"device": (Device, None)}
    for option in fields(RunOptions):
        if option.name == "dtype":
            options["dtype"] = field_option(option, texts["dtype"], Dtype.float32, kind=Dtype)
        elif option.name not in ("device", "progress"):
            default = defaults.get(option.name, option.default)
            options[option.name] = field_option(option, texts[option.name], default, kind=option.type)
    keyword = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(name, keyword, default=options[name][1], annotation=options[name][0])
        for name in texts
        if name in options
    ]


def _command(defaults: Mapping[str, Any], *examples: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command whose `**run` becomes options, one per field of `RunOptions`."""

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
    initializer: Annotated[str, typer.Option(help="A word of one token; the new word starts from its vector.")],
    output: Output,
    model: Model = TINY,
    vectors: Annotated[int, typer.Option(min=1, help="Number of vectors of the word.")] = 1,
    kind: Annotated[Kind, typer.Option(help="The kind of concept that the images share.")] = Kind.style,
    template: Annotated[str | None, Template] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="Training text of the images, with {token}. Repeatable: one is drawn at random each time.",
            show_default="the lists of textual inversion",
        ),
    ] = None,
    captions: Captions = None,
    revision: Revision = None,
    variant: Variant = None,
    **run: Any,
) -> None:
    """Learn a new word for the style or object that the images share, by textual inversion.

    The rest of the model does not change. The output folder gets learned_embeds.safetensors, which diffusers reads;
    modifier.json, which tadp.CaptionModifier.from_pretrained reads; and the folder samples, with images drawn during
    training. Before the first step the command says how long the run takes. If it is killed, the same command continues
    it.
    """
    from tadp.files.hub import HubOptions
    from tadp.images.listing import find_images
    from tadp.personalize import learn_token

    with _print_warnings():
        report_left_out(find_images(images).left_out)
        modifier = learn_token(
            model,
            images,
            token=token,
            initializer=initializer,
            vectors=vectors,
            kind=kind.value,
            template=template,
            texts=text,
            captions=_open_table(captions),
            output=output,
            options=_run_options(run),
            hub=HubOptions(revision=revision, variant=variant),
        )
    _print_result(output, modifier)


@_command(
    DREAMBOOTH_DEFAULTS,
    "tadp personalize dreambooth watercolors -o sks -m MODEL",
    "tadp personalize dreambooth watercolors --lora-rank 8 --draw-prior 200 --prior-prompt 'a painting' -o sks",
)
def dreambooth(
    images: Images,
    output: Output,
    model: Model = TINY,
    token: Annotated[str, typer.Option(help="A word with hardly any meaning of its own.")] = "sks",
    prompt: Annotated[str | None, Template] = None,
    instance_prompt: Annotated[
        str | None, typer.Option(help="Training text of every image.", show_default="the prompt")
    ] = None,
    captions: Captions = None,
    prior: Annotated[
        list[str] | None,
        typer.Option(
            help="Prior images: files, a folder or a pattern that the model should not forget. Repeatable.",
            show_default=False,
        ),
    ] = None,
    draw_prior: Annotated[
        int | None,
        typer.Option(min=1, help="Number of prior images to draw with the model before training.", show_default=False),
    ] = None,
    prior_prompt: Annotated[str | None, typer.Option(help="A prompt for the prior images.", show_default=False)] = None,
    prior_weight: Annotated[float, typer.Option(help="Weight of the loss of the prior images.")] = 1.0,
    lora_rank: Annotated[
        int | None, typer.Option(min=1, help="Train a LoRA of this rank.", show_default="the whole U-Net")
    ] = None,
    revision: Revision = None,
    variant: Variant = None,
    **run: Any,
) -> None:
    """Tune the U-Net, or train a LoRA for it, so that a rare word stands for the style or object that the images share.

    The output folder gets the folder unet, which diffusers reads; modifier.json, which
    tadp.CaptionModifier.from_pretrained reads; and the folder samples, with images drawn during training. With a LoRA,
    it also gets pytorch_lora_weights.safetensors. Before the first step the command says how long the run takes. If it
    is killed, the same command continues it.
    """
    from tadp.files.hub import HubOptions
    from tadp.images.listing import find_images
    from tadp.personalize import dreambooth as tune

    if prior and draw_prior:
        raise typer.BadParameter("pass --prior or --draw-prior, not both.", param_hint="--prior")
    with _print_warnings():
        report_left_out(find_images([*images, *(prior or ())]).left_out)
        modifier = tune(
            model,
            images,
            token=token,
            prompt=prompt,
            instance_prompt=instance_prompt,
            captions=_open_table(captions),
            prior_images=prior or draw_prior,
            prior_prompt=prior_prompt,
            prior_weight=prior_weight,
            lora_rank=lora_rank,
            output=output,
            options=_run_options(run),
            hub=HubOptions(revision=revision, variant=variant),
        )
    _print_result(output, modifier)


def _run_options(run: Mapping[str, Any]) -> RunOptions:
    import torch

    resolved = {"device": find_device(run["device"]), "dtype": getattr(torch, run["dtype"].value)}
    return RunOptions(**{**run, **resolved})


def _open_table(path: Path | None) -> "CaptionTable | None":
    from tadp.captions import CaptionTable

    return None if path is None else CaptionTable.open(path)


@contextmanager
def _print_warnings() -> Iterator[None]:
    """Print the library's warnings about images and the noise schedule, and report wrong values as wrong usage."""
    silence()
    with warnings.catch_warnings(), wrong_usage():
        warnings.filterwarnings("always", message=r"no scheduler/|\d+ of \d+ images")
        warnings.showwarning = lambda message, *_: echo(str(message), fg="yellow", err=True)
        yield


def _print_result(output: Path, modifier: "CaptionModifier") -> None:
    echo(f"wrote {output}. With this modifier, 'a dog' becomes {modifier('a dog')[0]!r}.")
    samples = output / "samples"
    if samples.is_dir():
        echo(f"samples: {samples}")
