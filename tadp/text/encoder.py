"""τ of the paper: captions in, embeddings with named tokens and words out."""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tadp.errors import Argument, CaptionError
from tadp.features import Names
from tadp.text.conditioning import Conditioning
from tadp.text.learned_tokens import learned_tokens, write_out
from tadp.text.token_spans import find_names_apart, find_words, name_tokens

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import CLIPTextModel, CLIPTokenizer

_TOKEN = re.compile(r"<[^\s<>|]+>")  # how learned tokens are written; CLIP's own have a bar, "<|endoftext|>"
_SURROGATE = re.compile("[\ud800-\udfff]")
Hidden = Literal["last", "last but one"]


class TextEncoder(nn.Module):
    """A frozen CLIP or OpenCLIP text encoder with its tokenizer, as Stable Diffusion 1.x and 2.x have it.

    Args:
        model: A CLIP text model.
        tokenizer: A fast tokenizer, whose words can be followed to their tokens.
        hidden: Which of the model's hidden states is the embedding: the last, after the final norm, or the last but
            one, without, as Stable Diffusion XL and 3 take it.
    """

    def __init__(self, model: "CLIPTextModel", tokenizer: "CLIPTokenizer", *, hidden: Hidden = "last"):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.hidden: Hidden = hidden

    @property
    def max_length(self) -> int:
        """Tokens a caption may have, start and end included: 77."""
        # A tokenizer folder without a config says 1e30.
        return min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings)

    @property
    def width(self) -> int:
        """D, the width of an embedding."""
        return self.model.config.hidden_size

    @property
    def length(self) -> int:
        """L, the embeddings of every text."""
        return self.max_length

    @property
    def pooled_width(self) -> int | None:
        """P, the width of a text's pooled embedding; None as there is none."""
        return None

    def count_tokens(self, captions: Sequence[str]) -> list[int]:
        """Tokens of each caption, start and end included."""
        return [len(encoding) for encoding in self._tokenize(list(captions))]

    def forward(
        self, captions: str | Sequence[str], *, truncate: bool = False, mask_padding: bool = False
    ) -> Conditioning:
        """Encode captions; the same caption is encoded once.

        A word in angle brackets that the tokenizer does not know, such as "<toy>", is spelled out, with a warning: it
        is the token of a modifier that is not installed.

        Args:
            captions: One text, or several. The empty string is the empty prompt. A learned token of several vectors
                stands there once, and is one word of the result.
            truncate: Cut a caption that is too long, with a warning, rather than refuse it.
            mask_padding: Let the U-Net attend to real tokens alone. Stable Diffusion was trained without.

        Raises:
            TypeError: If a caption is not a string.
            CaptionError: If a caption has too many tokens.
        """
        texts = check_captions(captions)
        unique, position = distinct(texts)
        encodings = self._tokenize(unique)
        self.check_length(texts, [len(encodings[k]) for k in position], truncate=truncate)
        self.tell_of_unknown(unique)
        encoded = self.encode(unique, mask_padding=mask_padding)
        return encoded.take(position)

    def encode(self, texts: list[str], *, mask_padding: bool = False, keep_pooled: bool = False) -> Conditioning:
        """Encode texts as they are, cut if they are too long: what is left of `forward` when all is checked.

        Args:
            texts: One or several.
            mask_padding: As in `forward`.
            keep_pooled: Keep the model's pooled embedding, for models that take one.
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
        embeddings, pooled = self._embed(ids.to(self.model.device))
        mask = torch.arange(self.max_length)[None] < torch.tensor([len(encoding) for encoding in encodings])[:, None]
        return Conditioning(
            embeddings,
            tuple(names),
            tuple(words),
            mask.to(embeddings.device) if mask_padding else None,
            pooled if keep_pooled else None,
        )

    def _embed(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embeddings (B, L, D), and pooled ones (B, P) if the model makes some."""
        is_last = self.hidden == "last"
        out: Any = self.model(ids, **({} if is_last else {"output_hidden_states": True}))
        # CLIPTextModelWithProjection projects what CLIPTextModel pools
        pooled = out.get("text_embeds", out.get("pooler_output"))
        return out.last_hidden_state if is_last else out.hidden_states[-2], pooled

    def _names(
        self, text: str, encoding: "Encoding", tokens: Sequence[str], learned: Mapping[str, int]
    ) -> tuple[str, ...]:
        return name_tokens(text, encoding, tokens, learned)

    def check_fit(self, captions: Sequence[str]) -> None:
        """Refuse what is too long, where cutting it is no choice.

        Raises:
            CaptionError: If a caption has too many tokens.
        """
        self.check_length(list(captions), self.count_tokens(captions), truncate=None)

    def end_embeddings(self, captions: Sequence[str]) -> Float[Tensor, "b d"]:
        """The embedding at each caption's end token, (B, D), without CLIP's projection and not normalised.

        Attention in CLIP is causal, so what pads a caption does not change it, and captions are padded to the longest
        alone: several times faster than `forward`.

        Raises:
            TypeError: If a caption is not a string.
            CaptionError: If a caption has too many tokens.
        """
        texts = check_captions(captions)
        rows = [encoding.ids for encoding in self._tokenize(texts)]
        self.check_length(texts, [len(row) for row in rows], truncate=None)
        self.tell_of_unknown(texts)
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *row[-1:] * (longest - len(row))] for row in rows], device=self.model.device)
        ends = torch.tensor([len(row) - 1 for row in rows], device=self.model.device)
        return self.model(ids).last_hidden_state[torch.arange(len(rows), device=self.model.device), ends]

    def _tokenize(self, texts: list[str]) -> list["Encoding"]:
        # Padding and truncation would become the tokenizer's state, which threads share.
        learned = learned_tokens(self.tokenizer)
        return self.tokenizer([write_out(text, learned) for text in texts], verbose=False).encodings or []

    def _fit(self, ids: list[int]) -> list[int]:
        """Cut to the limit, the end token kept, or pad to it."""
        if len(ids) > self.max_length:
            return [*ids[: self.max_length - 1], ids[-1]]
        padding: Any = self.tokenizer.pad_token_id
        return [*ids, *[padding] * (self.max_length - len(ids))]

    def check_length(self, texts: list[str], counts: list[int], *, truncate: bool | None) -> None:
        """Refuse or, if `truncate`, warn of texts that are too long; None if the caller has no such choice to offer."""
        for number, (text, count) in enumerate(zip(texts, counts, strict=True)):
            if count <= self.max_length:
                continue
            what = f"caption {number} ({text[:24]!r} …) has {count} tokens, the text encoder takes {self.max_length}"
            if not truncate:
                choice = () if truncate is None else (" or pass ", Argument("truncate", True))
                raise CaptionError(f"{what}. Shorten it", *choice, ".")
            warnings.warn(f"{what}; the rest was cut.", stacklevel=6)  # the caller of `encode_text`

    def tell_of_unknown(self, texts: Iterable[str]) -> None:
        """Warn of words that look like learned tokens and are none."""
        rest = [text for text in texts if _TOKEN.search(text)]
        known = [token for token in self.tokenizer.get_added_vocab() if _TOKEN.search(token)] if rest else []
        for token in sorted(known, key=len, reverse=True):  # whole: "<style>" in a token "my<style>" is known too
            rest = [re.sub(re.escape(token), " ", text, flags=re.IGNORECASE) for text in rest]
        unknown = dict.fromkeys(token for text in rest for token in _TOKEN.findall(text))
        if unknown:
            # The command line shows warnings that begin so.
            warnings.warn(
                f"the text encoder has no token {', '.join(map(repr, unknown))} and spells it out, letter by letter. A "
                "learned token is there while its modifier is installed: with modifier.install(backbone).",
                stacklevel=6,
            )


