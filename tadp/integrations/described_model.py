"""A base model as JSON values, which a `TADPConfig` contains, and from which a backbone is built without files."""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from tokenizers import Tokenizer
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5EncoderModel,
)

from tadp.backbone import TADPBackbone
from tadp.backbone.options import check_levels
from tadp.diffusion.families import family_of, family_of_config
from tadp.diffusion.loading.networks import hollow_denoiser, hollow_text, hollow_vae
from tadp.diffusion.noise import read_scheduler
from tadp.diffusion.vae import encoder_of
from tadp.errors import ModelError
from tadp.files.building import Sizes, check_entries, explained, limited
from tadp.files.hub import read_json
from tadp.files.model_folder import CONFIG_NAME, model_folder, read_config, tokenizer_part
from tadp.files.pretrained import config_of
from tadp.files.reader_configs import check_patterns
from tadp.files.schema import check_types
from tadp.integrations.pyramid import Stride4
from tadp.text.encoder import Hidden, TextEncoder
from tadp.text.encoder_files import TextFiles
from tadp.text.stack import T5_TOKENS, T5Encoder, TextStack

PLACE = Path("this TADPConfig")  # its parts have no file of their own
_LARGEST_TOKENIZER = 2**26  # bytes; CLIP has 3 million
# Limits for a network without weights, of which FLUX is the largest, and for one whose weights are made at random.
_LARGEST_HOLLOW = Sizes(tensors=2**12, elements=2**34, largest=2**17)
_LARGEST = Sizes(tensors=2**12, elements=2**30, largest=2**17)
_TOKENIZER_OPTIONS = ("model_max_length", "bos_token", "eos_token", "unk_token", "pad_token")
_VAES: dict[str, Any] = {kind.__name__: kind for kind in (AutoencoderKL, AutoencoderTiny)}


def describe(base_model: str) -> dict[str, Any]:
    """Read the configs of a base model's parts, its tokenizers and scheduler, and the options saved with it.

    Args:
        base_model: Name, folder or hub id of a base model of any registered family.

    Returns:
        The configs of the denoiser, whose key is always "unet", and of "vae", "text_encoder" and so on; the tokenizers,
        with their vocabularies; "reduction", the strides of the levels in latent cells; "scheduler"; and "options".

    Raises:
        UnknownModelError: If there is no such base model.
        ModelError: If a part is of an unknown kind.
    """
    folder = model_folder(base_model)
    saved = read_json(folder / CONFIG_NAME) if (folder / CONFIG_NAME).exists() else {}
    denoiser = hollow_denoiser(folder)
    hollow_vae(folder)  # refuses a kind of VAE that tadp does not read
    family = family_of(denoiser)
    parts: dict[str, Any] = {"unet": read_config(folder, family.part), "vae": read_config(folder, "vae")}
    if saved.get("has_text_encoder", True):
        text = hollow_text(folder, denoiser)
        encoders: Any = text.parts if isinstance(text, TextStack) else {family.text_parts[0]: text}
        for part, encoder in encoders.items():
            parts[part] = read_config(folder, part)
            parts[tokenizer_part(part)] = _pack(encoder.tokenizer)
    parts["reduction"] = list(family.layout(denoiser).reduction)
    return parts | {"scheduler": read_scheduler(folder), "options": saved.get("options", {})}


def build(parts: Mapping[str, Any], options: Mapping[str, Any], *, is_hollow: bool) -> TADPBackbone:
    """Build the backbone that `describe` described.

    Args:
        parts: The description.
        options: Options of `TADPBackbone`.
        is_hollow: Whether the weights have no values, because the default device is "meta". If false, they are random.

    Raises:
        ModelError: If the description is not that of a backbone, or one of its sizes is above those of any base model.
    """
    largest = _LARGEST_HOLLOW if is_hollow else _LARGEST
    for part in ("unet", "vae", *_text_parts(parts)):
        check_entries(parts.get(part, {}), PLACE / part, largest)
    with explained(PLACE, parts, what="a backbone"), limited(largest):
        family = family_of_config(parts["unet"], Path("the base of this TADPConfig"))
        denoiser = family.build(parts["unet"])
        text = family.text(_DescribedText(parts), denoiser) if _text_parts(parts) else None
        vae = encoder_of(_vae_class(parts["vae"]).from_config(parts["vae"]))
    return TADPBackbone(vae=vae, unet=denoiser, text_encoder=text, scheduler=parts.get("scheduler"), **options)


