"""One text for all images in the graphs of torch.compile, torch.export and ONNX, which have no text encoder."""

from dataclasses import replace

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from tadp.backbone import TADPBackbone
from tadp.errors import ModelError
from tadp.files.inference import is_tracing, makes_graph
from tadp.files.sharding import is_sharded
from tadp.text.conditioning import Conditioning


class FixedText:
    """The default text of a backbone, as it was encoded last. A graph contains it as a constant.

    While torch.export or TorchScript traces a model, its text encoder does not compute, or would become a part of the
    graph. So the text is encoded before: by every call, and by `eval()`. Copies of it are empty.

    Args:
        backbone: The backbone whose text it is.
    """

    def __init__(self, backbone: TADPBackbone) -> None:
        self._backbone = backbone
        self._encoded: Conditioning | None = None
        self._weights: list[tuple[Tensor, int]] = []

    def __reduce__(self) -> tuple[type["FixedText"], tuple[TADPBackbone]]:
        return FixedText, (self._backbone,)

    def encode(self) -> Conditioning:
        """Encode the text now, and keep it for graphs."""
        with torch.inference_mode(False):  # a graph may also train
            encoded = self._backbone.encode_text([self._backbone.default_text or ""])
        self._encoded, self._weights = encoded, [(weight, _version(weight)) for weight in _weights(self._backbone)]
        return encoded

    def prepare(self) -> None:
        """Encode the text for a graph, if calls without text get it and the text encoder has its weights here."""
        if self._backbone.uses_default_text and _can_encode(self._backbone):
            self.encode()

    def of_call(self) -> Conditioning | None:
        """The text of a call of a pyramid; None if the call finds another one, such as that of a block."""
        backbone = self._backbone
        if not backbone.uses_default_text or backbone.text_encoder is None:
            return None
        if not makes_graph():
            return self.encode() if _can_encode(backbone) else None
        pooled = None if backbone.layout.pooled_width is None else self._constant("pooled")
        text = Conditioning(self._constant("embeddings"), pooled=pooled)
        if not backbone.options.pool_attention or self._encoded is None:
            return text  # only pooling reads the names of tokens
        return replace(text, tokens=self._encoded.tokens, words=self._encoded.words)

    @torch.compiler.assume_constant_result
    def _constant(self, name: str) -> Tensor:
        return getattr(self.for_graph(), name)

    def for_graph(self) -> Conditioning:
        """The encoded text, for a graph that is being made.

        Raises:
            ModelError: If the text was not encoded, or the text encoder has changed since, and it cannot compute now.
        """
        weights = _weights(self._backbone)
        if not is_tracing() and not any(isinstance(weight, FakeTensor) for weight in weights):
            return self.encode()
        known = [weight for weight, _ in self._weights]
        is_current = [weight.shape for weight in weights] == [weight.shape for weight in known] and all(
            _version(weight) == version for weight, version in self._weights
        )
        if self._encoded is None or not is_current:
            raise ModelError(
                f"the text {self._backbone.default_text!r} was not encoded since the text encoder changed, and cannot "
                "be encoded while a graph is made; call model.eval() or model(images) first."
            )
        return self._encoded


def _weights(backbone: TADPBackbone) -> list[Tensor]:
    return [] if backbone.text_encoder is None else list(backbone.text_encoder.parameters())


def _can_encode(backbone: TADPBackbone) -> bool:
    """Whether the text encoder has its weights here, now: not on the meta device, and not in shards."""
    weights = _weights(backbone)
    return bool(weights) and not any(weight.is_meta or is_sharded(weight) for weight in weights)


def _version(weight: Tensor) -> int:
    """A number that changes with every change of a tensor in place."""
    return 0 if weight.is_inference() else weight._version
