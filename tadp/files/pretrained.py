"""Find, check and load a transformers model that writes text, from a folder or the hub, whole or not at all."""

import copy
import json
import re
import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from tadp.errors import MissingExtraError, ModelError
from tadp.files.building import build, explained, misfit, numbers_in, objects_in
from tadp.files.chat_templates import render_chat, template_source
from tadp.files.checks import check_regular
from tadp.files.hub import HubOptions, local_folder, read_json, weight_files, without_bars
from tadp.files.reader_configs import check_generation, check_processor, check_vocabulary
from tadp.files.schema import HINT, check_types, shown
from tadp.files.weight_values import check_finite, check_floats

if TYPE_CHECKING:
    import torch
    from torch import nn

_READER_CONFIGS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "processor_config.json",
)
_IDS = re.compile(r"(bos|eos|pad|sep|image|decoder_start)_token_(id|index)$|suppress_tokens$|bad_words_ids$")
TEXT_TOKENIZER = "text_tokenizer"  # in a saved captioner: the tokenizer of the text encoder that reads its captions
# The files to download: configs, tokenizer and safetensors in the top folder, but no pickles, and no subfolders whose
# names differ from `TEXT_TOKENIZER` in a letter.
_WANTED = ("*.json", "*.jinja", "*.model", "*.safetensors", "*.txt")
_SUBFOLDERS = [f"{TEXT_TOKENIZER[:place]}[!{letter}]*/*" for place, letter in enumerate(TEXT_TOKENIZER)]


def find_pretrained(name: str | Path, *, known: str, hub: HubOptions) -> Path:
    """The folder of the model, downloaded if necessary; see `tadp.files.hub.local_folder`."""
    return local_folder(name, patterns=list(_WANTED), ignore=_SUBFOLDERS, known=known, hub=hub)


def check_pretrained(folder: Path, name: str, *, kinds: Collection[str], purpose: str) -> None:
    """Check the folder of a transformers model before it is loaded, so that a problem gets a clear message.

    Args:
        folder: The folder that `find_pretrained` returned.
        name: The folder or hub id that the user passed, for error messages.
        kinds: The accepted values of `model_type` in the model's config.json.
        purpose: The end of the error message about another model type, after the words "which this transformers cannot
            use to", such as "write text".

    Raises:
        ModelError: If the model type is not one of `kinds`.
        MissingFileError: If the folder has no weights.
        CorruptFileError: If a file is damaged, or all weight files are pickles, which are never loaded.
    """
    kind = read_json(folder / "config.json").get("model_type")
    if not isinstance(kind, str) or kind not in kinds:
        raise ModelError(
            f"{name!r} holds a model of type {shown(kind)}, which this transformers cannot use to {purpose} Check "
            "model_type in its config.json."
        )
    weight_files(folder, "model")


