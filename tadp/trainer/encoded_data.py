"""Samples whose images and captions are encoded only once, so that training needs neither VAE nor text encoder.

FOLDER/settings.json         what determines the content, so that files made with other settings are refused
FOLDER/00000000.safetensors  latents and encoded captions of the first images, one file per batch

A batch that was written is not encoded again, so a run that was stopped continues.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tadp.backbone import TADPBackbone
from tadp.datasets import Augmented, CenterCrop, PadTo, RandomFlip, Resize, Sample, collate
from tadp.datasets.batch import Batch
from tadp.datasets.transforms.augmented import SampleSource
from tadp.datasets.transforms.geometric import Transform
from tadp.errors import CaptionError, CorruptFileError, OutputError, TrainingError
from tadp.files.atomic import remove_leftovers, replace_file
from tadp.files.checks import check_whole
from tadp.files.fingerprint import fingerprint
from tadp.files.hub import check_readable
from tadp.files.progress import tracked
from tadp.images import to_tensor
from tadp.language.name_spans import Word
from tadp.text.conditioning import Conditioning
from tadp.trainer.checkpoints import differences
from tadp.trainer.run_data import contents, digest
from tadp.trainer.run_record import write

SETTINGS = "settings.json"
_ALWAYS_THE_SAME = (Resize, CenterCrop, PadTo)  # transforms without random numbers
_TENSORS = ("embeddings", "mask", "pooled")  # of an encoded caption
_LAST = "channels_last"  # whether latents have this layout
_FORMAT = 1


@dataclass(frozen=True)
class EncodedBatch:
    """A batch, with the latents of its images and its encoded captions if they are stored.

    Attributes:
        batch: The images with their labels.
        latents: The latents of the images, (B, C, H, W); None if they are not stored.
        text: The encoded captions; None if they are not stored.
    """

    batch: Batch
    latents: Float[Tensor, "_b _c _h _w"] | None = None
    text: Conditioning | None = None

    def to(self, device: torch.device) -> "EncodedBatch":
        """The part on another device."""
        latents = None if self.latents is None else self.latents.to(device, non_blocking=True)
        text = None if self.text is None else self.text.to(device)
        return EncodedBatch(self.batch.to(device, non_blocking=True), latents, text)

    def pin_memory(self) -> "EncodedBatch":
        """The part in pinned memory. A DataLoader calls this."""
        latents = None if self.latents is None else self.latents.pin_memory()
        return EncodedBatch(self.batch.pin_memory(), latents, self.text)

    @property
    def inputs(self) -> dict[str, Any]:
        """Keyword arguments of a task model: images or their latents, and captions."""
        size = self.batch.images.shape[2:]
        return {
            "images": self.batch.images if self.latents is None else None,
            "latents": self.latents,
            "text": self.batch.captions if self.text is None else self.text,
            "image_size": (size[0], size[1]),
        }


@dataclass(frozen=True)
class EncodedSample:
    """A sample, the latents of its image, (1, C, H, W), and its encoded caption, which is None if it is not stored."""

    sample: Sample
    latents: Float[Tensor, "1 _c _h _w"]
    text: Conditioning | None


class EncodedData:
    """Samples with the stored latents of their images and, if asked for, their stored encoded captions.

    Sample i in epoch e is the same as in `Augmented(data, transforms, seed=seed)`. Create it with `encode`.

    Args:
        folder: The folder of the files.
        data: The samples before the transforms.
        transforms: Transforms that are always the same, and at most one `RandomFlip`.
        seed: Seed of the random numbers. See `Augmented`.
        indices: The images that are stored, by their index; None is all.
        captions: Whether captions are stored, too.
        batch_size: Number of images that a file has.

    Raises:
        TrainingError: If the transforms do more at random than flip.
    """

    def __init__(
        self,
        folder: Path,
        data: SampleSource,
        transforms: Sequence[Transform] = (),
        *,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        captions: bool = True,
        batch_size: int = 16,
    ):
        changes = random_changes(transforms)
        if changes:
            raise TrainingError(
                f"images can only be encoded once if they are at most flipped at random, but they go through {changes}."
            )
        self.folder, self.data, self.transforms, self.seed = folder, data, tuple(transforms), seed
        self.indices = list(range(len(data)) if indices is None else indices)
        self.captions, self.batch_size = captions, check_whole(batch_size, name="batch_size")
        self._places = {index: place for place, index in enumerate(self.indices)}
        # Shared memory, so that workers that were started in an earlier epoch see the change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @classmethod
    def encode(
        cls,
        folder: str | Path,
        backbone: TADPBackbone,
        data: Any,
        transforms: Sequence[Transform] = (),
        *,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        captions: bool = True,
        batch_size: int = 16,
        overwrite: bool = False,
    ) -> "EncodedData":
        """Encode the images and captions that are not stored yet.

        Latents and embeddings are those of `encode_image` and `encode_text` for `batch_size` images at once. For other
        numbers of images, they differ by rounding, 1e-5 in float32. Captions over the text encoder's limit are cut,
        with a warning.

        Args:
            folder: The folder to write to.
            backbone: The backbone whose VAE and text encoder are used.
            data: A data set with `image_ids`.
            transforms: Transforms that are always the same, and at most one `RandomFlip`. With a flip, mirrored images
                are encoded, too. Images of one batch must have one size.
            seed: Seed of the random numbers. See `Augmented`.
            indices: The images to encode, by their index; None is all.
            captions: Whether to encode captions, too.
            batch_size: Number of images that are encoded at once, and that a file has.
            overwrite: Whether to replace files that were made with other settings.

        Raises:
            TrainingError: If the transforms do more at random than flip, or the backbone has the option
                `sample_posterior`, which draws new latents in each pass.
            OutputError: If the folder has files that were made with other settings or from other images, and
                `overwrite` is not set, or it cannot be written to.
            CaptionError: If captions are to be encoded and an image has none.
        """
        if backbone.options.sample_posterior:
            raise TrainingError(
                "images cannot be encoded only once with sample_posterior=True, which draws new latents in each pass. "
                "Load the backbone with sample_posterior=False."
            )
        encoded = cls(
            Path(folder), data, transforms, seed=seed, indices=indices, captions=captions, batch_size=batch_size
        )
        encoded._check_settings(encoded._settings(backbone), overwrite=overwrite)
        missing = [number for number in range(-(-len(encoded.indices) // batch_size)) if not encoded._has(number)]
        for number in tracked(missing, len(missing), what="encoding images", unit="batch"):
            encoded._write(number, backbone)
        return encoded

    @staticmethod
    def collate(samples: Sequence[EncodedSample]) -> EncodedBatch:
        """Combine samples into one `EncodedBatch`, as the `collate_fn` of a DataLoader."""
        texts = [sample.text for sample in samples if sample.text is not None]
        return EncodedBatch(
            collate([sample.sample for sample in samples]),
            torch.cat([sample.latents for sample in samples]),
            Conditioning.stack(texts) if texts else None,
        )

    def set_epoch(self, epoch: int) -> None:
        """Use the random numbers of this epoch from now on. This also reaches persistent workers."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> EncodedSample:
        if index not in self._places:
            raise IndexError(f"image {index} is not stored in {self.folder}, which has {len(self._places)} images.")
        sample, is_flipped = self.data[index], False
        generator = np.random.default_rng((self.seed, int(self._epoch), index))
        for transform in self.transforms:
            changed = transform(sample, generator)
            is_flipped |= isinstance(transform, RandomFlip) and changed is not sample
            sample = changed
        number, row = divmod(self._places[index], self.batch_size)
        with safe_open(self._path(number), "pt") as file:
            latents = file.get_slice("latents")[row : row + 1, int(is_flipped)]
            if file.metadata()[_LAST]:  # convolutions round differently in each layout
                latents = latents.contiguous(memory_format=torch.channels_last)
            return EncodedSample(sample, latents, self._text(file, row, sample) if self.captions else None)

    def _text(self, file: Any, row: int, sample: Sample) -> Conditioning:
        stored = json.loads(file.metadata()[str(row)])
        if stored["caption"] != sample.caption:
            raise CaptionError(
                f"{self.folder} has the caption {stored['caption']!r} of {sample.image_id!r}, which now has "
                f"{sample.caption!r}. Delete the folder, or pass another one."
            )
        present = set(file.keys())
        tensors = {name: file.get_slice(name)[row : row + 1] for name in _TENSORS if name in present}
        words = stored["words"] and (tuple(Word(*word) for word in stored["words"]),)
        return Conditioning(tokens=stored["tokens"] and (tuple(stored["tokens"]),), words=words, **tensors)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08}.safetensors"

    def _has(self, number: int) -> bool:
        try:
            check_readable(self._path(number))
        except CorruptFileError:  # it does not exist yet, or is damaged
            return False
        return True

    def _check_settings(self, settings: dict[str, Any], *, overwrite: bool) -> None:
        """Write the settings. Files with other settings are removed, or refused."""
        path = self.folder / SETTINGS
        try:
            stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        except ValueError:  # not written by this class, or damaged
            stored = {}
        if stored == settings:
            return
        files = list(self.folder.glob("*.safetensors"))
        if files and not overwrite:
            changed = differences(stored or {}, settings)
            raise OutputError(
                f"{self.folder} has images that were encoded with other settings: {changed}. Delete the folder, or "
                "pass another one."
            )
        for file in files:
            file.unlink()
        write(path, settings)
        remove_leftovers(self.folder)

    def _settings(self, backbone: TADPBackbone) -> dict[str, Any]:
        """Everything that determines the files, apart from the captions, which are stored with them."""
        data: Any = self.data
        encoder = backbone.text_encoder if self.captions else None
        settings = {
            "format": _FORMAT,
            "vae": fingerprint(backbone.vae),
            "text_encoder": None if encoder is None else fingerprint(encoder),
            "dtype": str(next(backbone.vae.parameters()).dtype),
            "scale_latents": backbone.options.scale_latents,
            "imagenet_pixels": backbone.options.imagenet_pixels,
            "multiple": backbone.layout.multiple,
            "transforms": list(map(str, self.transforms)),
            "image_ids": digest([data.image_ids[index] for index in self.indices]),
            "images": contents([data])["images"],
            "captions": self.captions,
            "batch_size": self.batch_size,
        }
        return json.loads(json.dumps(settings))

    def _write(self, number: int, backbone: TADPBackbone) -> None:
        """Encode a batch and write its file."""
        part = self.indices[number * self.batch_size :][: self.batch_size]
        samples, views = [self.data[index] for index in part], []
        for transforms in _views(self.transforms):
            images = [sample.image for sample in Augmented(samples, transforms)]
            views.append(backbone.encode_image(torch.cat([to_tensor(image) for image in images])).cpu())
        is_last = views[0].is_contiguous(memory_format=torch.channels_last)
        tensors, names = {"latents": torch.stack(views, dim=1).contiguous()}, {_LAST: "1" * is_last}
        if self.captions:
            text = backbone.encode_text([_caption(sample) for sample in samples], truncate=True).to("cpu")
            stored = {name: getattr(text, name) for name in _TENSORS}
            tensors |= {name: values.contiguous() for name, values in stored.items() if values is not None}
            for row, sample in enumerate(samples):
                words, tokens = text.words and text.words[row], text.tokens and text.tokens[row]
                names[str(row)] = json.dumps({"caption": sample.caption, "words": words, "tokens": tokens})
        with replace_file(self._path(number)) as partial:
            save_file(tensors, partial, metadata=names)


def _caption(sample: Sample) -> str:
    if sample.caption is None:
        raise CaptionError(f"{sample.image_id!r} has no caption to encode. Add one, or pass captions=False.")
    return sample.caption


def random_changes(transforms: Sequence[Transform]) -> str:
    """The names of the transforms that change images at random; "" if they do no more than flip them."""
    at_random = [transform for transform in transforms if not isinstance(transform, _ALWAYS_THE_SAME)]
    if len(at_random) <= 1 and all(isinstance(transform, RandomFlip) for transform in at_random):
        return ""
    return ", ".join(type(transform).__name__ for transform in at_random)


def _views(transforms: Sequence[Transform]) -> list[list[Transform]]:
    """The transforms without a flip and, if they flip at random, with one."""
    flips = (False, True) if any(isinstance(transform, RandomFlip) for transform in transforms) else (False,)
    return [
        [RandomFlip(float(flip)) if isinstance(transform, RandomFlip) else transform for transform in transforms]
        for flip in flips
    ]
