"""Find, check and load a captioner: model and processor, as the hub or a folder has them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from tadp.assets import tiny_folder
from tadp.errors import MissingFileError, ModelError
from tadp.files.hub import HubOptions
from tadp.files.pretrained import check_pretrained, find_pretrained, load_pretrained, pad_left

TINY = "tadp-tiny"
_VIDEOS = "video_processor"
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
)


def find_captioner(name: str | Path, hub: HubOptions) -> Path:
    """The folder that holds the model, downloaded if it must be."""
    if str(name) == TINY:
        return tiny_folder() / "captioner"
    return find_pretrained(
        name,
        known=f"{TINY!r} ships with tadp; 'Salesforce/blip2-opt-2.7b' is on the hub. Or pass a captioner's folder.",
        hub=hub,
    )


def check_captioner(folder: Path, name: str) -> None:
    """Say what is wrong with a folder before a library fails on it less clearly."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    check_pretrained(
        folder,
        name,
        kinds=MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        purpose="turn images into text. A captioner is an image-text-to-text model: BLIP, BLIP-2, GIT, PaliGemma, "
        "LLaVA, Qwen-VL …",
    )
    for what, files in (("image processor", _PROCESSOR_FILES), ("tokenizer", _TOKENIZER_FILES)):
        if not any((folder / file).is_file() for file in files):
            raise MissingFileError(
                f"the captioner {name!r} has no {what}: {folder} holds none of {', '.join(files)}. "
                "Save its processor there: processor.save_pretrained(folder)."
            )


def load_captioner(folder: Path, name: str, dtype: torch.dtype) -> tuple[nn.Module, Any]:
    """Model and processor of a folder that has been checked.

    Raises:
        ModelError: If they do not load, or lack weights.
        MissingExtraError: If this model needs a package that is not installed.
    """
    from transformers import AutoModelForImageTextToText, ProcessorMixin

    what = f"the captioner {name!r}"
    # backend: pixels of the torchvision processors differ by 2e-5, so captions could; and it need not be there.
    model, processor = load_pretrained(
        AutoModelForImageTextToText, _ProcessorLoader, folder, dtype=dtype, what=what, backend="pil"
    )
    if not isinstance(processor, ProcessorMixin):
        raise ModelError(
            f"{what} comes with a {type(processor).__name__} alone; it needs a processor, which holds "
            "tokenizer and image processor. Save that in its folder: processor.save_pretrained(folder)."
        )
    pad_left(processor.tokenizer)  # pyright: ignore[reportAttributeAccessIssue]
    return model, processor


class _ProcessorLoader:
    """Loads processors as `AutoProcessor` does, but for their part for videos: that one needs torchvision."""

    @staticmethod
    def from_pretrained(folder: Path, **options: Any) -> Any:
        from transformers import PROCESSOR_MAPPING, AutoConfig, AutoProcessor

        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        loader: Any = AutoProcessor
        processor_class: Any = PROCESSOR_MAPPING.get(type(config), None)
        if processor_class is not None and _VIDEOS in processor_class.get_attributes():
            loader = _without_videos(processor_class)
        return loader.from_pretrained(folder, **options)


def _without_videos(processor_class: Any) -> Any:
    """A processor class that loads and takes images and text alone; nobody else's class is changed."""
    parts = processor_class.get_attributes()
    place = parts.index(_VIDEOS)

    class ImagesAlone(processor_class):
        video_processor = SimpleNamespace(num_frames=None, fps=None)  # SmolVLM's asks, also when there is no video

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [part for part in parts if part != _VIDEOS]

        @classmethod
        def from_args_and_dict(cls, args: list[Any], processor_dict: dict[str, Any], **kwargs: Any) -> Any:
            args = [*args[:place], None, *args[place:]]  # some constructors must be given it
            return super().from_args_and_dict(args, processor_dict, **kwargs)

    return ImagesAlone
