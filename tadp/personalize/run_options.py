"""`RunOptions`: the options of a training run, which are the same for learning a token and for DreamBooth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from tadp.errors import Argument, CaptionError, OptionError
from tadp.files.checks import check_ordered, check_whole, is_finite_number
from tadp.files.schema import shown

if TYPE_CHECKING:  # the command line reads this file's options, and torch takes seconds to load
    import torch

# Defaults of options that are None: the numbers of TADP's released scripts, see `learn_token` and `dreambooth`.
TOKEN_DEFAULTS: dict[str, Any] = {"steps": 5_000, "batch_size": 16, "lr": 1e-4, "checkpoint_every": 100}
DREAMBOOTH_DEFAULTS: dict[str, Any] = {"steps": 1_000, "batch_size": 1, "checkpoint_every": 500}
UNET_LR, LORA_LR = 5e-6, 1e-4
MIN_SIDE_PX = 8  # tadp.images' MIN_SIZE, which would load torch


def _at_least(least: int, *, default: int | None = None) -> Any:
    """A field that holds a whole number, or None if that is its default."""
    return field(default=default, metadata={"least": least})


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of a run of `learn_token` or `dreambooth`: steps, images, files to write, and device.

    The options of the command `tadp personalize` are generated from these fields: their names, types, defaults and
    descriptions.

    Attributes:
        steps: Number of optimizer steps; None is 5,000 for a token and 1,000 for DreamBooth.
        batch_size: Number of images per step; None is 16 for a token and 1 for DreamBooth.
        micro_batch: Number of images per forward pass, to save memory; None is all images of a step.
        lr: Learning rate, constant over all steps; None is 1e-4 for a token or a LoRA and 5e-6 for a whole U-Net.
        weight_decay: Weight decay of AdamW.
        seed: Seed of all random numbers. The same seed gives the same result.
        side_px: Side of the square crops in pixels; None is the size of the model's own training images.
        flip: Mirror each crop with a probability of one half.
        random_crop: Take the square crop at a random place along the longer side, instead of in the middle.
        skip_unreadable: Leave out images that cannot be read, with a warning, instead of stopping.
        resume: Continue from the checkpoint in the output folder, if there is one.
        checkpoint_every: Number of steps between checkpoints; None is 100 for a token and 500 for DreamBooth.
        sample_every: Number of steps between sample sheets, which need the VAE's decoder; 0 draws none.
        sample_prompts: Prompts of the sample sheets, each a full text with the token; None is one or two that fit the
            run.
        gradient_checkpointing: Compute activations again in the backward pass, which takes less memory and more time.
        adam_8bit: Use the 8-bit AdamW of bitsandbytes.
        dtype: Data type in which the model computes; None is float32. Parameters that train are always float32.
        device: Device to train on; None is the CPU.
        progress: Show the cost of the run and its progress on the error stream: a bar on a terminal, and a line per
            minute elsewhere.

    Raises:
        CaptionError: If `sample_prompts` is an empty list or a single string.
        TypeError: If an option that must be a number has another type.
        ValueError: If a number is out of its range.

    Example:
        >>> RunOptions(steps=100, lr=1e-3).batch_size is None
        True
        >>> RunOptions(steps=0)
        Traceback (most recent call last):
        tadp.errors.OptionError: steps must be 1 or more; got 0.
    """

    steps: int | None = _at_least(1)
    batch_size: int | None = _at_least(1)
    micro_batch: int | None = _at_least(1)
    lr: float | None = None
    weight_decay: float = 1e-2
    seed: int = _at_least(0, default=0)
    side_px: int | None = _at_least(MIN_SIDE_PX)
    flip: bool = True
    random_crop: bool = True
    skip_unreadable: bool = False
    resume: bool = True
    checkpoint_every: int | None = _at_least(1)
    sample_every: int = _at_least(0, default=500)
    sample_prompts: Sequence[str] | None = None
    gradient_checkpointing: bool = False
    adam_8bit: bool = False
    dtype: "torch.dtype | None" = None
    device: "torch.device | str | None" = None
    progress: bool = True

    def __post_init__(self) -> None:
        for option in fields(self):
            value, least = getattr(self, option.name), option.metadata.get("least")
            if least is not None and not (value is None and option.default is None):
                # a plain int, as NumPy's cannot be written to JSON
                object.__setattr__(self, option.name, check_whole(value, name=option.name, minimum=least))
        if self.lr is not None:
            check_number("lr", self.lr)
        check_number("weight_decay", self.weight_decay, or_zero=True)
        prompts = self.sample_prompts
        check_ordered(sample_prompts=prompts)
        if isinstance(prompts, str) or (prompts is not None and not prompts):
            samples = Argument("sample_every", 0)
            raise CaptionError("sample_prompts must be a list of one or more texts; pass ", samples, " for no samples.")


@dataclass(frozen=True, kw_only=True)
class SettledOptions(RunOptions):
    """The options of a run with the defaults of its method filled in."""

    steps: int = field()
    batch_size: int = field()
    lr: float = field()
    checkpoint_every: int = field()

    @classmethod
    def of(cls, options: RunOptions | None, defaults: Mapping[str, Any]) -> "SettledOptions":
        """Return options in which the defaults of a method, `learn_token` or `dreambooth`, replace None.

        Args:
            options: The user's options; None is all defaults.
            defaults: The method's defaults, by the names of the options.

        Raises:
            TypeError: If `options` is not a `RunOptions`.
        """
        options = RunOptions() if options is None else options
        if not isinstance(options, RunOptions):
            kind = type(options).__name__
            raise TypeError(f"options must be a RunOptions, such as options=RunOptions(steps=100); got {kind}.")
        values: dict[str, Any] = {option.name: getattr(options, option.name) for option in fields(RunOptions)}
        values |= {name: value for name, value in defaults.items() if values[name] is None}
        return cls(**values)


def check_number(name: str, value: object, *, or_zero: bool = False) -> None:
    """Check that a value is a finite number above 0, or 0 if `or_zero` is set.

    Raises:
        TypeError: If the value is not a number.
        OptionError: If the value is out of range.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number; got {value!r} ({type(value).__name__}).")
    if not is_finite_number(value) or value < 0 or (value == 0 and not or_zero):
        raise OptionError(Argument(name), f" must be {'0 or more' if or_zero else 'above 0'}; got {shown(value)}.")
