"""From images to words: any image-text-to-text model of transformers behind one call.

    captioner = Captioner.from_pretrained("tadp-tiny")
    captions = captioner(["one.jpg", "two.png"])   # list[str], one an image

BLIP, BLIP-2, GIT, PaliGemma, LLaVA, Qwen-VL, SmolVLM and their like load the same way. A captioner stands beside a
backbone and is never a part of it, so no `state_dict` holds one.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from tadp.assets import tiny_folder
from tadp.errors import ImageError, MissingFileError, ModelError
from tadp.hub import local_folder, read_json, weight_files
from tadp.images import ImageLike, to_pil

TINY = "tadp-tiny"
INSTRUCTION = "Describe this image in one sentence."  # what a chat model is asked when there is no prompt

_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
)
# What a repository is asked for: configs, tokenizer and safetensors of its top folder, no pickles, no subfolders.
_WANTED = ("*.json", "*.jinja", "*.model", "*.safetensors", "*.txt")


class Captioner:
    """Captions from an image-text-to-text model, decoded greedily or by beam search, so that they reproduce.

    Args:
        model: A transformers model with `generate`; it is set to eval mode and stays where it is.
        processor: The processor that belongs to it.
        name: Where the model came from, for provenance.
        min_new_tokens: The fewest tokens of a caption; longer captions name more. TADP compares 0, 20 and 40.
        max_new_tokens: The most tokens of a caption. 77 is what the text encoder of Stable Diffusion takes.
        batch_size: Images that go through the model at once.
        num_beams: Width of the beam search; 1 is greedy.
        prompt: Text that the model continues or answers. It is not part of the captions. None: no text, but for
            chat models, which are asked to describe the image in one sentence.

    Raises:
        ValueError: If a number is out of range, or `min_new_tokens` exceeds `max_new_tokens`.

    Source:
        TADP Sec. 4.1 (BLIP-2 captions and their minimal length).
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        *,
        name: str,
        min_new_tokens: int = 0,
        max_new_tokens: int = 77,
        batch_size: int = 8,
        num_beams: int = 1,
        prompt: str | None = None,
    ):
        _check_numbers(min_new_tokens, max_new_tokens, batch_size, num_beams)
        self._model = model.eval()
        self._processor = processor
        self._name = name
        self._min_new_tokens, self._max_new_tokens = min_new_tokens, max_new_tokens
        self._num_beams, self._prompt = num_beams, prompt
        self.batch_size = batch_size

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        min_new_tokens: int = 0,
        max_new_tokens: int = 77,
        batch_size: int = 8,
        num_beams: int = 1,
        prompt: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
    ) -> "Captioner":
        """Load a captioner from a folder or the hub.

        Weights are read from safetensors alone, and no code of a repository is run.

        Args:
            name: "tadp-tiny", a folder, or a repository on the hub such as "Salesforce/blip2-opt-2.7b".
            min_new_tokens: As the class takes it.
            max_new_tokens: As the class takes it.
            batch_size: As the class takes it.
            num_beams: As the class takes it.
            prompt: As the class takes it.
            dtype: Of the weights; None is float32, whatever the file holds.
            device: Where the model goes; None is the CPU.
            revision: Branch, tag or commit of a repository.
            local_files_only: Look no further than the cache. HF_HUB_OFFLINE=1 does the same.
            cache_dir: Where downloads are kept; None is the hub library's own place.
            token: Access token for gated and private repositories.

        Raises:
            UnknownModelError: If there is no such folder or repository, or it cannot be reached.
            MissingFileError: If a part is missing.
            CorruptFileError: If a file is damaged, or the weights are pickles only.
            ModelError: If the model does not turn images into text, or lacks weights.
            ValueError: If a number is out of range.
        """
        _check_numbers(min_new_tokens, max_new_tokens, batch_size, num_beams)
        folder = _locate(name, revision, local_files_only=local_files_only, cache_dir=cache_dir, token=token)
        _check_folder(folder, str(name))
        model, processor = _load(folder, str(name), dtype or torch.float32)
        config: Any = model.config
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        if positions is not None and max_new_tokens > positions:
            raise ValueError(f"max_new_tokens must be at most {positions} for {str(name)!r}; got {max_new_tokens}.")
        return cls(
            model if device is None else model.to(device),
            processor,
            name=str(name),
            min_new_tokens=min_new_tokens,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            num_beams=num_beams,
            prompt=prompt,
        )

    @property
    def name(self) -> str:
        """The folder or repository this captioner was loaded from."""
        return self._name

    @property
    def generation(self) -> dict[str, int | str | None]:
        """What decides the captions besides the model, for provenance."""
        return {
            "min_new_tokens": self._min_new_tokens,
            "max_new_tokens": self._max_new_tokens,
            "num_beams": self._num_beams,
            "prompt": self._prompt,
        }

    def __call__(self, images: ImageLike | Sequence[ImageLike], *, progress: bool = False) -> list[str]:
        """Describe images.

        Args:
            images: One image, a batch (B, 3, H, W) or (B, H, W, 3), or a list of images of any sizes; each as
                `tadp.images.to_pil` takes it. Files are read batch by batch.
            progress: Show a progress bar.

        Returns:
            One caption an image, in order; an empty list for an empty list. A model may fall silent: the caption is
            then "", and a warning names the image.

        Raises:
            ImageError: If an image cannot be read; the message says which.
            TypeError: If something is no image.

        Example:
            >>> from tadp.datasets.scenes import Scenes
            >>> captioner = Captioner.from_pretrained("tadp-tiny")
            >>> len(captioner([scene.image for scene in Scenes(2, seed=1)]))
            2
        """
        listed = _listed(images)
        captions = []
        for start in tqdm(range(0, len(listed), self.batch_size), desc="captions", unit="batch", disable=not progress):
            batch = listed[start : start + self.batch_size]
            captions += self._describe([_read(image, start + k, len(listed)) for k, image in enumerate(batch)])
        silent = [str(number) for number, caption in enumerate(captions) if not caption]
        if silent:
            warnings.warn(
                f"the captioner {self.name!r} had nothing to say about image {', '.join(silent)} (counted from 0). "
                "Pass min_new_tokens, or another prompt.",
                stacklevel=2,
            )
        return captions

    @torch.inference_mode()
    def _describe(self, images: list[Image.Image]) -> list[str]:
        inputs = self._inputs(images)
        ids = self._model.generate(  # pyright: ignore[reportCallIssue]
            **inputs,
            do_sample=False,
            num_beams=self._num_beams,
            max_new_tokens=self._max_new_tokens,  # always: BLIP does not read its saved generation config
            min_new_tokens=self._min_new_tokens or None,
        )
        if "input_ids" in inputs:
            ids = _without_echo(ids, inputs["input_ids"])
        texts = self._processor.batch_decode(ids, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    def _inputs(self, images: list[Image.Image]) -> dict[str, Tensor]:
        """The model's inputs: pixels in its dtype, token ids where there is text."""
        if self._processor.chat_template:
            text = {"type": "text", "text": self._prompt or INSTRUCTION}
            chats = [[{"role": "user", "content": [{"type": "image", "image": image}, text]}] for image in images]
            inputs = self._processor.apply_chat_template(
                chats,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                processor_kwargs={"padding": True, "return_tensors": "pt"},
            )
        else:
            prompts = None if self._prompt is None else [self._prompt] * len(images)
            inputs = self._processor(images=images, text=prompts, return_tensors="pt")
        device, dtype = _home(self._model)
        return {
            key: value.to(device, dtype if value.is_floating_point() else value.dtype) for key, value in inputs.items()
        }


def _check_numbers(min_new_tokens: int, max_new_tokens: int, batch_size: int, num_beams: int) -> None:
    for what, number in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size), ("num_beams", num_beams)):
        if number < 1:
            raise ValueError(f"{what} must be 1 or more; got {number}.")
    if not 0 <= min_new_tokens <= max_new_tokens:
        raise ValueError(
            f"min_new_tokens must be 0 or more and at most max_new_tokens ({max_new_tokens}); got {min_new_tokens}."
        )


