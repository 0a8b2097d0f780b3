"""The folder of a task model: the head, the tuned part of the U-Net, and where the rest comes from.

config.json         kind, options, class names, base model with its revision, captioner, record
model.safetensors   the head
unet/               the whole U-Net, if all of it was tuned
pytorch_lora_weights.safetensors   the LoRA, if a LoRA was tuned
text_adapter.safetensors           the text adapter, if there is one
text.safetensors    the embeddings of prompt mode "stored"
text_encoder/, tokenizer/   if a token was learned, or the weights differ from the base model's
base/               the backbone, if it was built from parts and has no name
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from tadp._version import __version__
from tadp.assets import TASK_MODELS, task_model_folder
from tadp.backbone import TADPBackbone
from tadp.backbone.memory_saving import MemorySaving
from tadp.backbone.options import BackboneOptions, check_saved_options
from tadp.diffusion.loading.networks import load_text_adapter, load_unet, save_denoiser
from tadp.diffusion.loading.parts import load_parts, save_text_encoder
from tadp.errors import Argument, CorruptFileError, MissingFileError, ModelError, UnknownModelError
from tadp.files.building import Sizes, check_entries, with_saved
from tadp.files.hub import HubOptions, Source, check_readable, local_folder, read_json
from tadp.files.inference import uncompiled
from tadp.files.model_folder import ADAPTER_NAME, save_weights
from tadp.files.schema import HINT, check_types, shown
from tadp.files.weight_ids import save_tensors, weight_ids
from tadp.files.weight_values import check_weights
from tadp.tasks.lora_training import LORA_NAME, load_lora, save_lora
from tadp.text.conditioning import Conditioning
from tadp.text.encoder_files import load_text_encoder
from tadp.text.learned_tokens import learned_tokens

CONFIG_NAME = "config.json"
HEAD_NAME = "model.safetensors"
TEXT_NAME = "text.safetensors"
BASE_NAME = "base"
FORMAT = 1
_TEXT_TENSORS = ("embeddings", "mask", "pooled")  # of a stored text; a text may lack the last two


def save_task(
    folder: Path,
    *,
    kind: str,
    backbone: TADPBackbone,
    head: nn.Module,
    options: Mapping[str, Any],
    text: Conditioning | None,
    captioner: str | None,
    record: Mapping[str, Any],
) -> None:
    """Write a task model to an empty folder.

    Args:
        folder: The folder to write to, which must exist and be empty.
        kind: Name of the model's class.
        backbone: The model's backbone.
        head: The model's head.
        options: Arguments of the model's constructor without the backbone.
        text: The text of prompt mode "stored"; None in other modes.
        captioner: Name of the captioner with which the model was trained; None if it is not known.
        record: The user's entries of the model card, as JSON values.

    Raises:
        ModelError: If the model has a LoRA but its base model cannot be loaded again by name, or if its VAE is not that
            of its base model.
        OSError: If the disk is full.
    """
    source = backbone.source
    tuned, own_text = _parts_to_save(backbone, options["tune"])
    tokens = [] if backbone.text_encoder is None else list(learned_tokens(backbone.text_encoder.tokenizer))
    config = {
        "format": FORMAT,
        "tadp_version": __version__,
        "model": kind,
        "options": {**options, "tune": tuned},
        "base": {
            "name": _lasting_name(source),
            "revision": source.revision if source else None,
            "options": backbone.options.to_dict(),
        },
        "learned_tokens": tokens,
        "own_text_encoder": own_text or bool(tokens),
        "captioner": captioner,
        "record": record,
    }
    save_weights(uncompiled(head), folder / HEAD_NAME)
    if text is not None:
        tensors = {name: getattr(text, name) for name in _TEXT_TENSORS}
        save_tensors({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / TEXT_NAME)
    if source is None:
        backbone.save_pretrained(folder / BASE_NAME)
    else:
        _save_tuned(folder, backbone, tuned, rank=options["lora_rank"], with_text=bool(config["own_text_encoder"]))
    content = json.dumps(config | {"weights": weight_ids(folder)}, indent=2, ensure_ascii=False, default=_plain)
    (folder / CONFIG_NAME).write_text(content + "\n", encoding="utf-8")


def _save_tuned(folder: Path, backbone: TADPBackbone, tuned: str, *, rank: int, with_text: bool) -> None:
    """Write the parts of a backbone that its base model does not have."""
    if tuned == "all":
        save_denoiser(backbone.unet, folder / "unet")
    elif tuned == "lora":
        save_lora(backbone.unet, folder / LORA_NAME, rank=rank)
    if backbone.text_adapter is not None:
        save_weights(uncompiled(backbone.text_adapter), folder / ADAPTER_NAME)
    if backbone.text_encoder is not None and with_text:
        save_text_encoder(backbone.text_encoder, folder)


def _parts_to_save(backbone: TADPBackbone, tuned: str) -> tuple[str, bool]:
    """The part of the U-Net to save ("all", "lora" or "nothing"), and whether to save the text encoder.

    Raises:
        ModelError: If a part that is not saved cannot be restored by loading the base model.
    """
    source = backbone.source
    if source is None:
        if tuned == "lora":
            raise ModelError(
                "a LoRA is saved without its base model, which therefore needs a name, but this backbone was built "
                "from parts. Load it from a folder or the hub, or use tune='all'."
            )
        return tuned, False
    if source.is_gone():
        return "all", backbone.text_encoder is not None
    is_changed = not source.has("unet", backbone.unet)
    if tuned == "lora" and is_changed:
        raise ModelError(
            f"the U-Net under this LoRA is not that of {source.name!r}, so saving only the LoRA would lose the change. "
            "Save the changed backbone with backbone.save_pretrained, load that, and train the LoRA on it."
        )
    if not source.has("vae", backbone.vae):
        raise ModelError(
            f"the VAE of this model is not that of {source.name!r}, and a task model is saved without its VAE. Save "
            "the changed backbone with backbone.save_pretrained, load that, and build the model on it."
        )
    encoder = backbone.text_encoder
    own_text = encoder is not None and not source.has("text_encoder", encoder)
    return "all" if is_changed else tuned, own_text  # changed: trained and then frozen, or replaced by a modifier


def _lasting_name(source: Source | None) -> str:
    """The base model's name for the config. A folder's path is made absolute, so it is valid from any directory."""
    if source is None:
        return BASE_NAME
    folder = Path(source.name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else source.name


def find_task(name: str | Path, hub: HubOptions) -> Path:
    """The local folder of a task model. Three models ship with tadp: `assets.TASK_MODELS`.

    Raises:
        UnknownModelError: If there is no such folder or repository.
    """
    shipped = ", ".join(TASK_MODELS.values())
    if str(name) == "tadp-tiny":
        raise UnknownModelError(f"tadp-tiny is a backbone, not a model that predicts. The models on it are {shipped}.")
    return task_model_folder(name) or local_folder(
        name,
        patterns=[
            CONFIG_NAME,
            HEAD_NAME,
            LORA_NAME,
            ADAPTER_NAME,
            TEXT_NAME,
            "unet/*",
            "text_encoder/*",
            "tokenizer/*",
            f"{BASE_NAME}/*",
        ],
        known=f"Pass a folder that save_pretrained wrote, a hub id (owner/name) of such a model, or one of: {shipped}.",
        hub=hub,
    )


def read_config(folder: Path, model: type[nn.Module]) -> dict[str, Any]:
    """Read and check the config of a saved task model.

    Args:
        folder: The model's folder.
        model: The class that should be loaded.

    Raises:
        MissingFileError, CorruptFileError: If config.json is missing or is not JSON, or lacks an option.
        ModelError: If the folder contains another kind of model, or was written by a newer version of tadp.
    """
    path = folder / CONFIG_NAME
    config, kind = read_json(path), model.__name__
    if config.get("model") != kind:
        raise ModelError(
            f"{folder} holds a {shown(config.get('model'))}; load it with that class, not with {kind}. Check model in "
            "its config.json."
        )
    if config.get("format") != FORMAT:
        raise ModelError(
            f"{path} has format {shown(config.get('format'))}, but this tadp ({__version__}) reads format {FORMAT}; it "
            f"was written by tadp {config.get('tadp_version')}. Install that version or a later one."
        )
    for part in ("options", "base"):
        if part not in config:
            raise CorruptFileError(f"{path} has no {part!r}. Get the model again.")
    check_types(config, _task_entries, path)
    check_types(config["base"], _base_entries, path, below="base")
    if config["base"].get("name") == "":
        raise ModelError(f"{path}: base.name must be the name or folder of a model; got ''. {HINT}")
    for part in ("name", "revision", "options"):
        if part not in config["base"]:
            raise CorruptFileError(f"{path} has no 'base.{part}'. Get the model again.")
    check_entries(config, path, head_sizes(folder))
    check_types(config["options"], model, path, below="options")
    _check_options(folder, config, model)
    return config


def head_sizes(folder: Path) -> Sizes:
    """The sizes of everything in a task model's folder itself: the head, and the LoRA if there is one."""
    return Sizes.of(folder.glob("*.safetensors"))


