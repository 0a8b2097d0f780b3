"""Find a model's files in a folder or on the Hugging Face hub, and check them, so that problems get a clear message.

A model on the hub is first downloaded to a local folder, with only the files that are needed. All later steps read that
folder.
"""

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from safetensors import SafetensorError, safe_open
from torch import nn

from tadp.errors import Argument, CorruptFileError, MissingFileError, ModelError, UnknownModelError
from tadp.files.atomic import complete_folder
from tadp.files.building import numbers_in
from tadp.files.checks import LARGEST_JSON, check_regular, check_utf8
from tadp.files.fingerprint import WeightSample, has_weights
from tadp.files.hub_errors import HUB_ERRORS, why
from tadp.files.inference import check_process
from tadp.files.schema import shown
from tadp.files.weight_ids import check_saved_together

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_TRANSFORMERS = "model"  # base name of the weight files that transformers reads
_PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")


@dataclass(frozen=True)
class HubOptions:
    """Which version of a model's files is read from the Hugging Face hub, and how the files are downloaded.

    Attributes:
        revision: Branch, tag or commit of the repository; None is its default branch.
        variant: Variant of the weight files: "fp16" reads `model.fp16.safetensors`; None reads files without a variant.
        cache_dir: Folder for downloads; None is huggingface_hub's own cache.
        token: Access token for gated and private repositories; None is the token that `hf auth login` stored.
        local_files_only: Whether to use only files in the cache and never connect to the hub.
    """

    revision: str | None = None
    variant: str | None = None
    cache_dir: str | Path | None = None
    token: str | bool | None = field(default=None, repr=False)
    local_files_only: bool = False

    def at(self, revision: str | None) -> "HubOptions":
        """The same options with another revision, for a repository that has its own revisions."""
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
    """Where a model was loaded from, so that it can be loaded again.

    Attributes:
        name: The folder, the hub id ("owner/name") or the name "tadp-tiny" that the user asked for.
        revision: The commit of a model from the hub; for other models the requested revision, usually None.
        weights: Samples of the weights of each part ("unet", "vae", "text_encoder") that was loaded from there and that
            tadp has not replaced or changed since.
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
        """Describe the source of a model that is loaded from a folder. The commit is read from the path of a download.

        Args:
            name: The folder, hub id or name that the user asked for.
            folder: The local folder that is loaded.
            revision: The requested branch, tag or commit; None if none was requested.
            weights: Samples of the weights of each part that is loaded from the folder; None stores none.

        Example:
            >>> Source.of("owner/name", Path("models--owner--name/snapshots/0a1b2c"), revision="main")
            Source(name='owner/name', revision='0a1b2c')
            >>> Source.of("my/folder", Path("my/folder"))
            Source(name='my/folder', revision=None)
        """
        # The hub's cache stores a commit in snapshots/<commit>.
        return cls(str(name), folder.name if folder.parent.name == "snapshots" else revision, weights or {})

    def without(self, part: str) -> "Source":
        """The source of a model in which one part was replaced."""
        return replace(self, weights={name: sample for name, sample in self.weights.items() if name != part})

    def is_gone(self) -> bool:
        """Whether the model was loaded from a folder that no longer exists."""
        is_on_hub = self.revision is not None and _HUB_ID.fullmatch(self.name)
        return not (is_on_hub or self.name == "tadp-tiny" or Path(self.name).expanduser().is_dir())

    def has(self, part: str, module: nn.Module) -> bool:
        """Whether a part of the model ("unet", "vae" or "text_encoder") still has the weights that were loaded."""
        return part in self.weights and has_weights(module, self.weights[part])


def local_folder(
    name: str | Path,
    *,
    patterns: list[str],
    known: str,
    hub: HubOptions,
    ignore: list[str] | None = None,
) -> Path:
    """Return the path of a local folder, after downloading it if the name is a repository on the hub.

    Args:
        name: A folder, or a hub id ("owner/name").
        patterns: Glob patterns of the files to download; no other files are downloaded.
        known: A sentence that says which names are accepted, for the error message.
        hub: The revision to download, and how to download it.
        ignore: Glob patterns of files that are not downloaded even if they match `patterns`; None leaves none out.

    Raises:
        UnknownModelError: If there is no such folder or repository, or the repository cannot be downloaded.
    """
    path = path_of(name, known)
    if path.is_dir():
        check_utf8(path, UnknownModelError)
        complete_folder(path)
        return path
    if path.is_file():
        raise UnknownModelError(f"{name} is a file, but a model is a folder. {known}")
    if not isinstance(name, str) or not _HUB_ID.fullmatch(name):
        raise UnknownModelError(f"unknown model {str(name)!r}: it is neither a folder nor a hub id. {known}")
    try:
        snapshot = huggingface_hub.snapshot_download(
            name, allow_patterns=patterns, ignore_patterns=ignore, **hub.download
        )
    except HUB_ERRORS as error:
        at = f" at revision {hub.revision!r}" if hub.revision else ""
        # Without the chained exception, which would print a hundred lines of network code. The message has the reason.
        raise UnknownModelError(f"cannot get {name!r}{at}: {why(error, name)} {known}") from None
    return Path(snapshot)


def local_file(name: str | Path, *, hub: HubOptions) -> Path:
    """Return the path of a local file, after downloading it if the name is a file on the hub.

    Args:
        name: A path, or the id of a repository on the hub followed by the file's path in it, such as
            "owner/name/weights.safetensors".
        hub: The revision to download, and how to download it.

    Raises:
        UnknownModelError: If there is no such file on this machine or on the hub.
    """
    known = "Pass the path of a file, or owner/name/file for a file on the hub."
    path = path_of(name, known)
    complete_folder(path.parent)
    if path.is_file():
        return path
    owner, _, rest = str(name).partition("/")
    repository, _, file = rest.partition("/")
    if not isinstance(name, str) or not file or not _HUB_ID.fullmatch(f"{owner}/{repository}"):
        raise UnknownModelError(f"unknown file {str(name)!r}: it is neither on this machine nor on the hub. {known}")
    try:
        path = huggingface_hub.hf_hub_download(f"{owner}/{repository}", file, **hub.download)
    except HUB_ERRORS as error:
        at = f" at revision {hub.revision!r}" if hub.revision else ""
        reason = why(error, f"{owner}/{repository}")
        raise UnknownModelError(f"cannot get {file!r} from '{owner}/{repository}'{at}: {reason} {known}") from None
    return Path(path)


def path_of(name: str | Path, known: str) -> Path:
    """The path that the name of a model may be. It need not exist.

    Args:
        name: The name.
        known: A sentence that says which names are accepted, for the error message.

    Raises:
        UnknownModelError: If no path has this name.
    """
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, of an unknown user, or with a null character
        raise UnknownModelError(
            f"unknown model {str(name)[:60]!r}: it cannot be a path ({error!s:.60}). {known}"
        ) from None
    return path


@contextmanager
def without_bars() -> Iterator[None]:
    """Suppress transformers' progress bars while weights are read. Downloads happen earlier and keep their bars.

    If HF_HUB_DISABLE_PROGRESS_BARS is set, nothing is changed.
    """
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging

    if constants.HF_HUB_DISABLE_PROGRESS_BARS is not None or not logging.is_progress_bar_enabled():
        yield
        return
    were_off = are_progress_bars_disabled()  # The hub's bars, which transformers turns off together with its own.
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
        if were_off:
            disable_progress_bars()


def weight_name(base: str, variant: str | None, shard: str = "") -> str:
    """The name that diffusers and transformers give a weight file."""
    # model.fp16.safetensors, model.fp16-00001-of-00002.safetensors
    return f"{base}.{variant}{shard}.safetensors" if variant else f"{base}{shard}.safetensors"


def index_name(base: str, variant: str | None) -> str:
    """The name that diffusers and transformers give the index of a sharded weight file."""
    return f"{base}.safetensors.index.{variant}.json" if variant else f"{base}.safetensors.index.json"


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        MissingFileError: If the file does not exist.
        CorruptFileError: If it is not JSON, or does not contain an object.
        ModelError: If a number in it is not finite, or it is nested too deeply.
    """
    if not path.exists():
        raise MissingFileError(f"no {path.name} in {path.parent}; get the model again, or check its revision.")
    check_regular(path, most_bytes=LARGEST_JSON)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CorruptFileError(f"{path} cannot be read: {error.strerror}. Get the file again.") from error
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{path} is not JSON: {error}. Get the file again.") from error
    if not isinstance(content, dict):
        raise CorruptFileError(f"{path} contains a {type(content).__name__}, not a JSON object. Get the file again.")
    for _ in numbers_in(content, path):  # all must be finite
        pass
    return content


