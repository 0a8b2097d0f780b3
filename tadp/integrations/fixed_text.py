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
    """

    def __init__(self) -> None:
        self._encoded: Conditioning | None = None
        self._weights: list[tuple[Tensor, int]] = []

    def __reduce__(self) -> tuple[type["FixedText"], tuple[()]]:
        return FixedText, ()

    def encode(self, backbone: TADPBackbone) -> Conditioning:
        """Encode the text now, and keep it for graphs."""
        with torch.inference_mode(False):  # a graph may also train
            encoded = backbone.encode_text([backbone.default_text or ""])
        self._encoded, self._weights = encoded, [(weight, _version(weight)) for weight in _weights(backbone)]
        return encoded

    def prepare(self, backbone: TADPBackbone) -> None:
        """Encode the text for a graph, if calls without text get it and the text encoder has its weights here."""
        if backbone.uses_default_text and _can_encode(backbone):
            self.encode(backbone)

    def of(self, backbone: TADPBackbone) -> Conditioning | None:
        """The text of a call of a pyramid; None if the call finds another one, such as that of a block."""
        if not backbone.uses_default_text or backbone.text_encoder is None:
            return None
        if not makes_graph():
            return self.encode(backbone) if _can_encode(backbone) else None
        pooled = None if backbone.layout.pooled_width is None else _constant(self, backbone, "pooled")
        text = Conditioning(_constant(self, backbone, "embeddings"), pooled=pooled)
        if not backbone.pool_attention or self._encoded is None:
            return text  # only pooling reads the names of tokens
        return replace(text, tokens=self._encoded.tokens, words=self._encoded.words)

    def for_graph(self, backbone: TADPBackbone) -> Conditioning:
        """The encoded text, for a graph that is being made.

        Raises:
            ModelError: If the text was not encoded, or the text encoder has changed since, and it cannot compute now.
        """
        weights = _weights(backbone)
        if not is_tracing() and not any(isinstance(weight, FakeTensor) for weight in weights):
            return self.encode(backbone)
        known = [weight for weight, _ in self._weights]
        is_current = [weight.shape for weight in weights] == [weight.shape for weight in known] and all(
            _version(weight) == version for weight, version in self._weights
        )
        if self._encoded is None or not is_current:
            raise ModelError(
                f"the text {backbone.default_text!r} was not encoded since the text encoder changed, and cannot be "
                "encoded while a graph is made; call model.eval() or model(images) first."
            )
        return self._encoded


@torch.compiler.assume_constant_result
def _constant(text: FixedText, backbone: TADPBackbone, name: str) -> Tensor:
    return getattr(text.for_graph(backbone), name)


def _weights(backbone: TADPBackbone) -> list[Tensor]:
    return [] if backbone.text_encoder is None else list(backbone.text_encoder.parameters())


def _can_encode(backbone: TADPBackbone) -> bool:
    """Whether the text encoder has its weights here, now: not on the meta device, and not in shards."""
    weights = _weights(backbone)
    return bool(weights) and not any(weight.is_meta or is_sharded(weight) for weight in weights)


def _version(weight: Tensor) -> int:
    """A number that changes with every change of a tensor in place."""
    return 0 if weight.is_inference() else weight._version
