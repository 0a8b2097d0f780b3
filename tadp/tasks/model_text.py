"""The text of a task model: one caption per image, or one text for all images."""

from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor

from tadp import prompts
from tadp.backbone import TADPBackbone
from tadp.errors import Argument, CaptionError, ModelError
from tadp.files.checks import check_choice, check_classes
from tadp.text.conditioning import Conditioning

PromptMode = Literal["captions", "class_names", "class_embeddings", "averaged_eos", "null", "stored"]
PROMPT_MODES: tuple[PromptMode, ...] = get_args(PromptMode)


class ModelText:
    """The text of a task model: its prompt mode and, for modes with one text for all images, that text.

    Args:
        mode: The prompt mode; see `TaskModel`.
        classes: Names of the classes, for the modes "class_names", "class_embeddings" and "averaged_eos".
        backbone: The backbone that encodes the text.

    Raises:
        ValueError: If `mode` is unknown, or `classes` is missing in a mode that needs it.
        ModelError: If the text of the mode has a different number of tokens than the backbone expects.
    """

    def __init__(self, mode: PromptMode, classes: Sequence[str], backbone: TADPBackbone):
        self.mode: PromptMode = mode
        self.classes = tuple(check_classes(classes, name="prompt_classes")) if classes else ()
        self._fixed = _fixed_text(mode, self.classes, backbone)

    def for_all(self) -> Conditioning | None:
        """The text that is used for all images; None in mode "captions".

        Raises:
            ModelError: If the mode is "stored" and no text was stored yet.
        """
        if self.mode == "stored" and self._fixed is None:
            raise ModelError("this model has no text yet; call model.store_text(conditioning) once.")
        return self._fixed

    def for_image(
        self, pixels: Tensor, caption: str | Conditioning | None, backbone: TADPBackbone
    ) -> tuple[Conditioning, str | None]:
        """Return the encoded text for one image, and the image's caption.

        Args:
            pixels: The image, (1, 3, H, W) in [0, 1], for the backbone's captioner.
            caption: A caption of the image, or encoded text; None lets the captioner describe the image.
            backbone: The backbone that encodes the caption.

        Returns:
            The encoded text, and the caption; None in place of the caption if the text is the same for all images.

        Raises:
            CaptionError: If a caption is needed and there is neither a caption nor a captioner, or if a caption is
                passed although the text is the same for all images.
        """
        text = self.for_all()
        if text is not None and caption is None:
            return text, None
        # encoded text may replace a stored one, for example that of another kind of room
        if text is not None and not (self.mode == "stored" and isinstance(caption, Conditioning)):
            raise CaptionError(f"this model's text is {self.mode!r}, the same for all images; leave caption out.")
        if caption is None:
            if backbone.captioner is None:
                raise CaptionError(
                    "this model needs a caption; pass ",
                    Argument("caption", ...),
                    ", or call model.attach_captioner('tadp-tiny') once.",
                )
            caption = next(iter(backbone.captioner(pixels)))
        if isinstance(caption, Conditioning):
            return caption, None
        return backbone.encode_text(caption, truncate=True), caption

    def store(self, text: Conditioning) -> None:
        """Set the text of the mode "stored".

        Raises:
            ModelError: If the mode is not "stored".
            ValueError: If there is more than one text.
        """
        if self.mode != "stored":
            raise ModelError(f"this model's text is {self.mode!r}; build it with prompt_mode='stored'.")
        if len(text) != 1:
            raise ValueError(
                f"a stored text must be one text for all images, (1, L, D); got {tuple(text.embeddings.shape)}."
            )
        self._fixed = text


def _fixed_text(mode: PromptMode, classes: Sequence[str], backbone: TADPBackbone) -> Conditioning | None:
    check_choice(mode, PROMPT_MODES, name="prompt_mode")
    if mode in ("captions", "stored"):
        return None
    if mode == "null":
        return backbone.encode_text("")
    if not classes:
        raise ValueError(f"prompt_mode {mode!r} needs class names; pass them as prompt_classes=.")
    if mode == "class_names":
        return backbone.encode_text(prompts.class_names(classes))
    make = prompts.class_embeddings if mode == "class_embeddings" else prompts.averaged_eos
    text = make(classes, backbone)
    length = text.embeddings.shape[1]
    if backbone.attach_attention and not backbone.pool_attention and backbone.text_length != length:
        raise ModelError(
            f"{mode!r} gives {length} embeddings for these classes, but the backbone expects {backbone.text_length} "
            f"tokens. Load it with text_length={length}. (The classes are {', '.join(classes)}.)"
        )
    return text
