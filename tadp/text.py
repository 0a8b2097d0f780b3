"""τ of the paper: captions in, embeddings with named tokens and words out."""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tadp.errors import CaptionError
from tadp.features import Names, Word
from tadp.tokens import learned_tokens, write_out
from tadp.words import splits_inside

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import CLIPTextModel, CLIPTokenizer

CONTINUES = "##"  # before the name of a token that goes on a word: "rain", "##coat"
_SHOWN = 8  # words of a text in its repr
_TOKEN = re.compile(r"<[^\s<>|]+>")  # how learned tokens are written; CLIP's own have a bar, "<|endoftext|>"
_SURROGATE = re.compile("[\ud800-\udfff]")
Hidden = Literal["last", "last but one"]
GATE = 1e-4  # VPD starts its text adapter almost at the identity


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Text as the U-Net sees it.

    Attributes:
        embeddings: (B, L, D); B is 1 for text shared by all images, L is any length.
        tokens: For each of the B texts, what each of the L embeddings stands for; a token that goes on the word of the
            one before begins with "##" ("rain", "##coat"), and one that is a part of a letter has the letter's name.
        words: For each of the B texts, its words and the tokens they became; punctuation and emoji are no words.
        mask: (B, L), True where the U-Net may attend; None for everywhere, as Stable Diffusion was trained.
        pooled: (B, P), each text as a whole, which Stable Diffusion XL, 3 and FLUX take besides; None for others.
    """

    embeddings: Float[Tensor, "b l d"]
    tokens: tuple[tuple[str, ...], ...] | None = None
    words: tuple[tuple[Word, ...], ...] | None = None
    mask: Bool[Tensor, "b l"] | None = None
    pooled: Float[Tensor, "b p"] | None = None

    def __post_init__(self) -> None:
        if self.embeddings.ndim != 3:
            raise ValueError(f"embeddings are (B, L, D); got shape {tuple(self.embeddings.shape)}.")
        batch, length, _ = self.embeddings.shape
        if self.tokens is not None and (len(self.tokens) != batch or any(len(one) != length for one in self.tokens)):
            raise ValueError(
                f"one token name an embedding; got {[len(t) for t in self.tokens]} for {batch} x {length}."
            )
        if self.words is not None and len(self.words) != batch:
            raise ValueError(f"one tuple of words a text; got {len(self.words)} for {batch} texts.")
        if self.mask is not None and self.mask.shape != (batch, length):
            raise ValueError(f"the mask is (B, L), {batch} x {length}; got {tuple(self.mask.shape)}.")
        if self.pooled is not None and (self.pooled.ndim != 2 or self.pooled.shape[0] != batch):
            raise ValueError(f"pooled embeddings are (B, P), {batch} of them; got {tuple(self.pooled.shape)}.")

    def __repr__(self) -> str:
        masked = "" if self.mask is None else f", mask {tuple(self.mask.shape)}"
        names = _first_names(self.words, self.tokens)
        return f"Conditioning({tuple(self.embeddings.shape)}{masked}{names and ': '}{names})"

    def __len__(self) -> int:
        return self.embeddings.shape[0]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Conditioning":
        """Move the tensors; the mask keeps its dtype."""
        mask = None if self.mask is None else self.mask.to(device=device)
        pooled = None if self.pooled is None else self.pooled.to(device=device, dtype=dtype)
        return replace(self, embeddings=self.embeddings.to(device=device, dtype=dtype), mask=mask, pooled=pooled)

    def expand(self, batch: int) -> "Conditioning":
        """Give every image of a batch its text: one text is shared, `batch` texts stay as they are.

        Raises:
            CaptionError: If there are neither one nor `batch` texts.
        """
        count = self.embeddings.shape[0]  # not len(), which knows no symbolic sizes
        if count == batch:
            return self
        if count != 1:
            raise CaptionError(
                f"{batch} images but {count} texts; give one caption an image, or a single string for all."
            )
        return Conditioning(
            self.embeddings.expand(batch, -1, -1),
            self.tokens and self.tokens * batch,
            self.words and self.words * batch,
            None if self.mask is None else self.mask.expand(batch, -1),
            None if self.pooled is None else self.pooled.expand(batch, -1),
        )

    def take(self, rows: Sequence[int]) -> "Conditioning":
        """Some of the texts, in this order; a row may come several times.

        Example:
            >>> Conditioning(torch.zeros(2, 77, 8)).take([0, 1, 1]).embeddings.shape
            torch.Size([3, 77, 8])
        """
        chosen = list(rows)
        return Conditioning(
            self.embeddings[chosen],
            self.tokens and tuple(self.tokens[row] for row in chosen),
            self.words and tuple(self.words[row] for row in chosen),
            None if self.mask is None else self.mask[chosen],
            None if self.pooled is None else self.pooled[chosen],
        )

    def apart(self) -> "Conditioning":
        """Each embedding of one text as a text of its own, (L, 1, D), with its name; `take` then gives each image one.

        So an image is told its own room alone, where `prompts.averaged_eos` has an embedding for each room (TADP's
        depth).

        Raises:
            ValueError: If there is more than one text.

        Example:
            >>> rooms = Conditioning(torch.zeros(1, 3, 8), (("bathroom", "kitchen", "study"),))
            >>> rooms.apart().take([1, 1, 0]).tokens
            (('kitchen',), ('kitchen',), ('bathroom',))
        """
        if len(self) != 1:
            raise ValueError(f"one text is taken apart, (1, L, D); got {tuple(self.embeddings.shape)}.")
        return Conditioning(
            self.embeddings.transpose(0, 1),
            self.tokens and tuple((name,) for name in self.tokens[0]),
            self.words and tuple(_words_at(self.words[0], place) for place in range(self.embeddings.shape[1])),
            None if self.mask is None else self.mask.transpose(0, 1),
        )

    def join(self, *others: "Conditioning") -> "Conditioning":
        """One text after the other, along L: the released code's "blip+class_emb".

        A text shared by all images is repeated; device and dtype are this one's. Where one part has names or a mask
        and another has none, the other's tokens are named "" and may be attended to everywhere. The pooled embedding
        is the first part's that has one.

        Raises:
            CaptionError: If the parts have neither one text nor the same number of texts.
            ValueError: If the embeddings differ in width.

        Example:
            >>> first = Conditioning(torch.zeros(2, 77, 8))
            >>> second = Conditioning(torch.zeros(1, 20, 8))
            >>> first.join(second).embeddings.shape
            torch.Size([2, 97, 8])
        """
        for other in others:
            if not isinstance(other, Conditioning):
                raise TypeError(f"a Conditioning is joined; got {type(other).__name__}. Encode text by encode_text.")
        parts = [self, *(other.to(self.embeddings.device, self.embeddings.dtype) for other in others)]
        counts = [len(part) for part in parts]
        batch = next((count for count in counts if count != 1), 1)
        if any(count not in (1, batch) for count in counts):
            raise CaptionError(f"parts to join have one text, or all the same number; got {counts}.")
        widths = [part.embeddings.shape[2] for part in parts]
        if len(set(widths)) > 1:
            raise ValueError(f"parts to join are of one width; got {widths}. Encode them with one text encoder.")
        parts = [part.expand(batch) for part in parts]
        return Conditioning(
            torch.cat([part.embeddings for part in parts], dim=1),
            _join_tokens(parts),
            _join_words(parts),
            _join_masks(parts),
            next((part.pooled for part in parts if part.pooled is not None), None),
        )


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
            _words(text, encoding, self.max_length - 1, learned)
            if names_of is None
            else _apart(names_of, encoding, self.max_length - 1, learned)
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
        return _names(text, encoding, tokens, learned)

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
                raise CaptionError(f"{what}. Shorten it{'.' if truncate is None else ' or pass truncate=True.'}")
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


class TextAdapter(nn.Module):
    """A gated residual that lets training shift the text; almost the identity at the start, exactly at gate 0.

    Args:
        width: D, the width of an embedding.

    Source:
        VPD's text adapter: text + gate · MLP(text).
    """

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.gate = nn.Parameter(torch.full((width,), GATE))

    def forward(self, text: Conditioning) -> Conditioning:
        """Shift the embeddings; names and mask stay."""
        return replace(text, embeddings=text.embeddings + self.gate * self.mlp(text.embeddings))


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


def _first_names(words: tuple[tuple[Word, ...], ...] | None, tokens: tuple[tuple[str, ...], ...] | None) -> str:
    """The first words of the first text, or its first tokens; "" if it came without."""
    named = [word.text for word in words[0]] if words else list(tokens[0]) if tokens else []
    return ", ".join(named[:_SHOWN]) + f" and {len(named) - _SHOWN} more" * (len(named) > _SHOWN)


def _words_at(words: tuple[Word, ...], place: int) -> tuple[Word, ...]:
    """Those that are whole in one embedding, as words of a text that has no other."""
    return tuple(word._replace(start=0, stop=1) for word in words if (word.start, word.stop) == (place, place + 1))


def _join_tokens(parts: list[Conditioning]) -> tuple[tuple[str, ...], ...] | None:
    if all(part.tokens is None for part in parts):
        return None
    named = [part.tokens or (("",) * part.embeddings.shape[1],) * len(part) for part in parts]
    return tuple(tuple(chain(*one)) for one in zip(*named, strict=True))


def _join_words(parts: list[Conditioning]) -> tuple[tuple[Word, ...], ...] | None:
    if all(part.words is None for part in parts):
        return None
    joined: list[tuple[Word, ...]] = [()] * len(parts[0])
    offset = 0
    for part in parts:
        words = part.words or ((),) * len(part)
        joined = [
            (*before, *(word._replace(start=word.start + offset, stop=word.stop + offset) for word in one))
            for before, one in zip(joined, words, strict=True)
        ]
        offset += part.embeddings.shape[1]
    return tuple(joined)


def _join_masks(parts: list[Conditioning]) -> Bool[Tensor, "b l"] | None:
    if all(part.mask is None for part in parts):
        return None
    return torch.cat(
        [
            part.embeddings.new_ones(part.embeddings.shape[:2], dtype=torch.bool) if part.mask is None else part.mask
            for part in parts
        ],
        dim=1,
    )


def _names(text: str, encoding: "Encoding", tokens: Sequence[str], learned: Mapping[str, int]) -> tuple[str, ...]:
    """What each token of a caption stands for, as text; a piece that goes on a word begins with `CONTINUES`."""
    names = [token.removesuffix("</w>") for token in tokens]
    pieces = zip(encoding.word_ids[: len(tokens) - 1], encoding.offsets, names, strict=False)
    before = None
    for position, (word, (start, stop), name) in enumerate(pieces):
        if word is not None and name not in learned:
            said = _said(name, text[start:stop].lower())
            names[position] = CONTINUES + said if word == before else said
        before = word
    return tuple(names)


def _said(token: str, text: str) -> str:
    """An entry of the vocabulary, which spells bytes, as text; where it is a part of a letter, the letter."""
    from tokenizers.decoders import ByteLevel

    if token.isascii():
        return token
    said = ByteLevel().decode([token])
    return text if "\ufffd" in said else said


def distinct(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Each text once, and for each text its number there; a prompt of names is not the same text without them."""
    keys = [(text, _names_of(text)) for text in texts]
    rows = {key: row for row, key in enumerate(dict.fromkeys(keys))}
    return [text for text, _ in rows], [rows[key] for key in keys]