def _locate(
    name: str | Path,
    revision: str | None,
    *,
    local_files_only: bool,
    cache_dir: str | Path | None,
    token: str | bool | None,
) -> Path:
    """The folder that holds the model, downloaded if it must be."""
    if str(name) == TINY:
        return tiny_folder() / "captioner"
    return local_folder(
        name,
        patterns=list(_WANTED),
        ignore=["*/*"],
        known=f"{TINY!r} ships with tadp; 'Salesforce/blip2-opt-2.7b' is on the hub. Or pass a captioner's folder.",
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
    )


def _check_folder(folder: Path, name: str) -> None:
    """Say what is wrong with a folder before a library fails on it less clearly."""
    model_type = read_json(folder / "config.json").get("model_type")
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    if model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ModelError(
            f"{name!r} holds a model of type {model_type!r}, which this transformers cannot use to turn images into "
            "text. A captioner is an image-text-to-text model: BLIP, BLIP-2, GIT, PaliGemma, LLaVA, Qwen-VL …"
        )
    weight_files(folder, "model")
    for what, files in (("image processor", _PROCESSOR_FILES), ("tokenizer", _TOKENIZER_FILES)):
        if not any((folder / file).is_file() for file in files):
            raise MissingFileError(
                f"the captioner {name!r} has no {what}: {folder} holds none of {', '.join(files)}. "
                "Save its processor there: processor.save_pretrained(folder)."
            )


