"""`tadp personalize token`, `tadp personalize dreambooth`: bring a model nearer to a domain with a few images of it."""

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from tadp.cli.app import Device, DtypeOption, Images, Model, Revision, Variant, app, help_text
from tadp.cli.terminal import TINY, Commands, Dtype, find_device, in_options, silence, wrong_usage

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
    Path, typer.Option("--output", "-o", help="Folder for the result, samples, and the checkpoint to go on from.")
]
Captions = Annotated[
    Path | None,
    typer.Option("--captions", help="Caption file by image name, from tadp caption.", show_default=False),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Images a step.")]
MicroBatch = Annotated[
    int | None,
    typer.Option("--micro-batch", min=1, help="Images at once, to save memory.", show_default="all of a step"),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of all random numbers.")]
SidePx = Annotated[
    int | None,
    typer.Option("--side-px", min=8, help="Side of the squares.", show_default="what the model was trained on"),
]
Flip = Annotated[bool, typer.Option("--flip/--no-flip", help="Mirror every other image, by chance.")]
SkipUnreadable = Annotated[bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read.")]
Resume = Annotated[bool, typer.Option("--resume/--no-resume", help="Go on from the checkpoint in the folder.")]
CheckpointEvery = Annotated[int, typer.Option("--checkpoint-every", min=1, help="Steps between checkpoints.")]
SampleEvery = Annotated[int, typer.Option("--sample-every", min=0, help="Steps between sheets of samples; 0 for none.")]
SamplePrompt = Annotated[
    list[str] | None,
    typer.Option("--sample-prompt", help="What a sheet shows; may be given again.", show_default=False),
]
GradientCheckpointing = Annotated[bool, typer.Option("--gradient-checkpointing", help="Less memory for more time.")]
Adam8bit = Annotated[bool, typer.Option("--adam-8bit", help="bitsandbytes' 8-bit AdamW.")]


def _command(*examples: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def register(function: Callable[..., None]) -> Callable[..., None]:
        return personalize.command(help=help_text(function.__doc__, examples), epilog=_EXIT_CODES)(function)

    return register


@_command(
    "tadp personalize token watercolors --token '<watercolor>' --initializer painting -o watercolor -m MODEL",
    "tadp personalize token nights --token '<night>' --initializer night --text 'a dark {token} photo' -o night",
)
def token(
    images: Images,
    token: Annotated[str, typer.Option("--token", help="The new word.")],
    initializer: Annotated[str, typer.Option("--initializer", help="A word of one token that it starts from.")],
    output: Output,
    model: Model = TINY,
    vectors: Annotated[int, typer.Option("--vectors", min=1, help="Vectors the word has.")] = 1,
    kind: Annotated[Kind, typer.Option("--kind", help="What the images share.")] = Kind.style,
    template: Annotated[
        str | None,
        typer.Option(
            "--template", help="Of the modifier, with {caption}.", show_default="a TOKEN style painting of {caption}"
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            help="What images are called in training, with {token}; may be given again.",
            show_default="textual inversion's lists",
        ),
    ] = None,
    captions: Captions = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of the optimiser.")] = 5_000,
    batch_size: BatchSize = 16,
    micro_batch: MicroBatch = None,
    lr: Annotated[float, typer.Option("--lr", help="Learning rate.")] = 1e-4,
    seed: Seed = 0,
    side_px: SidePx = None,
    flip: Flip = True,
    skip_unreadable: SkipUnreadable = False,
    resume: Resume = True,
    checkpoint_every: CheckpointEvery = 100,
    sample_every: SampleEvery = 500,
    sample_prompt: SamplePrompt = None,
    gradient_checkpointing: GradientCheckpointing = False,
    adam_8bit: Adam8bit = False,
    device: Device = None,
    dtype: DtypeOption = Dtype.float32,
    revision: Revision = None,
    variant: Variant = None,
) -> None:
    """Learn a word that means what the images share, by textual inversion.

    Nothing else of the model changes. The folder gets learned_embeds.safetensors, which diffusers reads, modifier.json
    for tadp.CaptionModifier.from_pretrained, and samples/. Killed, the same command goes on.
    """
    from tadp.personalize import learn_token

    options = _shared(locals())
    with _telling(options), wrong_usage(options=options):
        modifier = learn_token(
            model,
            images,
            token=token,
            initializer=initializer,
            vectors=vectors,
            kind=kind.value,
            template=template,
            texts=text,
            **options,
        )
    _tell(output, modifier)


@_command(
    "tadp personalize dreambooth watercolors -o sks -m MODEL",
    "tadp personalize dreambooth watercolors --lora-rank 8 --draw-prior 200 --prior-prompt 'a painting' -o sks",
)
def dreambooth(
    images: Images,
    output: Output,
    model: Model = TINY,
    token: Annotated[str, typer.Option("--token", help="A word with hardly a meaning of its own.")] = "sks",
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", help="Of the modifier, with {caption}.", show_default="a TOKEN style painting of {caption}"
        ),
    ] = None,
    instance_prompt: Annotated[
        str | None,
        typer.Option("--instance-prompt", help="What images are called in training.", show_default="the prompt"),
    ] = None,
    captions: Captions = None,
    prior: Annotated[
        list[str] | None, typer.Option("--prior", help="Images to remember; may be given again.", show_default=False)
    ] = None,
    draw_prior: Annotated[
        int | None, typer.Option("--draw-prior", min=1, help="Draw so many images to remember.", show_default=False)
    ] = None,
    prior_prompt: Annotated[
        str | None, typer.Option("--prior-prompt", help="What those show.", show_default=False)
    ] = None,
    prior_weight: Annotated[float, typer.Option("--prior-weight", help="Of their loss.")] = 1.0,
    lora_rank: Annotated[
        int | None, typer.Option("--lora-rank", min=1, help="Train a LoRA.", show_default="the whole U-Net")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of the optimiser.")] = 1_000,
    batch_size: BatchSize = 1,
    micro_batch: MicroBatch = None,
    lr: Annotated[
        float | None, typer.Option("--lr", help="Learning rate.", show_default="5e-6, for a LoRA 1e-4")
    ] = None,
    seed: Seed = 0,
    side_px: SidePx = None,
    flip: Flip = True,
    skip_unreadable: SkipUnreadable = False,
    resume: Resume = True,
    checkpoint_every: CheckpointEvery = 500,
    sample_every: SampleEvery = 500,
    sample_prompt: SamplePrompt = None,
    gradient_checkpointing: GradientCheckpointing = False,
    adam_8bit: Adam8bit = False,
    device: Device = None,
    dtype: DtypeOption = Dtype.float32,
    revision: Revision = None,
    variant: Variant = None,
) -> None:
    """Tune the U-Net, or a LoRA of it, until a rare word means what the images share.

    The folder gets unet/, which diffusers reads, modifier.json for tadp.CaptionModifier.from_pretrained, and samples/;
    with a LoRA also pytorch_lora_weights.safetensors. Killed, the same command goes on.
    """
    from tadp.personalize import dreambooth as tune

    if prior and draw_prior:
        raise typer.BadParameter("give --prior or --draw-prior, not both.", param_hint="--prior")
    options = _shared(locals())
    with _telling(options), wrong_usage(options=options):
        modifier = tune(
            model,
            images,
            token=token,
            prompt=prompt,
            instance_prompt=instance_prompt,
            prior_images=prior or draw_prior,
            prior_prompt=prior_prompt,
            prior_weight=prior_weight,
            lora_rank=lora_rank,
            **options,
        )
    _tell(output, modifier)


def _shared(given: Mapping[str, Any]) -> dict[str, Any]:
    """What both commands pass on, as the library calls it."""
    import torch

    from tadp.captions import CaptionTable

    silence()
    same = (
        "output", "steps", "batch_size", "micro_batch", "lr", "seed", "side_px", "skip_unreadable", "flip", "resume",
        "checkpoint_every", "sample_every", "gradient_checkpointing", "adam_8bit", "revision", "variant",
    )  # fmt: skip
    return {name: given[name] for name in same} | {
        "captions": None if given["captions"] is None else CaptionTable.open(given["captions"]),
        "sample_prompts": given["sample_prompt"],
        "device": find_device(given["device"]),
        "dtype": getattr(torch, given["dtype"].value),
        "progress": sys.stderr.isatty(),
    }


@contextmanager
def _telling(options: Mapping[str, Any]) -> Iterator[None]:
    """Say what the library warns of: an image left out, a schedule assumed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=r"no scheduler/|\d+ of \d+ images")
        warnings.showwarning = lambda message, *_: typer.secho(in_options(str(message), options), fg="yellow", err=True)
        yield


def _tell(output: Path, modifier: Any) -> None:
    typer.echo(f"{modifier('a dog')[0]!r} is what captions become now. Wrote {output}.")
    samples = output / "samples"
    if samples.is_dir():
        typer.echo(f"samples: {samples}")
