"""The steps of a modifier (a composed modifier has several), and the folder in which they are saved."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from tadp.diffusion.loading.lora_fusion import LORA_NAME
from tadp.diffusion.loading.networks import load_unet, save_denoiser
from tadp.errors import CorruptFileError, MissingFileError, ModifierError
from tadp.files.hub import check_readable, read_json
from tadp.files.schema import check_types, shown
from tadp.files.weight_ids import save_tensors, weight_ids
from tadp.modifiers.caption_templates import check_template
from tadp.text.learned_tokens import check_token, check_vectors, read_token, write_token

CONFIG_NAME = "modifier.json"
_MOST_STEPS = 100


@dataclass(frozen=True, eq=False)
class Step:
    """A template, and the token and U-Net that its words refer to; see `CaptionModifier`.

    Attributes:
        lora: The tensors of the LoRA that is merged into `unet`, in diffusers' format; None without a LoRA.
    """

    template: str
    literal: bool
    token: str | None
    vectors: Tensor | None
    unet: nn.Module | None
    lora: Mapping[str, Tensor] | None = None


def new_step(
    template: str,
    *,
    token: str | None,
    embedding: Float[Tensor, "*n d"] | None,
    unet: nn.Module | None,
    literal: bool,
) -> Step:
    """A step after checking its parts. Its vectors are a copy, (N, D).

    Raises:
        ModifierError: If the template has no `{caption}`, or the token or its embedding is invalid.
    """
    check_template(template)
    vectors = None
    if token is not None:
        check_token(token)
    if embedding is not None:
        if token is None:
            raise ModifierError("an embedding needs the token it belongs to; pass token='<name>'.")
        vectors = embedding[None] if isinstance(embedding, Tensor) and embedding.ndim == 1 else embedding
        check_vectors(vectors, token)
        vectors = vectors.detach().clone()
    return Step(template, literal, token, vectors, unet)


def write_steps(folder: Path, steps: Sequence[Step], record: Mapping[str, Any]) -> None:
    """Write steps to an empty folder: JSON, and the learned tokens and the U-Net in diffusers' formats.

    Args:
        folder: The folder.
        steps: The steps.
        record: Entries of the model card, as JSON values.
    """
    entries = []
    for number, step in enumerate(steps):
        if step.token is not None and step.vectors is not None:
            write_token(folder / _token_file(number), step.token, step.vectors)
        if step.unet is not None:
            save_denoiser(step.unet, folder / "unet")
        if step.lora is not None:
            save_tensors(step.lora, folder / LORA_NAME)
        entries.append(
            {
                "template": step.template,
                "literal": step.literal,
                "token": step.token,
                "has_embedding": step.vectors is not None,
                "has_unet": step.unet is not None,
            }
        )
    content = {"steps": entries, "record": record, "weights": weight_ids(folder)}
    text = json.dumps(content, indent=2, ensure_ascii=False)
    (folder / CONFIG_NAME).write_text(text, encoding="utf-8")


def read_steps(folder: Path, *, dtype: torch.dtype) -> list[Step]:
    """The steps that were saved in a folder, at least one.

    Raises:
        MissingFileError: If a file is missing.
        CorruptFileError: If a file is damaged.
    """
    path = folder / CONFIG_NAME
    entries = read_json(path).get("steps")
    if not isinstance(entries, list) or not 1 <= len(entries) <= _MOST_STEPS:
        what = f"{len(entries)} of them" if isinstance(entries, list) and entries else shown(entries)
        raise CorruptFileError(
            f"{path} describes no modifier: steps must be a list of 1 to {_MOST_STEPS} objects; got {what}. Get the "
            "file again."
        )
    return [_read_step(folder, number, entry, dtype) for number, entry in enumerate(entries)]


def _step_entries(*, template: str, literal: bool, token: str | None, has_embedding: bool, has_unet: bool) -> None:
    """The entries of a step, as a schema."""


def _read_step(folder: Path, number: int, entry: Any, dtype: torch.dtype) -> Step:
    path, place = folder / CONFIG_NAME, f"steps.{number}"
    names = signature(_step_entries).parameters
    if not isinstance(entry, dict) or not names.keys() <= entry.keys():
        raise CorruptFileError(
            f"{path} does not describe a modifier: {place} must have {', '.join(names)}; got {shown(entry)}. Get the "
            "file again."
        )
    check_types(entry, _step_entries, path, below=place)
    for key, file in (("has_embedding", _token_file(number)), ("has_unet", "unet/")):
        if entry[key] and not (folder / file).exists():
            raise MissingFileError(f"no {file} in {folder}, although {path} has {place}.{key}. Get the modifier again.")
    vectors = None
    if entry["has_embedding"]:
        vectors = read_token(folder / _token_file(number), token=entry["token"]).vectors
    unet: Any = load_unet(folder, variant=None, dtype=dtype) if entry["has_unet"] else None
    lora = None
    if unet is not None and (folder / LORA_NAME).is_file():
        check_readable(folder / LORA_NAME)
        lora = load_file(folder / LORA_NAME)
    try:
        step = new_step(
            entry["template"],
            token=entry["token"],
            embedding=vectors,
            unet=unet and unet.eval(),
            literal=entry["literal"],
        )
        return replace(step, lora=lora)
    except ModifierError as error:
        raise ModifierError(f"{path}, {place}: {error}") from error


def _token_file(number: int) -> str:
    # The first has the name that diffusers looks for.
    return f"learned_embeds_{number}.safetensors" if number else "learned_embeds.safetensors"
