"""Find, check, load and save a captioner, that is, a model and its processor, from the hub or a folder."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import nn

from tadp.assets import tiny_folder
from tadp.errors import CorruptFileError, MissingFileError, ModelError
from tadp.files.chat_templates import RENDERED, render_chat
from tadp.files.checks import refuse_pointer
from tadp.files.hub import HubOptions, read_json, without_bars
from tadp.files.inference import uncompiled
from tadp.files.pretrained import TEXT_TOKENIZER, check_pretrained, find_pretrained, load_pretrained, pad_left
from tadp.files.schema import HINT, shown

TINY = "tadp-tiny"
INSTRUCTION = "Describe this image in one sentence."  # the question to a chat model if no prompt is passed
ALIASES = {"blip2": "Salesforce/blip2-opt-2.7b"}  # the paper's captioner
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
# Files that only some captioners have, and that transformers would read.
OWN_FILES = ("model-*.safetensors", "model.safetensors.index.json", "*processor_config.json", "generation_config.json",
             "chat_template.*", "added_tokens.json", "special_tokens_map.json", "merges.txt", TEXT_TOKENIZER,
             *_TOKENIZER_FILES)  # fmt: skip


def repository_of(name: str | Path) -> str | Path:
    """Return the repository that an alias stands for. Other names, and names of existing folders, stay as they are."""
    return ALIASES.get(str(name), name) if str(name) in ALIASES and not Path(name).is_dir() else name


def find_captioner(name: str | Path, hub: HubOptions) -> Path:
    """Return the folder of the model, and download it if necessary."""
    if str(name) == TINY:
        return tiny_folder() / "captioner"
    return find_pretrained(
        name,
        known=f"{TINY!r} ships with tadp; 'blip2' is Salesforce/blip2-opt-2.7b on the hub. Or pass the folder of one.",
        hub=hub,
    )


def check_captioner(folder: Path, name: str) -> None:
    """Check a folder first, because transformers' own messages are less clear."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    check_pretrained(
        folder,
        name,
        kinds=MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        purpose="turn images into text. A captioner is an image-text-to-text model: BLIP, BLIP-2, GIT, PaliGemma, "
        "LLaVA, Qwen-VL …",
    )
    for file in folder.iterdir():
        refuse_pointer(file, CorruptFileError)
    for what, files in (("image processor", _PROCESSOR_FILES), ("tokenizer", _TOKENIZER_FILES)):
        if not any((folder / file).is_file() for file in files):
            raise MissingFileError(
                f"the captioner {name!r} has no {what}: none of these files is in {folder}: {', '.join(files)}. "
                "Save its processor there: processor.save_pretrained(folder)."
            )


def load_captioner(folder: Path, name: str, dtype: torch.dtype) -> tuple[nn.Module, Any]:
    """Load a captioner's model and processor from a folder that has been checked.

    Args:
        folder: The model's folder.
        name: The folder or hub id that the user passed, for error messages.
        dtype: The dtype of the loaded weights.

    Raises:
        ModelError: If the model or the processor cannot be loaded, or weights are missing.
        MissingExtraError: If the model needs a package that is not installed.
    """
    from transformers import AutoModelForImageTextToText, ProcessorMixin

    what = f"the captioner {name!r}"
    # backend: torchvision's processors give pixels that differ by 2e-5, which could change captions, and torchvision is
    # not always installed.
    model, processor = load_pretrained(
        AutoModelForImageTextToText,
        _ProcessorLoader,
        folder,
        dtype=dtype,
        what=what,
        probe=_probe,
        chat=chat_about("<Image>", None),
        backend="pil",
    )
    if not isinstance(processor, ProcessorMixin):
        paths = [folder / file for file in (*_PROCESSOR_FILES, "tokenizer_config.json") if (folder / file).is_file()]
        classes = {path: read_json(path).get("processor_class") for path in paths}
        named = ", ".join(f"{shown(value)} in {path}" for path, value in classes.items() if value is not None)
        raise ModelError(
            f"{what} comes with only a {type(processor).__name__}; it needs a processor with a tokenizer and an image "
            f"processor. Its processor_class is {named or f'missing in {paths[0]}'}. Correct it, or save a processor "
            "in its folder: processor.save_pretrained(folder)."
        )
    pad_left(processor.tokenizer)  # pyright: ignore[reportAttributeAccessIssue]
    return model, processor


def text_tokenizer(folder: Path) -> Path | None:
    """The folder of the text encoder's tokenizer that belongs to a captioner; None if it is CLIP's own."""
    inside, beside = folder / TEXT_TOKENIZER, folder.parent / "tokenizer"
    if inside.is_dir():
        return inside
    # A captioner can be part of a model, like that of tadp-tiny.
    return beside if folder.name == "captioner" and beside.is_dir() else None