def check_captions(captions: str | Sequence[str]) -> list[str]:
    """A list of strings.

    Raises:
        TypeError: If something is no string; the message names it.
        CaptionError: If there are none, or one cannot be written as UTF-8, as where a file cut an emoji in half.
    """
    if isinstance(captions, Tensor):
        raise TypeError("captions are strings; got a tensor. Wrap embeddings: tadp.Conditioning(embeddings).")
    if isinstance(captions, bytes) or not isinstance(captions, Iterable):
        raise TypeError(f"captions are strings, one or a list of them; got {type(captions).__name__}.")
    if isinstance(captions, Mapping):  # which would give its ids
        raise TypeError(
            f"captions are a list, one an image; got a {type(captions).__name__}. Pass those of the images, in order."
        )
    texts = [captions] if isinstance(captions, str) else list(captions)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"caption {number} is of type {type(text).__name__}; captions are strings.")
        if not text.isascii() and (half := _SURROGATE.search(text)):
            raise CaptionError(
                f"caption {number} ({text[:24]!a}) cannot be written as UTF-8, because of character "
                f"{half.start()}, half an emoji or a byte that was no text. Take it out."
            )
    if not texts:
        raise CaptionError("no captions; give one an image, or a single string for all ('' is the empty prompt).")
    return texts


def distinct(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Each text once, and for each text its number there; a prompt of names is not the same text without them."""
    keys = [(text, _names_of(text)) for text in texts]
    rows = {key: row for row, key in enumerate(dict.fromkeys(keys))}
    return [text for text, _ in rows], [rows[key] for key in keys]


def _names_of(text: str) -> tuple[str, ...] | None:
    return text.names if isinstance(text, Names) else None
