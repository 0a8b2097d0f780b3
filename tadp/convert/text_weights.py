"""The text in files of other programs: whether a model used captions or class embeddings, and learned tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tadp.convert.forms import Form
from tadp.convert.pickles import read_pickle
from tadp.errors import Argument, MissingFileError, ModelError, ModifierError
from tadp.language.class_names import NYU_ROOMS
from tadp.text.encoder import TextEncoder
from tadp.text.learned_tokens import LearnedToken, add_token, check_vectors, named_token, only_vectors
from tadp.text.learned_tokens import read_token as read_safetensors_token

ANY_ROOM = "any_room"  # the mean over the rooms
_FIRST_GATE = 1e-4  # TADPSeg's gamma_init_value
UNNAMED_TOKEN = "*"  # what Textual Inversion's own code calls every token inside its files
_VOCABULARY = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"


@dataclass(frozen=True)
class FileText:
    """The text that the model in a file was trained with.

    Attributes:
        mode: "captions", or "stored" for class embeddings, which are stored in the file.
        attach_attention: Levels at whose maps the head expects attached attention.
        length: Number of tokens in the text; None if no attention is attached.
        adapter: Whether the model uses the text adapter in the file.
    """

    mode: Literal["captions", "stored"]
    attach_attention: tuple[int, ...]
    length: int | None
    adapter: bool


def read_text(
    form: Form, state: Mapping[str, Tensor], *, widths: Sequence[int] | None, channels: Sequence[int], path: Path
) -> FileText:
    """Find out which text a file was trained with.

    If the head takes more channels than the U-Net has, the additional channels are attention, one per token: either one
    per class embedding or 77 of a caption. If it does not, a text encoder in the file means captions.

    Args:
        form: The kind of the file, which determines the names of its tensors.
        state: The tensors of the file, by name.
        widths: Number of channels of each map that the head takes, finest first; None if they are those of the U-Net.
        channels: Number of channels of each map of the base model's U-Net, finest first.
        path: Path of the file, for error messages.

    Raises:
        ModelError: If the number of additional channels fits neither class embeddings nor captions.
    """
    extra = [width - own for width, own in zip(widths or channels, channels, strict=True)]
    levels = tuple(level for level, tokens in enumerate(extra) if tokens)
    lengths = {extra[level] for level in levels}
    if len(lengths) > 1 or min(extra) < 0:
        raise ModelError(
            f"{path}: the head takes {', '.join(map(str, widths or ()))} channels, but the base's U-Net has "
            f"{', '.join(map(str, channels))}; the difference is not the same number of tokens everywhere. Pass ",
            Argument("base_model", ...),
            " if the base has another size; heads on self-attention are not supported.",
        )
    length = lengths.pop() if lengths else None
    embeddings = state.get(f"{form.root}class_embeddings")
    if embeddings is None:
        stored = False
    elif length is not None:
        stored = length == embeddings.shape[0]
    else:
        stored = not any(key.startswith(f"{form.whole}cond_stage_model.") for key in state)
    adapter = any(key.startswith(f"{form.root}text_adapter.") for key in state)
    if form.head == "torchvision":  # it always has an adapter, but uses it only for class embeddings
        adapter = adapter and stored
    elif form.head == "smp":  # it always has an adapter; without use, the gate keeps its initial value
        gate = state.get(f"{form.root}gamma")
        adapter = adapter and (gate is None or bool(((gate.float() - _FIRST_GATE).abs() > 1e-6).any()))
    return FileText("stored" if stored else "captions", levels, length, adapter)


def room_embeddings(embeddings: Float[Tensor, "k d"], room: str | None) -> tuple[Float[Tensor, "n d"], tuple[str, ...]]:
    """The text of a VPD depth model, and the names of its embeddings.

    Args:
        embeddings: Embeddings of VPD's 27 kinds of room, (K, D). mmseg's files have the mean of these embeddings as a
            further row.
        room: One of `NYU_ROOMS`, whose embedding is then the only one; None keeps those of all rooms.

    Returns:
        The embedding of the room; or those of all rooms and their mean, `ANY_ROOM`, which mmseg uses if the room is not
        known; or only the mean, without a name, if the file has another number of embeddings.

    Raises:
        ModelError: If `room` is not one of `NYU_ROOMS`, or the file has another number of embeddings.
    """
    count = len(NYU_ROOMS)
    is_complete = embeddings.shape[0] in (count, count + 1)
    if room is not None and (room not in NYU_ROOMS or not is_complete):
        raise ModelError(
            f"room must be one of {', '.join(NYU_ROOMS)}; got {room!r}, and the file has {len(embeddings)} embeddings."
        )
    if room is not None:
        return embeddings[NYU_ROOMS.index(room)][None], (room,)
    rooms = embeddings[:count].float()
    mean = rooms.mean(dim=0, keepdim=True)
    return (torch.cat([rooms, mean]), (*NYU_ROOMS, ANY_ROOM)) if is_complete else (mean, ())


def split_vocabulary(
    state: Mapping[str, Tensor], form: Form, encoder: TextEncoder | None
) -> tuple[dict[str, Tensor], Float[Tensor, "n d"] | None]:
    """Cut the vocabulary to the base's size, and return the vectors of learned tokens after it, if there are any."""
    key = form.whole + _VOCABULARY
    if key not in state or encoder is None:
        return dict(state), None
    embedding = encoder.model.get_input_embeddings()
    size = next(embedding.parameters()).shape[0]
    words = state[key]
    if words.ndim != 2 or words.shape[0] <= size:
        return dict(state), None
    return {**state, key: words[:size]}, words[size:]


