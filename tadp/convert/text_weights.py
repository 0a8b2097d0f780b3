"""Which text a file was trained with, told by its tensors: captions, or class embeddings that it holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from tadp.convert.forms import Form
from tadp.errors import Argument, ModelError
from tadp.text.encoder import TextEncoder
from tadp.text.learned_tokens import add_token

# The kinds of rooms of NYU Depth v2, in the order of VPD's nyu_class_list.json and of its class embeddings.
NYU_ROOMS = (
    *("printer_room", "bathroom", "living_room", "study", "conference_room", "study_room", "kitchen", "home_office"),
    *("bedroom", "dinette", "playroom", "indoor_balcony", "laundry_room", "basement", "excercise_room", "foyer"),
    *("home_storage", "cafe", "furniture_store", "office_kitchen", "student_lounge", "dining_room", "reception_room"),
    *("computer_lab", "classroom", "office", "bookstore"),
)
_VOCABULARY = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"


@dataclass(frozen=True)
class FileText:
    """The text of a file.

    Attributes:
        mode: "captions", or "stored" for class embeddings.
        attach_attention: Levels whose maps the head takes with attention.
        length: Tokens of the text, where attention is attached; else None.
        adapter: Whether the text adapter in the file was used.
    """

    mode: Literal["captions", "stored"]
    attach_attention: tuple[int, ...]
    length: int | None
    adapter: bool


def read_text(
    form: Form, state: Mapping[str, Tensor], *, widths: Sequence[int] | None, channels: Sequence[int], path: Path
) -> FileText:
    """Find out which text a file was trained with.

    The head's channels beyond the U-Net's are the text's tokens: as many as class embeddings, or a caption's. Without
    attention, a text encoder in the file says that it was captions.

    Args:
        form: Of the file.
        state: Its tensors.
        widths: Channels of the maps its head takes; None for the U-Net's own.
        channels: Of the base's U-Net, finest first.
        path: For messages.

    Raises:
        ModelError: If the channels fit neither.
    """
    extra = [width - own for width, own in zip(widths or channels, channels, strict=True)]
    levels = tuple(level for level, tokens in enumerate(extra) if tokens)
    lengths = {extra[level] for level in levels}
    if len(lengths) > 1 or min(extra) < 0:
        raise ModelError(
            f"{path}: the head takes {', '.join(map(str, widths or ()))} channels, the base's U-Net gives "
            f"{', '.join(map(str, channels))}; the rest is not one number of tokens. Pass ",
            Argument("base_model", ...),
            " if it is of another size; heads on self-attention are not read.",
        )
    length = lengths.pop() if lengths else None
    embeddings = state.get(f"{form.root}class_embeddings")
    if embeddings is None:
        stored = False
    elif length is not None:
        stored = length == embeddings.shape[0]
    else:
        stored = not any(key.startswith(f"{form.whole}cond_stage_model.") for key in state)
    # The released detection model always has an adapter, and gives it class embeddings alone.
    adapter = any(key.startswith(f"{form.root}text_adapter.") for key in state)
    return FileText(
        "stored" if stored else "captions", levels, length, adapter and (stored or form.task != "detection")
    )


def choose_embedding(embeddings: Float[Tensor, "k d"], room: str | None) -> Float[Tensor, "1 d"]:
    """What a depth model is told: the embedding of one room, or of rooms on average.

    Args:
        embeddings: (K, D) of VPD's 27 rooms; mmseg's have their mean as a further row.
        room: One of `NYU_ROOMS`; None for the mean, which mmseg takes where the room is not known.

    Raises:
        ModelError: If there is no such room.
    """
    count = len(NYU_ROOMS)
    if room is None:
        return embeddings[:count].float().mean(dim=0, keepdim=True)
    if room not in NYU_ROOMS or embeddings.shape[0] not in (count, count + 1):
        raise ModelError(
            f"room is one of {', '.join(NYU_ROOMS)}; got {room!r} for a file of {embeddings.shape[0]} embeddings."
        )
    return embeddings[NYU_ROOMS.index(room)][None]


def split_vocabulary(
    state: Mapping[str, Tensor], form: Form, encoder: TextEncoder | None
) -> tuple[dict[str, Tensor], Float[Tensor, "n d"] | None]:
    """The tensors with a vocabulary as large as the base's, and the vectors of learned tokens after it, if any."""
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
    """Teach the text encoder a file's learned token, or leave it out; returns what was done.

    Raises:
        ModelError: If its name is not given: a file has the vectors alone.
    """
    if token is None:
        raise ModelError(
            f"{path} has a learned token of {len(vectors)} vectors, and not its name. Pass ",
            Argument("learned_token", "<watercolor>"),
            ", or whatever it is called, or '' to leave it out.",
        )
    if not token:
        return f"a learned token of {len(vectors)} vectors was left out, as asked"
    model: nn.Module = encoder.model
    add_token(encoder, token, vectors.detach().float().clone())
    model.requires_grad_(False)
    return f"{token} is a word of the model, of {len(vectors)} vectors"
