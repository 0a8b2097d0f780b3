"""What an exported file says of itself: a JSON object under one key."""

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
    """What a file holds, for whoever runs it.

    Attributes:
        tadp: The version that wrote it.
        model: The name that the backbone was loaded by; None if it was made from parts.
        revision: The commit of that, if it came from the hub.
        channels: Of each map, attached attention included, finest first.
        strides: Of each map, in pixels.
        attached: For each level with attention attached, how many of its channels, the last ones, are attention.
        recorded: Levels whose attention is an output of its own.
        tokens: Of every text.
        text_width: D, the width of an embedding.
        pooled_width: P, the width of a pooled embedding; None if the model takes none.
        image_size: (height, width) in pixels; None for any from 8 up.
        batch_size: Images of a call; None for any.
        text: If one text is a part of the file, its tokens and words; else None.
        options: The backbone's.
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
    def feature_info(self) -> FeatureInfo:
        """Channels and strides of the maps."""
        return FeatureInfo(tuple(self.channels), tuple(self.strides))

    def to_json(self) -> str:
        """The object as text."""
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
        """The facts of a backbone that is exported."""
        source, info = backbone.source, backbone.feature_info
        return cls(
            tadp=__version__,
            model=source.name if source else None,
            revision=source.revision if source else None,
            channels=list(info.channels),
            strides=list(info.reduction),
            attached={str(level): tokens for level in backbone.attach_attention},
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
        """The facts in a file's metadata.

        Raises:
            ModelError: If the file was not written by tadp, or by a version that says other things.
        """
        if KEY not in metadata:
            raise ModelError(f"{where} was not written by tadp.export: its metadata has no {KEY!r}. Run it by its own.")
        said = json.loads(metadata[KEY])
        try:
            return cls(**said)
        except TypeError as error:
            raise ModelError(
                f"{where} was written by tadp {said.get('tadp')}, whose facts this version does not read: {error}. "
                "Export it again."
            ) from error

    def names(self) -> tuple[tuple[tuple[str, ...], ...] | None, tuple[tuple[Word, ...], ...] | None]:
        """Tokens and words of the text that is a part of the file, as a `Conditioning` has them."""
        text = self.text or {}
        tokens, words = text.get("tokens"), text.get("words")
        return (
            None if tokens is None else (tuple(tokens),),
            None if words is None else (tuple(Word(*word) for word in words),),
        )
