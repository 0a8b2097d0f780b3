"""The text of a task model: one caption per image, one text for all images, or the text of each image's own class."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from tadp import prompts
from tadp.backbone import TADPBackbone, Text
from tadp.datasets.sample import Sample
from tadp.errors import Argument, CaptionError, ModelError, OptionError
from tadp.files.checks import check_choice, check_classes
from tadp.language.matching import readable
from tadp.text.conditioning import Conditioning
from tadp.text.encoder import check_captions

PromptMode = Literal["captions", "class_names", "class_embeddings", "averaged_eos", "null", "stored"]
PROMPT_MODES: tuple[PromptMode, ...] = get_args(PromptMode)


class ModelText:
    """The text of a task model: its prompt mode and, for modes without captions, its text.

    Args:
        mode: The prompt mode; see `TaskModel`.
        classes: Names of the classes, for the modes "class_names", "class_embeddings" and "averaged_eos", and for
            `own_class`.
        backbone: The backbone that encodes the text.
        own_class: Whether each image only gets the text of its own class, such as its kind of room.
        default_class: Class of images whose class is not known, if `own_class` is set; None refuses such images.

    Attributes:
        stored: The text of mode "stored", (1, L, D); None before `store`, and in other modes.

    Raises:
        ValueError: If `mode` is unknown, or `classes` is missing where it is needed.
        TypeError: If `own_class` is not a bool.
        OptionError: If `own_class` is set in a mode without class names, or `default_class` is not a class.
        ModelError: If the text of the mode has a different number of tokens than the backbone expects.
    """

    def __init__(
        self,
        mode: PromptMode,
        classes: Sequence[str],
        backbone: TADPBackbone,
        *,
        own_class: bool = False,
        default_class: str | None = None,
    ):
        self.mode: PromptMode = mode
        self.classes: tuple[str, ...] = tuple(check_classes(classes, name="prompt_classes")) if classes else ()
        self.own_class, self.default_class = own_class, default_class
        self.stored: Conditioning | None = None
        _check_mode(mode, self.classes, own_class=own_class)
        self._rows = {readable(name): row for row, name in enumerate(self.classes)} if own_class else {}
        is_known = isinstance(default_class, str) and readable(default_class) in self._rows
        if default_class is not None and not is_known:
            raise OptionError(Argument("default_class"), f" must be one of the class names; got {default_class!r}.")
        # one text for all images or, with own_class, one text per class
        self._text = (_texts_of_classes if own_class else _one_text)(mode, self.classes, backbone)
        _check_length(self._text, self, backbone)

    @property
    def summary(self) -> str:
        """The text of a mode without captions, in words, such as "'null', the same for all images"."""
        return f"{self.mode!r}{' of the class of each image' if self.own_class else ', the same for all images'}"

    def of_images(self, text: Text | None) -> Text | None:
        """Return the text for one pass of the backbone.

        Args:
            text: The argument of the call: captions or, with `own_class`, the class of each image or one class for
                all; encoded text; or None.

        Returns:
            The text for the backbone; None in mode "captions" if `text` is None.

        Raises:
            CaptionError: If the class of an image is needed, and it is missing or unknown.
            ModelError: If the mode is "stored" and no text was stored yet.
        """
        if self.mode == "captions" or isinstance(text, Conditioning) or not (self.own_class or text is None):
            return text
        known = self.check_known()
        return known.take(self._class_rows(text)) if self.own_class else known

    def check_known(self) -> Conditioning:
        """The text of a mode without captions, after checking that it is not still to be stored.

        Raises:
            ModelError: If the mode is "stored" and no text was stored yet.
        """
        if self._text is None:
            raise ModelError("this model has no text yet; call model.store_text(conditioning) once.")
        return self._text

    def of_sample(self, sample: Sample) -> str | None:
        """The caption of a sample; with `own_class`, the name of its class; None if the text is one for all images.

        With `own_class`, the class is the sample's caption if this is the name of a class, as in a caption table with
        names of rooms. Otherwise it is the sample's `room`.
        """
        if self.own_class and readable(sample.caption or "") not in self._rows:
            return sample.room or sample.caption
        return sample.caption if self.own_class or self.mode == "captions" else None

    def for_image(
        self, pixels: Tensor, caption: str | Conditioning | None, backbone: TADPBackbone
    ) -> tuple[Conditioning, str | None]:
        """Return the encoded text for one image, and the image's caption.

        Args:
            pixels: The image, (1, 3, H, W) in [0, 1], for the backbone's captioner.
            caption: A caption of the image; with `own_class`, the name of its class; or encoded text. With None, the
                captioner describes the image or, with `own_class`, the default class is used.
            backbone: The backbone that encodes the caption.

        Returns:
            The encoded text, and the caption or class; None in place of the caption if the text is the same for all
            images, or was passed encoded.

        Raises:
            CaptionError: If a caption or class is needed but missing, or if a caption is passed although the text
                is the same for all images.
        """
        # encoded text may replace a stored one, for example that of another kind of room
        is_replaced = isinstance(caption, Conditioning) and (self.mode == "stored" or self.own_class)
        if self.mode != "captions" and not (caption is None or self.own_class or is_replaced):
            raise CaptionError(f"this model's text is {self.summary}; leave caption out.")
        if self.mode == "captions" and caption is None:
            if backbone.captioner is None:
                raise CaptionError(
                    "this model needs a caption; pass ",
                    Argument("caption", ...),
                    ", or call model.attach_captioner('tadp-tiny') once.",
                )
            caption = next(iter(backbone.captioner(pixels)))
        named = None if isinstance(caption, Conditioning) else caption
        if self.mode == "captions" and named is not None:
            return backbone.encode_text(named, truncate=True), named
        text: Any = self.of_images(caption)
        return text, (named or self.default_class) if self.own_class and not is_replaced else None

    def store(self, text: Conditioning) -> None:
        """Set the text of the mode "stored".

        Raises:
            ModelError: If the mode is not "stored".
            ValueError: If there is more than one text or, with `own_class`, not one embedding per class.
        """
        if self.mode != "stored":
            raise ModelError(f"this model's text is {self.mode!r}; build it with prompt_mode='stored'.")
        shape = tuple(text.embeddings.shape)
        if len(text) != 1:
            raise ValueError(f"a stored text must be one text for all images, (1, L, D); got {shape}.")
        if self.own_class and shape[1] != len(self.classes):
            raise ValueError(
                f"with own_class, a stored text must have one embedding per class, here {len(self.classes)}; got "
                f"{shape[1]}."
            )
        self.stored = text
        self._text = text.apart() if self.own_class else text

    def _class_rows(self, names: str | Sequence[str] | None) -> list[int]:
        """The numbers of the classes that are named, each of which must be known."""
        names = self.default_class if names is None else names
        if names is None:
            raise CaptionError(
                "this model needs the class of each image, such as ",
                Argument("caption", self.classes[0]),
                f"; it is one of {', '.join(self.classes)}.",
            )
        named = check_captions(names)
        unknown = next((name for name in named if readable(name) not in self._rows), None)
        if unknown is not None:
            raise CaptionError(f"{unknown!r} is not a class of this model's text; one of {', '.join(self.classes)} is.")
        return [self._rows[readable(name)] for name in named]


def _check_mode(mode: PromptMode, classes: Sequence[str], *, own_class: bool) -> None:
    check_choice(mode, PROMPT_MODES, name="prompt_mode")
    if not isinstance(own_class, bool):
        raise TypeError(f"own_class must be True or False; got {own_class!r}.")
    is_named = mode in ("class_names", "class_embeddings", "averaged_eos")
    if own_class and not is_named and mode != "stored":
        raise OptionError(
            Argument("own_class"),
            " needs a text that is made of class names: prompt_mode 'class_names', 'class_embeddings', 'averaged_eos' "
            f"or 'stored'; got {mode!r}.",
        )
    if (is_named or own_class) and not classes:
        raise ValueError(f"prompt_mode {mode!r} needs class names; pass them as prompt_classes=.")


def _one_text(mode: PromptMode, classes: Sequence[str], backbone: TADPBackbone) -> Conditioning | None:
    """The text that all images share; None in modes whose text is not known yet."""
    if mode == "averaged_eos":
        return prompts.averaged_eos(classes, backbone)
    if mode == "class_embeddings":
        return prompts.class_embeddings(classes, backbone)
    if mode == "class_names":
        return _text_of_names(classes, backbone)
    return backbone.encode_text("") if mode == "null" else None


def _text_of_names(classes: Sequence[str], backbone: TADPBackbone) -> Conditioning:
    """One text made of all class names.

    Raises:
        CaptionError: If the names together have more tokens than the text encoder takes.
    """
    try:
        return backbone.encode_text(prompts.class_names(classes))
    except CaptionError as error:
        if backbone.text_encoder is None or error.option != "truncate":
            raise
        raise CaptionError(
            f"the {len(classes)} class names together do not fit the text encoder, which takes "
            f"{backbone.text_encoder.max_length} tokens. Use fewer or shorter names, or pass ",
            Argument("prompt_mode", "class_embeddings"),
            ", which encodes each name alone.",
        ) from error


def _texts_of_classes(mode: PromptMode, classes: Sequence[str], backbone: TADPBackbone) -> Conditioning | None:
    """One text per class, (K, L, D). The embeddings of short names are padded, and a mask hides the padding."""
    if mode == "averaged_eos":
        return prompts.averaged_eos(classes, backbone).apart()
    if mode == "class_names":
        return backbone.encode_text([prompts.class_names([name])[0] for name in classes])
    if mode == "stored":
        return None
    texts = [prompts.class_embeddings([name], backbone) for name in classes]
    lengths = torch.tensor([text.embeddings.shape[1] for text in texts], device=backbone.device)
    longest = int(lengths.max())
    padded = [
        replace(
            text,
            embeddings=F.pad(text.embeddings, (0, 0, 0, longest - text.embeddings.shape[1])),
            tokens=tuple((*names, *[""] * (longest - len(names))) for names in text.tokens or ()),
        )
        for text in texts
    ]
    return Conditioning(
        torch.cat([text.embeddings for text in padded]),
        tuple(names for text in padded for names in text.tokens or ()),
        tuple(words for text in padded for words in text.words or ()),
        None if (lengths == longest).all() else torch.arange(longest, device=lengths.device) < lengths[:, None],
    )


def _check_length(text: Conditioning | None, settings: ModelText, backbone: TADPBackbone) -> None:
    """Refuse embeddings whose number differs from the attention channels that the head counts."""
    if text is None or settings.mode not in ("class_embeddings", "averaged_eos"):
        return
    length = text.embeddings.shape[1]
    if backbone.options.attached_levels and not backbone.pool_attention and backbone.text_length != length:
        raise ModelError(
            f"{settings.mode!r} gives {length} embeddings for {'each' if settings.own_class else 'these'} "
            f"class{'' if settings.own_class else 'es'}, but the backbone expects {backbone.text_length} tokens. Load "
            f"it with text_length={length}. (The classes are {', '.join(settings.classes)}.)"
        )
