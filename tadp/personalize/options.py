"""What learning a token and DreamBooth take alike, and its checks: `learn_token` says what each option means."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tadp.errors import CaptionError
from tadp.personalize.images import Captions, Images, TrainingImages, read_images


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of a run, but for what is a method's own.

    Raises:
        CaptionError: If `sample_prompts` is an empty list, or no list.
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
        for name in ("steps", "batch_size", "micro_batch", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is 1 or more; got {value}.")
        for name in ("seed", "sample_every", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is 0 or more; got {getattr(self, name)}.")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"lr is over 0; got {self.lr}.")
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
            flip=self.flip,
            random_crop=self.random_crop,
        )

    def shown(self, usual: list[str]) -> list[str]:
        """What sheets of samples show: what was asked for, or the usual."""
        return usual if self.sample_prompts is None else list(self.sample_prompts)