def weight_files(folder: Path, base: str, variant: str | None = None) -> list[Path]:
    """List the safetensors files of a model, one file or several shards, after checking each of them.

    If a folder has both, this lists what the model's own library reads: diffusers the shards, transformers the file.

    Args:
        folder: The folder of the model or of one of its parts.
        base: Base name of the files: "model" in transformers, "diffusion_pytorch_model" in diffusers.
        variant: The variant in the files' names, such as "fp16"; None for files without a variant. See `part_variant`.

    Raises:
        MissingFileError: If no weight files are found, or a shard is missing.
        CorruptFileError: If all weight files are pickles, which are never loaded, a file is damaged, or a shard is in
            another folder.
        ModelError: If transformers would read other files than these.
    """
    check_process(starts=False)
    variant = part_variant(folder, base, variant)
    single = folder / weight_name(base, variant)
    index = folder / index_name(base, variant)
    if base == _TRANSFORMERS:
        _refuse_other_weights(folder)
    has_shards = index.exists() and (base != _TRANSFORMERS or not single.exists())
    files = _shards(index) if has_shards else [single]
    for path in files:
        if not path.exists():
            raise _missing_weights(path, variant, index if has_shards else None)
        check_readable(path)
    return files


def part_variant(folder: Path, base: str, variant: str | None, *, is_replacement: bool = False) -> str | None:
    """Return the variant of the weights to load for one part of a model.

    Args:
        folder: The part's folder.
        base: Base name of the weight files.
        variant: The variant that was asked for.
        is_replacement: Whether the part is loaded in place of the same part of another model, which has the variant.

    Returns:
        `variant`; or None, with a warning, if this part only has weights without a variant while the other parts have
        the variant.
    """
    if variant is None or has_weights_of(folder, base, variant) or not has_weights_of(folder, base, None):
        return variant
    if not is_replacement and not any(folder.parent.glob(f"*/*.{variant}[.-]*safetensors")):
        return variant
    warnings.warn(f"{folder} has no weights of variant {variant!r}; those without a variant are loaded.", stacklevel=2)
    return None