def load_pretrained(
    model_class: Any,
    reader_class: Any,
    folder: Path,
    *,
    dtype: "torch.dtype",
    what: str,
    chat: Sequence[Mapping[str, Any]],
    probe: Callable[[Any], Any] | None = None,
    **options: Any,
) -> "tuple[nn.Module, Any]":
    """Load a transformers model, and its processor or tokenizer.

    Args:
        model_class: The transformers auto class that loads the model, such as `AutoModelForCausalLM`.
        reader_class: The class that loads the processor or tokenizer from the same folder.
        folder: A folder that `check_pretrained` has checked.
        dtype: The dtype of the loaded weights.
        what: The subject of error messages, such as "the captioner 'x'".
        chat: A chat with which a chat template is tried.
        probe: A function that uses the processor or tokenizer once; see `load_reader`.
        **options: Further arguments for `reader_class.from_pretrained`.

    Raises:
        ModelError: If the model, or its processor or tokenizer, cannot be loaded, or weights are missing; the message
            names the file.
        MissingExtraError: If the model needs a package that is not installed.
    """
    from transformers import CONFIG_MAPPING

    path = folder / "config.json"
    content = read_json(path)
    for names, part in (((), content), *objects_in(content)):
        check_types(part, _decoder_entries, path, below=".".join(names))

    def make(values: Mapping[str, Any]) -> Any:
        config = config_of(CONFIG_MAPPING[values["model_type"]], values)
        return model_class.from_config(config, trust_remote_code=False)

    hollow = build(make, content, path, what=what)
    check_generation(folder)
    for file in (path, folder / "generation_config.json"):
        if file.exists():
            _check_ids(read_json(file), hollow, file)
    reader = load_reader(reader_class, folder, what=what, probe=probe, **options)
    if template := getattr(reader, "chat_template", None):
        source = template_source(what, folder)
        render_chat(template, chat, tokenizer=getattr(reader, "tokenizer", reader), source=source)
    model, report = load_weights(model_class, folder, hollow=hollow, what=what, dtype=dtype, trust_remote_code=False)
    missing = sorted(report["missing_keys"])
    if missing:
        _refuse_missing(missing, content, path, make, what=what, kind=type(model).__name__)
    check_finite(model.named_parameters(), folder)
    return model.requires_grad_(False), reader


def _refuse_missing(
    missing: Sequence[str], config: Mapping[str, Any], path: Path, make: Callable[..., Any], *, what: str, kind: str
) -> None:
    """Raise an error about weights that the files lack, which names the entry of the config that asks for them."""

    def attempt(values: Mapping[str, Any]) -> None:
        if not build(make, values, path, what=what).state_dict().keys().isdisjoint(missing):
            raise LookupError

    with explained(path, config, what=what, attempt=attempt):
        raise ModelError(
            f"it lacks {len(missing)} weights of a {kind}, such as {missing[0]}; it would write random text"
        )


def _decoder_entries(
    *,
    dtype: str | None,
    torch_dtype: str | None,
    head_dim: int | None,
    sliding_window: int | None,
    vision_feature_layer: int | list[int] | None,
    rope_theta: float,
    rope_type: str,
) -> None:
    """Entries of a config.json that transformers reads late, or misreads if their type is wrong, as a schema."""


def pad_left(tokenizer: Any) -> None:
    """Make a tokenizer pad on the left, so that a decoder continues from the last token of each text."""
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token


def config_of(config_class: Any, values: Mapping[str, Any]) -> Any:
    """The transformers config that a file's content describes, as `config_class.from_pretrained` reads it."""
    own = values.get(config_class.base_config_key) if config_class.base_config_key else None
    return config_class.from_dict(copy.deepcopy(dict(values if own is None else own)))


