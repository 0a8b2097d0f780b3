"""mmsegmentation and mmengine: a backbone in their registry of models."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from tadp.backbone import TADPBackbone
from tadp.files.checks import need
from tadp.integrations.call_text import CaptionSource
from tadp.integrations.pyramid import Pyramid

INSTALL = "pip install mmengine mmsegmentation, and the mmcv version that they require."
# Options of a config's data_preprocessor for which images arrive as RGB in [0, 1].
PREPROCESSOR = {"mean": [0.0, 0.0, 0.0], "std": [255.0, 255.0, 255.0], "bgr_to_rgb": True}


def register(*, name: str = "TADP") -> type:
    """Add a backbone class to mmseg's registry, which `backbone=dict(type="TADP", base_model="tadp-tiny")` builds.

    The class has these arguments: `base_model`, any model that `TADPBackbone.from_pretrained` accepts; `out_indices`,
    the numbers of the pyramid's maps to return; `captioner`, `captions` and `text` of `Pyramid`, which are the text of
    images that come without; `pyramid`, a dict of other options for `Pyramid`; `init_cfg`, an option of mmengine that
    should stay None; and options of `TADPBackbone.from_pretrained`. It returns a tuple of maps. The `in_channels` of
    the decode head must equal the backbone's `out_channels`.

    Args:
        name: Name of the class in configs, "TADP" by default. A registered class with the same name is replaced.

    Returns:
        The registered class, a `mmengine.model.BaseModule`.

    Raises:
        MissingExtraError: If mmengine or mmseg is not installed.
    """
    base_module = need("mmengine.model", install=INSTALL).BaseModule
    registry = need("mmseg.registry", install=INSTALL).MODELS

    class MmsegBackbone(base_module):
        def __init__(
            self,
            base_model: str | Path = "tadp-tiny",
            out_indices: Sequence[int] | None = None,
            pyramid: dict[str, Any] | None = None,
            init_cfg: Any = None,
            captioner: str | None = None,
            captions: CaptionSource | None = None,
            text: str | None = None,
            **options: Any,
        ):
            super().__init__(init_cfg)
            source = {"captioner": captioner, "captions": captions, "text": text}
            backbone = TADPBackbone.from_pretrained(base_model, **options)
            self.pyramid = Pyramid(backbone, **(source | (pyramid or {})))
            channels = self.pyramid.feature_info.channels
            self.out_indices = tuple(range(len(channels)) if out_indices is None else out_indices)
            if any(index not in range(len(channels)) for index in self.out_indices):
                raise ValueError(f"out_indices must be from 0 to {len(channels) - 1}; got {self.out_indices}.")
            self.out_channels = [channels[index] for index in self.out_indices]
            self.pyramid.freeze_unused(self.out_indices)

        def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
            return tuple(self.pyramid(inputs, indices=self.out_indices))

    registry.register_module(name=name, force=True, module=MmsegBackbone)
    return MmsegBackbone