def has_weights_of(folder: Path, base: str, variant: str | None) -> bool:
    """Whether a folder has weight files of a variant."""
    return (folder / weight_name(base, variant)).exists() or (folder / index_name(base, variant)).exists()


def _shards(index: Path) -> list[Path]:
    """The files that an index lists, all in its folder, or, as in the hub's cache, where the index itself is."""
    content = read_json(index)
    names = content.get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CorruptFileError(f"{index} has no weight_map from weights to files. Get the file again.")
    if not isinstance(content.get("metadata", {}), dict):
        raise CorruptFileError(
            f"{index}: metadata must be an object; got {shown(content['metadata'])}. Get the file again."
        )
    for weight, name in names.items():
        if not isinstance(name, str):
            raise CorruptFileError(
                f"{index} has no weight_map from weights to files; {shown(weight)} is in {shown(name)}. Get the file "
                "again."
            )
    homes = index.parent.resolve(), index.resolve().parent
    files = [index.parent / name for name in sorted(set(names.values()))]
    for path in files:
        name = path.relative_to(index.parent) if path.is_relative_to(index.parent) else path
        try:
            if path.is_dir() and ".." not in name.parts:
                raise ValueError(name)
            is_inside = any(path.resolve().is_relative_to(home) for home in homes)
        except (OSError, ValueError) as error:  # a folder, or a name that is too long or has a null character
            raise CorruptFileError(
                f"{index} lists {str(name)[:80]!r}, which cannot be a file. Get it again."
            ) from error
        if ".." in name.parts or not is_inside:
            raise CorruptFileError(f"{index} lists the file {name}, which is outside its folder. Get the model again.")
    return files


def _refuse_other_weights(folder: Path) -> None:
    """Refuse a folder in which transformers would read other weights than `weight_files` checks."""
    adapter = folder / "adapter_config.json"
    if adapter.exists():
        raise ModelError(f"{adapter} makes the model an adapter of another one. Merge the two and save the result.")
    config = folder / "config.json"
    other = read_json(config).get("transformers_weights") if config.exists() else None
    if other is not None:
        raise ModelError(f"{config} has transformers_weights={other!r}; rename that file to model.safetensors instead.")


def check_readable(path: Path) -> None:
    """Check a safetensors file by reading its header.

    Raises:
        CorruptFileError: If the file is damaged, or is not a safetensors file.
    """
    check_utf8(path, CorruptFileError)
    check_regular(path)
    try:
        with safe_open(path, "pt") as file:
            own = (file.metadata() or {}).get("id")
    except (SafetensorError, OSError) as error:
        raise CorruptFileError(f"{path} is not a complete safetensors file ({error}). Get the file again.") from error
    check_saved_together(path, own)


def _missing_weights(path: Path, variant: str | None, index: Path | None) -> ModelError:
    if index is not None:
        return MissingFileError(f"no {path.name} in {path.parent}, but {index.name} lists it. Get the model again.")
    names = sorted(entry.name for entry in path.parent.iterdir())
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles and not any(name.endswith(".safetensors") for name in names):
        return CorruptFileError(
            f"no {path.name} in {path.parent}, only {', '.join(pickles)}: tadp reads safetensors, never pickles. "
            "Save the model again with `save_pretrained(..., safe_serialization=True)`."
        )
    missing = f"no {path.name} in {path.parent}, which has {', '.join(names) or 'nothing'}. "
    if variant:
        return MissingFileError(f"{missing}Is there a variant {variant!r}?")
    return MissingFileError(f"{missing}If the weights are a variant, pass ", Argument("variant", "fp16"), ".")
