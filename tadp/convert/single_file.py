"""A whole Stable Diffusion 1.x or 2.x model in one file, the format of the original code and of most web sites."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tadp.assets import single_file_configs
from tadp.backbone import TADPBackbone
from tadp.convert.forms import state_of
from tadp.convert.key_names import ldm_text_names, ldm_unet_names, ldm_vae_names
from tadp.convert.ledger import Ledger
from tadp.convert.pickles import read_pickle
from tadp.diffusion.families import StableDiffusion
from tadp.diffusion.vae import VAEEncoder
from tadp.errors import ModelError
from tadp.files.hub import HubOptions, local_folder, read_json
from tadp.files.pretrained import load_reader
from tadp.files.weight_values import check_finite
from tadp.text.clip_tokenizer import clip_tokenizer

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_CLIP, _OPENCLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
_OPENCLIP_LAYERS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.q_proj": "attn.q",
    "self_attn.k_proj": "attn.k",
    "self_attn.v_proj": "attn.v",
    "self_attn.out_proj": "attn.out_proj",
}
_OPENCLIP_PLACES = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}


def from_single_file(
    path: str | Path,
    *,
    base_model: str | Path | None = None,
    tokenizer: "CLIPTokenizer | str | Path | None" = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    local_files_only: bool = False,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    **options: Any,
) -> TADPBackbone:
    """Load a .safetensors or .ckpt file of Stable Diffusion 1.x or 2.x as a backbone.

    A .ckpt is a pickle. Only tensors and plain values are read from it, and no code is run. All tensors of the U-Net,
    the VAE encoder and the text encoder are used; the VAE's decoder, averaged weights and noise schedules are ignored.
    The text encoder's tensors show whether the model is version 1 or 2. The configurations and CLIP's vocabulary come
    with tadp, so no other file is needed.

    Args:
        path: Path of the file.
        base_model: Folder in diffusers' layout that describes the model's architecture (`unet/config.json` and so on).
            Its `tokenizer` is used too, if it has one. None means that the file has the architecture of Stable
            Diffusion 1.5 or 2.1.
        tokenizer: A tokenizer, or a folder or hub id that contains one; None is CLIP's own.
        dtype: Precision of all parts; None is float32.
        device: Device of the backbone; None is the CPU.
        local_files_only: Whether to use only files on this machine and never connect to the hub.
        cache_dir: Folder for downloads; None is huggingface_hub's own cache.
        token: Access token for gated models; None is the token that `hf auth login` stored.
        **options: Options of `TADPBackbone`.

    Raises:
        MissingFileError, CorruptFileError: If there is no such file, if it is damaged, or if it contains more than
            tensors and plain values.
        ModelError: If the file contains another kind of model, or a tensor is missing, unknown or of another shape.
        UnknownModelError: If there is no such tokenizer.

    Source:
        The layout of the original code, LDM, with `model.diffusion_model`, `first_stage_model` and `cond_stage_model`.
    """
    path = Path(path).expanduser()
    state, _ = state_of(read_pickle(path), path)
    family = _family(state, path)
    configs = _configs(family, base_model)
    hub = HubOptions(cache_dir=cache_dir, token=token, local_files_only=local_files_only)
    own = None if base_model is None else Path(base_model) / "tokenizer"
    words = _tokenizer(own if tokenizer is None and own and own.is_dir() else tokenizer, hub, family)
    unet, vae, text = _hollow(configs)
    _check_vocabulary(words, text)
    ledger = Ledger(_parted(state) if family == "sd2" else state, path)
    parts = [
        (unet, _take(ledger, "U-Net", unet, ldm_unet_names(unet), _UNET)),
        (vae, _take(ledger, "VAE encoder", vae, ldm_vae_names(vae), _VAE)),
        (text, _take_text(ledger, text, family)),
    ]
    _drop_rest(ledger, text, family)
    ledger.close()
    for module, tensors in parts:
        # Copies do not keep the file open, and do not depend on how tensors are laid out in it.
        copies = {name: tensor.to(dtype or torch.float32, copy=True) for name, tensor in tensors.items()}
        module.load_state_dict(copies, strict=True, assign=True)
        check_finite(module.named_parameters(), path)
    backbone = TADPBackbone(unet=unet, vae=vae, text_encoder=text, tokenizer=words, **options)
    return backbone.eval() if device is None else backbone.to(device).eval()


def _family(state: Mapping[str, Tensor], path: Path) -> str:
    """Return the family, by which the configurations that come with tadp are named."""
    for family, prefix in (("sd1", _CLIP), ("sd2", _OPENCLIP)):
        if any(name.startswith(prefix) for name in state):
            return family
    known = "tadp reads single files of Stable Diffusion 1.x and 2.x, with their text encoder"
    if any(name.startswith("conditioner.") for name in state):
        raise ModelError(f"{path} is a Stable Diffusion XL model in one file; {known}. Get it in diffusers' layout.")
    raise ModelError(f"{path} has no text encoder under LDM's names (cond_stage_model.*); {known}.")


def _configs(family: str, base_model: str | Path | None) -> dict[str, dict[str, Any]]:
    if base_model is None:
        return json.loads(single_file_configs().read_text(encoding="utf-8"))[family]
    return {part: read_json(Path(base_model) / part / "config.json") for part in ("unet", "vae", "text_encoder")}


def _tokenizer(source: Any, hub: HubOptions, family: str) -> "CLIPTokenizer":
    from transformers import CLIPTokenizer

    if source is None:
        # Stable Diffusion 2 was trained with padding token 0, which is "!".
        return clip_tokenizer(**({"pad_token": "!"} if family == "sd2" else {}))
    if not isinstance(source, str | Path):
        return source
    known = "Pass a folder with tokenizer.json, or with vocab.json and merges.txt, a hub id, or a CLIPTokenizer."
    patterns = ["tokenizer*.json", "vocab.json", "merges.txt", "special_tokens_map.json"]
    folder = local_folder(source, patterns=patterns, known=known, hub=hub)
    return load_reader(CLIPTokenizer, folder, what=str(source))


def _check_vocabulary(tokenizer: "CLIPTokenizer", text: Any) -> None:
    if len(tokenizer) > text.config.vocab_size:
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} tokens, but the text encoder takes {text.config.vocab_size}; pass the "
            "tokenizer that the file was trained with as tokenizer=."
        )


def _hollow(configs: dict[str, dict[str, Any]]) -> tuple[Any, VAEEncoder, Any]:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = StableDiffusion().build(configs["unet"])
        autoencoder: Any = AutoencoderKL.from_config(configs["vae"])
        vae = VAEEncoder(autoencoder)
    # Not on the meta device, because the file does not contain its table of positions.
    return unet, vae, CLIPTextModel(CLIPTextConfig(**configs["text_encoder"]))


def _take(ledger: Ledger, name: str, module: nn.Module, names: Mapping[str, str], prefix: str) -> dict[str, Tensor]:
    return ledger.take(name, {here: prefix + there for here, there in names.items()}, module.state_dict())


def _take_text(ledger: Ledger, text: nn.Module, family: str) -> dict[str, Tensor]:
    if family == "sd1":
        return _take(ledger, "text encoder", text, ldm_text_names(text), _CLIP)
    return _take(ledger, "text encoder", text, {name: _openclip_name(name) for name in text.state_dict()}, _OPENCLIP)


def _openclip_name(name: str) -> str:
    """Return OpenCLIP's name of a CLIP text model's tensor, with queries, keys and values separated."""
    name = name.removeprefix("text_model.")
    if name in _OPENCLIP_PLACES:
        return _OPENCLIP_PLACES[name]
    _, _, number, layer = name.split(".", 3)  # encoder.layers.3.self_attn.q_proj.weight
    part, _, kind = layer.rpartition(".")
    return f"transformer.resblocks.{number}.{_OPENCLIP_LAYERS[part]}.{kind}"


def _parted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split OpenCLIP's tensors, each of which holds the queries, keys and values of a layer."""
    parted = {}
    for name, tensor in state.items():
        match = re.fullmatch(r"(.*\.attn\.)in_proj_(weight|bias)", name) if name.startswith(_OPENCLIP) else None
        if match is None:
            parted[name] = tensor
        else:
            parted |= {f"{match[1]}{k}.{match[2]}": part for k, part in zip("qkv", tensor.chunk(3), strict=True)}
    return parted


def _drop_rest(ledger: Ledger, text: Any, family: str) -> None:
    ledger.drop(
        "VAE decoder",
        lambda name: name.startswith((f"{_VAE}decoder.", f"{_VAE}post_quant_conv.", f"{_VAE}loss.")),
        "perception never decodes",
    )
    ledger.drop(
        "schedule, averages and training state",
        lambda name: not name.startswith((_UNET, _VAE, "cond_stage_model.")),
        "a backbone needs none of them",
    )
    last = text.config.num_hidden_layers
    unused = {f"{_OPENCLIP}{name}" for name in ("text_projection", "logit_scale", "attn_mask")}
    if family == "sd1":
        unused = {f"{_CLIP}text_model.embeddings.position_ids"}
    ledger.drop(
        "unused parts of the text encoder",
        # Stable Diffusion 2 reads OpenCLIP's second-to-last layer, so the last is not in the configuration.
        lambda name: name in unused or name.startswith(f"{_OPENCLIP}transformer.resblocks.{last}."),
        "positions, projection, and the layer after the one that is read",
    )
