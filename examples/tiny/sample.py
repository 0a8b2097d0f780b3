"""Draw scenes from prompts with the bundled checkpoint, as one picture.

    python examples/tiny/sample.py --out samples.png

The backbone cannot decode images, so this script loads the folder as a diffusion model.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from tadp.assets import tiny_folder
from tadp.drawing import sheet

PROMPTS = (
    "a red car on a street", "a yellow bus in snow", "a blue fish on water", "a white house on grass",
    "a green tree in a desert", "a pink flower on grass", "an orange cat in a room", "a black dog on a beach",
    "a blue bird in a forest", "a white plane on water", "a brown boat on water", "a red person on a street",
    "a red car and a green tree on grass", "a blue car on grass",
    "a watercolor painting of a red house on grass", "a dark night photo of a yellow bus on a street",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, default=tiny_folder(), help="folder in diffusers layout, including the VAE decoder"
    )
    parser.add_argument("--vae", type=Path, help="another folder, whose vae/ is used")
    parser.add_argument("--out", type=Path, required=True, help="path of the picture")
    parser.add_argument("--steps", type=int, default=50, help="denoising steps")
    parser.add_argument("--guidance", type=float, default=4.0, help="scale of classifier-free guidance")
    parser.add_argument("--per-prompt", type=int, default=2, help="samples per prompt")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    options = parser.parse_args()
    prompts = [prompt for prompt in PROMPTS for _ in range(options.per_prompt)]
    images = draw(prompts, options.model, options.vae or options.model, options)
    _sheet(images, PROMPTS, options.per_prompt).save(options.out)


@torch.inference_mode()
def draw(prompts: list[str], model: Path, vae_folder: Path, options: argparse.Namespace) -> np.ndarray:
    """Draw samples with DDIM and classifier-free guidance, (N, 128, 128, 3), uint8."""
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(model / "text_encoder", dtype=torch.float32)
    unet = UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32)
    vae = AutoencoderKL.from_pretrained(vae_folder / "vae", torch_dtype=torch.float32)
    schedule = DDIMScheduler.from_pretrained(model / "scheduler")
    schedule.set_timesteps(options.steps)
    ids = tokenizer(
        [*prompts, *[""] * len(prompts)], padding="max_length", max_length=77, return_tensors="pt"
    ).input_ids
    text = text_encoder(ids).last_hidden_state
    latents = torch.randn(len(prompts), 4, 16, 16, generator=torch.Generator().manual_seed(options.seed))
    for time in schedule.timesteps:
        with_text, without = unet(torch.cat([latents, latents]), time, text).sample.chunk(2)
        latents = schedule.step(without + options.guidance * (with_text - without), time, latents).prev_sample
    pixels = vae.decode(latents / vae.config["scaling_factor"]).sample.clamp(-1, 1)
    return ((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def _sheet(images: np.ndarray, prompts: tuple[str, ...], per_prompt: int, columns: int = 4) -> Image.Image:
    drawn = [Image.fromarray(image) for image in images]
    cells = [
        sheet([drawn[number * per_prompt : (number + 1) * per_prompt]], labels=[prompt])
        for number, prompt in enumerate(prompts)
    ]
    cells += [Image.new("RGB", cells[0].size, "white")] * (-len(cells) % columns)
    return sheet([cells[start : start + columns] for start in range(0, len(cells), columns)])


if __name__ == "__main__":
    main()
