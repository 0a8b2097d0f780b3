"""Ids that tie the weight files of a model to its config, so that parts of two models are not mixed unnoticed."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tadp.errors import ModelError
from tadp.files.checks import LARGEST_JSON, check_regular

_CONFIGS = ("config.json", "tadp_config.json", "modifier.json")  # which hold the ids


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file with an id of its content, which `weight_ids` reads."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    save_file(tensors, path, metadata={"id": digest.hexdigest()})  # with a second key, their order would be random


def add_id(path: Path) -> None:
    """Add an id of its content to a safetensors file that another library wrote."""
    partial = path.with_suffix(".part")
    with path.open("rb") as file, partial.open("wb") as copy:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        start = file.tell()
        digest = hashlib.file_digest(file, "sha256")
        digest.update(json.dumps(header, sort_keys=True).encode())
        header["__metadata__"] = {**header.get("__metadata__", {}), "id": digest.hexdigest()}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
        copy.write(len(text).to_bytes(8, "little") + text)
        file.seek(start)
        shutil.copyfileobj(file, copy, 2**24)
    partial.replace(path)


def weight_ids(folder: Path) -> dict[str, str]:
    """The ids of the weight files in a folder that have one, by their paths in it.

    A config holds them, so that weights of another model in their place are noticed (`check_saved_together`).
    """
    ids = {}
    for path in sorted(folder.rglob("*.safetensors")):
        with path.open("rb") as file:  # a safetensors file begins with the length of its header, which is JSON
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        if own := header.get("__metadata__", {}).get("id"):
            ids[path.relative_to(folder).as_posix()] = own
    return ids


def check_saved_together(path: Path, own: str | None) -> None:
    """Compare the id of a weight file with the one in the config of the model that it belongs to.

    Args:
        path: The weight file.
        own: The id in its metadata; None if it has none, which fits every config.

    Raises:
        ModelError: If the config names another id for this file.
    """
    if own is None:
        return
    for config in (folder / name for folder in path.parents[:3] for name in _CONFIGS):
        try:
            check_regular(config, most_bytes=LARGEST_JSON)
            ids = json.loads(config.read_text(encoding="utf-8"))["weights"]
            known = ids.get(path.relative_to(config.parent).as_posix(), own)
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
        ):  # none, or reported when it is read
            continue
        if known != own:
            raise ModelError(
                f"{path} is not the file that was saved with {config}; parts of two models do not belong together. "
                'Save or copy the whole model again. If you combine them on purpose, delete "weights" from the config.'
            )
