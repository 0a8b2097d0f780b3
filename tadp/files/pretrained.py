"""Find, check and load a transformers model that writes text, from a folder or the hub, whole or not at all."""

import copy
import json
import re
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tadp.errors import MissingExtraError, ModelError
from tadp.files.building import build, explained, misfit, numbers_in
from tadp.files.checks import check_regular
from tadp.files.hub import HubOptions, check_finite, local_folder, read_json, weight_files, without_bars
from tadp.files.schema import HINT, check_types, shown

if TYPE_CHECKING:
    import torch
    from torch import nn

_READER_CONFIGS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "processor_config.json",
)
# The most that a processor may make of one image: pixels per side, tokens, and pixels.
_SIDE, _TOKENS, _PIXELS = 4096, 2**16, 2**25
_BEAMS = 64
# The files to download: configs, tokenizer and safetensors in the top folder, but no pickles and no subfolders.
_WANTED = ("*.json", "*.jinja", "*.model", "*.safetensors", "*.txt")


def find_pretrained(name: str | Path, *, known: str, hub: HubOptions) -> Path:
    """The folder of the model, downloaded if necessary; see `tadp.files.hub.local_folder`."""
    return local_folder(name, patterns=list(_WANTED), ignore=["*/*"], known=known, hub=hub)


def check_pretrained(folder: Path, name: str, *, kinds: Collection[str], purpose: str) -> None:
    """Check the folder of a transformers model before it is loaded, so that a problem gets a clear message.

    Args:
        folder: The folder that `find_pretrained` returned.
        name: The folder or hub id that the user passed, for messages.
        kinds: The accepted values of `model_type` in the model's config.json.
        purpose: The task of the model, as a verb phrase. It follows the words "which this transformers cannot use to"
            in the error message about another model type.

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
        probe: A function that uses the processor or tokenizer once; see `load_reader`.
        **options: Further arguments for `reader_class.from_pretrained`.

    Raises:
        ModelError: If the model, or its processor or tokenizer, cannot be loaded, or weights are missing; the message
            names the file.
        MissingExtraError: If the model needs a package that is not installed.
    """
    from transformers import CONFIG_MAPPING

    path = folder / "config.json"
    hollow = build(
        lambda values: model_class.from_config(
            config_of(CONFIG_MAPPING[values["model_type"]], values), trust_remote_code=False
        ),
        read_json(path),
        path,
        what=what,
    )
    check_generation(folder)
    _check_ids(read_json(path), hollow, path)
    reader = load_reader(reader_class, folder, what=what, probe=probe, **options)
    model, report = load_weights(model_class, folder, hollow=hollow, what=what, dtype=dtype, trust_remote_code=False)
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{what} lacks {len(missing)} weights of a {type(model).__name__}, such as {missing[0]}; it would write "
            "random text. Pass a model that was trained for this."
        )
    check_finite(model.named_parameters(), folder)
    return model.requires_grad_(False), reader


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
    model_class: Any, folder: Path, *, hollow: Any, what: str, dtype: "torch.dtype", **options: Any
) -> tuple[Any, Any]:
    """Load a transformers model whose config has been checked, and the report about its weights.

    Args:
        model_class: The model's class, or an auto class.
        folder: The folder of config and weights.
        hollow: The model that the config describes, without weights.
        what: The subject of error messages.
        dtype: The dtype of the weights.
        **options: Further arguments for `from_pretrained`.

    Raises:
        ModelError: If the weights do not fit the config.
        MissingExtraError: If the model needs a package that is not installed.
    """
    from huggingface_hub.errors import StrictDataclassError

    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} has an adapter_config.json, from which transformers would load another model. Merge the adapter "
            "into the weights (peft's merge_and_unload), or remove the file."
        )
    try:
        with without_bars():
            return model_class.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, output_loading_info=True, local_files_only=True, **options
            )
    except ImportError as error:
        raise MissingExtraError(f"{what} needs a package that is not installed: {_first_line(error)}") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, StrictDataclassError):
        with explained(folder / "config.json", read_json(folder / "config.json"), what=what):
            raise
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):  # not about the weights, such as memory that ran out
            raise
        entry = misfit(read_json(folder / "config.json"), hollow, folder.glob("*.safetensors"))
        why = entry or "some have other sizes than the model that it describes. "
        raise ModelError(f"the weights in {folder} do not fit its config.json: {why}{HINT}") from error


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
        check_types(config, _tokenizer_entries, folder / name)
        check_processor(config, folder / name)

    if (folder / "tokenizer.json").exists():
        _check_vocabulary(folder / "tokenizer.json")

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

    with explained(folder, configs, what=f"the tokenizer or processor of {what}", attempt=attempt):
        return load(folder)