def _task_entries(
    *,
    model: str,
    options: Mapping[str, Any],
    base: Mapping[str, Any],
    learned_tokens: list[str] | None,
    own_text_encoder: bool | None,
    captioner: str | None,
    record: Mapping[str, Any] | None,
) -> None:
    """The entries of a task model's config, as a schema."""


def _base_entries(*, name: str, revision: str | None, options: Mapping[str, Any]) -> None:
    """The entries about the base model, as a schema."""


def _check_options(folder: Path, config: dict[str, Any], model: type[nn.Module]) -> None:
    """Compare a config's options with the arguments of the model's constructor."""
    arguments = {name: argument for name, argument in signature(model).parameters.items() if name != "backbone"}
    for name in config["options"]:
        if name not in arguments:
            raise ModelError(
                f"{folder / CONFIG_NAME} has the option {name!r}, which this tadp ({__version__}) does not know; "
                f"it was written by tadp {config.get('tadp_version')}. Install that version or a later one."
            )
    for name in ("tune", *(name for name, argument in arguments.items() if argument.default is Parameter.empty)):
        if name not in config["options"]:
            raise CorruptFileError(f"{folder / CONFIG_NAME} lacks the option {name!r}. Get the model again.")


def load_backbone(
    folder: Path,
    config: dict[str, Any],
    *,
    base_model: str | Path | None,
    saving: MemorySaving,
    hub: HubOptions,
) -> TADPBackbone:
    """The backbone: the base model's frozen parts, with the saved U-Net if there is one.

    Raises:
        UnknownModelError: If the base model is not available.
        ModelError: If `saving` freezes the U-Net, but the U-Net or a LoRA belongs to the task model.
    """
    dtype, tune = saving.dtype, config["options"]["tune"]
    if saving.freezes and tune != "nothing":
        raise ModelError(
            f"group_offload, storage_dtype and quantization_config need a U-Net that was not trained; this model has "
            f"tune={tune!r}. Pass dtype=torch.bfloat16 or idle_on_cpu=True instead."
        )
    name, revision = config["base"]["name"], config["base"]["revision"]
    options = config["base"]["options"]
    check_saved_options(options, folder / CONFIG_NAME)
    if base_model is None and (not isinstance(name, str) or ".." in Path(name).parts):  # never written by `save_task`
        base = Argument("base_model", ...)
        raise ModelError(
            f"{folder / CONFIG_NAME} has the base model {name!r}, a path out of its folder. Pass ", base, "."
        )
    if name == BASE_NAME and base_model is None:
        return _from_parts(folder, options, saving)
    name, revision = (name, revision) if base_model is None else (base_model, None)
    unet: Any = load_unet(folder, variant=None, dtype=dtype) if tune == "all" else None
    text = load_text_encoder(folder, variant=None, dtype=dtype) if _is_own(config) else None

    def load(values: Mapping[str, Any]) -> TADPBackbone:
        return TADPBackbone.from_pretrained(
            name,
            **asdict(hub.at(revision)),
            dtype=dtype,
            quantization_config=saving.quantization_config,
            unet=unet,
            text_encoder=text and text.model,
            tokenizer=text and text.tokenizer,
            **values,
        )

    try:
        return with_saved(load, options, {}, folder / CONFIG_NAME, reader=BackboneOptions)
    except UnknownModelError as error:
        base = Argument("base_model", ...)
        raise UnknownModelError(
            f"{folder} was trained on {str(name)!r}: ", *error.args, " Or pass ", base, "."
        ) from None


