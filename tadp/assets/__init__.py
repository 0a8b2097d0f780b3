"""Files that ship inside the package: `tadp-tiny`, its task models, CLIP's vocabulary, configurations of base models.

The task models contain only their heads; `tadp-tiny` is their base model.
"""

from importlib.resources import files
from pathlib import Path

TASK_MODELS = {  # by task
    "segmentation": "tadp-tiny-segmentation",
    "depth": "tadp-tiny-depth",
    "detection": "tadp-tiny-detection",
}


def tiny_folder() -> Path:
    """The folder of `tadp-tiny`, laid out like Stable Diffusion on the hub, plus a `captioner/` folder."""
    return Path(str(files(__name__))) / "tadp-tiny"


def task_model_folder(name: str | Path) -> Path | None:
    """The folder of a task model that ships, or None if no model that ships has this name."""
    return Path(str(files(__name__))) / str(name) if str(name) in TASK_MODELS.values() else None


def clip_merges() -> Path:
    """OpenAI's merges of CLIP's byte-pair encoding, one per line, gzipped; the MIT licence is in the same folder."""
    return Path(str(files(__name__))) / "clip" / "merges.txt.gz"


def single_file_configs() -> Path:
    """Configurations of Stable Diffusion 1.5 and 2.1, for files that contain only weights."""
    return Path(str(files(__name__))) / "single_file.json"
