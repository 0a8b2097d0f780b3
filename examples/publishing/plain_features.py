"""Compare a model's features with those that plain diffusers computes from the weights in its file."""

from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from tadp import TADPBackbone
from tadp.convert.forms import recognise, state_of
from tadp.convert.pickles import read_pickle
from tadp.datasets.scenes import Scenes
from tadp.diffusion.loading.lora_fusion import LORA_NAME
from tadp.files.hub import HubOptions
from tadp.files.model_folder import model_folder

_NO_MAP = ("conv_norm_out.", "conv_out.")  # layers after the last map, which some files lack
_LDM = "diffusion_model."


@torch.no_grad()
def feature_error(backbone: TADPBackbone, path: Path, *, base: str, revision: str | None) -> float:
    """The largest difference between features, divided by the largest feature of the level.

    Args:
        backbone: The backbone of the model.
        path: The file that was converted, or the folder of the model.
        base: The base model, if the folder has no U-Net of its own.
        revision: The commit of the base model.
    """
    quiet = backbone.with_options(
        attach_attention=(), pool_attention=(), record_attention=(), noise_samples=0, text_length=None,
        timestep=backbone.options.timesteps[0],
    )  # fmt: skip
    latents = quiet.encode_image(Scenes(1, seed=7)[0].image)
    text = quiet.encode_text("a dog on grass")
    embeddings = (text if backbone.text_adapter is None else backbone.text_adapter(text)).embeddings
    unet = (_of_file if path.is_file() else _of_folder)(backbone, path, base=base, revision=revision)
    maps: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: maps.update({name: output[0] if isinstance(output, tuple) else output})

    hooks = [unet.get_submodule(tap).register_forward_hook(keep(tap)) for tap in backbone.layout.taps]
    try:
        unet(latents, quiet.options.timesteps[0], encoder_hidden_states=embeddings, return_dict=False)
    finally:
        for hook in hooks:
            hook.remove()
    pairs = zip(quiet.extract(latents, text).maps, (maps[tap] for tap in backbone.layout.taps), strict=True)
    return max(float((ours - plain).abs().max() / plain.abs().max()) for ours, plain in pairs)


def _of_file(backbone: TADPBackbone, path: Path, *, base: str, revision: str | None) -> nn.Module:
    """The U-Net in a checkpoint, whose tensors diffusers renames rather than tadp."""
    state, _ = state_of(read_pickle(path), path)
    prefix = f"{recognise(state, path).unet}{_LDM}"
    renamed = {f"model.{_LDM}{key.removeprefix(prefix)}": state[key] for key in state if key.startswith(prefix)}
    config: Any = backbone.unet.config
    unet: Any = UNet2DConditionModel.from_config(config)
    keys = unet.load_state_dict(convert_ldm_unet_checkpoint(renamed, config), strict=False)
    missing = [name for name in keys.missing_keys if not name.startswith(_NO_MAP)]
    if missing or keys.unexpected_keys:
        raise SystemExit(f"diffusers finds other layers in {path}: {[*missing, *keys.unexpected_keys][:3]}")
    return unet.eval()


def _of_folder(backbone: TADPBackbone, path: Path, *, base: str, revision: str | None) -> nn.Module:
    """The U-Net in a folder, or else the base model's, with the LoRA of the folder if there is one."""
    folders = (path, path / "base") if base else (path,)
    home = next((folder for folder in folders if (folder / "unet").is_dir()), None)
    home = home or model_folder(base, hub=HubOptions(revision=revision))
    unet: Any = UNet2DConditionModel.from_pretrained(home, subfolder="unet", torch_dtype=torch.float32)
    if (path / LORA_NAME).exists():
        unet.load_lora_adapter(path, prefix="unet", weight_name=LORA_NAME)
    return unet.eval()
