"""The facts in an exported file's metadata: a JSON object under one key."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from tadp._version import __version__
from tadp.backbone import TADPBackbone
from tadp.errors import ModelError
from tadp.features import FeatureInfo, Word
from tadp.text.conditioning import Conditioning

KEY = "tadp"  # in the metadata of an ONNX file


@dataclass(frozen=True)
class Facts:
    """What an exported file contains, as information for the code that runs it.

    Attributes:
        tadp: Version of tadp that wrote the file.
        model: Name under which the backbone was loaded; None if it was built from parts.
        revision: Commit of the model, if it came from the hub; otherwise None.
        channels: Number of channels of each map, finest first, including attached attention.
        strides: Stride of each map in pixels, finest first.
        attached: Number of attention channels of each level with attached attention. They are the last channels.
        recorded: Levels whose attention is an output of its own.
        tokens: Number of tokens of every text.
        text_width: D, the width of a token's embedding.
        pooled_width: P, the width of a text's pooled embedding; None if the model takes no pooled embedding.
        image_size: (height, width) of the images in pixels; None for any size from 8 pixels up.
        batch_size: Number of images per call; None for any number.
        text: Tokens and words of the text that is part of the file; None if the text is an input.
        options: Options of the backbone, by name.
    """

    tadp: str
    model: str | None
    revision: str | None
    channels: list[int]
    strides: list[int]
    attached: dict[str, int]
    recorded: list[int]
    tokens: int
    text_width: int
    pooled_width: int | None
    image_size: list[int] | None
    batch_size: int | None
    text: dict[str, Any] | None
    options: dict[str, Any]

    @property
    def levels(self) -> tuple[int, ...]:
        """The level of each map, finest first."""
        return tuple(self.options.get("levels") or range(len(self.channels)))

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels and strides of the maps."""
        return FeatureInfo(tuple(self.channels), tuple(self.strides))

    def to_json(self) -> str:
        """The facts as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def of(
        cls,
        backbone: TADPBackbone,
        *,
        tokens: int,
        image_size: tuple[int, int] | None,
        batch_size: int | None,
        text: Conditioning | None,
    ) -> "Facts":
        """Collect the facts about a backbone that is exported."""
        source, info = backbone.source, backbone.feature_info
        return cls(
            tadp=__version__,
            model=source.name if source else None,
            revision=source.revision if source else None,
            channels=list(info.channels),
            strides=list(info.reduction),
            attached={str(level): tokens for level in backbone.options.attached_levels},
            recorded=list(backbone.record_attention),
            tokens=tokens,
            text_width=backbone.layout.text_width,
            pooled_width=backbone.layout.pooled_width,
            image_size=None if image_size is None else list(image_size),
            batch_size=batch_size,
            text=None
            if text is None
            else {"tokens": text.tokens and text.tokens[0], "words": text.words and text.words[0]},
            options=backbone.options.to_dict(),
        )

    @classmethod
    def read(cls, metadata: dict[str, str], where: object) -> "Facts":
        """Read the facts from a file's metadata.

        Raises:
            ModelError: If the file was not written by tadp, or by a version with other facts.
        """
        if KEY not in metadata:
            raise ModelError(
                f"{where} was not written by tadp.export: its metadata has no {KEY!r}. Run it with ONNX Runtime itself."
            )
        facts: Any = None
        try:
            facts = json.loads(metadata[KEY])
            return cls(**facts)
        except (TypeError, ValueError, RecursionError) as error:
            version = facts.get("tadp") if isinstance(facts, dict) else "of an unknown version"
            raise ModelError(
                f"{where} was written by tadp {version}, whose facts this version cannot read: {error}. "
                "Export it again."
            ) from error

    def names(self) -> tuple[tuple[tuple[str, ...], ...] | None, tuple[tuple[Word, ...], ...] | None]:
        """Tokens and words of the text that is part of the file, in the form of a `Conditioning`."""
        text = self.text or {}
        tokens, words = text.get("tokens"), text.get("words")
        return (
            None if tokens is None else (tuple(tokens),),
            None if words is None else (tuple(Word(*word) for word in words),),
        )