def _is_own(config: dict[str, Any]) -> bool:
    """Whether the text encoder is in the folder."""
    return bool(config.get("own_text_encoder") or config.get("learned_tokens"))


def _from_parts(task: Path, options: dict[str, Any], saving: MemorySaving) -> TADPBackbone:
    """A backbone without a source, so that the model is saved with all of its parts again."""
    folder = task / BASE_NAME
    parts, _, _ = load_parts(folder, dtype=saving.dtype, quantization=saving.quantization_config)
    backbone = with_saved(
        lambda values: TADPBackbone(**parts, **values),
        options,
        {},
        task / CONFIG_NAME,
        reader=BackboneOptions,
    )
    if backbone.text_adapter is not None:
        load_text_adapter(backbone.text_adapter, folder, dtype=saving.dtype)
    return backbone


def load_weights(head: nn.Module, backbone: TADPBackbone, folder: Path, config: dict[str, Any]) -> None:
    """Load the weights of the head, the LoRA and the text adapter.

    Raises:
        MissingFileError, CorruptFileError: If a file is missing or damaged.
        ModelError: If weights and config disagree.
    """
    _fill(head, folder / HEAD_NAME)
    if config["options"]["tune"] == "lora":
        load_lora(backbone.unet, folder)
    adapter = backbone.text_adapter
    if adapter is not None and config["base"]["name"] != BASE_NAME:
        load_text_adapter(adapter, folder, dtype=next(adapter.parameters()).dtype)


