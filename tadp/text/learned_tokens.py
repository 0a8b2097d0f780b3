"""Learned tokens, and the files that store them.

A learned token is a new word of a text encoder, with one or several trained vectors. A token of several vectors is
written once in a caption. As in diffusers, the tokenizer knows it as `token`, `token_1`, `token_2` …, and `TextEncoder`
replaces the token by all of these before it tokenizes the caption.
"""

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor, nn

from tadp.errors import CorruptFileError, MissingFileError, ModifierError
from tadp.files.atomic import complete_folder
from tadp.files.hub import check_readable
from tadp.files.weight_ids import save_tensors

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

# The keys of a token for Stable Diffusion XL's two text encoders: of most trainers, and of diffusers' advanced scripts.
_PAIRS = (("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1"))
UNNAMED = "emb_params"  # the key under which other programs store a token without its name


@runtime_checkable
class Vocabulary(Protocol):
    """A model and its tokenizer, to which a token can be added, such as `tadp.text.encoder.TextEncoder`."""

    model: Any
    tokenizer: Any


class LearnedToken(NamedTuple):
    """A token and its vectors, (N, D), one vector per row."""

    token: str
    vectors: Float[Tensor, "n d"]

    def __repr__(self) -> str:
        return f"LearnedToken({self.token!r}, vectors {tuple(self.vectors.shape)})"


def token_names(token: str, count: int) -> list[str]:
    """The names in the tokenizer for a token of `count` vectors.

    Example:
        >>> token_names("<toy>", 3)
        ['<toy>', '<toy>_1', '<toy>_2']
    """
    return [token, *(f"{token}_{number}" for number in range(1, count))]


def learned_tokens(tokenizer: "CLIPTokenizer") -> dict[str, int]:
    """The tokens added to a tokenizer, in lower case, each with its number of vectors."""
    special = set(tokenizer.all_special_tokens)
    added = {token.lower() for token in tokenizer.get_added_vocab() if token not in special}
    counts = {}
    for token in added:
        base, _, number = token.rpartition("_")
        if not (number.isdecimal() and base in added):
            count = 1
            while f"{token}_{count}" in added:
                count += 1
            counts[token] = count
    return counts


def write_out(text: str, counts: Mapping[str, int]) -> str:
    """Replace each learned token in a text by the names of all its vectors. Tokens that are already replaced stay.

    Args:
        text: A caption.
        counts: The number of vectors of each token, by token, as `learned_tokens` returns it.

    Example:
        >>> write_out("a <toy> on grass", {"<toy>": 3})
        'a <toy> <toy>_1 <toy>_2 on grass'
    """
    if all(count == 1 for count in counts.values()):
        return text
    names = (r"(?<!\w)" * token[0].isalnum() + re.escape(token) for token in sorted(counts, key=len, reverse=True))
    # An atomic group, so that "<toy>s_1" does not match "<toy>" if there is a token "<toy>s".
    pattern = re.compile(rf"(?P<token>(?>{'|'.join(names)}))(?:\s*(?P=token)_\d+)*(?!_\d)", re.IGNORECASE)

    def replacement(match: re.Match[str]) -> str:
        following = text[match.end() : match.end() + 1]
        token = match["token"].lower()
        if counts.get(token, 1) == 1 or (token[-1].isalnum() and (following.isalnum() or following == "_")):
            return match[0]
        # "<toy>5" must not become "<toy>_25"
        return " ".join(token_names(token, counts[token])) + " " * following.isalnum()

    return pattern.sub(replacement, text)


