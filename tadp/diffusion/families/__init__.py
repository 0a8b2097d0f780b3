"""The families of base models, one file per family; `register` adds another."""

from tadp.diffusion.families.family import DiffusersFamily as DiffusersFamily
from tadp.diffusion.families.family import Family as Family
from tadp.diffusion.families.family import LoraLoader as LoraLoader
from tadp.diffusion.families.flux import Flux as Flux
from tadp.diffusion.families.layout import Layout as Layout
from tadp.diffusion.families.registry import family_of as family_of
from tadp.diffusion.families.registry import family_of_config as family_of_config
from tadp.diffusion.families.registry import known_families as known_families
from tadp.diffusion.families.registry import register as register
from tadp.diffusion.families.stable_diffusion import StableDiffusion as StableDiffusion
from tadp.diffusion.families.stable_diffusion_3 import StableDiffusion3 as StableDiffusion3
from tadp.diffusion.families.stable_diffusion_xl import StableDiffusionXL as StableDiffusionXL

__all__ = [
    "DiffusersFamily",
    "Family",
    "Flux",
    "Layout",
    "LoraLoader",
    "StableDiffusion",
    "StableDiffusion3",
    "StableDiffusionXL",
    "family_of",
    "family_of_config",
    "known_families",
    "register",
]

for _family in (StableDiffusion(), StableDiffusionXL(), StableDiffusion3(), Flux()):
    register(_family)
