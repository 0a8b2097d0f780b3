"""Draw the pictures of docs/personalize.md: ten images, samples while a token is learned, and the token's attention.

    python examples/personalize_pictures.py --out docs/images

Learns a token from ten rendered night scenes with tadp-tiny, like personalize_study.py. Takes a minute or two on one
core.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from personalizing.conditions import INITIALIZER, TEMPLATE
from personalizing.learning import BATCH, CHOSEN, captions_of
from personalizing.sheets import comparison, grid
from PIL import Image

import tadp
from tadp.datasets.scenes import Scenes
from tadp.drawing import pixel_words, word_sheet
from tadp.files.atomic import replace_file
from tadp.personalize import RunOptions, draw, learn_token

TOKEN, STYLE = "<night>", "night"
SEED, HELD_OUT_SEED, SHOWN = 1_000, 2_000, 2
PROMPTS = ("a red car on a street", "a white house on grass", "a yellow bus in snow", "a pink flower on grass")
STAGES = (0, 10, 30, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--model", default="tadp-tiny", help="'tadp-tiny', a hub id, or a folder in diffusers layout")
    parser.add_argument("--stages", type=int, nargs="+", default=STAGES, help="steps after which samples are drawn")
    parser.add_argument("--denoising-steps", type=int, default=25, help="denoising steps of a sample")
    parser.add_argument("--threads", type=int, default=1, help="number of threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    images = np.stack([scene.image for scene in Scenes(10, seed=SEED, style=STYLE)])
    save(grid(images, columns=5), options.out / "personalize-images.png")

    modifiers = [learned_after(steps, images, options.model) for steps in options.stages]
    rows = [
        (f"after {steps} steps" if steps else "before learning", drawn_by(modifier, options))
        for steps, modifier in zip(options.stages, modifiers, strict=True)
    ]
    save(comparison(rows, columns=len(PROMPTS)), options.out / "personalize-samples.png")

    scene = Scenes(8, seed=HELD_OUT_SEED, style=STYLE)[SHOWN]
    objects = " and ".join(f"a {name}" for name in scene.names)
    save(attention_of(modifiers[-1], scene.image, objects, options.model), options.out / "personalize-attention.png")


def learned_after(steps: int, images: np.ndarray, model: str) -> tadp.CaptionModifier:
    """Learn the token for a number of steps. The seed is fixed, so each call repeats the steps of shorter ones."""
    if steps == 0:
        return tadp.CaptionModifier(TEMPLATE.format(INITIALIZER))
    return learn_token(
        model,
        list(images),
        token=TOKEN,
        initializer=INITIALIZER,
        captions=captions_of(list(images), STYLE),
        options=RunOptions(steps=steps, batch_size=BATCH["token"], lr=CHOSEN["token"].lr),
    )


def drawn_by(modifier: tadp.CaptionModifier, options: argparse.Namespace) -> np.ndarray:
    """Draw a sample for each prompt, from the same noise for each modifier."""
    images = draw(options.model, PROMPTS, modifier=modifier, seed=3, steps=options.denoising_steps)
    return np.stack([np.asarray(image) for image in images])


def attention_of(modifier: tadp.CaptionModifier, image: np.ndarray, caption: str, model: str) -> Image.Image:
    """Draw the attention of each word of a modified caption, including the token."""
    backbone = tadp.TADPBackbone.from_pretrained(model, record_attention=(0, 1))
    (text,) = modifier(caption)
    with modifier.install(backbone), torch.no_grad():
        features = backbone(image, text)
    words = pixel_words(features, backbone.feature_info, levels=(0, 1))
    drawn = word_sheet(image, words, text, columns=3)
    return drawn.resize((drawn.width * 2 // 3, drawn.height * 2 // 3), Image.Resampling.LANCZOS)


def save(picture: Image.Image, file: Path) -> None:
    with replace_file(file) as part:
        picture.save(part, format="PNG", optimize=True)


if __name__ == "__main__":
    main()
