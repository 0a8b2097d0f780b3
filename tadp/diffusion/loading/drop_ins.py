"""Parts that take the place of a base model's own: a U-Net or a VAE, by path or hub id."""

from pathlib import Path
from typing import Any

import torch

from tadp.diffusion.families.family import PARTS
from tadp.diffusion.loading.networks import hollow_denoiser, load_denoiser, load_vae
from tadp.errors import MissingFileError, ModelError
from tadp.files.hub import HubOptions, index_name, local_file, local_folder, weight_name
from tadp.files.model_folder import WEIGHTS, fill

_SUFFIX = ".safetensors"


def load_drop_in_unet(name: str | Path, base: Path, *, dtype: torch.dtype, hub: HubOptions) -> Any:
    """A denoiser in place of the base model's.

    Args:
        name: A folder or hub id with `config.json` and weights, or with `unet/` (or `transformer/`); or a .safetensors
            file with the tensors of the base's U-Net under diffusers' names, here or on the hub
            ("CompVis/cleandift/cleandift_sd15_unet.safetensors").
        base: The base model's folder.
        dtype: Dtype of the weights.
        hub: Which weight files, and how they are downloaded.

    Raises:
        UnknownModelError, MissingFileError: If it is not to be had.
        ModelError: If a file does not fit the base's U-Net.
    """
    if str(name).endswith(_SUFFIX):
        path = local_file(name, hub=hub)
        try:
            return fill(hollow_denoiser(base), [path], dtype, path)
        except ModelError as error:
            raise ModelError(f"{path} does not hold the U-Net that {base} describes; {error}") from error
    return _part_or_root(name, PARTS, hub, lambda folder, part: load_denoiser(
        folder, part, variant=hub.variant, dtype=dtype
    ))  # fmt: skip


def load_drop_in_vae(name: str | Path, *, dtype: torch.dtype, hub: HubOptions) -> Any:
    """The encoder of a VAE in place of the base model's: an `AutoencoderKL` or an `AutoencoderTiny`.

    Args:
        name: A folder or hub id with `config.json` and weights ("madebyollin/taesd"), or with `vae/`.
        dtype: Dtype of the weights.
        hub: Which weight files, and how they are downloaded.

    Raises:
        UnknownModelError, MissingFileError, ModelError: If it is not to be had, or of another kind.
    """
    return _part_or_root(name, ("vae",), hub, lambda folder, part: load_vae(
        folder, variant=hub.variant, dtype=dtype, part=part
    ))  # fmt: skip


def _part_or_root(name: str | Path, parts: tuple[str, ...], hub: HubOptions, load: Any):
    base, variant = WEIGHTS[parts[0]], hub.variant
    names = ("config.json", weight_name(base, variant), weight_name(base, variant, "-*"), index_name(base, variant))
    folder = local_folder(
        name,
        patterns=[f"{prefix}{one}" for prefix in ("", *(f"{part}/" for part in parts)) for one in names],
        known=f"Pass a folder or hub id with config.json and weights, or with {parts[0]}/, or a {_SUFFIX} file.",
        hub=hub,
    )
    for part in parts:
        if (folder / part).is_dir():
            return load(folder, part)
    if not (folder / "config.json").exists():
        raise MissingFileError(
            f"neither config.json nor {parts[0]}/ in {name}. If it holds weights alone, name the file: "
            f"{name}/….safetensors."
        )
    return load(folder, "")
