"""`Captioner`: a model and its processor behind one call."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from tadp._version import __version__
from tadp.captioner.decoding import Decoding
from tadp.captioner.model_files import check_captioner, find_captioner, load_captioner
from tadp.captioner.quality import Caption, better, checked, counted, troubles
from tadp.errors import Argument, ImageError, OptionError
from tadp.files.hub import HubOptions, Source
from tadp.images.reading import ImageLike, to_pil
from tadp.text.clip_tokenizer import TokenCounter, clip_counter, folder_counter

INSTRUCTION = "Describe this image in one sentence."  # what a chat model is asked when there is no prompt


class Captioner:
    """Captions from an image-text-to-text model: the likeliest words, or drawn with a seed; either way they reproduce.

    Args:
        model: A transformers model with `generate`; it is set to eval mode and stays where it is.
        processor: The processor that belongs to it.
        name: Where the model came from, for provenance.
        revision: The commit it came at, for provenance.
        batch_size: Images that go through the model at once.
        decoding: How it chooses its words; None is greedily, up to 77 tokens.

    Raises:
        ValueError: If the batch is empty, or the model cannot say that many tokens.

    Source:
        TADP Sec. 4.1 (BLIP-2 captions and their minimal length).
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
        _check_batch_size(batch_size)
        _check_positions(model, self._decoding.max_new_tokens, name)
        self._model = model.eval()
        self._processor = processor
        self._name, self._revision = name, revision
        self.batch_size = batch_size
        self._tokenizer_folder: Path | None = None

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

        Weights are read from safetensors alone, and no code of a repository is run.

        Args:
            name: "tadp-tiny", a folder, or a repository on the hub such as "Salesforce/blip2-opt-2.7b".
            min_new_tokens: The fewest tokens of a caption; longer captions name more. TADP compares 0, 20 and 40.
            max_new_tokens: The most. The text encoder of Stable Diffusion takes 77 with its start and end, so 75 of its
                own tokens, which are others than the captioner's; a call counts them.
            batch_size: Images that go through the model at once.
            num_beams: Width of the beam search; 1 is greedy.
            temperature: 0 takes the likeliest words. Above, words are drawn from the likeliest nine tenths, the more
                freely the higher it is: other seeds then give an image other captions.
            seed: Of the drawing; an image and a seed give one caption, in any batch. Unused at temperature 0.
            prompt: Text that the model continues or answers. It is not part of the captions. None: no text, but for
                chat models, which are asked to describe the image in one sentence.
            retry: Ask once again where a caption is empty or a loop, for five tokens or more, no three of which come
                twice in a row.
            dtype: Of the weights; None is float32, whatever the file holds.
            device: Where the model goes; None is the CPU.
            revision: Branch, tag or commit of a repository. `provenance` has the commit it led to.
            local_files_only: Look no further than the cache. HF_HUB_OFFLINE=1 does the same.
            cache_dir: Where downloads are kept; None is the hub library's own place.
            token: Access token for gated and private repositories.

        Raises:
            UnknownModelError: If there is no such folder or repository, or it cannot be reached.
            MissingFileError: If a part is missing.
            CorruptFileError: If a file is damaged, or the weights are pickles only.
            ModelError: If the model does not turn images into text, or lacks weights.
            MissingExtraError: If transformers needs a package for this model that is not installed.
            ValueError: If a number is out of range, or beams and sampling are asked for at once.
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
        _check_batch_size(batch_size)  # before gigabytes are loaded
        hub = HubOptions(revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only)
        folder = find_captioner(name, hub)
        check_captioner(folder, str(name))
        model, processor = load_captioner(folder, str(name), dtype or torch.float32)
        captioner = cls(
            model if device is None else model.to(device),
            processor,
            name=str(name),
            revision=Source.of(name, folder).revision,
            batch_size=batch_size,
            decoding=decoding,
        )
        if folder.name == "captioner" and (folder.parent / "tokenizer").is_dir():  # of a model, as tadp-tiny has one
            captioner._tokenizer_folder = folder.parent / "tokenizer"
        return captioner

    def __repr__(self) -> str:
        least, most = self._decoding.min_new_tokens, self._decoding.max_new_tokens
        at = f" at {self._revision}" if self._revision else ""
        return f"<Captioner {self._name}{at}, {least} to {most} tokens>"

    @property
    def name(self) -> str:
        """The folder or repository this captioner was loaded from."""
        return self._name

    @property
    def revision(self) -> str | None:
        """The commit it came at; None for a folder and for "tadp-tiny", which comes with tadp."""
        return self._revision

    @property
    def generation(self) -> dict[str, int | float | str | bool | None]:
        """What decides the captions besides the model, its precision included, for provenance."""
        return {**asdict(self._decoding), "dtype": str(_home(self._model)[1]).removeprefix("torch.")}

    @property
    def token_counter(self) -> TokenCounter:
        """What counts the tokens of captions where no text encoder is given.

        That is CLIP's own vocabulary, which all Stable Diffusion 1.x and 2.x have and which comes with tadp; for a
        captioner that is part of a model, as that of "tadp-tiny" is, the model's tokenizer.

        Example:
            >>> Captioner.from_pretrained("tadp-tiny").token_counter.count_tokens(["a dog on grass"])
            [6]
        """
        return clip_counter() if self._tokenizer_folder is None else folder_counter(self._tokenizer_folder)

    @property
    def provenance(self) -> dict[str, Any]:
        """All that decides the captions, to be kept beside them as JSON."""
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
        """Describe images; `describe` tells more.

        Args:
            images: One image, a batch (B, 3, H, W) or (B, H, W, 3), or a list of images of any sizes; each as
                `tadp.images.to_pil` takes it. Files are read batch by batch.
            text_encoder: That of the backbone the captions are for, `backbone.text_encoder`; None counts as
                `token_counter` does. Captions with more tokens than it takes are named in a warning.
            progress: Show a progress bar.

        Returns:
            One caption an image, in order; an empty list for an empty list. What is still empty, or a loop, after a
            second try is kept, with a warning that names the images.

        Raises:
            ImageError: If an image cannot be read; the message says which.
            TypeError: If something is no image.

        Example:
            >>> from tadp.datasets.scenes import Scenes
            >>> captioner = Captioner.from_pretrained("tadp-tiny")
            >>> len(captioner([scene.image for scene in Scenes(2, seed=1)]))
            2
        """
        captions = self.describe(images, text_encoder=text_encoder, progress=progress)
        who = f"the captioner {self._name!r}"
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
        """Describe images as a call does, and say of each caption how it went: no warnings, but `Caption`s.

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
            captions += self._batch([_read(image, start + k, len(listed)) for k, image in enumerate(batch)])
        return counted(captions, text_encoder or self.token_counter)

    def _batch(self, images: list[Image.Image]) -> list[Caption]:
        """Captions of images that go through the model at once, those that failed a second time."""
        captions = [checked(text) for text in self._generate(images)]
        failed = [number for number, caption in enumerate(captions) if caption.problem]
        if failed and self._decoding.retry:
            for number, text in zip(failed, self._generate([images[k] for k in failed], again=True), strict=True):
                captions[number] = better(captions[number], checked(text, retried=True))
        return captions

    @torch.inference_mode()
    def _generate(self, images: list[Image.Image], *, again: bool = False) -> list[str]:
        inputs = self._inputs(images)
        arguments = self._decoding.arguments(images, again=again)
        ids = self._model.generate(**inputs, **arguments)  # pyright: ignore[reportCallIssue]
        if "input_ids" in inputs:
            ids = _without_echo(ids, inputs["input_ids"])
        texts = self._processor.batch_decode(ids, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    def _inputs(self, images: list[Image.Image]) -> dict[str, Tensor]:
        """The model's inputs: pixels in its dtype, token ids where there is text."""
        if self._processor.chat_template:
            text = {"type": "text", "text": self._decoding.prompt or INSTRUCTION}
            chats = [[{"role": "user", "content": [{"type": "image", "image": image}, text]}] for image in images]
            inputs = self._processor.apply_chat_template(
                chats,
                add_generation_prompt=True,
                tokenize=True,
                return_tensors="pt",
                return_dict=True,
                processor_kwargs={"padding": True, "return_tensors": "pt"},
            )
        else:
            prompts = None if self._decoding.prompt is None else [self._decoding.prompt] * len(images)
            inputs = self._processor(images=images, text=prompts, return_tensors="pt")
        device, dtype = _home(self._model)
        return {
            key: value.to(device, dtype if value.is_floating_point() else value.dtype) for key, value in inputs.items()
        }


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise OptionError(Argument("batch_size"), f" must be 1 or more; got {batch_size}.")


def _check_positions(model: nn.Module, max_new_tokens: int, name: str) -> None:
    config: Any = model.config
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and max_new_tokens > positions:
        most = f" must be at most {positions} for {name!r}; got {max_new_tokens}."
        raise OptionError(Argument("max_new_tokens"), most)


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
