"""Find a model's files, here or on the hub, and load only the parts a backbone needs.

A hub model is first brought to a local folder, so that everything after takes one way.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from tadp.assets import tiny_folder
from tadp.errors import CorruptFileError, MissingFileError, ModelError
from tadp.hub import check_readable, index_name, local_folder, read_json, weight_files, weight_name, without_bars

CONFIG_NAME = "tadp_config.json"
ADAPTER_NAME = "text_adapter.safetensors"
KNOWN_MODELS = ("tadp-tiny", "stable-diffusion-v1-5/stable-diffusion-v1-5")
# Part of a diffusers folder: base name of its weight files.
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
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

    Raises:
        UnknownModelError: If the name is none of these, or the hub does not have or give it.
    """
    if str(name) == "tadp-tiny":
        return tiny_folder()
    return local_folder(
        name,
        patterns=_patterns(variant),
        known=f"Pass a folder in diffusers layout, a hub id (owner/name), or one of: {', '.join(KNOWN_MODELS)}.",
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
    )


def _patterns(variant: str | None) -> list[str]:
    """Exactly the files a backbone reads: configs, the tokenizer, and the safetensors of one variant."""
    patterns = [CONFIG_NAME, ADAPTER_NAME, "tokenizer/*"]
    for part, base in WEIGHTS.items():
        names = (
            "config.json",
            weight_name(base, variant),
            weight_name(base, variant, shard="-*"),
            index_name(base, variant),
        )
        patterns += [f"{part}/{name}" for name in names]
    return patterns


def read_config(folder: Path, part: str) -> dict[str, Any]:
    """A part's config.json.

    Raises:
        MissingFileError: If the part or its config is not there.
        CorruptFileError: If it is not JSON.
    """
    path = folder / part / "config.json"
    if not path.parent.is_dir():
        raise MissingFileError(f"no {part}/ in {folder}; a model folder has unet/, vae/, text_encoder/ and tokenizer/.")
    return read_json(path)


def read_tensors(files: list[Path], keep: Callable[[str], bool] = lambda _: True) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor, of those to keep; the others are never read."""
    for path in files:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118  safe_open is not a dict
                if keep(key):
                    yield key, file.get_tensor(key)


def load_parts(
    folder: Path, *, variant: str | None, dtype: torch.dtype, given: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a folder in diffusers layout holds of a backbone; `saving.save_parts` writes one.

    Args:
        folder: The model's.
        variant: Which weight files.
        dtype: Of what is loaded.
        given: Parts that are there already, and are not loaded; None is none.

    Returns:
        U-Net, VAE, text encoder and tokenizer as `TADPBackbone` takes them, and the options saved with them, if any.

    Raises:
        ModelError: As `load_unet`, `load_vae` and `load_text_encoder`.
    """
    saved = read_json(folder / CONFIG_NAME) if (folder / CONFIG_NAME).exists() else {}
    parts: dict[str, Any] = {name: part for name, part in (given or {}).items() if part is not None}
    if "unet" not in parts:
        parts["unet"] = load_unet(folder, variant=variant, dtype=dtype)
    parts["vae"] = load_vae(folder, variant=variant, dtype=dtype)
    if "text_encoder" not in parts and saved.get("has_text_encoder", True):
        text = load_text_encoder(folder, variant=variant, dtype=dtype)
        parts |= {"text_encoder": text.model, "tokenizer": text.tokenizer}
    return parts, saved.get("options", {})


def load_unet(folder: Path, *, variant: str | None, dtype: torch.dtype):
    """A `UNet2DConditionModel` from `folder/unet`.

    Raises:
        ModelError: If the config is another kind of model, or weights and config disagree.
    """
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    unet = _empty(UNet2DConditionModel, folder, "unet")
    return _fill(unet, weight_files(folder / "unet", WEIGHTS["unet"], variant), dtype, folder / "unet")