def _check_vocabulary(path: Path) -> None:
    """Refuse a tokenizer.json with entries that its library cannot read.

    Raises:
        ModelError: If an entry has a wrong type.
    """
    content = read_json(path)
    check_types(content, _vocabulary_entries, path)
    check_types(content.get("model", {}), _vocabulary_model_entries, path, below="model")
    with explained(path, {}, what="a tokenizer"):
        from tokenizers import Tokenizer

        Tokenizer.from_file(str(path))


def check_processor(config: Mapping[str, Any], path: Path) -> None:
    """Refuse sizes with which a processor would make images or texts that are too large.

    Raises:
        ModelError: If a side or a number is too large.
    """
    counts_pixels = "merge_size" in str(list(config))  # the family of Qwen2-VL limits pixels, not sides
    for names, number in numbers_in(config, path):
        name = ".".join(names)
        if name.endswith("model_max_length"):  # 1e30 if there is no limit
            continue
        is_side = re.search(r"(height|width|edge|size)$", name) and not (counts_pixels and name.endswith("edge"))
        most = _SIDE if is_side else _TOKENS if re.search(r"(tokens?|len|length|num_\w+)$", name) else _PIXELS
        if number > most or (is_side and number < 1):
            least = 1 if is_side else 0
            raise ModelError(f"{path}: {name} must be from {least} to {most}; got {shown(number)}. {HINT}")


def _check_ids(config: Mapping[str, Any], model: Any, path: Path) -> None:
    """Refuse ids of special tokens that no row of the embeddings belongs to."""
    rows = model.get_input_embeddings().num_embeddings
    for names, number in numbers_in(config, path):
        if re.search(r"(bos|eos|pad|sep|image|decoder_start)_token_(id|index)$", names[-1]) and not -1 <= number < rows:
            raise ModelError(
                f"{path}: {'.'.join(names)} is {shown(number)}, but the model has {rows} embeddings. {HINT}"
            )


def check_generation(folder: Path) -> None:
    """Refuse a generation_config.json that asks for many beams or answers.

    Raises:
        ModelError: If a number is too large.
    """
    path = folder / "generation_config.json"
    for names, number in numbers_in(read_json(path), path) if path.exists() else ():
        if names[-1] in ("num_beams", "num_beam_groups", "num_return_sequences") and not 1 <= number <= _BEAMS:
            raise ModelError(f"{path}: {names[-1]} must be from 1 to {_BEAMS}; got {shown(number)}. {HINT}")


def _tokenizer_entries(
    *,
    model_max_length: float | None,
    tokenizer_class: str | None,
    processor_class: str | None,
    bos_token: str | Mapping | None,
    eos_token: str | Mapping | None,
    unk_token: str | Mapping | None,
    pad_token: str | Mapping | None,
    sep_token: str | Mapping | None,
    cls_token: str | Mapping | None,
    mask_token: str | Mapping | None,
    added_tokens_decoder: Mapping | None,
    padding_side: Literal["left", "right"] | None,
    truncation_side: Literal["left", "right"] | None,
    add_prefix_space: bool | None,
    clean_up_tokenization_spaces: bool | None,
    do_lower_case: bool | None,
    do_resize: bool | None,
    do_rescale: bool | None,
    do_normalize: bool | None,
    do_center_crop: bool | None,
    do_convert_rgb: bool | None,
    rescale_factor: float | None,
    resample: int | None,
    image_mean: float | list[float] | None,
    image_std: float | list[float] | None,
    size: int | Mapping | list[int] | None,
    crop_size: int | Mapping | list[int] | None,
) -> None:
    """The entries of tokenizers and processors that are read, as a schema."""


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def _vocabulary_entries(
    *,
    version: str,
    truncation: Mapping | None,
    padding: Mapping | None,
    added_tokens: list[Mapping],
    normalizer: Mapping | None,
    pre_tokenizer: Mapping | None,
    post_processor: Mapping | None,
    decoder: Mapping | None,
    model: Mapping,
) -> None:
    """The entries of a tokenizer.json, as a schema."""


def _vocabulary_model_entries(
    *,
    type: str,
    vocab: Mapping | list,
    merges: list,
    unk_token: str | None,
    unk_id: int | None,
    end_of_word_suffix: str | None,
    continuing_subword_prefix: str | None,
) -> None:
    """The entries of the model in a tokenizer.json, as a schema."""
