"""Learned tokens: words a text encoder did not know, each of one or several vectors, and the files they come in.

A token of several vectors is written once in a caption. The tokenizer has it as `token`, `token_1`, `token_2` …, which
is diffusers' way, and `TextEncoder` writes it out before it looks the words up.
"""

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tadp.errors import CorruptFileError, MissingFileError, ModifierError
from tadp.files.hub import check_readable

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

UNNAMED = "emb_params"  # the key of files in which other programs store a token without its name


@runtime_checkable
class Vocabulary(Protocol):
    """What learns a token; `tadp.text.encoder.TextEncoder` is one."""

    model: Any
    tokenizer: Any


class LearnedToken(NamedTuple):
    """A token and its vectors, (N, D), one row a vector."""

    token: str
    vectors: Float[Tensor, "n d"]

    def __repr__(self) -> str:
        return f"LearnedToken({self.token!r}, vectors {tuple(self.vectors.shape)})"


def token_names(token: str, count: int) -> list[str]:
    """What a token of `count` vectors is called in a tokenizer.

    Example:
        >>> token_names("<toy>", 3)
        ['<toy>', '<toy>_1', '<toy>_2']
    """
    return [token, *(f"{token}_{number}" for number in range(1, count))]


def learned_tokens(tokenizer: "CLIPTokenizer") -> dict[str, int]:
    """The tokens that were added to a tokenizer, lower-cased as it reads text, and how many vectors each has."""
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
    """Write every vector of the learned tokens in a text; what is written out already stays.

    Args:
        text: A caption.
        counts: From `learned_tokens`.

    Example:
        >>> write_out("a <toy> on grass", {"<toy>": 3})
        'a <toy> <toy>_1 <toy>_2 on grass'
    """
    if all(count == 1 for count in counts.values()):
        return text
    names = (r"(?<!\w)" * token[0].isalnum() + re.escape(token) for token in sorted(counts, key=len, reverse=True))
    # Atomic, so that "<toy>s_1" is not taken for "<toy>" where there is a token "<toy>s".
    found = re.compile(rf"(?P<token>(?>{'|'.join(names)}))(?:\s*(?P=token)_\d+)*(?!_\d)", re.IGNORECASE)

    def written(match: re.Match[str]) -> str:
        following = text[match.end() : match.end() + 1]
        token = match["token"].lower()
        if counts.get(token, 1) == 1 or (token[-1].isalnum() and (following.isalnum() or following == "_")):
            return match[0]
        # "<toy>5" must not become "<toy>_25"
        return " ".join(token_names(token, counts[token])) + " " * following.isalnum()

    return found.sub(written, text)


def add_token(encoder: Vocabulary, token: str, vectors: Float[Tensor, "n d"]) -> None:
    """Teach a text encoder a token.

    The tokenizer is replaced by a copy that knows it, the embedding matrix by one with its rows; who keeps the old
    objects can put them back. The random state is not touched.

    Args:
        encoder: Its `tokenizer` and the input embeddings of its `model` change.
        token: The word, e.g. "<watercolor>".
        vectors: (N, D), D being the width of the input embeddings.

    Raises:
        ModifierError: If the token is in the vocabulary, or the vectors have another width.
    """
    check_token(token)
    check_vectors(vectors, token)
    embedding: Any = encoder.model.get_input_embeddings()
    weight: Tensor = embedding.weight
    if vectors.shape[1] != weight.shape[1]:
        raise ModifierError(
            f"the embedding of {token!r} is {vectors.shape[1]} wide, this text encoder's are {weight.shape[1]}; it was "
            "learned for another model."
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
            f"the tokenizer has {min(ids)} tokens, the text encoder {len(weight)} embeddings; use a pair that belongs "
            "together."
        )
    # Some models have more rows than tokens.
    extended = weight.new_empty(max(len(weight), max(ids) + 1), weight.shape[1])
    extended[: len(weight)] = weight.detach()
    extended[ids] = vectors.detach().to(weight.device, weight.dtype)
    embedding.weight = nn.Parameter(extended, requires_grad=weight.requires_grad)
    embedding.num_embeddings = encoder.model.config.vocab_size = len(extended)
    encoder.tokenizer = tokenizer