def load_vae(folder: Path, *, variant: str | None, dtype: torch.dtype):
    """The encoder half of the `AutoencoderKL` in `folder/vae`; the decoder is never read."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from tadp.vae import VAEEncoder

    encoder = VAEEncoder(_empty(AutoencoderKL, folder, "vae"))
    return _fill(
        encoder,
        weight_files(folder / "vae", WEIGHTS["vae"], variant),
        dtype,
        folder / "vae",
        keep=("encoder.", "quant_conv."),
    )


def load_text_encoder(folder: Path, *, variant: str | None, dtype: torch.dtype):
    """The CLIP text encoder in `folder/text_encoder` with the tokenizer in `folder/tokenizer`."""
    from transformers import CLIPTextModel, CLIPTokenizer

    from tadp.text import TextEncoder

    kind = read_config(folder, "text_encoder").get("model_type")
    if kind not in ("clip_text_model", "clip"):
        raise ModelError(
            f"{folder / 'text_encoder'} holds a {kind!r}; tadp reads CLIP text encoders (Stable Diffusion 1.x, 2.x)."
        )
    _check_tokenizer(folder)
    weight_files(folder / "text_encoder", WEIGHTS["text_encoder"], variant)
    try:
        with without_bars():
            loaded: Any = CLIPTextModel.from_pretrained(
                folder / "text_encoder",
                variant=variant,
                use_safetensors=True,
                dtype=dtype,
                local_files_only=True,
                output_loading_info=True,
            )
    except RuntimeError as error:
        raise ModelError(f"the weights in {folder / 'text_encoder'} do not fit its config.json: {error}") from error
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing or info["mismatched_keys"]:
        # transformers would go on with random weights
        raise CorruptFileError(
            f"{folder / 'text_encoder'} lacks {len(missing)} weights, {missing[:2]} …; it was saved by another version "
            "of transformers. Save it again with this one."
        )
    for parameter in model.parameters():  # see _fill
        parameter.data = parameter.data.clone()
    return TextEncoder(model, CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True))


def _check_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer"
    if not path.is_dir():
        raise MissingFileError(
            f"no tokenizer/ in {folder}; a model folder has unet/, vae/, text_encoder/ and tokenizer/."
        )
    # transformers would make a tokenizer without a vocabulary
    if not (path / "tokenizer.json").exists() and not (
        (path / "vocab.json").exists() and (path / "merges.txt").exists()
    ):
        raise MissingFileError(f"no tokenizer.json in {path}, nor vocab.json with merges.txt; get the model again.")


def load_text_adapter(adapter: torch.nn.Module, folder: Path, *, dtype: torch.dtype) -> None:
    """Fill a text adapter from a saved backbone.

    Raises:
        MissingFileError: If the backbone was saved without.
    """
    path = folder / ADAPTER_NAME
    if not path.exists():
        raise MissingFileError(f"no {path.name} in {folder}, whose {CONFIG_NAME} promises it; get the model again.")
    check_readable(path)
    _fill(adapter, [path], dtype, path)


def _empty(kind: type, folder: Path, part: str):
    """A diffusers model without storage, from its config."""
    config = read_config(folder, part)
    if config.get("_class_name") != kind.__name__:
        raise ModelError(f"{folder / part} holds a {config.get('_class_name')!r}; tadp reads {kind.__name__}.")
    try:
        with torch.device("meta"):
            return kind.from_config(config)
    except (TypeError, ValueError, LookupError) as error:
        raise ModelError(f"{folder / part / 'config.json'} does not describe a {kind.__name__}: {error}") from error


def _fill(module: torch.nn.Module, files: list[Path], dtype: torch.dtype, where: Path, keep: tuple[str, ...] = ("",)):
    state = {}
    for key, tensor in read_tensors(files, lambda key: key.startswith(keep)):
        for old, new in _OLD_NAMES.items():
            key = key.replace(old, new)
        # A copy: safetensors maps the file, and how its tensors happen to be aligned there changes results by a bit.
        state[key] = tensor.to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
    try:
        module.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise ModelError(f"the weights in {where} do not fit its config.json: {error}") from error
    return module
