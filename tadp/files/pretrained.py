"""A model of transformers that writes text: found in a folder or on the hub, checked, loaded whole or not at all."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tadp.errors import MissingExtraError, ModelError
from tadp.files.hub import HubOptions, local_folder, read_json, weight_files, without_bars

if TYPE_CHECKING:
    import torch
    from torch import nn

# What a repository is asked for: configs, tokenizer and safetensors of its top folder, no pickles, no subfolders.
_WANTED = ("*.json", "*.jinja", "*.model", "*.safetensors", "*.txt")


def find_pretrained(name: str | Path, *, known: str, hub: HubOptions) -> Path:
    """The folder that holds the model, downloaded if it must be; see `tadp.files.hub.local_folder`."""
    return local_folder(name, patterns=list(_WANTED), ignore=["*/*"], known=known, hub=hub)


def check_pretrained(folder: Path, name: str, *, kinds: Collection[str], purpose: str) -> None:
    """Say what is wrong with a folder before a library fails on it less clearly.

    Args:
        folder: From `find_pretrained`.
        name: What the user called it.
        kinds: The model types that will do.
        purpose: The end of the sentence that refuses another: "which this transformers cannot use to …".

    Raises:
        ModelError: If the model is of another kind.
        MissingFileError: If there are no weights.
        CorruptFileError: If a file is damaged, or the weights are pickles only.
    """
    kind = read_json(folder / "config.json").get("model_type")
    if kind not in kinds:
        raise ModelError(f"{name!r} holds a model of type {kind!r}, which this transformers cannot use to {purpose}")
    weight_files(folder, "model")


def load_pretrained(
    model_class: Any, reader_class: Any, folder: Path, *, dtype: "torch.dtype", what: str, **options: Any
) -> "tuple[nn.Module, Any]":
    """A model, and the processor or tokenizer that belongs to it.

    Args:
        model_class: An auto class of transformers.
        reader_class: What loads the other part, from the same folder.
        folder: One that has been checked.
        dtype: Of the weights.
        what: The subject of the sentences, such as "the captioner 'x'".
        **options: Of `reader_class.from_pretrained`.

    Raises:
        ModelError: If they do not load, or lack weights.
        MissingExtraError: If this model needs a package that is not installed.
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
            f"{what} in {folder} could not be loaded: {_first_line(error)} Its files may not belong together, or need "
            "another release of transformers."
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{what} lacks {len(missing)} weights of a {type(model).__name__}, {missing[0]} first; it would speak at "
            "random. Pass a model that was trained for this."
        )
    return model, reader


def pad_left(tokenizer: Any) -> None:
    """Let a tokenizer pad batches so that a decoder goes on from the last token."""
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
