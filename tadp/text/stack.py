"""Several text encoders that are one to a backbone: those of Stable Diffusion XL, Stable Diffusion 3 and FLUX."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
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


class XLText(TextStack):
    """Stable Diffusion XL: two CLIPs beside each other, and what the second one pools.

    Args:
        parts: "text_encoder", a CLIPTextModel, and "text_encoder_2", a CLIPTextModelWithProjection; each gives its last
            hidden state but one.

    Raises:
        ModelError: If the tokenizers split text differently.
    """

    def __init__(self, parts: Mapping[str, TextEncoder]):
        super().__init__(parts)
        _check_clips(self.parts)

    @property
    def leader(self) -> TextEncoder:
        """CLIP-L; both read the same tokens."""
        return self._part("text_encoder")

    @property
    def width(self) -> int:
        """768 + 1280."""
        return self.leader.width + self._part("text_encoder_2").width

    @property
    def length(self) -> int:
        """77."""
        return self.leader.length

    @property
    def pooled_width(self) -> int:
        """1280."""
        return _projected(self._part("text_encoder_2"))

    def encode(self, texts: list[str], *, mask_padding: bool = False) -> Conditioning:
        """Embeddings (B, 77, 2048), pooled (B, 1280)."""
        return _beside(self.leader, self._part("text_encoder_2"), texts, mask_padding=mask_padding)


class SD3Text(TextStack):
    """Stable Diffusion 3: XL's two CLIPs, and after their tokens those of T5.

    Args:
        parts: "text_encoder" and "text_encoder_2", each a CLIPTextModelWithProjection, and "text_encoder_3", a T5, or
            not: then its embeddings are zero, as in diffusers.
        width: D, to which CLIP's embeddings are padded with zeros.

    Raises:
        ModelError: If the CLIP tokenizers split text differently.
    """

    def __init__(self, parts: Mapping[str, TextEncoder], *, width: int):
        super().__init__(parts)
        self._width = width
        _check_clips(self.parts)

    @property
    def leader(self) -> TextEncoder:
        """CLIP-L: a caption fits when all encoders read the whole of it."""
        return self._part("text_encoder")

    @property
    def width(self) -> int:
        """4096, which is T5's."""
        return self._width

    @property
    def length(self) -> int:
        """77 + 256."""
        return self.leader.length + (
            self._part("text_encoder_3").length if "text_encoder_3" in self.parts else T5_TOKENS
        )

    @property
    def pooled_width(self) -> int:
        """768 + 1280."""
        return _projected(self.leader) + _projected(self._part("text_encoder_2"))

    def encode(self, texts: list[str], *, mask_padding: bool = False) -> Conditioning:
        """Embeddings (B, 333, 4096), pooled (B, 2048); each word stands among CLIP's tokens and among T5's."""
        clip = _beside(self.leader, self._part("text_encoder_2"), texts, mask_padding=mask_padding, both_pooled=True)
        clip = replace(clip, embeddings=F.pad(clip.embeddings, (0, self._width - clip.embeddings.shape[2])))
        if "text_encoder_3" in self.parts:
            return clip.join(self._part("text_encoder_3").encode(texts, mask_padding=mask_padding))
        return clip.join(Conditioning(clip.embeddings.new_zeros(len(texts), T5_TOKENS, self._width)))


class FluxText(TextStack):
    """FLUX: the tokens are T5's; CLIP gives the pooled embedding alone.

    Args:
        parts: "text_encoder", a CLIPTextModel, and "text_encoder_2", a T5.
    """

    @property
    def leader(self) -> TextEncoder:
        """T5; CLIP's pooled embedding is of a caption's first 77 tokens."""
        return self._part("text_encoder_2")

    @property
    def width(self) -> int:
        """4096."""
        return self.leader.width

    @property
    def length(self) -> int:
        """512, for FLUX.1-schnell 256."""
        return self.leader.length

    @property
    def pooled_width(self) -> int:
        """768."""
        return self._part("text_encoder").width

    def encode(self, texts: list[str], *, mask_padding: bool = False) -> Conditioning:
        """Embeddings (B, 512, 4096), pooled (B, 768)."""
        pooled = self._part("text_encoder").encode(texts, keep_pooled=True).pooled
        return replace(self.leader.encode(texts, mask_padding=mask_padding), pooled=pooled)


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


def _beside(
    one: TextEncoder, other: TextEncoder, texts: list[str], *, mask_padding: bool, both_pooled: bool = False
) -> Conditioning:
    """Two encoders of the same tokens, joined along the width; the pooled embeddings of both, or of the other."""
    first = one.encode(texts, mask_padding=mask_padding, keep_pooled=True)
    second = other.encode(texts, keep_pooled=True)
    pooled = [part.pooled for part in ((first, second) if both_pooled else (second,)) if part.pooled is not None]
    embeddings = torch.cat([first.embeddings, second.embeddings.to(first.embeddings)], dim=2)
    return replace(first, embeddings=embeddings, pooled=torch.cat(pooled, dim=1))


def _projected(encoder: TextEncoder) -> int:
    config: Any = encoder.model.config
    return config.projection_dim


def _check_clips(parts: nn.ModuleDict) -> None:
    one, other = (_vocabulary(parts[name]) for name in ("text_encoder", "text_encoder_2"))
    if one != other:
        raise ModelError("tokenizer/ and tokenizer_2/ have different vocabularies; use those that came with the model.")


def _vocabulary(encoder: Any) -> dict[str, int]:
    return encoder.tokenizer.get_vocab()
