"""Files that ship inside the package: `tadp-tiny`, the vocabulary of CLIP, and configurations of base models."""

from importlib.resources import files
from pathlib import Path


def tiny_folder() -> Path:
    """The folder of `tadp-tiny`, laid out like Stable Diffusion on the hub, plus a `captioner/` folder."""
    return Path(str(files(__name__))) / "tadp-tiny"


def clip_merges() -> Path:
    """OpenAI's merges of CLIP's byte-pair encoding, one per line, gzipped; the MIT licence is in the same folder."""
    return Path(str(files(__name__))) / "clip" / "merges.txt.gz"


def single_file_configs() -> Path:
    """Configurations of Stable Diffusion 1.5 and 2.1, for files that contain only weights."""
    return Path(str(files(__name__))) / "single_file.json"
