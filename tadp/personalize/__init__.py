"""Adapt a diffusion model to a domain, such as watercolors, with a few unlabelled images of it.

    # "watercolors" is a folder of images; textual inversion learns a new word, DreamBooth tunes the U-Net
    modifier = learn_token("tadp-tiny", "watercolors", token="<wash>", initializer="painting", output="wash")
    modifier = dreambooth("tadp-tiny", "watercolors", token="sks", output="sks", options=RunOptions(steps=400))
    with modifier.install(backbone):
        features = backbone(images, modifier(captions))

Every name of this package is imported when it is first used, which also imports torch. `RunOptions` does not need
torch.

Source: TADP Sec. 4.3, textual inversion and DreamBooth; the numbers are those of the paper's released
model_personalization/.
"""

from typing import TYPE_CHECKING

from tadp._lazy import lazy

if TYPE_CHECKING:
    from tadp.personalize.dreambooth_tuning import dreambooth as dreambooth
    from tadp.personalize.objective import denoising_loss as denoising_loss
    from tadp.personalize.run_options import RunOptions as RunOptions
    from tadp.personalize.sampling import draw as draw
    from tadp.personalize.textual_inversion import OBJECT_TEXTS as OBJECT_TEXTS
    from tadp.personalize.textual_inversion import STYLE_TEXTS as STYLE_TEXTS
    from tadp.personalize.textual_inversion import Kind as Kind
    from tadp.personalize.textual_inversion import learn_token as learn_token
    from tadp.personalize.trained_lora import TrainedLora as TrainedLora
    from tadp.personalize.trained_model import DiffusionModel as DiffusionModel
    from tadp.personalize.trained_model import load_diffusion as load_diffusion

_HOMES = {
    "OBJECT_TEXTS": "textual_inversion",
    "STYLE_TEXTS": "textual_inversion",
    "DiffusionModel": "trained_model",
    "Kind": "textual_inversion",
    "RunOptions": "run_options",
    "TrainedLora": "trained_lora",
    "denoising_loss": "objective",
    "draw": "sampling",
    "dreambooth": "dreambooth_tuning",
    "learn_token": "textual_inversion",
    "load_diffusion": "trained_model",
}
__all__ = [
    "OBJECT_TEXTS",
    "STYLE_TEXTS",
    "DiffusionModel",
    "Kind",
    "RunOptions",
    "TrainedLora",
    "denoising_loss",
    "draw",
    "dreambooth",
    "learn_token",
    "load_diffusion",
]
__getattr__, __dir__ = lazy(__name__, _HOMES, names=__all__)
