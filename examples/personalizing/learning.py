"""Learning a style from ten images: methods and settings."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

from personalizing.conditions import INITIALIZER, RARE_WORD, TEMPLATE, TOKEN
from tadp import Captioner, CaptionModifier
from tadp.cleaning import RuleCleaner
from tadp.datasets.scenes import Scenes
from tadp.personalize import RunOptions, dreambooth, learn_token

BATCH = {"token": 8, "dreambooth": 4, "lora": 4}
STEPS = {"token": 100, "dreambooth": 60, "lora": 60}
SECONDS = {"token": 0.17, "dreambooth": 0.18, "lora": 0.18}  # per step, on one core
LORA_RANK = 8
IMAGES_SEED = 1_000  # plus the seed of the run; tadp-tiny was trained on scenes of seed 0


class Setting(NamedTuple):
    """A method, the texts that describe the images while it learns, and its learning rate."""

    method: str
    called: str
    lr: float

    @property
    def name(self) -> str:
        return f"{self.method}-{self.called.replace(' ', '-')}-{self.lr:g}"


CAPTIONS, LISTS, BARE = "captions", "textual inversion's texts", "template without caption"
# The settings that --choose found best, and all that it tried.
CHOSEN = {
    "token": Setting("token", CAPTIONS, 3e-2),
    "dreambooth": Setting("dreambooth", CAPTIONS, 5e-4),
    "lora": Setting("lora", CAPTIONS, 1e-2),
}
TRIED = (
    Setting("token", LISTS, 3e-2),
    Setting("token", BARE, 3e-2),
    Setting("token", CAPTIONS, 5e-3),
    Setting("token", CAPTIONS, 3e-2),
    Setting("dreambooth", CAPTIONS, 1e-4),
    Setting("dreambooth", CAPTIONS, 5e-4),
    Setting("lora", CAPTIONS, 3e-3),
    Setting("lora", CAPTIONS, 1e-2),
)


def learn(
    setting: Setting,
    style: str,
    seed: int,
    *,
    output: Path,
    steps: int | None = None,
    model: str = "tadp-tiny",
    size: int = 128,
) -> CaptionModifier:
    """Learn a style from a seed's ten images, or load what was learned before.

    Args:
        setting: The method and its settings.
        style: Style of the images.
        seed: Seed of the images and of the learning.
        output: Folder of the modifier.
        steps: Number of steps; None for the method's own.
        model: The model that learns.
        size: Side of the images, in pixels.
    """
    if (output / "modifier.json").exists():
        return CaptionModifier.from_pretrained(output)
    images = [scene.image for scene in Scenes(10, seed=IMAGES_SEED + seed, style=style, size=size)]
    options = RunOptions(
        steps=steps or STEPS[setting.method],
        batch_size=BATCH[setting.method],
        lr=setting.lr,
        seed=seed,
        sample_every=0,
        progress=False,
    )
    captions = captions_of(images, style) if setting.called == CAPTIONS else None
    shared = {"captions": captions, "output": output, "options": options}
    if setting.method == "token":
        bare = [TEMPLATE.format("{token}").removesuffix(" of {caption}")] if setting.called == BARE else None
        template = TEMPLATE.format(TOKEN)
        modifier = learn_token(
            model, images, token=TOKEN, initializer=INITIALIZER, template=template, texts=bare, **shared
        )
    else:
        rank = LORA_RANK if setting.method == "lora" else None
        prompt = TEMPLATE.format(RARE_WORD)
        modifier = dreambooth(model, images, token=RARE_WORD, prompt=prompt, lora_rank=rank, **shared)
    (output / "checkpoint.safetensors").unlink()  # no more steps will follow
    return modifier


def captions_of(images: list, style: str) -> list[str]:
    """The captioner's captions, without the words for the style."""
    return RuleCleaner(style)(_captioner()(images))


@cache
def _captioner() -> Captioner:
    return Captioner.from_pretrained("tadp-tiny")
