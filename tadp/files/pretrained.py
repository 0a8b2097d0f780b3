"""Find, check and load a transformers model that writes text, from a folder or the hub, whole or not at all."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tadp.errors import MissingExtraError, ModelError
from tadp.files.hub import HubOptions, check_finite, local_folder, read_json, weight_files, without_bars

if TYPE_CHECKING:
    import torch
    from torch import nn

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
        purpose: The task of the model, which ends the error message about another model type after "which this
            transformers cannot use to".

    Raises:
        ModelError: If the model type is not one of `kinds`.
        MissingFileError: If the folder has no weights.
        CorruptFileError: If a file is damaged, or all weight files are pickles, which are never loaded.
    """
    kind = read_json(folder / "config.json").get("model_type")
    if kind not in kinds:
        raise ModelError(f"{name!r} holds a model of type {kind!r}, which this transformers cannot use to {purpose}")
    weight_files(folder, "model")


def load_pretrained(
    model_class: Any, reader_class: Any, folder: Path, *, dtype: "torch.dtype", what: str, **options: Any
) -> "tuple[nn.Module, Any]":
    """Load a transformers model, and its processor or tokenizer.

    Args:
        model_class: The transformers auto class that loads the model, such as `AutoModelForCausalLM`.
        reader_class: The class that loads the processor or tokenizer from the same folder.
        folder: A folder that `check_pretrained` has checked.
        dtype: The dtype of the loaded weights.
        what: The subject of error messages, such as "the captioner 'x'".
        **options: Further arguments for `reader_class.from_pretrained`.

    Raises:
        ModelError: If the model, or its processor or tokenizer, cannot be loaded, or weights are missing.
        MissingExtraError: If the model needs a package that is not installed.
    """
    from huggingface_hub.errors import StrictDataclassError

    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        reader = reader_class.from_pretrained(folder, **local, **options)
        with without_bars():
            model, report = model_class.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **local
            )
    except ImportError as error:
        raise MissingExtraError(f"{what} needs a package that is not installed: {_first_line(error)}") from error
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ModelError(
            f"{what} in {folder} could not be loaded: {_first_line(error)} Its files may not belong together, or may "
            "need another version of transformers."
        ) from error
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


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
