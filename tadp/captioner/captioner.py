"""`Captioner`: a model and its processor, used with one call."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import ModelCard
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from tadp._version import __version__
from tadp.captioner.captioner_card import captioner_card
from tadp.captioner.decoding import Decoding, Overflow, without_echo
from tadp.captioner.model_files import (
    ALIASES,
    OWN_FILES,
    TINY,
    chat_inputs,
    check_captioner,
    explain_failure,
    find_captioner,
    load_captioner,
    repository_of,
    save_captioner,
    text_tokenizer,
)
from tadp.captioner.quality import Caption, better, checked, counted, refuse_broken, troubles, warn_unless_scenes
from tadp.errors import Argument, ImageError, OptionError, TADPError
from tadp.files.atomic import replace_folder
from tadp.files.checks import check_whole
from tadp.files.hub import HubOptions, Source
from tadp.files.inference import check_process, in_evaluation
from tadp.files.publishing import Pushable
from tadp.images.reading import ImageLike, to_pil
from tadp.text.clip_tokenizer import TokenCounter, clip_counter, folder_counter


class Captioner(Pushable):
    """Writes captions of images with an image-text-to-text model.

    Captions are reproducible: words are chosen greedily, or sampled with a seed.

    Args:
        model: A transformers model with a `generate` method. Captions are written in evaluation mode, without changing
            the mode of `model` itself, and on its device.
        processor: The model's processor, which prepares images and text.
        name: Folder or hub id of the model, for the record of where captions came from (`provenance`).
        revision: Commit of the repository, for the same record; None if it has none.
        batch_size: Number of images that go through the model at once, 1 or more.
        decoding: Settings by which words are chosen; None chooses the most likely words, up to 77 tokens.

    Raises:
        ValueError: If `batch_size` is below 1, or captions of `max_new_tokens` tokens are longer than the model can
            generate.

    Source:
        TADP Sec. 4.1 (BLIP-2 captions and their minimum length).
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        *,
        name: str,
        revision: str | None = None,
        batch_size: int = 8,
        decoding: Decoding | None = None,
    ):
        self._decoding = decoding or Decoding()
        check_whole(batch_size, name="batch_size")
        _check_positions(model, self._decoding.max_new_tokens, name)
        self._model = model
        self._processor = processor
        self._name, self._revision = name, revision
        self.batch_size = batch_size
        self._tokenizer_folder: Path | None = None
        self._arguments: dict[str, Any] | None = None

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        min_new_tokens: int = 0,
        max_new_tokens: int = 77,
        batch_size: int = 8,
        num_beams: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
        prompt: str | None = None,
        retry: bool = True,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
    ) -> "Captioner":
        """Load a captioner from a folder or the hub.

        Weights are read only from safetensors files, and no code from a repository is run.

        Args:
            name: "tadp-tiny", which knows only rendered scenes; "blip2", the paper's captioner for photographs
                (Salesforce/blip2-opt-2.7b: 3.7 billion parameters, 15 GB in float32, 7.5 GB in half precision); or any
                folder or the id of any repository on the hub.
            min_new_tokens: Smallest number of tokens in a caption, in the captioner's own tokens. Longer captions name
                more of the image; the paper compares 0, 20 and 40.
            max_new_tokens: Largest number of tokens in a caption, in the captioner's own tokens. Stable Diffusion's
                text encoder takes 77 tokens including start and end. It splits text into other tokens than the
                captioner does, so every call counts them, and warns about captions that are too long.
            batch_size: Number of images that go through the model at once, 1 or more.
            num_beams: Number of beams of the beam search; 1 is greedy decoding.
            temperature: 0 takes the most likely words. Above 0, words are sampled from the most likely 90 % of the
                probability, with more variety at higher values; captions then depend on the seed.
            seed: Seed of the sampling; not used if the temperature is 0. With the same seed, an image gets the same
                caption whatever the other images of the batch are.
            prompt: Text that the model continues or answers. It is not part of the captions. None gives no text, except
                that chat models are asked to describe the image in one sentence.
            retry: Whether to try a second time if a caption is empty or repeats itself endlessly. The second caption
                must have at least five tokens and may not repeat any three tokens.
            dtype: Precision of the loaded weights; None is float32, whatever the precision in the file, except
                that "blip2" on a GPU is loaded in float16, as in the paper's code.
            device: Device of the model; None is the CPU.
            revision: Branch, tag or commit of the repository; None is its default branch. `provenance` records the
                commit.
            local_files_only: Whether to use only files in the cache and never connect to the hub. The environment
                variable HF_HUB_OFFLINE=1 has the same effect.
            cache_dir: Folder for downloads; None is huggingface_hub's own cache.
            token: Access token for gated and private repositories; None is the token that `hf auth login` stored.

        Raises:
            UnknownModelError: If there is no such folder or repository, or the repository cannot be downloaded.
            MissingFileError: If a part of the model is missing.
            CorruptFileError: If a file is damaged, or all weight files are pickles, which are never loaded.
            ModelError: If the model does not turn images into text, or weights are missing.
            MissingExtraError: If transformers needs a package for this model that is not installed.
            ValueError: If a number is out of range, or if `num_beams` is above 1 and `temperature` above 0.
        """
        decoding = Decoding(
            min_new_tokens=min_new_tokens,
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            temperature=temperature,
            seed=seed,
            prompt=prompt,
            retry=retry,
        )
        check_whole(batch_size, name="batch_size")  # before gigabytes are loaded
        hub = HubOptions(revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only)
        name = repository_of(name)
        folder = find_captioner(name, hub)
        check_captioner(folder, str(name))
        model, processor = load_captioner(folder, str(name), dtype or _default_dtype(str(name), device))
        captioner = cls(
            model if device is None else model.to(device),
            processor,
            name=str(name),
            revision=Source.of(name, folder).revision,
            batch_size=batch_size,
            decoding=decoding,
        )
        captioner._tokenizer_folder = text_tokenizer(folder)
        lasting = str(folder.resolve()) if Path(name).is_dir() else captioner.name  # valid from any directory
        captioner._arguments = {"name": lasting, "revision": captioner.revision, **asdict(decoding)}
        return captioner

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model, its processor, and the tokenizer of `token_counter` to a folder.

        Settings such as `min_new_tokens` are not part of the folder. They are arguments of `from_pretrained`.

        Raises:
            OutputError: If the folder cannot be written to.
        """
        with replace_folder(Path(folder), parts=OWN_FILES) as part:
            save_captioner(part, self._model, self._processor, text_tokenizer=self._tokenizer_folder)

    def generate_model_card(self, **entries: Any) -> ModelCard:
        """The README of the captioner's repository; see `push_to_hub`."""
        settings = {key: value for key, value in asdict(self._decoding).items() if value != getattr(Decoding, key)}
        source = Source(self._name, self._revision)
        return captioner_card(self._model, settings, source, dtype=_home(self._model)[1], entries=entries)

    def __repr__(self) -> str:
        decoding, at = self._decoding, f" at {self._revision}" if self._revision else ""
        return f"<Captioner {self._name}{at}, {decoding.min_new_tokens} to {decoding.max_new_tokens} tokens>"

    @property
    def model(self) -> nn.Module:
        """The network that writes the captions."""
        return self._model

    @property
    def name(self) -> str:
        """The folder or repository this captioner was loaded from."""
        return self._name

    @property
    def revision(self) -> str | None:
        """The commit of the repository; None for a folder and for "tadp-tiny", which comes with tadp."""
        return self._revision

    @property
    def arguments(self) -> dict[str, Any] | None:
        """JSON arguments of `from_pretrained` that load the captioner again; None if it was built from parts."""
        return self._arguments

    @property
    def generation(self) -> dict[str, int | float | str | bool | None]:
        """Everything besides the weights that determines the captions, including the precision, for provenance."""
        return {**asdict(self._decoding), "dtype": str(_home(self._model)[1]).removeprefix("torch.")}

    @property
    def token_counter(self) -> TokenCounter:
        """Counts the text encoder's tokens in captions if a call of the captioner gets no text encoder.

        It uses CLIP's own vocabulary, which comes with tadp and is the same in Stable Diffusion 1.x and 2.x. For a
        captioner that is part of a base model, such as "tadp-tiny", it uses the tokenizer of that model.

        Example:
            >>> Captioner.from_pretrained("tadp-tiny").token_counter.count_tokens(["a dog on grass"])
            [6]
        """
        return clip_counter() if self._tokenizer_folder is None else folder_counter(self._tokenizer_folder)

    @property
    def provenance(self) -> dict[str, Any]:
        """Everything that determines the captions, to be stored with them as JSON."""
        from importlib.metadata import version

        return {
            "captioner": self._name,
            "revision": self._revision,
            "dtype": self.generation["dtype"],
            "generation": self.generation,
            "tadp": __version__,
            "transformers": version("transformers"),
        }

    def __call__(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        text_encoder: TokenCounter | None = None,
        progress: bool = False,
    ) -> list[str]:
        """Write one caption per image. The method `describe` also returns details of each caption.

        Args:
            images: One image, a batch (B, 3, H, W) or (B, H, W, 3), or a list of images of any sizes, in any form that
                `tadp.images.to_pil` reads. Files are read batch by batch.
            text_encoder: The text encoder that will read the captions, such as `backbone.text_encoder`. A warning
                lists captions with more tokens than it takes. None counts tokens with `token_counter`.
            progress: Whether to show a progress bar.

        Returns:
            One caption per image, in the order of the images; an empty list for an empty list. A caption that is still
            empty or repeats itself endlessly after the second try is returned too, with a warning that names the image.

        Raises:
            ImageError: If an image cannot be read, or the model computes NaN or infinity for it; the message says
                which.
            TypeError: If `images` contains something that is not an image.

        Example:
            >>> from tadp.datasets.scenes import Scenes
            >>> captioner = Captioner.from_pretrained("tadp-tiny")
            >>> len(captioner([scene.image for scene in Scenes(2, seed=1)]))
            2
        """
        captions = self.describe(images, text_encoder=text_encoder, progress=progress)
        who = f"the captioner {self._name!r}"
        refuse_broken(captions, _listed(images), who=who)
        for trouble in troubles(captions, _listed(images), who=who, retry=self._decoding.retry):
            warnings.warn(trouble, stacklevel=2)
        return [caption.text for caption in captions]

    def describe(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        text_encoder: TokenCounter | None = None,
        progress: bool = False,
    ) -> list[Caption]:
        """Write one caption per image, like a call of the captioner, with details in place of warnings about captions.

        Args:
            images: The images, as in a call of the captioner.
            text_encoder: The text encoder that will read the captions; None counts tokens with `token_counter`.
            progress: Whether to show a progress bar.

        Returns:
            One `Caption` per image, with its text, its number of tokens, and whether something is wrong with it.

        Example:
            >>> from tadp.datasets.scenes import Scenes
            >>> [caption] = Captioner.from_pretrained("tadp-tiny").describe(Scenes(1)[0].image)
            >>> caption.problem, caption.retried
            (None, False)
        """
        listed = _listed(images)
        captions: list[Caption] = []
        for start in tqdm(range(0, len(listed), self.batch_size), desc="captions", unit="batch", disable=not progress):
            batch = listed[start : start + self.batch_size]
            pictures = [_read(image, start + k, len(listed)) for k, image in enumerate(batch)]
            if self._name == TINY:
                warn_unless_scenes(pictures)
            captions += self._batch(pictures)
        return counted(captions, text_encoder or self.token_counter)

    def _batch(self, images: list[Image.Image]) -> list[Caption]:
        """Caption images that go through the model at once, and try again for those that failed."""
        captions = [Caption("", "broken") if text is None else checked(text) for text in self._generate(images)]
        failed = [number for number, caption in enumerate(captions) if caption.problem in ("empty", "looping")]
        if failed and self._decoding.retry:
            for number, text in zip(failed, self._generate([images[k] for k in failed], again=True), strict=True):
                captions[number] = better(captions[number], checked(text or "", retried=True))
        return captions

    @torch.inference_mode()
    def _generate(self, images: list[Image.Image], *, again: bool = False) -> list[str | None]:
        """One text per image; None where the model computed NaN or infinity."""
        check_process()
        try:
            inputs = self._inputs(images)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            if isinstance(error, TADPError):
                raise
            raise ImageError(
                f"the processor of the captioner {self._name!r} cannot take the image: {str(error)[:200]}. Change the "
                "image's shape, or check the processor's config files."
            ) from error
        arguments = self._decoding.arguments(images, again=again)
        overflow = Overflow()
        arguments["logits_processor"] = [overflow, *arguments.get("logits_processor", ())]
        model: Any = in_evaluation(self._model)
        try:
            ids = model.generate(**inputs, **arguments, num_return_sequences=1)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            explain_failure(error, self._model, inputs, self._name)
            raise
        if "input_ids" in inputs:
            ids = without_echo(ids, inputs["input_ids"])
        texts = self._processor.batch_decode(ids, skip_special_tokens=True)
        return [
            None if is_broken else " ".join(text.split())
            for text, is_broken in zip(texts, overflow.rows(len(texts)), strict=True)
        ]

    def _inputs(self, images: list[Image.Image]) -> dict[str, Tensor]:
        """Prepare the model's inputs: pixels in its dtype, and token ids if there is text."""
        if self._processor.chat_template:
            inputs = chat_inputs(self._processor, images, prompt=self._decoding.prompt, source=self._name)
        else:
            prompts = None if self._decoding.prompt is None else [self._decoding.prompt] * len(images)
            inputs = self._processor(images=images, text=prompts, return_tensors="pt")
        device, dtype = _home(self._model)
        return {
            key: value.to(device, dtype if value.is_floating_point() else value.dtype) for key, value in inputs.items()
        }


def _default_dtype(name: str, device: torch.device | str | None) -> torch.dtype:
    on_gpu = device is not None and torch.device(device).type != "cpu"
    return torch.float16 if on_gpu and name in ALIASES.values() else torch.float32


def _check_positions(model: nn.Module, max_new_tokens: int, name: str) -> None:
    config: Any = model.config
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and max_new_tokens > positions:
        limit = f" must be at most {positions} for {name!r}; got {max_new_tokens}."
        raise OptionError(Argument("max_new_tokens"), limit)


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


def _home(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return the device and precision of a model's pixels. Some layers stay in float32, so most weights decide."""
    sizes: Counter[torch.dtype] = Counter()
    for parameter in model.parameters():
        sizes[parameter.dtype] += parameter.numel() * parameter.is_floating_point()
    return next(model.parameters()).device, sizes.most_common(1)[0][0]
