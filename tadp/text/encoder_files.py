"""Load the text encoders of a folder in diffusers layout, with their tokenizers."""

from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch

from tadp.errors import CorruptFileError, MissingFileError, ModelError
from tadp.files.building import build
from tadp.files.checks import refuse_pointer
from tadp.files.hub import part_variant, read_json, weight_files
from tadp.files.model_folder import WEIGHTS, missing_part, read_config, read_tensors, tokenizer_part
from tadp.files.pretrained import config_of, load_reader, load_weights
from tadp.files.schema import HINT, shown
from tadp.files.weight_values import check_finite
from tadp.text.encoder import Hidden, TextEncoder
from tadp.text.stack import T5_TOKENS, T5Encoder


class TextFiles:
    """Reads the text encoders of one model folder. The code of a model family calls `clip` or `t5` for each encoder.

    Args:
        folder: A model folder in diffusers' layout.
        variant: Variant of the weight files, such as "fp16"; None for files without a variant.
        dtype: The dtype of the loaded weights. None reads no weights: the encoders then only have shapes.
        load_t5: Whether to load a T5 encoder that the model can work without, as in Stable Diffusion 3.
        quantization: Quantization configs of transformers, by subfolder; None quantizes nothing.
    """

    def __init__(
        self,
        folder: Path,
        *,
        variant: str | None = None,
        dtype: torch.dtype | None = None,
        load_t5: bool = True,
        quantization: Mapping[str, Any] | None = None,
    ):
        self._folder, self._variant, self._dtype, self._load_t5 = folder, variant, dtype, load_t5
        self._quantization = quantization or {}

    def clip(self, part: str, *, projected: bool = False, hidden: Hidden = "last") -> TextEncoder:
        """Load a CLIP text encoder with its tokenizer.

        Args:
            part: Name of the encoder's subfolder, such as "text_encoder_2", whose tokenizer is in "tokenizer_2".
            projected: Whether the encoder projects its pooled embedding.
            hidden: The hidden state that is used as the embedding, the last one by default; see `TextEncoder`.

        Raises:
            MissingFileError, CorruptFileError, ModelError: If a file is missing or damaged, or weights do not fit the
                encoder's config.
        """
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        kind = read_config(self._folder, part).get("model_type")
        if kind not in ("clip_text_model", "clip"):
            raise ModelError(
                f"{self._folder / part} holds a {shown(kind)}; tadp reads CLIP text encoders (Stable Diffusion 1.x, "
                "2.x, XL). Check model_type in its config.json."
            )
        tokens = _tokenizer_folder(self._folder, part)
        model = self._model(CLIPTextModelWithProjection if projected else CLIPTextModel, part)
        return TextEncoder(model, _tokenizer(CLIPTokenizer, tokens, model), hidden=hidden)

    def t5(self, part: str, *, max_tokens: int = T5_TOKENS) -> T5Encoder:
        """Load a T5 encoder with its tokenizer.

        Args:
            part: Name of the encoder's subfolder, such as "text_encoder_3".
            max_tokens: Number of tokens to which every text is cut or padded.

        Raises:
            MissingFileError, CorruptFileError, ModelError: If a file is missing or damaged, or weights do not fit the
                encoder's config.
        """
        from transformers import AutoTokenizer, T5EncoderModel

        kind = read_config(self._folder, part).get("model_type")
        if kind != "t5":
            raise ModelError(
                f"{self._folder / part} holds a {shown(kind)}, but must hold a T5 encoder. Get the model again, or "
                "check model_type in its config.json."
            )
        tokens = _tokenizer_folder(self._folder, part)
        model = self._model(T5EncoderModel, part)
        return T5Encoder(model, _tokenizer(AutoTokenizer, tokens, model), max_tokens=max_tokens)

    def has_t5(self, part: str) -> bool:
        """Whether to load a T5 that the model also works without: it exists, and `load_t5` is true.

        Raises:
            MissingFileError: If the T5 is missing but its tokenizer exists.
        """
        is_there = (self._folder / part).is_dir()
        if self._load_t5 and not is_there and (self._folder / tokenizer_part(part)).is_dir():
            raise MissingFileError(
                f"no {part}/ in {self._folder}, which has its tokenizer. Pass load_t5=False to load no T5."
            )
        return self._load_t5 and is_there

    def _model(self, kind: Any, part: str) -> Any:
        return _model(kind, self._folder / part, self._variant, self._dtype, self._quantization.get(part))