def add_token(encoder: Vocabulary, token: str, vectors: Float[Tensor, "n d"]) -> None:
    """Add a learned token to a text encoder.

    The tokenizer is replaced by a copy that knows the token, and the embedding matrix by a larger copy that also has
    the token's vectors. A caller that keeps the old objects can restore them. The state of torch's random number
    generator does not change.

    Args:
        encoder: The text encoder to change. Its `tokenizer` and its model's input embeddings are replaced.
        token: The token's name, such as "<watercolor>".
        vectors: The token's vectors, (N, D), where D is the width of the input embeddings.

    Raises:
        ModifierError: If the token is already in the vocabulary, or the vectors have another width.
    """
    check_token(token)
    check_vectors(vectors, token)
    embedding: Any = encoder.model.get_input_embeddings()
    weight: Tensor = embedding.weight
    if vectors.shape[1] != weight.shape[1]:
        raise ModifierError(
            f"the embedding of {token!r} is {vectors.shape[1]} wide, but this text encoder's are {weight.shape[1]} "
            "wide; it was learned for another model."
        )
    names = token_names(token, len(vectors))
    _check_new(encoder.tokenizer, token, names)
    tokenizer = copy.deepcopy(encoder.tokenizer)
    size = len(tokenizer)
    tokenizer.add_tokens([_added(name) for name in names])
    ids: Any = tokenizer.convert_tokens_to_ids(names)
    if min(ids) < size:
        raise ModifierError(f"the token {token!r} is already in the vocabulary; choose another.")
    if min(ids) > len(weight):
        raise ModifierError(
            f"the tokenizer has {min(ids)} tokens, but the text encoder has {len(weight)} embeddings; use a pair that "
            "belongs together."
        )
    # Some models have more rows than tokens.
    extended = weight.new_empty(max(len(weight), max(ids) + 1), weight.shape[1])
    extended[: len(weight)] = weight.detach()
    extended[ids] = vectors.detach().to(weight.device, weight.dtype)
    embedding.weight = nn.Parameter(extended, requires_grad=weight.requires_grad)
    embedding.num_embeddings = encoder.model.config.vocab_size = len(extended)
    encoder.tokenizer = tokenizer


def check_token(token: str) -> None:
    """Refuse an invalid token.

    Raises:
        TypeError: If `token` is not a string.
        ModifierError: If `token` is empty or contains white space.
    """
    if not isinstance(token, str):
        raise TypeError(f"a token must be a string, such as '<watercolor>'; got {type(token).__name__}.")
    if not token or any(letter.isspace() for letter in token):
        raise ModifierError(f"a token must be one word without white space, such as '<watercolor>'; got {token!r}.")


def check_vectors(vectors: Tensor, token: str) -> None:
    """Refuse invalid vectors of a token.

    Raises:
        TypeError: If `vectors` is not a tensor.
        ModifierError: If `vectors` is not (N, D) with N at least 1, not floating point, or not finite.
    """
    if not isinstance(vectors, Tensor):
        raise TypeError(f"the embedding of {token!r} must be a tensor, (D,) or (N, D); got {type(vectors).__name__}.")
    if vectors.ndim != 2 or not vectors.numel() or not vectors.is_floating_point():
        raise ModifierError(
            f"the embedding of {token!r} must be a floating-point tensor, (D,) for one vector or (N, D) for several; "
            f"got {vectors.dtype} of shape {tuple(vectors.shape)}."
        )
    if not torch.isfinite(vectors).all():
        raise ModifierError(f"the embedding of {token!r} has values that are not finite; its training failed.")


def read_token(path: str | Path, *, token: str | None = None) -> LearnedToken:
    """Read a learned token of one or several vectors from a safetensors file of tadp or diffusers.

    Args:
        path: A .safetensors file with one tensor, (D,) or (N, D), under the token's name; or with a tensor for each of
            two text encoders, clip_l and clip_g, whose vectors are joined: D is then the sum of both widths.
        token: New name of the token; None keeps the name in the file. Required if the file has no name.

    Raises:
        MissingFileError: If the file does not exist.
        CorruptFileError: If the file is damaged, or is not a safetensors file. (`tadp.convert.read_token` also reads
            .bin and .pt files.)
        ModifierError: If the file does not contain one learned token.
    """
    path = Path(path)
    complete_folder(path.parent)  # a saved modifier's
    if not path.is_file():
        raise MissingFileError(f"no {path.name} in {path.parent}; pass the path of a learned token's file.")
    if path.suffix.lower() in (".bin", ".pt", ".pth"):
        raise CorruptFileError(f"{path} is not a safetensors file; tadp.convert.read_token({str(path)!r}) reads it.")
    check_readable(path)
    with safe_open(path, "pt") as file:
        vectors, name = only_vectors({key: file.get_tensor(key) for key in file.keys()}, path)  # noqa: SIM118
        return named_token(vectors, name, token, path)


