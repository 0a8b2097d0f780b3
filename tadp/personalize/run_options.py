"""What learning a token and DreamBooth take alike, and its checks: `learn_token` says what each option means."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tadp.errors import CaptionError
from tadp.files.checks import check_whole
from tadp.images.reading import MIN_SIZE
from tadp.personalize.training_images import Captions, Images, TrainingImages, read_images


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of a run, but for what is a method's own.

    Raises:
        CaptionError: If `sample_prompts` is an empty list, or no list.
        TypeError: If something else stands where a number should.
        ValueError: If a number is out of its range.
    """

    steps: int
    batch_size: int
    micro_batch: int | None
    lr: float
    weight_decay: float
    max_grad_norm: float | None
    seed: int
    side_px: int | None
    flip: bool
    random_crop: bool
    skip_unreadable: bool
    output: Path | None
    resume: bool
    checkpoint_every: int
    sample_every: int
    sample_prompts: Sequence[str] | None
    gradient_checkpointing: bool
    adam_8bit: bool
    progress: bool

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch_size": 1, "micro_batch": 1, "checkpoint_every": 1, "seed": 0, "sample_every": 0}
        for name, value in (least | {"side_px": MIN_SIZE}).items():
            if name not in ("micro_batch", "side_px") or getattr(self, name) is not None:
                check_whole(getattr(self, name), name=name, minimum=value)
        check_number("lr", self.lr)
        check_number("weight_decay", self.weight_decay, or_zero=True)
        if self.max_grad_norm is not None:
            check_number("max_grad_norm", self.max_grad_norm)
        prompts = self.sample_prompts
        if isinstance(prompts, str) or (prompts is not None and not prompts):
            raise CaptionError("sample_prompts is a list of one text or more; pass sample_every=0 for no samples.")

    @classmethod
    def given(cls, arguments: Mapping[str, Any], **others: Any) -> "RunOptions":
        """The options among a function's arguments, as its `locals()` has them before it does anything.

        Args:
            arguments: By name; what is no option is passed over.
            **others: Options that the function does not take, or decides on itself.
        """
        taken: dict[str, Any] = {one.name: arguments[one.name] for one in fields(cls) if one.name in arguments}
        taken |= others
        if taken["output"] is not None:
            taken["output"] = Path(taken["output"])
        return cls(**taken)

    def read(self, images: Images, *, captions: Captions | None, usual_px: int) -> TrainingImages:
        """The images of a run.

        Args:
            images: As `learn_token` takes them.
            captions: The same.
            usual_px: Side of the squares, if none is asked for.

        Raises:
            ImageError: If there are none, or one cannot be read.
            CaptionError: If captions are not one an image.
        """
        return read_images(
            images,
            side_px=self.side_px or usual_px,
            captions=captions,
            skip_unreadable=self.skip_unreadable,
            output=self.output,
            flip=self.flip,
            random_crop=self.random_crop,
        )

    def shown(self, usual: list[str]) -> list[str]:
        """What sheets of samples show: what was asked for, or the usual."""
        return usual if self.sample_prompts is None else list(self.sample_prompts)


def check_number(name: str, value: object, *, or_zero: bool = False) -> None:
    """Refuse what is no finite number over 0, or 0 where it may be.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is out of range.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} is a number; got {value!r} ({type(value).__name__}).")
    if not math.isfinite(value) or value < 0 or (value == 0 and not or_zero):
        raise ValueError(f"{name} is {'0 or more' if or_zero else 'over 0'}; got {value}.")
