"""The steps of a modifier (a composed modifier has several), and the folder in which they are saved."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tadp.diffusion.loading.networks import load_unet, save_denoiser
from tadp.errors import CorruptFileError, ModifierError, TADPError
from tadp.files.hub import read_json
from tadp.files.weight_ids import weight_ids
from tadp.modifiers.caption_templates import check_template
from tadp.text.learned_tokens import check_token, check_vectors, read_token, write_token

CONFIG_NAME = "modifier.json"


@dataclass(frozen=True, eq=False)
class Step:
    """A template, and the token and U-Net that its words refer to; see `CaptionModifier`."""

    template: str
    literal: bool
    token: str | None
    vectors: Tensor | None
    unet: nn.Module | None


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


def write_steps(folder: Path, steps: Sequence[Step]) -> None:
    """Write steps to an empty folder: JSON, and the learned tokens and the U-Net in diffusers' formats."""
    entries = []
    for number, step in enumerate(steps):
        if step.token is not None and step.vectors is not None:
            write_token(folder / _token_file(number), step.token, step.vectors)
        if step.unet is not None:
            save_denoiser(step.unet, folder / "unet")
        entries.append(
            {
                "template": step.template,
                "literal": step.literal,
                "token": step.token,
                "has_embedding": step.vectors is not None,
                "has_unet": step.unet is not None,
            }
        )
    text = json.dumps({"steps": entries, "weights": weight_ids(folder)}, indent=2, ensure_ascii=False)
    (folder / CONFIG_NAME).write_text(text, encoding="utf-8")


def read_steps(folder: Path, *, dtype: torch.dtype) -> list[Step]:
    """The steps that were saved in a folder, at least one.

    Raises:
        MissingFileError: If a file is missing.
        CorruptFileError: If a file is damaged.
    """
    path = folder / CONFIG_NAME
    config = read_json(path)
    try:
        steps = [_read_step(folder, number, dict(entry), dtype) for number, entry in enumerate(config["steps"])]
    except (LookupError, TypeError, ValueError) as error:
        if isinstance(error, TADPError):
            raise
        raise CorruptFileError(f"{path} does not describe a modifier: {error!r}. Save it again.") from error
    if not steps:
        raise CorruptFileError(f"{path} describes no modifier: it has no steps. Save it again.")
    return steps


def _read_step(folder: Path, number: int, entry: dict[str, Any], dtype: torch.dtype) -> Step:
    vectors = None
    if entry["has_embedding"]:
        vectors = read_token(folder / _token_file(number), token=entry["token"]).vectors
    unet: Any = load_unet(folder, variant=None, dtype=dtype) if entry["has_unet"] else None
    return new_step(
        entry["template"],
        token=entry["token"],
        embedding=vectors,
        unet=unet and unet.eval(),
        literal=bool(entry["literal"]),
    )


def _token_file(number: int) -> str:
    # The first has the name that diffusers looks for.
    return f"learned_embeds_{number}.safetensors" if number else "learned_embeds.safetensors"
