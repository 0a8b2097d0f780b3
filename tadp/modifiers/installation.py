"""Put learned tokens and a U-Net into a backbone, and take them out again."""

import copy
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tadp.backbone import TADPBackbone
from tadp.diffusion.families import family_of
from tadp.errors import ModifierError
from tadp.files.diffusers_hooks import kept_small
from tadp.files.hub import Source
from tadp.text.encoder import TextEncoder
from tadp.text.learned_tokens import LearnedToken, add_token
from tadp.text.stack import AnyText, TextStack, clip_encoders


class Installation:
    """A modifier's changes to a backbone. `undo()` or the end of a `with` block reverts them.

    The backbone then has its own tokenizer, embedding matrix and U-Net again, bit for bit.
    """

    def __init__(self, backbone: TADPBackbone, before: "_State"):
        self._backbone = backbone
        self._before: _State | None = before
        self._after = _State.of(backbone)

    def undo(self) -> None:
        """Revert the installation. A second call does nothing.

        Raises:
            ModifierError: If another modifier was installed later and is still installed.
        """
        if self._before is None:
            return
        now = _State.of(self._backbone)
        for original, installed, current in zip(self._before.parts(), self._after.parts(), now.parts(), strict=True):
            if original is not installed and current is not installed:
                raise ModifierError(
                    "the backbone's tokens or U-Net were changed after this modifier was installed; first undo what "
                    "was installed later."
                )
        self._before.restore(self._backbone, self._after)
        self._before = None

    def __enter__(self) -> "Installation":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.undo()


def install(backbone: TADPBackbone, tokens: list[LearnedToken], unet: nn.Module | None) -> Installation:
    """Add tokens to a backbone's text encoder and replace its U-Net by a copy of `unet`. On failure nothing is changed.

    Args:
        backbone: The backbone to change.
        tokens: The learned tokens to add, which may be none.
        unet: The U-Net to copy; None keeps the backbone's own.

    Raises:
        ModifierError: If a token is already in the vocabulary, if its vectors have another width than the text encoder,
            if the backbone has no text encoder to which a token can be added, or if `unet` has another shape than the
            backbone's U-Net.
    """
    before = _State.of(backbone)
    try:
        for token, vectors in tokens:
            if backbone.text_encoder is None:
                raise ModifierError(f"this backbone has no text encoder to learn {token!r}; load it with one.")
            _add(backbone.text_encoder, token, vectors)
        if unet is not None:
            _swap_unet(backbone, unet)
    except BaseException:
        before.restore(backbone, _State.of(backbone))
        raise
    return Installation(backbone, before)


def _add(encoder: AnyText, token: str, vectors: Tensor) -> None:
    """Add a token to a text encoder, or to each of several, whose vectors are side by side along the width."""
    encoders = clip_encoders(encoder)
    if isinstance(encoder, TextStack) and len(encoders) < len(encoder.parts):
        raise ModifierError(
            f"tokens can only be added to CLIP text encoders, and this backbone also has another; {token!r} cannot be "
            "installed."
        )
    widths = [_weight(part).shape[1] for part in encoders]
    if len(encoders) > 1 and vectors.shape[1] != sum(widths):
        raise ModifierError(
            f"this backbone has several text encoders, and {token!r} was learned for one. It takes a token with "
            f"vectors for each, {' + '.join(map(str, widths))} wide; got {vectors.shape[1]}."
        )
    shares = vectors.split(widths, dim=1) if len(encoders) > 1 else [vectors]
    for part, share in zip(encoders, shares, strict=True):
        add_token(part, token, share)


class _State(NamedTuple):
    """The parts that an installation may change, compared by identity."""

    encoders: tuple[tuple[Any, Tensor], ...]  # tokenizer and input embeddings of each CLIP text encoder
    unet: nn.Module
    source: Source | None

    @classmethod
    def of(cls, backbone: TADPBackbone) -> "_State":
        pairs = tuple((encoder.tokenizer, _weight(encoder)) for encoder in clip_encoders(backbone.text_encoder))
        return cls(pairs, backbone.unet, backbone.source)

    def parts(self) -> list[Any]:
        return [self.unet, self.source, *(part for pair in self.encoders for part in pair)]

    def restore(self, backbone: TADPBackbone, changed: "_State") -> None:
        """Put back the parts that differ from `changed`, on the backbone's current device."""
        if self.unet is not changed.unet:
            unet: Any = self.unet
            backbone.unet = _moved(unet, backbone).train(backbone.unet.training)
            backbone._source = self.source
        encoders = clip_encoders(backbone.text_encoder)
        for encoder, (tokenizer, weight), (_, current) in zip(encoders, self.encoders, changed.encoders, strict=True):
            if weight is current:
                continue
            embedding: Any = encoder.model.get_input_embeddings()
            weight.data = weight.data.to(current.device, current.dtype)
            embedding.weight = weight
            embedding.num_embeddings = encoder.model.config.vocab_size = len(weight)
            encoder.tokenizer = tokenizer


def _weight(encoder: TextEncoder) -> Tensor:
    embedding: Any = encoder.model.get_input_embeddings()
    return embedding.weight


def _swap_unet(backbone: TADPBackbone, unet: nn.Module) -> None:
    family = family_of(unet)
    layout = family.read_layout(unet, backbone.blocks)
    if family.name != backbone.family.name or layout != backbone.layout:
        raise ModifierError(
            f"the modifier's U-Net ({family.name}: {layout}) has another shape than the backbone's "
            f"({backbone.family.name}: {backbone.layout}); it was fine-tuned from another model."
        )
    old = backbone.unet
    if way := kept_small(old):
        raise ModifierError(
            f"the modifier's own U-Net cannot replace that of this backbone, which is {way}. Load the backbone without "
            "the argument that saves memory, or pass unet= with the folder of a tuned U-Net to from_pretrained."
        )
    new: Any = _moved(copy.deepcopy(unet), backbone)
    if not all(parameter.is_contiguous() for parameter in old.parameters()):
        new.to(memory_format=torch.channels_last)
    # ".base_layer" is in the names of layers with a LoRA
    trains = {name.replace(".base_layer", ""): value.requires_grad for name, value in old.named_parameters()}
    for name, parameter in new.named_parameters():
        parameter.requires_grad_(trains.get(name, False))
    family.prepare(new, layout)
    if family.is_checkpointed(old):
        family.set_checkpointing(new, True)
    backbone.unet = new.train(old.training)
    backbone._source = backbone.source and backbone.source.without("unet")  # so that a task model saves it


def _moved(unet: nn.Module, backbone: TADPBackbone) -> Any:
    """A U-Net on a backbone's device and in its dtype."""
    # diffusers' own `to` warns about layers that stay in float32, but lists none. `backbone.to` casts all layers too.
    return nn.Module.to(unet, backbone.device, backbone.dtype)