def check_token(token: str) -> None:
    """Refuse what cannot be a token.

    Raises:
        TypeError: If it is no string.
        ModifierError: If it is empty or has white space.
    """
    if not isinstance(token, str):
        raise TypeError(f"a token is a string, e.g. '<watercolor>'; got a {type(token).__name__}.")
    if not token or any(letter.isspace() for letter in token):
        raise ModifierError(f"a token is one word without white space, e.g. '<watercolor>'; got {token!r}.")


def check_vectors(vectors: Tensor, token: str) -> None:
    """Refuse what cannot be the vectors of a token.

    Raises:
        TypeError: If they are no tensor.
        ModifierError: If they are not (N, D) with N of 1 or more, not floating point, or not finite.
    """
    if not isinstance(vectors, Tensor):
        raise TypeError(f"the embedding of {token!r} is a tensor, (D,) or (N, D); got a {type(vectors).__name__}.")
    if vectors.ndim != 2 or not vectors.numel() or not vectors.is_floating_point():
        raise ModifierError(
            f"the embedding of {token!r} is a floating-point tensor, (D,) for one vector or (N, D) for several; got "
            f"{vectors.dtype} of shape {tuple(vectors.shape)}."
        )
    if not torch.isfinite(vectors).all():
        raise ModifierError(f"the embedding of {token!r} has values that are not finite; its training failed.")


def read_token(path: str | Path, *, token: str | None = None) -> LearnedToken:
    """Read a learned token from safetensors: ours, or what diffusers saves, of one or several vectors.

    Args:
        path: A .safetensors file with one tensor, (D,) or (N, D), under the token's name.
        token: What to call it instead; needed if the file does not say.

    Raises:
        MissingFileError: If there is no such file.
        CorruptFileError: If it is damaged, or no safetensors file; `tadp.convert.read_token` reads .bin and .pt too.
        ModifierError: If it holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"no {path.name} in {path.parent}; pass the file of a learned token.")
    if path.suffix.lower() in (".bin", ".pt", ".pth"):
        raise CorruptFileError(f"{path} is no safetensors file; tadp.convert.read_token({str(path)!r}) reads it.")
    check_readable(path)
    with safe_open(path, "pt") as file:
        keys = list(file.keys())
        if len(keys) != 1:
            raise ModifierError(
                f"a learned token is one tensor under its name; {path} holds {len(keys)}: {', '.join(sorted(keys)[:4])}"
                " …. Tokens for several text encoders (Stable Diffusion XL) are not read."
            )
        return named_token(file.get_tensor(keys[0]), None if keys[0] == UNNAMED else keys[0], token, path)


def named_token(vectors: Tensor, found: str | None, token: str | None, path: Path) -> LearnedToken:
    """Vectors from a file, as (N, D), under the name asked for or the one found.

    Raises:
        ModifierError: If there is no name, or they are no vectors.
    """
    name = token or found
    if name is None:
        raise ModifierError(f"{path} does not name its token; pass token='<name>'.")
    check_token(name)
    rows = vectors[None] if vectors.ndim == 1 else vectors
    check_vectors(rows, name)
    return LearnedToken(name, rows.contiguous())


def write_token(path: Path, token: str, vectors: Float[Tensor, "n d"]) -> None:
    """Write a token so that `read_token` and diffusers' `load_textual_inversion` read it."""
    save_file({token: vectors.contiguous()}, path)


def _check_new(tokenizer: "CLIPTokenizer", token: str, names: list[str]) -> None:
    """Refuse a token that the tokenizer has, or whose vectors would be taken for another's."""
    vocabulary = tokenizer.get_vocab()
    for name in names:
        # Start and end stand around: three ids are one token. It sees lower case, and words, as captions do.
        ids = tokenizer(name).input_ids
        read = tokenizer.convert_ids_to_tokens(ids[1]) if len(ids) == 3 else None
        # "dog</w>" and "construc" are no text that is one token, but entries whose rows would be written over.
        known = next((entry for entry in (name, name.lower(), read) if entry in vocabulary), None)
        if known is not None:
            is_learned = known in learned_tokens(tokenizer)
            raise ModifierError(
                f"the token {name!r} is already in the vocabulary, as {known!r}; "
                f"{'perhaps its modifier is installed already; if not, ' * is_learned}choose another, such as "
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

    # A token that looks like a word ("sks2") is none inside another word.
    return AddedToken(name, single_word=name[0].isalnum() and name[-1].isalnum(), normalized=True)
