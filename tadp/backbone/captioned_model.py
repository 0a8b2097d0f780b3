"""`CaptionedModel`: a `FeatureModel` that finds the text of a call, from a caption, a block or a captioner."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from torch import Tensor

from tadp.backbone.feature_model import FeatureModel
from tadp.backbone.text_source import CaptionFunction, Text, TextSource
from tadp.text.conditioning import Conditioning

Model = TypeVar("Model", bound="CaptionedModel")


class CaptionedModel(FeatureModel):
    """A `FeatureModel` that finds the text of a call. Its subclass `TADPBackbone` reads the images.

    The arguments are those of `FeatureModel`.
    """

    def __init__(self, *arguments: Any, **networks: Any):
        super().__init__(*arguments, **networks)
        self._texts = TextSource()

    @property
    def captioner(self) -> CaptionFunction | None:
        """The attached captioner; None if none is attached."""
        return self._texts.captioner

    @property
    def uses_default_text(self) -> bool:
        """Whether a call without text gets `default_text`: no block is open, and no captioner is attached."""
        return self.options.default_text is not None and self._texts.is_empty()

    def conditioning(self, text: Text) -> AbstractContextManager[None]:
        """Set the text of `backbone(images)` within a `with` block, for frameworks that only pass images.

        Each thread has its own blocks.

        Args:
            text: One caption per image of the batch, one caption for all images, or a `Conditioning`.

        Raises:
            CaptionError: If `text` is None or empty.
        """
        return self._texts.blocks.open(text)

    def attach_captioner(self: Model, captioner: CaptionFunction | str | None, **options: Any) -> Model:
        """Attach a captioner, which describes the images whenever `backbone(images)` is called without text.

        An open `conditioning()` block takes precedence. The captioner is not a part of the backbone: it is not saved or
        moved with the backbone, and copies of the backbone share it. Captions over the text encoder's limit are cut,
        with a warning.

        Args:
            captioner: A `Captioner`, the name of one, or any function from images (B, 3, H, W) in [0, 1] to B captions.
                None detaches the attached captioner.
            **options: Options of `Captioner.from_pretrained`, if `captioner` is a name.

        Raises:
            UnknownModelError: If `captioner` is a name and there is no such captioner.
            TypeError: If `captioner` is neither a name, a function nor None.
        """
        self._texts = self._texts.with_captioner(captioner, **options)
        return self

    def _find_text(
        self, text: str | Sequence[str] | None, count: int, *, truncate: bool, pixels: Tensor | None = None
    ) -> Conditioning:
        default = self.options.default_text
        return self._texts.resolve(text, count, self.encode_text, default=default, pixels=pixels, truncate=truncate)
