"""The paper's τ: from captions to embeddings with named tokens and words."""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tadp.errors import Argument, CaptionError
from tadp.features import Names
from tadp.files.diffusers_hooks import compute_device
from tadp.language.grammar import MAX_CHARACTERS
from tadp.text.conditioning import Conditioning
from tadp.text.learned_tokens import learned_tokens, write_out
from tadp.text.token_spans import find_names_apart, find_words, name_tokens

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import CLIPTextModel, CLIPTokenizer

_TOKEN = re.compile(r"<[^\s<>|]+>")  # the form of learned tokens; CLIP's own tokens have bars, "<|endoftext|>"
_SURROGATE = re.compile("[\ud800-\udfff]")
Hidden = Literal["last", "last but one"]


class TextEncoder(nn.Module):
    """A frozen CLIP or OpenCLIP text encoder with its tokenizer, as in Stable Diffusion 1.x and 2.x.

    Args:
        model: A CLIP text model of transformers.
        tokenizer: The model's tokenizer. It must be a fast tokenizer, because those report the word of each token.
        hidden: The hidden state that is used as the embedding: the last one after the final norm, or the last but one
            without this norm, as in Stable Diffusion XL and 3.
    """

    def __init__(self, model: "CLIPTextModel", tokenizer: "CLIPTokenizer", *, hidden: Hidden = "last"):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.hidden: Hidden = hidden

    @property
    def max_length(self) -> int:
        """The most tokens that a caption may have, including start and end token: 77."""
        # For a tokenizer folder without a config, model_max_length is 1e30.
        return min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings)

    @property
    def width(self) -> int:
        """D, the width of an embedding."""
        return self.model.config.hidden_size

    @property
    def length(self) -> int:
        """L, the number of embeddings of every text."""
        return self.max_length

    @property
    def pooled_width(self) -> int | None:
        """P, the width of a text's pooled embedding; None, because this encoder has no pooled embedding."""
        return None

    def count_tokens(self, captions: Sequence[str]) -> list[int]:
        """The number of tokens of each caption, including start and end token."""
        return [len(encoding) for encoding in self._tokenize(list(captions))]

    def forward(
        self, captions: str | Sequence[str], *, truncate: bool = False, mask_padding: bool = False
    ) -> Conditioning:
        """Encode captions. Repeated captions are encoded only once.

        A word in angle brackets that the tokenizer does not know, such as "<toy>", is usually the learned token of a
        modifier that is not installed. It is split into pieces like any unknown word, with a warning.

        Args:
            captions: One text or several; "" is the empty prompt. A learned token of several vectors is written once in
                a caption, and is one word of the result.
            truncate: Whether to cut a caption that is too long, with a warning, instead of refusing it.
            mask_padding: Whether the denoiser ignores the padding after the end of a text. Stable Diffusion was trained
                without this.

        Raises:
            TypeError: If a caption is not a string.
            CaptionError: If a caption has more tokens than the encoder takes, and `truncate` is not set.
        """
        texts = check_captions(captions)
        unique, position = distinct(texts)
        encodings = self._tokenize(unique)
        self.check_length(texts, [len(encodings[k]) for k in position], truncate=truncate)
        self.warn_about_unknown_tokens(unique)
        encoded = self.encode(unique, mask_padding=mask_padding)
        return encoded.take(position)

    def encode(self, texts: list[str], *, mask_padding: bool = False, keep_pooled: bool = False) -> Conditioning:
        """Encode texts without the checks of `forward`. Texts that are too long are cut without a warning.

        Args:
            texts: The texts to encode.
            mask_padding: Whether the denoiser ignores the padding after the end of a text.
            keep_pooled: Whether to also return the model's pooled embedding, for denoisers that take one.
        """
        encodings = self._tokenize(texts)
        ids = torch.tensor([self._fit(encoding.ids) for encoding in encodings])
        learned = learned_tokens(self.tokenizer)
        written = [write_out(text, learned) for text in texts]
        names = [
            self._names(text, encoding, self.tokenizer.convert_ids_to_tokens(row.tolist()), learned)
            for text, encoding, row in zip(written, encodings, ids, strict=True)
        ]
        words = [
            find_words(text, encoding, self.max_length - 1, learned)
            if names_of is None
            else find_names_apart(names_of, encoding, self.max_length - 1, learned)
            for text, encoding, names_of in zip(written, encodings, map(_names_of, texts), strict=True)
        ]
        embeddings, pooled = self._embed(ids.to(compute_device(self.model)))
        mask = torch.arange(self.max_length)[None] < torch.tensor([len(encoding) for encoding in encodings])[:, None]
        return Conditioning(
            embeddings,
            tuple(names),
            tuple(words),
            mask.to(embeddings.device) if mask_padding else None,
            pooled if keep_pooled else None,
        )

    def _embed(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embeddings (B, L, D), and pooled embeddings (B, P) if the model has them."""
        is_last = self.hidden == "last"
        out: Any = self.model(ids, **({} if is_last else {"output_hidden_states": True}))
        pooled = None
        if "text_embeds" in out or "pooler_output" in out:
            # Older configs let the model pool at its highest id, which after adding a token is not the end token.
            end: Any = self.tokenizer.eos_token_id
            ends = ids.eq(end).int().argmax(dim=1)
            pooled = out.last_hidden_state[torch.arange(len(ids), device=ids.device), ends]
            if "text_embeds" in out:  # of a CLIPTextModelWithProjection
                pooled = self.model.text_projection(pooled)  # pyright: ignore[reportCallIssue]
        return out.last_hidden_state if is_last else out.hidden_states[-2], pooled

    def _names(
        self, text: str, encoding: "Encoding", tokens: Sequence[str], learned: Mapping[str, int]
    ) -> tuple[str, ...]:
        return name_tokens(text, encoding, tokens, learned)

    def check_fit(self, captions: Sequence[str]) -> None:
        """Refuse captions that are too long, for callers that cannot cut them.

        Raises:
            CaptionError: If a caption has too many tokens.
        """
        self.check_length(list(captions), self.count_tokens(captions), truncate=None)

    def end_embeddings(self, captions: Sequence[str]) -> Float[Tensor, "b d"]:
        """Return the embedding of each caption's end token, (B, D), without CLIP's projection and not normalised.

        Attention in CLIP is causal, so padding after a caption does not change its embeddings. Captions are therefore
        only padded to the length of the longest caption, which is several times faster than `forward`.

        Raises:
            TypeError: If a caption is not a string.
            CaptionError: If a caption has more tokens than the encoder takes.
        """
        texts = check_captions(captions)
        rows = [encoding.ids for encoding in self._tokenize(texts)]
        self.check_length(texts, [len(row) for row in rows], truncate=None)
        self.warn_about_unknown_tokens(texts)
        longest, device = max(map(len, rows)), compute_device(self.model)
        ids = torch.tensor([[*row, *row[-1:] * (longest - len(row))] for row in rows], device=device)
        ends = torch.tensor([len(row) - 1 for row in rows], device=device)
        return self.model(ids).last_hidden_state[torch.arange(len(rows), device=device), ends]

    def _tokenize(self, texts: list[str]) -> list["Encoding"]:
        # Padding and truncation here would change the tokenizer's state, which threads share.
        learned = learned_tokens(self.tokenizer)
        return self.tokenizer([write_out(text, learned) for text in texts], verbose=False).encodings or []

    def _fit(self, ids: list[int]) -> list[int]:
        """Cut ids to the limit, keeping the end token, or pad them to it."""
        if len(ids) > self.max_length:
            return [*ids[: self.max_length - 1], ids[-1]]
        padding: Any = self.tokenizer.pad_token_id
        return [*ids, *[padding] * (self.max_length - len(ids))]

    def check_length(self, texts: list[str], counts: list[int], *, truncate: bool | None) -> None:
        """Refuse texts that are too long or, if `truncate`, warn about them; None if the caller has no such option."""
        for number, (text, count) in enumerate(zip(texts, counts, strict=True)):
            if count <= self.max_length:
                continue
            problem = (
                f"caption {number} ({text[:24]!r} …) has {count} tokens, but the text encoder takes {self.max_length}"
            )
            if not truncate:
                choice = () if truncate is None else (" or pass ", Argument("truncate", True))
                raise CaptionError(f"{problem}. Shorten it", *choice, ".")
            warnings.warn(f"{problem}; the rest was cut.", stacklevel=6)  # the caller of `encode_text`

    def warn_about_unknown_tokens(self, texts: Iterable[str]) -> None:
        """Warn about words that look like learned tokens but are not known."""
        rest = [text for text in texts if _TOKEN.search(text)]
        known = [token for token in self.tokenizer.get_added_vocab() if _TOKEN.search(token)] if rest else []
        # Longest first, so that "my<style>" is recognised before "<style>".
        for token in sorted(known, key=len, reverse=True):
            rest = [re.sub(re.escape(token), " ", text, flags=re.IGNORECASE) for text in rest]
        unknown = dict.fromkeys(token for text in rest for token in _TOKEN.findall(text))
        if unknown:
            # The command line shows warnings that begin with these words.
            warnings.warn(
                f"the text encoder has no token {', '.join(map(repr, unknown))} and spells it out, letter by letter. A "
                "learned token is only known while its modifier is installed: with modifier.install(backbone).",
                stacklevel=6,
            )


def check_captions(captions: str | Sequence[str]) -> list[str]:
    """Check captions, and return them as a list of strings.

    Raises:
        TypeError: If a caption is not a string. The message says which.
        CaptionError: If `captions` is empty, or a caption cannot be written as UTF-8, for example because it contains
            half an emoji.
    """
    if isinstance(captions, Tensor):
        raise TypeError("captions must be strings; got a tensor. Wrap embeddings: tadp.Conditioning(embeddings).")
    if isinstance(captions, bytes) or not isinstance(captions, Iterable):
        raise TypeError(f"captions must be a string or a list of strings; got {type(captions).__name__}.")
    if isinstance(captions, Mapping | Set):  # iterating over it would yield its keys, or captions in any order
        raise TypeError(
            f"captions must be a list, one caption per image in the same order; got {type(captions).__name__}."
        )
    texts = [captions] if isinstance(captions, str) else list(captions)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"captions must be strings; got {type(text).__name__} as caption {number}.")
        if len(text) > MAX_CHARACTERS:
            raise CaptionError(
                f"caption {number} ({text[:24]!r} …) has {len(text)} characters; at most {MAX_CHARACTERS} are allowed. "
                "Shorten it."
            )
        if not text.isascii() and (half := _SURROGATE.search(text)):
            raise CaptionError(
                f"caption {number} ({text[:24]!a}) cannot be written as UTF-8, because character {half.start()} is "
                "half an emoji or a byte that is not text. Remove it."
            )
    if not texts:
        raise CaptionError(
            "no captions; pass one caption per image, or a single string for all ('' is the empty prompt)."
        )
    return texts


def distinct(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """The distinct texts, and the index of each text among them. A `Names` prompt differs from the same plain text."""
    keys = [(text, _names_of(text)) for text in texts]
    rows = {key: row for row, key in enumerate(dict.fromkeys(keys))}
    return [text for text, _ in rows], [rows[key] for key in keys]


def _names_of(text: str) -> tuple[str, ...] | None:
    return text.names if isinstance(text, Names) else None
