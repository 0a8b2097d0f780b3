"""The text of calls that pass only images, as the trainers and evaluators of frameworks do."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tadp.backbone import TADPBackbone
from tadp.captioner import Captioner, Decoding
from tadp.captions import CaptionTable
from tadp.errors import CaptionError, ModelError
from tadp.files.schema import HINT, check_types, shown

CaptionSource = CaptionTable | Mapping[str, str] | str | Path
FindText = Callable[..., Sequence[str] | None]
_DIGEST = "pixels-"  # distinguishes digests from the other ids of a table


@dataclass(frozen=True, eq=False)
class CallText:
    """The text of calls that pass only images: a captioner, a table of captions, or one text for all images.

    Attributes:
        captioner: Arguments of `Captioner.from_pretrained`; None without a captioner.
        captions: Captions by image id, or by the digest of the pixels; None without a table.
        text: One text for all images; None without a fixed text.
        loaded: The captioner, if it is already loaded.
    """

    captioner: Mapping[str, Any] | None = None
    captions: CaptionTable | None = None
    text: str | None = None
    loaded: Captioner | None = None

    @classmethod
    def of(
        cls,
        captioner: "Captioner | str | Mapping[str, Any] | None",
        captions: CaptionSource | None,
        text: str | None,
        *,
        load: bool = True,
    ) -> "CallText | None":
        """Read the arguments of an adapter; None if all three are None.

        Args:
            captioner: A captioner, its name, or arguments of `Captioner.from_pretrained`.
            captions: A table, a mapping from image id to caption, or a caption file.
            text: One text for all images.
            load: Whether to load a captioner now rather than at its first use.

        Raises:
            ValueError: If more than one of the three is passed.
            TypeError: If one has a wrong type, or the captioner has no name from which it can be loaded again.
            CaptionError: If the caption file cannot be read.
            UnknownModelError: If there is no such captioner.
        """
        passed = [name for name, value in (("captioner", captioner), ("captions", captions), ("text", text))
                  if value is not None]  # fmt: skip
        if len(passed) > 1:
            raise ValueError(f"pass one of captioner, captions and text; got {' and '.join(passed)}.")
        if not passed:
            return None
        if text is not None and not isinstance(text, str):
            raise TypeError(f"text must be one string for all images; got {type(text).__name__}.")
        loaded = captioner if isinstance(captioner, Captioner) else None
        arguments = _arguments(captioner)
        if loaded is None and arguments is not None and load:
            loaded = Captioner.from_pretrained(**arguments)
        return cls(arguments, None if captions is None else _table(captions), text, loaded)

    def __str__(self) -> str:
        if self.captions is not None:
            return f"captions of {len(self.captions)} images"
        return f"the text {self.text!r}" if self.captioner is None else f"the captioner {self.captioner['name']!r}"

    def attach(self, backbone: TADPBackbone) -> TADPBackbone:
        """Return a backbone with this text that shares weights and `conditioning()` blocks with `backbone`."""
        if self.text is not None:
            return backbone.with_options(default_text=self.text).attach_captioner(None)
        other = backbone.with_options()
        if self.captions is not None:
            return other.attach_captioner(StoredCaptions(self.captions))
        return other.attach_captioner(self.loaded or _SavedCaptioner(self.captioner or {}))

    def to_dict(self) -> dict[str, Any]:
        """The text as JSON values, from which `of(**entries)` makes it again. A table is included as a whole."""
        captions = None if self.captions is None else dict(self.captions.items())
        entries = {"captioner": self.captioner and dict(self.captioner), "captions": captions, "text": self.text}
        return {name: value for name, value in entries.items() if value is not None}

    def to_tensor(self) -> Tensor:
        """The text as bytes, for a state dict, because safetensors files and most checkpoints only hold tensors."""
        return torch.frombuffer(bytearray(json.dumps(self.to_dict()).encode()), dtype=torch.uint8)

    @classmethod
    def from_tensor(cls, state: Any) -> "CallText | None":
        """Read what `to_tensor` made. A captioner is loaded at its first use.

        Raises:
            ModelError: If the tensor does not hold such a text.
        """
        place = Path("the text in this state dict")
        try:
            entries = json.loads(bytes(state.cpu().numpy()))
        except (AttributeError, TypeError, ValueError) as error:
            raise ModelError(f"{place} is not JSON ({error}); get the file again.") from error
        return cls.of(**checked_entries(entries, place), load=False)


def checked_entries(entries: Any, place: Path) -> dict[str, Any]:
    """The arguments of `CallText.of` in a file, after checking their types.

    Raises:
        ModelError: If an entry has a wrong type, or a captioner has an unknown argument.
    """
    if not isinstance(entries, Mapping):
        raise ModelError(f"{place} must be a JSON object; got {shown(entries)}. {HINT}")
    check_types(entries, _entries, place)
    captioner = entries.get("captioner")
    if isinstance(captioner, Mapping):
        check_types(captioner, Captioner.from_pretrained, place, below="captioner")
        unknown = sorted(set(captioner) - {"name", "revision", *(option.name for option in fields(Decoding))})
        if unknown or not isinstance(captioner.get("name"), str):
            what = (
                f"no entry {unknown[0]!r}" if unknown else f"a string as its name; got {shown(captioner.get('name'))}"
            )
            raise ModelError(f"{place}: captioner must have {what}. {HINT}")
    return {name: entries.get(name) for name in ("captioner", "captions", "text")}


def _entries(
    *, captioner: Mapping[str, Any] | str | None, captions: Mapping[str, str] | None, text: str | None
) -> None:
    """The entries of a saved text, as a schema."""


class StoredCaptions:
    """Gives the captions of images from a table, in which they are found by the digest of their pixels.

    Args:
        table: Captions by digest; see `pixel_digests`. Entries by other ids are not used.
    """

    def __init__(self, table: CaptionTable):
        self.table = table

    def __call__(self, pixels: Float[Tensor, "b 3 h w"]) -> list[str]:
        """Return one caption per image.

        Raises:
            CaptionError: If the table lacks an image; the message says how many it lacks.
        """
        digests = pixel_digests(pixels)
        absent = self.table.missing(digests)
        if absent:
            count = sum(digest in absent for digest in digests)
            raise CaptionError(
                f"the captions passed as captions= have none for {count} of these {len(digests)} images. Without ids, "
                "images are found by a digest of their pixels, which only matches after the same fixed transforms: "
                "add captions under pyramid.digests(images), or pass ids with each call (pyramid.read_text)."
            )
        return self.table.captions(digests)


def pixel_digests(pixels: Float[Tensor, "b 3 h w"]) -> list[str]:
    """One id per image, computed from its size and its pixels, rounded to 8 bits: "pixels-" and 32 characters."""
    levels = pixels.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8).cpu()
    return [
        _DIGEST + blake2b(image.numpy().tobytes(), digest_size=16, person=b"%dx%d" % image.shape[1:]).hexdigest()
        for image in levels
    ]


def read_text(
    model: nn.Module,
    backbone: TADPBackbone,
    table: CaptionTable | None,
    *,
    captions: FindText | None = None,
    image_ids: FindText | None = None,
) -> ExitStack:
    """Take the captions of each call of a model from its arguments; see `Pyramid.read_text`."""
    blocks: list[ExitStack] = []

    def before(_model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        blocks.append(ExitStack())
        own = {name: value for name, value in kwargs.items() if name not in ("captions", "image_ids")}
        texts = kwargs.get("captions") if captions is None else captions(*args, **own)
        ids = kwargs.get("image_ids") if image_ids is None else image_ids(*args, **own)
        if texts is None and ids is not None:
            if table is None:
                raise CaptionError("a call has image_ids, but the adapter has no table; build it with captions=.")
            texts = table.captions([id_ if isinstance(id_, str) else str(int(id_)) for id_ in ids])
        if texts is not None:
            blocks[-1].enter_context(backbone.conditioning(texts if isinstance(texts, str) else list(texts)))
        return args, own

    def after(_model: nn.Module, _args: Any, _output: Any) -> None:
        if blocks:  # empty if an earlier hook failed
            blocks.pop().close()

    hooks = ExitStack()
    hooks.callback(model.register_forward_pre_hook(before, with_kwargs=True).remove)
    hooks.callback(model.register_forward_hook(after, always_call=True).remove)
    return hooks


class _SavedCaptioner:
    """A captioner that is loaded at its first use, so that loading a checkpoint does not also download a captioner."""

    def __init__(self, arguments: Mapping[str, Any]):
        self._arguments = arguments
        self._captioner: Captioner | None = None

    def __call__(self, pixels: Tensor) -> list[str]:
        if self._captioner is None:
            self._captioner = Captioner.from_pretrained(**self._arguments)
        return self._captioner(pixels)


def warn_without_text(backbone: TADPBackbone, *, stacklevel: int) -> None:
    """Warn if calls that pass only images would use the empty prompt, the default of `default_text`."""
    if backbone.captioner is None and backbone.default_text == "":
        warnings.warn(
            "built without text: images that come without captions get the empty prompt. Pass captioner=, captions= or "
            "text= (text='' for the empty prompt), or load the backbone with default_text=None, so that a call without "
            "text is an error.",
            stacklevel=stacklevel + 1,
        )


def _arguments(captioner: Any) -> dict[str, Any] | None:
    if captioner is None:
        return None
    if isinstance(captioner, Mapping):
        return dict(captioner)
    if isinstance(captioner, str | Path):
        return {"name": str(captioner)}
    arguments = captioner.arguments if isinstance(captioner, Captioner) else None
    if arguments is None:
        raise TypeError(
            "captioner must be a name, or a Captioner that was loaded by its name, because the name is what is saved "
            f"with the model; got {captioner!r}. Attach other captioners yourself: backbone.attach_captioner(…)."
        )
    return arguments


def _table(captions: CaptionSource) -> CaptionTable:
    if isinstance(captions, CaptionTable):
        return captions
    if isinstance(captions, str | Path):
        return CaptionTable.open(captions)
    if not isinstance(captions, Mapping):
        raise TypeError(
            "captions must be a CaptionTable, the path of a caption file, or a mapping from image id to caption; got "
            f"{type(captions).__name__}."
        )
    return CaptionTable(captions)
