"""What makes a run this run and no other: written beside what it learned, and compared before a checkpoint is used."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tadp.files.atomic import replace_file
from tadp.modifiers import CaptionModifier
from tadp.personalize.loop import Concept
from tadp.personalize.run_options import RunOptions
from tadp.personalize.trained_model import DiffusionModel

RECORD_NAME = "training.json"
# Changing the number of steps goes on with a run; the rest here changes no number, or only its last bits.
_COMPARED = ("batch_size", "lr", "weight_decay", "max_grad_norm", "seed", "adam_8bit")


def identity_of(
    model: DiffusionModel, concepts: Sequence[Concept], options: RunOptions, **settings: Any
) -> dict[str, Any]:
    """A run in JSON: the model by name and commit, images by a digest, texts in full, the numbers.

    Args:
        model: What is trained.
        concepts: On what.
        options: How.
        **settings: What is this kind of training's own.
    """
    source = model.backbone.source
    name = source.name if source else str(model.folder)
    return {
        **settings,
        "model": str(Path(name).resolve()) if Path(name).is_dir() else name,
        "revision": source.revision if source else None,
        "noise": {
            key: value for key, value in model.noise.config.items() if key in ("prediction_type", "beta_schedule")
        },
        "dtype": str(model.precision).removeprefix("torch."),
        "concepts": [_concept(concept) for concept in concepts],
        **{name: getattr(options, name) for name in _COMPARED},
    }


def keep(modifier: CaptionModifier, identity: Mapping[str, Any], options: RunOptions) -> None:
    """Write a modifier and the record of its run to the options' output, if there is one.

    Raises:
        OutputError: If it cannot be written.
    """
    if options.output is None:
        return
    modifier.save_pretrained(options.output)
    text = json.dumps({**identity, "steps": options.steps}, indent=2, ensure_ascii=False)
    with replace_file(options.output / RECORD_NAME) as part:
        part.write_text(text + "\n", encoding="utf-8")


def _concept(concept: Concept) -> dict[str, Any]:
    texts = [list(one) for one in concept.texts]
    images = concept.images
    return {
        "images": images.digest,
        "count": len(images),
        "side_px": images.side_px,
        "flip": images.flip,
        "random_crop": images.random_crop,
        "texts": texts[0] if all(one == texts[0] for one in texts) else texts,
        "weight": concept.weight,
    }
