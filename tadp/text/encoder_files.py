"""Load the text encoders of a folder in diffusers layout, one or several, with their tokenizers."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from tadp.errors import CorruptFileError, MissingFileError, ModelError
from tadp.files.hub import weight_files, without_bars
from tadp.files.model_folder import WEIGHTS, missing_part, read_config, tokenizer_part
from tadp.text.encoder import Hidden, TextEncoder
from tadp.text.stack import T5_TOKENS, AnyText, FluxText, SD3Text, T5Encoder, XLText

FLUX_DEV_TOKENS = 512  # schnell, which is not told a guidance, was trained with 256


def load_text(folder: Path, denoiser: Any, *, variant: str | None, dtype: torch.dtype, load_t5: bool = True) -> AnyText:
    """The text encoder, or encoders, that belong to a denoiser.

    Args:
        folder: The model's.
        denoiser: Its class and config say which encoders there are.
        variant: Which weight files.
        dtype: Of the weights.
        load_t5: Whether Stable Diffusion 3's T5 is loaded, if the folder has it.

    Raises:
        MissingFileError: If an encoder, its tokenizer or a file is missing.
        ModelError: If an encoder is of another kind.
    """
    return _text(folder, denoiser, _Reader(variant, dtype), load_t5=load_t5)


def hollow_text(folder: Path, denoiser: Any) -> AnyText:
    """The text encoders that a folder describes, with shapes and no weights."""
    return _text(folder, denoiser, None, load_t5=True)


class _Reader(NamedTuple):
    """How weights are read; None in its place reads none."""

    variant: str | None
    dtype: torch.dtype


def _text(folder: Path, denoiser: Any, reader: _Reader | None, *, load_t5: bool) -> AnyText:
    kind = type(denoiser).__name__
    first, second, third = "text_encoder", "text_encoder_2", "text_encoder_3"
    if kind == "UNet2DConditionModel" and denoiser.config["addition_embed_type"] is None:
        return _clip(folder, first, reader)
    if kind == "UNet2DConditionModel":
        clip = _clip(folder, first, reader, hidden="last but one")
        return XLText({first: clip, second: _clip(folder, second, reader, projected=True, hidden="last but one")})
    if kind == "FluxTransformer2DModel":
        tokens = FLUX_DEV_TOKENS if denoiser.config["guidance_embeds"] else T5_TOKENS
        return FluxText({first: _clip(folder, first, reader), second: _t5(folder, second, reader, max_tokens=tokens)})
    parts = {part: _clip(folder, part, reader, projected=True, hidden="last but one") for part in (first, second)}
    if load_t5 and (folder / tokenizer_part(third)).is_dir() and not (folder / third).is_dir():
        raise MissingFileError(f"no {third}/ in {folder}, which has its tokenizer; pass load_t5=False to go without.")
    if load_t5 and (folder / third).is_dir():
        parts[third] = _t5(folder, third, reader)
    return SD3Text(parts, width=denoiser.config["joint_attention_dim"])


def load_text_encoder(folder: Path, *, variant: str | None, dtype: torch.dtype) -> TextEncoder:
    """The CLIP text encoder in `folder/text_encoder` with the tokenizer in `folder/tokenizer`.

    Raises:
        MissingFileError, CorruptFileError, ModelError: If it does not load whole.
    """
    return _clip(folder, "text_encoder", _Reader(variant, dtype))


def _clip(
    folder: Path, part: str, reader: _Reader | None, *, projected: bool = False, hidden: Hidden = "last"
) -> TextEncoder:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    kind = read_config(folder, part).get("model_type")
    if kind not in ("clip_text_model", "clip"):
        raise ModelError(
            f"{folder / part} holds a {kind!r}; tadp reads CLIP text encoders (Stable Diffusion 1.x, 2.x, XL)."
        )
    tokens = _tokenizer_folder(folder, part)
    model = _model(CLIPTextModelWithProjection if projected else CLIPTextModel, folder / part, reader)
    return TextEncoder(model, CLIPTokenizer.from_pretrained(tokens, local_files_only=True), hidden=hidden)


def _t5(folder: Path, part: str, reader: _Reader | None, *, max_tokens: int = T5_TOKENS) -> T5Encoder:
    from transformers import AutoTokenizer, T5EncoderModel

    kind = read_config(folder, part).get("model_type")
    if kind != "t5":
        raise ModelError(f"{folder / part} holds a {kind!r}, where a T5 encoder belongs. Get the model again.")
    tokens = _tokenizer_folder(folder, part)
    model = _model(T5EncoderModel, folder / part, reader)
    return T5Encoder(model, AutoTokenizer.from_pretrained(tokens, local_files_only=True), max_tokens=max_tokens)


def _model(kind: Any, folder: Path, reader: _Reader | None) -> Any:
    if reader is None:
        with torch.device("meta"):
            return kind(kind.config_class.from_pretrained(folder, local_files_only=True))
    variant, dtype = reader
    weight_files(folder, WEIGHTS["text_encoder"], variant)
    try:
        with without_bars():
            model, info = kind.from_pretrained(
                folder,
                variant=variant,
                use_safetensors=True,
                dtype=dtype,
                local_files_only=True,
                output_loading_info=True,
            )
    except RuntimeError as error:
        raise ModelError(f"the weights in {folder} do not fit its config.json: {error}") from error
    missing = sorted(info["missing_keys"])
    if missing or info["mismatched_keys"]:
        # transformers would go on with random weights
        raise CorruptFileError(
            f"{folder} lacks {len(missing)} weights, {missing[:2]} …; it was saved by another version "
            "of transformers. Save it again with this one."
        )
    for parameter in model.parameters():  # see loading.fill
        parameter.data = parameter.data.clone()
    return model.eval()


def _tokenizer_folder(folder: Path, part: str) -> Path:
    path = folder / tokenizer_part(part)
    if not path.is_dir():
        raise missing_part(folder, tokenizer_part(part))
    # transformers would make a tokenizer without a vocabulary
    if not (path / "tokenizer.json").exists() and not (
        (path / "vocab.json").exists() and (path / "merges.txt").exists()
    ):
        raise MissingFileError(f"no tokenizer.json in {path}, nor vocab.json with merges.txt; get the model again.")
    return path
