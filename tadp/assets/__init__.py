"""Files that ship inside the package: `tadp-tiny`, the vocabulary of CLIP, and configurations of base models."""

from importlib.resources import files
from pathlib import Path


def tiny_folder() -> Path:
    """The folder of `tadp-tiny`, laid out as Stable Diffusion is on the hub, with a `captioner/` besides."""
    return Path(str(files(__name__))) / "tadp-tiny"


def clip_merges() -> Path:
    """The merges of CLIP's byte-pair encoding, one a line, packed; OpenAI's, under the MIT licence beside it."""
    return Path(str(files(__name__))) / "clip" / "merges.txt.gz"


def single_file_configs() -> Path:
    """Configurations of Stable Diffusion 1.5 and 2.1, for files that hold weights alone."""
    return Path(str(files(__name__))) / "single_file.json"
