"""What decides the numbers of a run, so that another run can tell whether its results would be the same."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from tadp.backbone import TADPBackbone
from tadp.captioner import Captioner

_SAMPLES = 4096  # of each weight, for a model's fingerprint


def run_settings(
    backbone: TADPBackbone,
    *,
    captions: str | Captioner | Mapping[str, str],
    model: str,
    revision: str | None,
    levels: tuple[int, ...],
    max_side_px: int | None,
    tiling: Mapping[str, int] | None,
) -> dict[str, Any]:
    """All that decides the numbers, as JSON has it."""
    if isinstance(captions, str):
        source = {"text": captions}
    elif isinstance(captions, Captioner):
        source = {"captioner": captions.name, **captions.generation}
    else:
        source = {"table": True}  # the caption itself is compared, image by image
    settings = {
        "model": model,
        "revision": revision,
        "weights": fingerprint(backbone),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        **backbone.options.to_dict(),
        "captions": source,
        "levels": levels,
        "max_side_px": max_side_px,
        "tiling": tiling,
    }
    return json.loads(json.dumps(settings))


def fingerprint(model: nn.Module) -> str:
    """A short name for a model's weights, from some thousand values of each: a retrained model has another."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        flat = weight.detach().flatten()
        sample = flat[:: max(1, -(-len(flat) // _SAMPLES))].cpu().float()
        digest.update(f"{name} {tuple(weight.shape)} ".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]
