"""Find a model's files, in a folder or on the hub, and check them before a library fails on them less clearly.

A hub model is first brought to a local folder, with exactly the files that are needed; everything after takes one way.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants, errors
from safetensors import SafetensorError, safe_open
from torch import nn

from tadp.errors import Argument, CorruptFileError, MissingFileError, ModelError, UnknownModelError
from tadp.files.fingerprint import WeightSample, has_weights

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")


@dataclass(frozen=True)
class HubOptions:
    """Where a model's files are found on the hub, and how they are downloaded.

    Attributes:
        revision: Branch, tag or commit; None is the repository's default branch.
        variant: Which weight files, e.g. "fp16" for `model.fp16.safetensors`; None is the files without a variant.
        cache_dir: Where downloads are kept; None is huggingface_hub's own cache.
        token: Access token for gated and private repositories; None is the one that `hf auth login` stored.
        local_files_only: Use only what is in the cache.
    """

    revision: str | None = None
    variant: str | None = None
    cache_dir: str | Path | None = None
    token: str | bool | None = field(default=None, repr=False)
    local_files_only: bool = False

    def at(self, revision: str | None) -> "HubOptions":
        """The same options for another repository, which has its own revisions."""
        return replace(self, revision=revision)

    @property
    def download(self) -> dict[str, Any]:
        """The arguments of huggingface_hub's download functions."""
        return {
            "revision": self.revision,
            "cache_dir": self.cache_dir,
            "token": self.token,
            "local_files_only": self.local_files_only,
        }


@dataclass(frozen=True)
class Source:
    """Where a model was loaded from, for whoever wants the same one again.

    Attributes:
        name: The folder, hub id or name that was asked for.
        revision: The commit, if the model came from the hub; else the revision that was asked for, usually None.
        weights: Samples of the parts that were loaded from there, "unet", "vae" and "text_encoder", and not replaced
            or changed since by tadp.
    """

    name: str
    revision: str | None = None
    weights: Mapping[str, WeightSample] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        name: str | Path,
        folder: Path,
        *,
        revision: str | None = None,
        weights: Mapping[str, WeightSample] | None = None,
    ) -> "Source":
        """The source of a model that was found in a folder.

        Example:
            >>> Source.of("owner/name", Path("models--owner--name/snapshots/0a1b2c"), revision="main")
            Source(name='owner/name', revision='0a1b2c')
            >>> Source.of("my/folder", Path("my/folder"))
            Source(name='my/folder', revision=None)
        """
        # the hub's cache keeps a commit in snapshots/<commit>
        return cls(str(name), folder.name if folder.parent.name == "snapshots" else revision, weights or {})

    def without(self, part: str) -> "Source":
        """The source of a model of which one part was replaced."""
        return replace(self, weights={name: sample for name, sample in self.weights.items() if name != part})

    def is_gone(self) -> bool:
        """Whether the model was loaded from a folder that is not there any more."""
        is_on_hub = self.revision is not None and _HUB_ID.fullmatch(self.name)
        return not (is_on_hub or self.name == "tadp-tiny" or Path(self.name).expanduser().is_dir())

    def has(self, part: str, module: nn.Module) -> bool:
        """Whether a part of a model, "unet", "vae" or "text_encoder", is still what was loaded."""
        return part in self.weights and has_weights(module, self.weights[part])


def local_folder(
    name: str | Path,
    *,
    patterns: list[str],
    known: str,
    hub: HubOptions,
    ignore: list[str] | None = None,
) -> Path:
    """A folder itself, or a snapshot of a hub repository.

    Args:
        name: A folder or a hub id.
        patterns: The files of a repository that are needed; no others are fetched.
        known: A sentence that says which names there are, for the error.
        hub: How the repository is downloaded.
        ignore: Files that are not needed even if they match.

    Raises:
        UnknownModelError: If there is no such folder or repository, or it is not available.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise UnknownModelError(f"{name} is a file; a model is a folder. {known}")
    if not isinstance(name, str) or not _HUB_ID.fullmatch(name):
        raise UnknownModelError(f"unknown model {str(name)!r}: no such folder, and no hub id. {known}")
    try:
        snapshot = huggingface_hub.snapshot_download(
            name, allow_patterns=patterns, ignore_patterns=ignore, **hub.download
        )
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        at = f" at revision {hub.revision!r}" if hub.revision else ""
        # Without the chain: a hundred lines of network layers, and the reason is in the message.
        raise UnknownModelError(f"cannot get {name!r}{at}: {_why(error, name)} {known}") from None
    return Path(snapshot)


def local_file(name: str | Path, *, hub: HubOptions) -> Path:
    """A file itself, or one of a hub repository.

    Args:
        name: A path, or the repository's id and the file's path in it, "owner/name/weights.safetensors".
        hub: How the file is downloaded.

    Raises:
        UnknownModelError: If there is no such file, here or on the hub.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    owner, _, rest = str(name).partition("/")
    repository, _, file = rest.partition("/")
    known = "Pass a file, or owner/name/file of a hub repository."
    if not isinstance(name, str) or not file or not _HUB_ID.fullmatch(f"{owner}/{repository}"):
        raise UnknownModelError(f"unknown file {str(name)!r}: it is not here, and no file of a repository. {known}")
    try:
        found = huggingface_hub.hf_hub_download(f"{owner}/{repository}", file, **hub.download)
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        at = f" at revision {hub.revision!r}" if hub.revision else ""
        why = _why(error, f"{owner}/{repository}")
        raise UnknownModelError(f"cannot get {file!r} of '{owner}/{repository}'{at}: {why} {known}") from None
    return Path(found)


