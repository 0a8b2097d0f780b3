"""Several text encoders that are one to a backbone, as base models after Stable Diffusion 2 have them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tadp.errors import ModelError
from tadp.text.conditioning import Conditioning
from tadp.text.encoder import TextEncoder, check_captions, distinct

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import CLIPTextModel, CLIPTokenizer

T5_TOKENS = 256  # Stable Diffusion 3 and FLUX.1-schnell, as in diffusers' pipelines; FLUX.1-dev takes 512


class T5Encoder(TextEncoder):
    """A frozen T5 encoder with its tokenizer.

    Args:
        model: A `T5EncoderModel`.
        tokenizer: A fast tokenizer.
        max_tokens: What a text is cut or padded to.
    """

    def __init__(self, model: Any, tokenizer: Any, *, max_tokens: int = T5_TOKENS):
        super().__init__(model, tokenizer)
        self.max_tokens = max_tokens

    @property
    def max_length(self) -> int:
        """Tokens a caption may have, its end included."""
        return self.max_tokens

    @property
    def width(self) -> int:
        """D, the width of an embedding."""
        config: Any = self.model.config
        return config.d_model

    def _names(
        self, text: str, encoding: "Encoding", tokens: Sequence[str], learned: Mapping[str, int]
    ) -> tuple[str, ...]:
        # SentencePiece writes the space before a word as "▁"; a piece without one goes on the word before.
        return tuple(
            token.removeprefix("▁") if token.startswith("▁") or token.startswith("<") else f"##{token}"
            for token in tokens
        )


class TextStack(nn.Module, ABC):
    """Several encoders, each with its tokenizer, that read one caption.

    Args:
        parts: By the name of the encoder's folder in diffusers' layout: "text_encoder", "text_encoder_2" …
    """

    def __init__(self, parts: Mapping[str, TextEncoder]):
        super().__init__()
        self.parts = nn.ModuleDict(parts)

    @property
    @abstractmethod
    def leader(self) -> TextEncoder:
        """The encoder whose limit holds for captions."""

    @property
    @abstractmethod
    def width(self) -> int:
        """D, the width of an embedding."""

    @property
    @abstractmethod
    def length(self) -> int:
        """L, the embeddings of every text."""

    @property
    @abstractmethod
    def pooled_width(self) -> int:
        """P, the width of a text's pooled embedding."""

    @abstractmethod
    def encode(self, texts: list[str], *, mask_padding: bool = False) -> Conditioning:
        """Encode texts as they are, cut if they are too long."""

    @property
    def max_length(self) -> int:
        """Tokens a caption may have, start and end included."""
        return self.leader.max_length

    @property
    def tokenizer(self) -> Any:
        """The leader's."""
        return self.leader.tokenizer

    def count_tokens(self, captions: Sequence[str]) -> list[int]:
        """Tokens of each caption to the leader, start and end included."""
        return self.leader.count_tokens(captions)

    def forward(
        self, captions: str | Sequence[str], *, truncate: bool = False, mask_padding: bool = False
    ) -> Conditioning:
        """Encode captions; the same caption is encoded once. See `TextEncoder.forward`."""
        texts = check_captions(captions)
        unique, position = distinct(texts)
        self.leader.check_length(texts, self.leader.count_tokens(texts), truncate=truncate)
        self.leader.tell_of_unknown(unique)
        return self.encode(unique, mask_padding=mask_padding).take(position)

    def _part(self, name: str) -> TextEncoder:
        part: Any = self.parts[name]
        return part


AnyText = TextEncoder | TextStack


def text_encoder_of(model: "CLIPTextModel | AnyText | None", tokenizer: "CLIPTokenizer | None") -> AnyText | None:
    """A CLIP text model with its tokenizer as one; what is one already, or none, as it is.

    Raises:
        ModelError: If one of the two is missing.
    """
    if isinstance(model, AnyText):
        return model
    if (model is None) != (tokenizer is None):
        raise ModelError("a text encoder and its tokenizer come together; one of them is None.")
    return None if model is None or tokenizer is None else TextEncoder(model, tokenizer)


def only_encoder(encoder: AnyText) -> TextEncoder:
    """The one text encoder of a model that has no other.

    Raises:
        ModelError: If it has several.
    """
    if isinstance(encoder, TextEncoder):
        return encoder
    raise ModelError(
        f"this takes a model with one text encoder (Stable Diffusion 1.x, 2.x); this one has {len(encoder.parts)}."
    )


def beside(
    one: TextEncoder, other: TextEncoder, texts: list[str], *, mask_padding: bool, both_pooled: bool = False
) -> Conditioning:
    """Two encoders of the same tokens, joined along the width; the pooled embeddings of both, or of the other."""
    first = one.encode(texts, mask_padding=mask_padding, keep_pooled=True)
    second = other.encode(texts, keep_pooled=True)
    pooled = [part.pooled for part in ((first, second) if both_pooled else (second,)) if part.pooled is not None]
    embeddings = torch.cat([first.embeddings, second.embeddings.to(first.embeddings)], dim=2)
    return replace(first, embeddings=embeddings, pooled=torch.cat(pooled, dim=1))


def projected_width(encoder: TextEncoder) -> int:
    """Width of what a CLIPTextModelWithProjection pools."""
    config: Any = encoder.model.config
    return config.projection_dim


def check_clips(parts: nn.ModuleDict) -> None:
    """Two CLIPs whose tokenizers split text the same way, or a ModelError."""
    one, other = (_vocabulary(parts[name]) for name in ("text_encoder", "text_encoder_2"))
    if one != other:
        raise ModelError("tokenizer/ and tokenizer_2/ have different vocabularies; use those that came with the model.")


def _vocabulary(encoder: Any) -> dict[str, int]:
    return encoder.tokenizer.get_vocab()