def learn(encoder: TextEncoder, token: str | None, vectors: Float[Tensor, "n d"], path: Path) -> str:
    """Add a file's learned token to the text encoder, or leave it out, and return a note on that.

    Raises:
        ModelError: If no name is given, since the file has only the vectors.
    """
    if token is None:
        raise ModelError(
            f"{path} has a learned token of {len(vectors)} vectors, but not its name. Pass its name, such as ",
            Argument("learned_token", "<watercolor>"),
            ", or '' to leave it out.",
        )
    if not token:
        return f"a learned token of {len(vectors)} vectors was left out, as requested"
    model: nn.Module = encoder.model
    check_vectors(vectors, token)
    add_token(encoder, token, vectors.detach().float().clone())
    model.requires_grad_(False)
    return f"the model has the learned token {token} of {len(vectors)} vectors"


def read_token(path: str | Path, *, token: str | None = None) -> LearnedToken:
    """Read a token that was learned by textual inversion, from a file in any of the usual formats.

    Args:
        path: Path of the file: diffusers' learned_embeds.bin, {token: vectors}; a .pt file of AUTOMATIC1111 or of
            textual inversion's original code, with string_to_param; a file with a single tensor; or a .safetensors
            file (see `tadp.text.learned_tokens.read_token`).
        token: New name of the token; None keeps the name in the file. Required if the file has no name.

    Returns:
        The token's name and its N vectors, (N, D), in the file's precision.

    Raises:
        MissingFileError: If there is no such file.
        CorruptFileError: If the file is damaged, or contains more than tensors and plain values. Nothing in it is run.
        ModifierError: If the file contains no learned token, or no name for it and `token` is None.

    Example:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp()) / "learned_embeds.bin"
        >>> torch.save({"<toy>": torch.zeros(8)}, path)
        >>> token, vectors = read_token(path)
        >>> token, tuple(vectors.shape)
        ('<toy>', (1, 8))
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_safetensors_token(path, token=token)
    if not path.is_file():
        raise MissingFileError(f"no such file: {path}; pass the file of a learned token.")
    content = read_pickle(path)
    name: str | None = None
    if isinstance(content, dict) and "string_to_param" in content:
        stored = content.get("name")
        name = stored if isinstance(stored, str) and stored != UNNAMED_TOKEN else None
        content = dict(content["string_to_param"].items())
    if isinstance(content, dict):
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if not tensors:
            names = ", ".join(sorted(map(str, content))[:4])
            raise ModifierError(
                f"the file of a learned token must hold a tensor; {path} holds 0 tensors, only {names} …."
            )
        content, key = only_vectors(tensors, path)
        name = name or (None if key == UNNAMED_TOKEN else key)
    if not isinstance(content, Tensor):
        raise ModifierError(f"{path} holds a {type(content).__name__}, not a learned token.")
    return named_token(content.detach().clone(), name, token, path)