def only_vectors(tensors: Mapping[str, Tensor], path: Path) -> tuple[Tensor, str | None]:
    """The vectors of the only token among a file's tensors, and its name; None if the file does not name it.

    A token that was learned for two text encoders has one tensor for each. They are joined along the width, as the
    encoders' embeddings are.

    Raises:
        ModifierError: If there are other tensors, or the two do not belong together.
    """
    if len(tensors) == 1:
        [(key, vectors)] = tensors.items()
        return vectors, None if key == UNNAMED else key
    pair = next((pair for pair in _PAIRS if set(pair) == set(tensors)), None)
    if pair is None:
        raise ModifierError(
            f"a learned token's file must contain one tensor, or one for each of two text encoders "
            f"({' or '.join(' and '.join(pair) for pair in _PAIRS)}); {path} contains {len(tensors)}: "
            f"{', '.join(sorted(tensors)[:4])} …."
        )
    first, second = (vectors[None] if vectors.ndim == 1 else vectors for vectors in map(tensors.__getitem__, pair))
    if first.ndim != 2 or first.shape[:1] != second.shape[:1] or first.dtype != second.dtype:
        raise ModifierError(
            f"the tensors {pair[0]} and {pair[1]} in {path} must hold the same number of vectors in one precision; got "
            f"{first.dtype} of shape {tuple(first.shape)} and {second.dtype} of shape {tuple(second.shape)}."
        )
    return torch.cat([first, second], dim=1), None


def named_token(vectors: Tensor, found: str | None, token: str | None, path: Path) -> LearnedToken:
    """Make a learned token from a file's vectors, under `token` or, if it is None, under the name in the file.

    Raises:
        ModifierError: If the name is missing, or the vectors are invalid.
    """
    name = token or found
    if name is None:
        raise ModifierError(f"{path} does not name its token; pass token='<name>'.")
    rows = vectors[None] if vectors.ndim == 1 else vectors
    try:
        check_token(name)
        check_vectors(rows, name)
    except ModifierError as error:
        raise ModifierError(f"{path}: {error}") from error
    return LearnedToken(name, rows.contiguous())


def write_token(path: Path, token: str, vectors: Float[Tensor, "n d"]) -> None:
    """Write a token to a file that `read_token` and diffusers' `load_textual_inversion` can read."""
    save_tensors({token: vectors}, path)


def _check_new(tokenizer: "CLIPTokenizer", token: str, names: list[str]) -> None:
    """Refuse a token that the tokenizer already has, or whose vectors could be mistaken for another token's."""
    vocabulary = tokenizer.get_vocab()
    for name in names:
        # With start and end, three ids mean one token. The tokenizer lower-cases and splits the name as in captions.
        ids = tokenizer(name).input_ids
        read = tokenizer.convert_ids_to_tokens(ids[1]) if len(ids) == 3 else None
        # "dog</w>" and "construc" never are one token of a text, but are entries whose rows would be overwritten.
        known = next((entry for entry in (name, name.lower(), read) if entry in vocabulary), None)
        if known is not None:
            is_learned = known in learned_tokens(tokenizer)
            raise ModifierError(
                f"the token {name!r} is already in the vocabulary, as {known!r}; "
                f"{'perhaps its modifier is already installed; if not, ' * is_learned}choose another, such as "
                f"'<{token.strip('<>')}-2>'."
            )
    base, _, number = token.lower().rpartition("_")
    for other in learned_tokens(tokenizer):
        further = re.fullmatch(rf"{re.escape(token.lower())}_\d+", other)
        if further or (number.isdecimal() and base == other):
            raise ModifierError(
                f"the token {token!r} and {other!r}, which is in the vocabulary, would read as one token of several "
                "vectors; choose another name."
            )


def _added(name: str) -> Any:
    from transformers import AddedToken

    # A token that looks like a word ("sks2") is not recognised inside another word.
    return AddedToken(name, single_word=name[0].isalnum() and name[-1].isalnum(), normalized=True)
