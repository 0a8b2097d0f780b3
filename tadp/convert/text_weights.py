"""The text in files of others: captions or class embeddings of a model, told by its tensors; and learned tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from tadp.convert.forms import Form
from tadp.convert.pickles import read_pickle
from tadp.errors import Argument, MissingFileError, ModelError, ModifierError
from tadp.text.encoder import TextEncoder
from tadp.text.learned_tokens import LearnedToken, add_token, named_token
from tadp.text.learned_tokens import read_token as read_safetensors_token

# The kinds of rooms of NYU Depth v2, in the order of VPD's nyu_class_list.json and of its class embeddings.
NYU_ROOMS = (
    *("printer_room", "bathroom", "living_room", "study", "conference_room", "study_room", "kitchen", "home_office"),
    *("bedroom", "dinette", "playroom", "indoor_balcony", "laundry_room", "basement", "excercise_room", "foyer"),
    *("home_storage", "cafe", "furniture_store", "office_kitchen", "student_lounge", "dining_room", "reception_room"),
    *("computer_lab", "classroom", "office", "bookstore"),
)
UNNAMED_TOKEN = "*"  # what Textual Inversion's own code calls every token inside its files
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


def read_token(path: str | Path, *, token: str | None = None) -> LearnedToken:
    """Read a learned token from any file that Textual Inversion comes in.

    Args:
        path: diffusers' learned_embeds.bin, {token: vectors}; AUTOMATIC1111's or the original code's .pt, with
            string_to_param; one bare tensor; or a .safetensors file, as `tadp.text.learned_tokens.read_token` does.
        token: What to call it instead; needed if the file does not say.

    Returns:
        The token and its vectors, (N, D), in float32 or what the file holds.

    Raises:
        MissingFileError: If there is no such file.
        CorruptFileError: If it is damaged, or holds more than tensors and plain values; nothing in it is run.
        ModifierError: If it holds no learned token, or does not name it.

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
        given = content.get("name")
        name = given if isinstance(given, str) and given != UNNAMED_TOKEN else None
        content = dict(content["string_to_param"].items())
    if isinstance(content, dict):
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if len(tensors) != 1:
            raise ModifierError(
                f"a learned token is one tensor under its name; {path} holds {len(tensors)} tensors, under "
                f"{', '.join(sorted(map(str, content))[:4])} …. Tokens for several text encoders are not read."
            )
        [(key, content)] = tensors.items()
        name = name or (key if key != UNNAMED_TOKEN else None)
    if not isinstance(content, Tensor):
        raise ModifierError(f"{path} holds a {type(content).__name__}, not a learned token.")
    return named_token(content.detach().clone(), name, token, path)