def _fill(head: nn.Module, path: Path) -> None:
    if not path.exists():
        raise MissingFileError(f"no {path.name} in {path.parent}; get the model again.")
    check_readable(path)
    state = load_file(path)
    expected = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    saved = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = sorted(name for name in expected.keys() | saved.keys() if expected.get(name) != saved.get(name))
    if wrong:
        first = wrong[0]
        raise ModelError(
            f"the weights in {path} do not fit the head that its config.json describes: {len(wrong)} tensors differ, "
            f"such as {first}: file {saved.get(first, 'none')}, head {expected.get(first, 'none')}. Does it have "
            "another number of classes?"
        )
    check_weights(state, path)
    head.load_state_dict(state)


def load_text(folder: Path, names: tuple[str, ...]) -> Conditioning:
    """The stored text of prompt mode "stored". Its embeddings get the names if there are equally many.

    Raises:
        MissingFileError, CorruptFileError: If the file is missing or damaged.
    """
    path = folder / TEXT_NAME
    if not path.exists():
        raise MissingFileError(f"no {path.name} in {path.parent}; get the model again.")
    check_readable(path)
    state = load_file(path)
    check_weights(state, path)
    try:
        tensors: dict[str, Any] = {name: tensor for name, tensor in state.items() if name in _TEXT_TENSORS}
        text = Conditioning(**tensors)
        tokens = (names,) if len(names) == text.embeddings.shape[1] else None
        if (
            len(text) != 1
            or state.keys() - set(_TEXT_TENSORS)
            or (text.mask is not None and text.mask.dtype != torch.bool)
        ):
            raise ValueError(f"it has {', '.join(f'{name} {tuple(state[name].shape)}' for name in sorted(state))}")
    except (TypeError, ValueError) as error:
        why = str(error).rstrip(".")
        raise CorruptFileError(
            f"{path} does not hold the embeddings of a text, (1, L, D): {why}. Get the model again."
        ) from error
    return replace(text, tokens=tokens)


def _plain(value: Any) -> Any:
    """A NumPy or torch number as a plain Python number, for JSON."""
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        return value.tolist()
    raise ModelError(f"a model's options are saved as JSON, which cannot hold a {type(value).__name__}; got {value!r}.")