def load_text_encoder(folder: Path, *, variant: str | None, dtype: torch.dtype) -> TextEncoder:
    """Load the CLIP text encoder in `folder/text_encoder` with the tokenizer in `folder/tokenizer`.

    Args:
        folder: A model folder in diffusers' layout.
        variant: Variant of the weight files, such as "fp16"; None for files without a variant.
        dtype: The dtype of the loaded weights.

    Raises:
        MissingFileError, CorruptFileError, ModelError: If a file is missing or damaged, or weights do not fit the
            encoder's config.
    """
    return TextFiles(folder, variant=variant, dtype=dtype).clip("text_encoder")


def _model(kind: Any, folder: Path, variant: str | None, dtype: torch.dtype | None, quantization: Any = None) -> Any:
    path = folder / "config.json"

    def make(values: Mapping[str, Any]) -> Any:
        model = kind(config_of(kind.config_class, values)).eval()
        with torch.no_grad():
            model(torch.zeros(1, 2, dtype=torch.long))  # on the meta device: finds entries that only a pass reads
        return model

    hollow = build(make, read_json(path), path, what=f"a {kind.__name__}")
    if dtype is None:
        return hollow
    variant = part_variant(folder, WEIGHTS["text_encoder"], variant)
    files = weight_files(folder, WEIGHTS["text_encoder"], variant)
    options = {} if quantization is None else {"quantization_config": quantization}
    model, info = load_weights(
        kind,
        folder,
        hollow=hollow,
        what=f"the text encoder in {folder}",
        dtype=dtype,
        variant=variant,
        may_skip_layers=True,  # "clip skip": some models are made to read the text before the last layers
        **options,
    )
    missing = sorted(info["missing_keys"])
    if missing or info["mismatched_keys"]:
        # transformers would continue with random weights
        raise CorruptFileError(
            f"{folder} lacks {len(missing)} weights ({missing[:2]} …); it was probably saved by another version of "
            "transformers. Save it again with this version."
        )
    if quantization is not None:
        check_finite(read_tensors(files), folder)
        return model.eval()
    for parameter in model.parameters():  # a copy; see tadp.files.model_folder.fill
        parameter.data = parameter.data.clone()
    check_finite(model.named_parameters(), folder)
    return model.eval()


def _tokenizer(kind: Any, folder: Path, model: Any) -> Any:
    """The tokenizer in a folder, whose ids must be rows of the model's embeddings."""
    tokenizer = load_reader(kind, folder, what=f"{folder.name}/")
    token, last = max(tokenizer.get_vocab().items(), key=itemgetter(1), default=("", -1))
    rows = model.get_input_embeddings().num_embeddings
    path = folder / "tokenizer_config.json"
    if not 0 <= last < rows:
        entries = read_json(path).items() if path.exists() else ()
        names = [f" {path} adds it as {name}." for name, value in entries if value == token]
        raise ModelError(
            f"the tokenizer in {folder} has ids up to {last} ({token!r}), but the text encoder has {rows} embeddings; "
            f"use a pair that belongs together.{''.join(names[:1])}"
        )
    if tokenizer.model_max_length < 2:
        raise ModelError(
            f"{path}: model_max_length must be 2 or more, for the start and end token; got "
            f"{tokenizer.model_max_length}. {HINT}"
        )
    if tokenizer.pad_token_id is None:
        raise ModelError(f"{path}: pad_token must name a token; got {tokenizer.pad_token!r}. {HINT}")
    return tokenizer


def _tokenizer_folder(folder: Path, part: str) -> Path:
    path = folder / tokenizer_part(part)
    if not path.is_dir():
        raise missing_part(folder, tokenizer_part(part))
    for file in path.iterdir():
        refuse_pointer(file, CorruptFileError)
    # transformers would create a tokenizer without a vocabulary
    if not (path / "tokenizer.json").exists() and not (
        (path / "vocab.json").exists() and (path / "merges.txt").exists()
    ):
        raise MissingFileError(f"no tokenizer.json in {path}, nor vocab.json with merges.txt; get the model again.")
    return path