def stage_names(parts: Mapping[str, Any] | None, stride4: Stride4 | None, levels: Sequence[int] | None) -> list[str]:
    """Names of the maps of a `Pyramid` on a described base model, finest first: "stride4", "stride8" and so on."""
    if parts is None:
        return []
    kind = _vae_class(parts["vae"])
    check_types(parts["vae"], kind, PLACE / "vae")
    widths = parts["vae"]["block_out_channels" if kind is AutoencoderKL else "encoder_block_out_channels"]
    finest = 2 ** (len(widths) - 1)
    strides = {level: finest * cells for level, cells in enumerate(parts["reduction"])}
    chosen = strides if levels is None else check_levels(levels, strides)
    return [f"stride{stride}" for stride in ([finest // 2] if stride4 else []) + [strides[level] for level in chosen]]


class _DescribedText(TextFiles):
    """Builds the text encoders that a base model's family asks for from a description instead of a folder."""

    def __init__(self, parts: Mapping[str, Any]):
        self._parts = parts

    def clip(self, part: str, *, projected: bool = False, hidden: Hidden = "last") -> TextEncoder:
        kind: Any = CLIPTextModelWithProjection if projected else CLIPTextModel
        return TextEncoder(self._described(kind, part), self._tokenizer(CLIPTokenizer, part), hidden=hidden)

    def t5(self, part: str, *, max_tokens: int = T5_TOKENS) -> T5Encoder:
        model = self._described(T5EncoderModel, part)
        return T5Encoder(model, self._tokenizer(PreTrainedTokenizerFast, part), max_tokens=max_tokens)

    def has_t5(self, part: str) -> bool:
        return part in self._parts

    def _described(self, kind: Any, part: str) -> Any:
        return kind(config_of(kind.config_class, self._parts[part])).eval()

    def _tokenizer(self, kind: Any, part: str) -> Any:
        return _unpack(self._parts[tokenizer_part(part)], kind)


def _text_parts(parts: Mapping[str, Any]) -> list[str]:
    return [name for name in parts if name.startswith("text_encoder")]


def _vae_class(config: Mapping[str, Any]) -> Any:
    kind = config.get("_class_name", AutoencoderKL.__name__)
    if kind not in _VAES:
        raise ModelError(f"{PLACE} describes a VAE of the class {kind!r}; tadp reads {', '.join(_VAES)}.")
    return _VAES[kind]


def _pack(tokenizer: Any) -> dict[str, Any]:
    content = tokenizer.backend_tokenizer.to_str().encode()
    options = {name: getattr(tokenizer, name) for name in _TOKENIZER_OPTIONS}
    return options | {"content": base64.b85encode(zlib.compress(content, 9)).decode()}


def _unpack(packed: Mapping[str, Any], kind: Any) -> Any:
    unpacked = zlib.decompressobj()
    content = unpacked.decompress(base64.b85decode(packed["content"]), _LARGEST_TOKENIZER).decode()
    if unpacked.unconsumed_tail:
        raise ModelError(f"the tokenizer in {PLACE} is larger than {_LARGEST_TOKENIZER} bytes; get it again.")
    options = {name: packed[name] for name in _TOKENIZER_OPTIONS}
    check_patterns(json.loads(content), PLACE)
    return kind(tokenizer_object=Tokenizer.from_str(content), **options)