def _why(error: Exception, name: str) -> str:
    if isinstance(error, errors.GatedRepoError):
        return (
            f"it is gated. Accept its terms at https://huggingface.co/{name} and pass token=…, or run 'hf auth login'."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return "there is no such revision."
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return "the repository has no such file."
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has no such public repository."
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return (
            "it is not, or not wholly, in the local cache, and the hub was not asked (offline) or did not answer. With "
            "a connection it downloads by itself."
        )
    return str(error).strip().splitlines()[0]


@contextmanager
def without_bars() -> Iterator[None]:
    """Within the block, transformers reads weights without a progress bar for each file; downloads, before, have one.

    Where HF_HUB_DISABLE_PROGRESS_BARS is set, it decides.
    """
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging

    if constants.HF_HUB_DISABLE_PROGRESS_BARS is not None or not logging.is_progress_bar_enabled():
        yield
        return
    were_off = are_progress_bars_disabled()  # the hub's own, which transformers switches along
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
        if were_off:
            disable_progress_bars()


def weight_name(base: str, variant: str | None, shard: str = "") -> str:
    """How diffusers and transformers name a weight file."""
    # model.fp16.safetensors, model.fp16-00001-of-00002.safetensors
    return f"{base}.{variant}{shard}.safetensors" if variant else f"{base}{shard}.safetensors"


def index_name(base: str, variant: str | None) -> str:
    """How they name the index of a sharded one."""
    return f"{base}.safetensors.index.{variant}.json" if variant else f"{base}.safetensors.index.json"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, or an error that names the file."""
    if not path.exists():
        raise MissingFileError(f"no {path.name} in {path.parent}; get the model again, or check its revision.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptFileError(f"{path} is not JSON: {error}. Get the file again.") from error
    if not isinstance(content, dict):
        raise CorruptFileError(f"{path} holds a {type(content).__name__}, not an object of names. Get the file again.")
    return content


def weight_files(folder: Path, base: str, variant: str | None = None) -> list[Path]:
    """The safetensors files in a folder, one or its shards, each checked to be readable.

    Args:
        folder: The model's, or the part's.
        base: How the files are named: "model" in transformers, "diffusion_pytorch_model" in diffusers.
        variant: What stands in the name besides, e.g. "fp16".

    Raises:
        MissingFileError: If there are none, or a shard is missing.
        CorruptFileError: If there are pickles alone, or a file is damaged.
    """
    single = folder / weight_name(base, variant)
    index = folder / index_name(base, variant)
    files = [single]
    if not single.exists() and index.exists():
        shards = read_json(index).get("weight_map")
        if not shards:
            raise CorruptFileError(f"{index} has no weight_map. Get the file again.")
        files = [folder / name for name in sorted(set(shards.values()))]
    for path in files:
        if not path.exists():
            raise _missing_weights(path, variant)
        check_readable(path)
    return files


def check_readable(path: Path) -> None:
    """Read a safetensors file's header.

    Raises:
        CorruptFileError: If the file is damaged, or no safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise CorruptFileError(f"{path} is no whole safetensors file ({error}). Get the file again.") from error


def _missing_weights(path: Path, variant: str | None) -> ModelError:
    there = sorted(entry.name for entry in path.parent.iterdir())
    pickles = [name for name in there if name.endswith(_PICKLES)]
    if pickles and not any(name.endswith(".safetensors") for name in there):
        return CorruptFileError(
            f"no {path.name} in {path.parent}, only {', '.join(pickles)}: tadp reads safetensors, never pickles. "
            "Save the model again with `save_pretrained(..., safe_serialization=True)`."
        )
    missing = f"no {path.name} in {path.parent}, which has {', '.join(there) or 'nothing'}. "
    if variant:
        return MissingFileError(f"{missing}Is there a variant {variant!r}?")
    return MissingFileError(f"{missing}If the weights are a variant, pass ", Argument("variant", "fp16"), ".")