def load_weights(
    model_class: Any,
    folder: Path,
    *,
    hollow: Any,
    what: str,
    dtype: "torch.dtype",
    may_skip_layers: bool = False,
    **options: Any,
) -> tuple[Any, Any]:
    """Load a transformers model whose config has been checked, and the report about its weights.

    Args:
        model_class: The model's class, or an auto class.
        folder: The folder of config and weights.
        hollow: The model that the config describes, without weights.
        what: The subject of error messages.
        dtype: The dtype of the weights.
        may_skip_layers: Whether the config may have fewer layers than the weights, with a warning. False refuses it.
        **options: Further arguments for `from_pretrained`.

    Raises:
        CorruptFileError: If a weight is not floating point, and the model is not quantized.
        ModelError: If the weights do not fit the config.
        MissingExtraError: If the model needs a package that is not installed.
    """
    from huggingface_hub.errors import StrictDataclassError

    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} has an adapter_config.json, from which transformers would load another model. Merge the adapter "
            "into the weights (peft's merge_and_unload), or remove the file."
        )
    config = read_json(folder / "config.json")
    quantized = config.get("quantization_config")
    if isinstance(quantized, Mapping) and not {"quant_method", "load_in_8bit", "load_in_4bit"} & quantized.keys():
        raise ModelError(
            f"{folder / 'config.json'}: quantization_config must have a quant_method; got {shown(quantized)}. {HINT}"
        )
    if quantized is None:
        for path in weight_files(folder, "model", options.get("variant")):
            with safe_open(path, "pt") as file:  # its tensors are mapped, not read
                check_floats(((key, file.get_tensor(key)) for key in file.keys()), path, hollow)  # noqa: SIM118
    try:
        with without_bars():
            model, report = model_class.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, output_loading_info=True, local_files_only=True, **options
            )
    except ImportError as error:
        raise MissingExtraError(f"{what} needs a package that is not installed: {_first_line(error)}") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, StrictDataclassError):
        with explained(folder / "config.json", config, what=what):
            raise
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):  # not about the weights, such as memory that ran out
            raise
        entry = misfit(config, hollow, folder.glob("*.safetensors"))
        why = entry or "some have other sizes than the model that it describes. "
        raise ModelError(f"the weights in {folder} do not fit its config.json: {why}{HINT}") from error
    layers = {re.sub(r"\d+", "0", name) for name in hollow.state_dict()}
    unread = sorted(name for name in report["unexpected_keys"] if re.sub(r"\d+", "0", name) in layers)
    if unread and may_skip_layers:
        warnings.warn(
            f"{folder / 'config.json'} describes fewer layers than there are weights, so {what} skips the last ones: "
            f"{len(unread)} weights are not read, such as {unread[0]}.",
            stacklevel=2,
        )
    elif unread:
        raise ModelError(
            f"the weights in {folder} do not fit its config.json, which describes fewer layers: {len(unread)} weights "
            f"would not be read, such as {unread[0]}. {HINT}"
        )
    return model, report


def load_reader(
    reader_class: Any, folder: Path, *, what: str, probe: Callable[[Any], Any] | None = None, **options: Any
) -> Any:
    """Load the tokenizer or processor in a folder, without running code from it.

    Args:
        reader_class: A class of transformers, or anything with the same `from_pretrained`.
        folder: The folder.
        what: The subject of error messages.
        probe: A function that uses what was loaded once, to find errors in entries that are only read in use.
        **options: Further arguments for `from_pretrained`.

    Raises:
        ModelError: If a file does not fit the others or the class; the message names the entry if one is at fault.
        MissingExtraError: If a package is missing.
    """
    for file in folder.iterdir():
        check_regular(file)
    configs = {name: read_json(folder / name) for name in _READER_CONFIGS if (folder / name).exists()}
    for name, config in configs.items():
        check_processor(config, folder / name)
    if (folder / "tokenizer.json").exists():
        check_vocabulary(folder / "tokenizer.json")

    def attempt(changed: Mapping[str, Any]) -> Any:
        with tempfile.TemporaryDirectory() as copied:
            for file in folder.iterdir():
                if file.name not in configs:
                    (Path(copied) / file.name).symlink_to(file.resolve())
            for name, config in changed.items():
                (Path(copied) / name).write_text(json.dumps(config), encoding="utf-8")
            return load(Path(copied))

    def load(place: Path) -> Any:
        reader = reader_class.from_pretrained(place, local_files_only=True, trust_remote_code=False, **options)
        if probe is not None:
            probe(reader)
        return reader

    files = ", ".join(configs) or "tokenizer.json"
    with explained(folder, configs, what=f"the tokenizer or processor of {what} ({files})", attempt=attempt):
        return load(folder)


def _check_ids(config: Mapping[str, Any], model: Any, path: Path) -> None:
    """Refuse ids of special tokens that no row of the embeddings belongs to."""
    rows = model.get_input_embeddings().num_embeddings
    for names, number in numbers_in(config, path):
        if _IDS.search(names[-1]) and not -1 <= number < rows:
            raise ModelError(
                f"{path}: {'.'.join(names)} is {shown(number)}, but the model has {rows} embeddings. {HINT}"
            )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
