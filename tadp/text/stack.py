"""Several text encoders that act as one for a backbone, as in base models after Stable Diffusion 2."""

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

T5_TOKENS = 256  # for Stable Diffusion 3 and FLUX.1-schnell, as in diffusers' pipelines; FLUX.1-dev takes 512


class T5Encoder(TextEncoder):
    """A frozen T5 encoder with its tokenizer.

    Args:
        model: A `T5EncoderModel`.
        tokenizer: A fast tokenizer.
        max_tokens: The number of tokens to which a text is cut or padded.
    """

    def __init__(self, model: Any, tokenizer: Any, *, max_tokens: int = T5_TOKENS):
        super().__init__(model, tokenizer)
        self.max_tokens = max_tokens

    @property
    def max_length(self) -> int:
        """The most tokens that a caption may have, including the end token."""
        return self.max_tokens

    @property
    def width(self) -> int:
        """D, the width of an embedding."""
        config: Any = self.model.config
        return config.d_model

    def _names(
        self, text: str, encoding: "Encoding", tokens: Sequence[str], learned: Mapping[str, int]
    ) -> tuple[str, ...]:
        # SentencePiece writes the space before a word as "▁"; a piece without it continues the previous word.
        return tuple(
            token.removeprefix("▁") if token.startswith("▁") or token.startswith("<") else f"##{token}"
            for token in tokens
        )


class TextStack(nn.Module, ABC):
    """Several encoders, each with its tokenizer, that read one caption.

    Args:
        parts: The encoders by their subfolder in diffusers' layout: "text_encoder", "text_encoder_2" …
    """

    def __init__(self, parts: Mapping[str, TextEncoder]):
        super().__init__()
        self.parts = nn.ModuleDict(parts)

    @property
    @abstractmethod
    def leader(self) -> TextEncoder:
        """The encoder whose token limit applies to captions."""

    @property
    @abstractmethod
    def width(self) -> int:
        """D, the width of an embedding."""

    @property
    @abstractmethod
    def length(self) -> int:
        """L, the number of embeddings of every text."""

    @property
    @abstractmethod
    def pooled_width(self) -> int:
        """P, the width of a text's pooled embedding."""

    @abstractmethod
    def encode(self, texts: list[str], *, mask_padding: bool = False) -> Conditioning:
        """Encode texts without checking them; texts that are too long are cut."""

    @property
    def max_length(self) -> int:
        """The most tokens that a caption may have, including start and end token."""
        return self.leader.max_length

    @property
    def tokenizer(self) -> Any:
        """The leader's tokenizer."""
        return self.leader.tokenizer

    def count_tokens(self, captions: Sequence[str]) -> list[int]:
        """The number of tokens that the leader counts in each caption, including start and end token."""
        return self.leader.count_tokens(captions)

    def forward(
        self, captions: str | Sequence[str], *, truncate: bool = False, mask_padding: bool = False
    ) -> Conditioning:
        """Encode captions; repeated captions are encoded only once. See `TextEncoder.forward`."""
        texts = check_captions(captions)
        unique, position = distinct(texts)
        self.leader.check_length(texts, self.leader.count_tokens(texts), truncate=truncate)
        self.leader.warn_about_unknown_tokens(unique)
        return self.encode(unique, mask_padding=mask_padding).take(position)

    def _part(self, name: str) -> TextEncoder:
        part: Any = self.parts[name]
        return part


AnyText = TextEncoder | TextStack


def text_encoder_of(model: "CLIPTextModel | AnyText | None", tokenizer: "CLIPTokenizer | None") -> AnyText | None:
    """Combine a CLIP text model and its tokenizer into one text encoder.

    Args:
        model: A CLIP text model of transformers; or a `TextEncoder` or `TextStack`, which is returned unchanged.
        tokenizer: The CLIP text model's tokenizer.

    Returns:
        The text encoder; None if both arguments are None.

    Raises:
        ModelError: If a CLIP text model is passed without a tokenizer, or a tokenizer without a model.
    """
    if isinstance(model, AnyText):
        return model
    if (model is None) != (tokenizer is None):
        raise ModelError("a text encoder and its tokenizer must be passed together; one of them is None.")
    return None if model is None or tokenizer is None else TextEncoder(model, tokenizer)


def only_encoder(encoder: AnyText) -> TextEncoder:
    """The text encoder of a model that has only one.

    Raises:
        ModelError: If the model has several.
    """
    if isinstance(encoder, TextEncoder):
        return encoder
    raise ModelError(
        f"this needs a model with one text encoder (Stable Diffusion 1.x, 2.x); the model has {len(encoder.parts)}."
    )


def clip_encoders(encoder: AnyText | None) -> list[TextEncoder]:
    """The CLIP text encoders among a backbone's text encoders, in order."""
    parts: Any = encoder.parts.values() if isinstance(encoder, TextStack) else [encoder]
    return [part for part in parts if isinstance(part, TextEncoder) and not isinstance(part, T5Encoder)]


def encode_side_by_side(
    first: TextEncoder, second: TextEncoder, texts: list[str], *, mask_padding: bool, both_pooled: bool = False
) -> Conditioning:
    """Encode texts with two encoders that share tokens, and concatenate their embeddings along the width.

    The pooled embedding is that of the second encoder or, if `both_pooled`, those of both.
    """
    left = first.encode(texts, mask_padding=mask_padding, keep_pooled=True)
    right = second.encode(texts, keep_pooled=True)
    pooled = [part.pooled for part in ((left, right) if both_pooled else (right,)) if part.pooled is not None]
    embeddings = torch.cat([left.embeddings, right.embeddings.to(left.embeddings)], dim=2)
    return replace(left, embeddings=embeddings, pooled=torch.cat(pooled, dim=1))


def projected_width(encoder: TextEncoder) -> int:
    """The width of the pooled embedding of a CLIPTextModelWithProjection."""
    config: Any = encoder.model.config
    return config.projection_dim


def check_clips(parts: nn.ModuleDict) -> None:
    """Check that the tokenizers of two CLIPs split text in the same way; otherwise raise a ModelError."""
    first, second = (_vocabulary(parts[name]) for name in ("text_encoder", "text_encoder_2"))
    if first != second:
        raise ModelError("tokenizer/ and tokenizer_2/ have different vocabularies; use those that came with the model.")


def _vocabulary(encoder: Any) -> dict[str, int]:
    return encoder.tokenizer.get_vocab()
