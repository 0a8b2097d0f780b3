"""Bring a diffusion model nearer to a domain with a few unlabelled images of it.

    modifier = learn_token("tadp-tiny", "watercolors", token="<wash>", initializer="painting", output="wash")
    modifier = dreambooth("tadp-tiny", "watercolors", token="sks", output="sks")
    with modifier.install(backbone):
        features = backbone(images, modifier(captions))

Source: TADP Sec. 4.3: textual inversion and DreamBooth, with the numbers of its released model_personalization/.
"""

from tadp.personalize.dreambooth import dreambooth as dreambooth
from tadp.personalize.inversion import learn_token as learn_token
from tadp.personalize.objective import denoising_loss as denoising_loss
from tadp.personalize.sampling import draw as draw
from tadp.personalize.trained_model import DiffusionModel as DiffusionModel
from tadp.personalize.trained_model import load_diffusion as load_diffusion
from tadp.personalize.training_prompts import OBJECT_TEXTS as OBJECT_TEXTS
from tadp.personalize.training_prompts import STYLE_TEXTS as STYLE_TEXTS
from tadp.personalize.training_prompts import Kind as Kind

__all__ = [
    "OBJECT_TEXTS",
    "STYLE_TEXTS",
    "DiffusionModel",
    "Kind",
    "denoising_loss",
    "draw",
    "dreambooth",
    "learn_token",
    "load_diffusion",
]
