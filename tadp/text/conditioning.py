"""Conditioning: encoded text as the denoiser takes it, with names for tokens and words."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tadp.errors import CaptionError
from tadp.features import Word
from tadp.files.checks import check_ordered

GATE = 1e-4  # at the start, VPD's text adapter is almost the identity
_SHOWN = 8  # words in the repr


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Encoded text in the form that the denoiser takes.

    Attributes:
        embeddings: Embeddings of the L tokens of each text, (B, L, D). B is 1 for one text for all images. L can be any
            number.
        tokens: For each of the B texts, its L tokens as strings; None if they are not known. A token that continues a
            word begins with "##" ("rain", "##coat"). A token that is only a part of a letter, such as a byte of an
            emoji, is shown as the whole letter.
        words: For each of the B texts, its words and the positions of their tokens; None if they are not known.
            Punctuation and emoji are not words.
        mask: Whether the denoiser can attend to each token, (B, L), bool; None if it can attend to all, as in Stable
            Diffusion's training.
        pooled: One embedding per text, (B, P), which Stable Diffusion XL, 3 and FLUX also take; None for other models.
    """

    embeddings: Float[Tensor, "b l d"]
    tokens: tuple[tuple[str, ...], ...] | None = None
    words: tuple[tuple[Word, ...], ...] | None = None
    mask: Bool[Tensor, "b l"] | None = None
    pooled: Float[Tensor, "b p"] | None = None

    def __post_init__(self) -> None:
        if self.embeddings.ndim != 3:
            raise ValueError(f"embeddings must be (B, L, D); got shape {tuple(self.embeddings.shape)}.")
        batch, length, _ = self.embeddings.shape
        if self.tokens is not None and (
            len(self.tokens) != batch or any(len(names) != length for names in self.tokens)
        ):
            raise ValueError(
                f"tokens must have one name per embedding; got {[len(t) for t in self.tokens]} for {batch} x {length}."
            )
        if self.words is not None and len(self.words) != batch:
            raise ValueError(f"words must have one tuple per text; got {len(self.words)} for {batch} texts.")
        if self.mask is not None and self.mask.shape != (batch, length):
            raise ValueError(f"mask must be (B, L), here {batch} x {length}; got {tuple(self.mask.shape)}.")
        if self.pooled is not None and (self.pooled.ndim != 2 or self.pooled.shape[0] != batch):
            raise ValueError(f"pooled must be (B, P), here with B = {batch}; got {tuple(self.pooled.shape)}.")

    def __repr__(self) -> str:
        masked = "" if self.mask is None else f", mask {tuple(self.mask.shape)}"
        names = _first_names(self.words, self.tokens)
        return f"Conditioning({tuple(self.embeddings.shape)}{masked}{names and ': '}{names})"

    def __len__(self) -> int:
        return self.embeddings.shape[0]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Conditioning":
        """Move the tensors to a device and dtype; the mask keeps its dtype."""
        mask = None if self.mask is None else self.mask.to(device=device)
        pooled = None if self.pooled is None else self.pooled.to(device=device, dtype=dtype)
        return replace(self, embeddings=self.embeddings.to(device=device, dtype=dtype), mask=mask, pooled=pooled)

    def expand(self, batch: int) -> "Conditioning":
        """Give every image of a batch a text: a single text is repeated, and `batch` texts stay as they are.

        Raises:
            CaptionError: If the number of texts is neither 1 nor `batch`.
        """
        count = self.embeddings.shape[0]  # not len(), which does not support symbolic sizes
        if count == batch:
            return self
        if count != 1:
            raise CaptionError(
                f"{batch} images but {count} texts; pass one caption per image, or a single string for all."
            )
        return Conditioning(
            self.embeddings.expand(batch, -1, -1),
            self.tokens and self.tokens * batch,
            self.words and self.words * batch,
            None if self.mask is None else self.mask.expand(batch, -1),
            None if self.pooled is None else self.pooled.expand(batch, -1),
        )

    def take(self, rows: Sequence[int]) -> "Conditioning":
        """Select texts by row, in the given order; a row may occur several times.

        Example:
            >>> Conditioning(torch.zeros(2, 77, 8)).take([0, 1, 1]).embeddings.shape
            torch.Size([3, 77, 8])
        """
        check_ordered(rows=rows)
        chosen = list(rows)
        return Conditioning(
            self.embeddings[chosen],
            self.tokens and tuple(self.tokens[row] for row in chosen),
            self.words and tuple(self.words[row] for row in chosen),
            None if self.mask is None else self.mask[chosen],
            None if self.pooled is None else self.pooled[chosen],
        )

    @property
    def kind(self) -> tuple[object, ...]:
        """What texts must have in common to be put into one batch: their shape, and which attributes they have."""
        optional = (self.tokens, self.words, self.mask, self.pooled)
        return (self.embeddings.shape[1:], self.embeddings.device, *(value is None for value in optional))

    @classmethod
    def stack(cls, texts: Sequence["Conditioning"]) -> "Conditioning":
        """Put texts into one batch, one after the other. They must have the same `kind`.

        Example:
            >>> Conditioning.stack([Conditioning(torch.zeros(1, 77, 8)), Conditioning(torch.ones(2, 77, 8))])
            Conditioning((3, 77, 8))
        """
        first = texts[0]
        if any(text.kind != first.kind for text in texts):
            raise ValueError(f"texts of one batch must have one shape and the same attributes; got {list(texts)}.")
        return cls(
            torch.cat([text.embeddings for text in texts]),
            first.tokens and tuple(chain.from_iterable(text.tokens or () for text in texts)),
            first.words and tuple(chain.from_iterable(text.words or () for text in texts)),
            None if first.mask is None else torch.cat([text.mask for text in texts if text.mask is not None]),
            None if first.pooled is None else torch.cat([text.pooled for text in texts if text.pooled is not None]),
        )

    def apart(self) -> "Conditioning":
        """Split one text into L texts of one token each, (L, 1, D).

        `take` then selects one of them for each image. For example, in TADP's depth experiments, the text has one
        embedding per kind of room, from `prompts.averaged_eos`, and each image only receives that of its own room. Each
        text has the pooled embedding of the whole.

        Raises:
            ValueError: If this conditioning contains more than one text.

        Example:
            >>> rooms = Conditioning(torch.zeros(1, 3, 8), (("bathroom", "kitchen", "study"),))
            >>> rooms.apart().take([1, 1, 0]).tokens
            (('kitchen',), ('kitchen',), ('bathroom',))
        """
        if len(self) != 1:
            raise ValueError(f"apart() splits one text, (1, L, D); got {tuple(self.embeddings.shape)}.")
        return Conditioning(
            self.embeddings.transpose(0, 1),
            self.tokens and tuple((name,) for name in self.tokens[0]),
            self.words and tuple(_words_at(self.words[0], place) for place in range(self.embeddings.shape[1])),
            None if self.mask is None else self.mask.transpose(0, 1),
            None if self.pooled is None else self.pooled.expand(self.embeddings.shape[1], -1),
        )

    def join(self, *others: "Conditioning") -> "Conditioning":
        """Concatenate this text and others along their tokens, as "blip+class_emb" in the paper's released code does.

        One text for all images is repeated for each image. The result has the device and dtype of this conditioning. If
        only some parts know their tokens, the tokens of the others are ""; if only some have a mask, the tokens of the
        others can all be attended to. The pooled embedding is that of the first part that has one.

        Args:
            *others: The texts to append, in order. Each has one text, or as many texts as the other parts.

        Raises:
            CaptionError: If two parts with more than one text have different numbers of texts.
            TypeError: If a part is not a `Conditioning`.
            ValueError: If the embeddings of the parts differ in width.

        Example:
            >>> first = Conditioning(torch.zeros(2, 77, 8))
            >>> second = Conditioning(torch.zeros(1, 20, 8))
            >>> first.join(second).embeddings.shape
            torch.Size([2, 97, 8])
        """
        for other in others:
            if not isinstance(other, Conditioning):
                raise TypeError(f"join() takes Conditioning; got {type(other).__name__}. Encode text with encode_text.")
        parts = [self, *(other.to(self.embeddings.device, self.embeddings.dtype) for other in others)]
        counts = [len(part) for part in parts]
        batch = next((count for count in counts if count != 1), 1)
        if any(count not in (1, batch) for count in counts):
            raise CaptionError(f"parts to join must have one text or all the same number; got {counts}.")
        widths = [part.embeddings.shape[2] for part in parts]
        if len(set(widths)) > 1:
            raise ValueError(f"parts to join must have one width; got {widths}. Encode them with one text encoder.")
        parts = [part.expand(batch) for part in parts]
        return Conditioning(
            torch.cat([part.embeddings for part in parts], dim=1),
            _join_tokens(parts),
            _join_words(parts),
            _join_masks(parts),
            next((part.pooled for part in parts if part.pooled is not None), None),
        )