def _load(folder: Path, name: str, dtype: torch.dtype) -> tuple[nn.Module, Any]:
    """Model and processor of a folder that has been checked."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoModelForImageTextToText, AutoProcessor, ProcessorMixin

    try:
        # backend: pixels of the torchvision processors differ by 2e-5, so captions could; and it need not be there.
        processor = AutoProcessor.from_pretrained(folder, backend="pil", local_files_only=True, trust_remote_code=False)
        model, report = AutoModelForImageTextToText.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ModelError(
            f"the captioner {name!r} in {folder} could not be loaded: {_first_line(error)} Its files may not belong "
            "together, or need another release of transformers."
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"the captioner {name!r} lacks {len(missing)} weights of a {type(model).__name__}, {missing[0]} first; "
            "it would speak at random. Pass a model trained to caption."
        )
    if not isinstance(processor, ProcessorMixin):
        raise ModelError(
            f"the captioner {name!r} comes with a {type(processor).__name__} alone; it needs a processor, which holds "
            "tokenizer and image processor. Save that in its folder: processor.save_pretrained(folder)."
        )
    tokenizer: Any = processor.tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.padding_side = "left"  # a decoder goes on from the last token
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, processor


def _listed(images: ImageLike | Sequence[ImageLike]) -> Sequence[ImageLike]:
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        return list(images)
    return [images] if isinstance(images, str | bytes) or not isinstance(images, Sequence) else images


def _read(image: ImageLike, number: int, count: int) -> Image.Image:
    try:
        return to_pil(image)
    except ImageError as error:
        if count == 1:
            raise
        raise ImageError(f"image {number} of {count}: {error}") from error


def _without_echo(ids: Tensor, prompt: Tensor) -> Tensor:
    """Cut the prompt from the front of generated ids, if it is there.

    Decoder-only models repeat all of it, BLIP all but its closing token, encoder-decoders none.

    Args:
        ids: (B, L).
        prompt: (B, P).

    Returns:
        (B, L - P), (B, L - P + 1) or `ids` itself.
    """
    for length in (prompt.shape[1], prompt.shape[1] - 1):
        # The first token is left out of the comparison: BLIP exchanges it for its own beginning of sentence.
        if ids.shape[1] >= length and torch.equal(ids[:, 1:length], prompt[:, 1:length]):
            return ids[:, length:]
    return ids


def _home(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a model takes its pixels, and in which precision: that of most weights, for some layers stay in float32."""
    sizes: Counter[torch.dtype] = Counter()
    for parameter in model.parameters():
        sizes[parameter.dtype] += parameter.numel() * parameter.is_floating_point()
    return next(model.parameters()).device, sizes.most_common(1)[0][0]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