def save_captioner(folder: Path, model: nn.Module, processor: Any, *, text_tokenizer: Path | None) -> None:
    """Write a captioner to an empty folder.

    Args:
        folder: The folder.
        model: The captioner's model.
        processor: Its processor.
        text_tokenizer: The folder of the text encoder's tokenizer that belongs to the captioner; None if it is CLIP's.

    Raises:
        OSError: If the disk is full.
    """
    written: Any = uncompiled(model)
    with without_bars():
        written.save_pretrained(folder)
        processor.save_pretrained(folder)
    if text_tokenizer is not None:
        shutil.copytree(text_tokenizer, folder / TEXT_TOKENIZER)


def explain_failure(error: Exception, model: nn.Module, inputs: Mapping[str, torch.Tensor], name: str) -> None:
    """Raise a ModelError if the files of a captioner are the reason why it could not write captions.

    Args:
        error: The error of transformers or PyTorch.
        model: The captioner's model.
        inputs: The inputs of the model.
        name: The captioner's name.
    """
    config: Any = model.config
    expected = getattr(getattr(config, "vision_config", None), "image_size", None)
    size = list(inputs["pixel_values"].shape[-2:]) if "pixel_values" in inputs else None
    if size and expected is not None and size != (expected if isinstance(expected, list) else [expected] * 2):
        raise ModelError(
            f"the images of the captioner {name!r} do not fit its model: image_processor in processor_config.json, or "
            f"preprocessor_config.json, makes {size[0]}x{size[1]} pixels, and image_size in config.json is {expected}. "
            "Correct the processor's size."
        ) from error
    if not isinstance(error, RuntimeError):  # a RuntimeError is PyTorch's, such as too little memory
        raise ModelError(
            f"the captioner {name!r} cannot run with its config.json, generation_config.json, tokenizer_config.json "
            f"and processor_config.json or preprocessor_config.json: {str(error).partition(chr(10))[0][:200]}. {HINT}"
        ) from error


def chat_about(image: Image.Image | str, prompt: str | None) -> list[dict[str, Any]]:
    """The question to a chat model about an image."""
    text = {"type": "text", "text": prompt or INSTRUCTION}
    return [{"role": "user", "content": [{"type": "image", "image": image}, text]}]


def chat_inputs(processor: Any, images: Sequence[Image.Image], *, prompt: str | None, source: str) -> Any:
    """The inputs of a chat model that is asked about images.

    Args:
        processor: The processor, which has a chat template.
        images: The images.
        prompt: The question; None is the default question.
        source: Where the template is from, for error messages.

    Raises:
        ModelError: If the template cannot be used.
    """
    chat, tokenizer = chat_about("<Image>", prompt), processor.tokenizer
    return processor.apply_chat_template(
        [chat_about(image, prompt) for image in images],
        chat_template=RENDERED,
        rendered=render_chat(processor.chat_template, chat, tokenizer=tokenizer, source=source),
        add_generation_prompt=True,
        tokenize=True,
        return_tensors="pt",
        return_dict=True,
        processor_kwargs={"padding": True, "return_tensors": "pt"},
    )


def _probe(processor: Any) -> None:
    from transformers import ProcessorMixin

    if not isinstance(processor, ProcessorMixin):
        return
    parts: Any = processor
    image = Image.new("RGB", (65, 47))  # no side is a multiple of a patch, as in most images
    parts.image_processor(images=[image], return_tensors="pt")
    if parts.chat_template:
        pad_left(parts.tokenizer)
        with suppress(ModelError):  # of the template, which is reported later
            chat_inputs(parts, [image], prompt=None, source="")


class _ProcessorLoader:
    """Loads processors like `AutoProcessor`, but without their video processor, which needs torchvision."""

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
    """Return a subclass for images and text only. The original class stays as it is."""
    parts = processor_class.get_attributes()
    place = parts.index(_VIDEOS)

    class ImagesOnly(processor_class):
        video_processor = SimpleNamespace(num_frames=None, fps=None)  # SmolVLM reads these even without a video

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [part for part in parts if part != _VIDEOS]

        @classmethod
        def from_args_and_dict(cls, args: list[Any], processor_dict: dict[str, Any], **kwargs: Any) -> Any:
            args = [*args[:place], None, *args[place:]]  # some constructors require the argument
            return super().from_args_and_dict(args, processor_dict, **kwargs)

    ImagesOnly.__name__ = processor_class.__name__  # it is saved, as the class that transformers loads
    return ImagesOnly