class TextAdapter(nn.Module):
    """A small trained network whose output, multiplied by a trained gate, is added to the embeddings of a text.

    Before training, it hardly changes the text, and with a gate of 0 not at all.

    Args:
        width: D, the width of a token's embedding.

    Source:
        VPD's text adapter, text + gate · MLP(text).
    """

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.gate = nn.Parameter(torch.full((width,), GATE))

    def forward(self, text: Conditioning) -> Conditioning:
        """Shift the embeddings; names and mask stay the same."""
        return replace(text, embeddings=text.embeddings + self.gate * self.mlp(text.embeddings))


def _first_names(words: tuple[tuple[Word, ...], ...] | None, tokens: tuple[tuple[str, ...], ...] | None) -> str:
    """The first words of the first text, or its first tokens; "" if it has neither."""
    named = [word.text for word in words[0]] if words else list(tokens[0]) if tokens else []
    return ", ".join(named[:_SHOWN]) + f" and {len(named) - _SHOWN} more" * (len(named) > _SHOWN)


def _words_at(words: tuple[Word, ...], place: int) -> tuple[Word, ...]:
    """The words that consist of only the token at `place`, as words of a text of one token."""
    return tuple(word._replace(start=0, stop=1) for word in words if (word.start, word.stop) == (place, place + 1))


def _join_tokens(parts: list[Conditioning]) -> tuple[tuple[str, ...], ...] | None:
    if all(part.tokens is None for part in parts):
        return None
    named = [part.tokens or (("",) * part.embeddings.shape[1],) * len(part) for part in parts]
    return tuple(tuple(chain(*names)) for names in zip(*named, strict=True))


def _join_words(parts: list[Conditioning]) -> tuple[tuple[Word, ...], ...] | None:
    if all(part.words is None for part in parts):
        return None
    joined: list[tuple[Word, ...]] = [()] * len(parts[0])
    offset = 0
    for part in parts:
        words = part.words or ((),) * len(part)
        joined = [
            (*before, *(word._replace(start=word.start + offset, stop=word.stop + offset) for word in following))
            for before, following in zip(joined, words, strict=True)
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