def _names_of(text: str) -> tuple[str, ...] | None:
    return text.names if isinstance(text, Names) else None


def _apart(names: Sequence[str], encoding: "Encoding", limit: int, learned: Mapping[str, int]) -> tuple[Word, ...]:
    """The names of a prompt that is `Names`, each one word; one that is cut at `limit` tokens is left out."""
    words: list[Word] = []
    end = 0
    for name in names:
        begin, end = end, end + len(write_out(Names([name]), learned)) + 1
        own = [
            position
            for position, (word, (start, _)) in enumerate(zip(encoding.word_ids, encoding.offsets, strict=True))
            if word is not None and begin <= start < end
        ]
        if own and own[-1] < limit:
            words.append(Word(name, own[0], own[-1] + 1, stands_apart=True))
    return tuple(words)


def _words(text: str, encoding: "Encoding", limit: int, learned: Mapping[str, int]) -> tuple[Word, ...]:
    """Words of a caption and their token positions up to `limit`; pieces without a letter or digit are left out."""
    words: list[Word] = []
    previous, first, end = None, 0, 0
    pieces = zip(encoding.word_ids[:limit], encoding.offsets[:limit], strict=True)
    for position, (word, (start, stop)) in enumerate(pieces):
        if word is None:
            continue
        # The tokenizer parts words at the vowel signs of Hindi, Thai and others, which are marks and no letters.
        is_inside = start == end and words and splits_inside(text, start)
        if word == previous or is_inside:
            begin = words.pop().start
        else:
            begin, first = position, start
        # From the first piece's start to the last one's end: pieces of one letter (bytes) overlap.
        name = text[first:stop].strip().lower()
        if words and words[-1].text in learned and name == f"{words[-1].text}_{begin - words[-1].start}":
            name, begin, *_ = words.pop()  # a further vector of the learned token before it
        words.append(Word(name, begin, position + 1))
        previous, end = word, stop
    return tuple(word for word in words if word.text in learned or any(letter.isalnum() for letter in word.text))
