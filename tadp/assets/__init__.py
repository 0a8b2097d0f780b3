"""Files that ship inside the package: the embedded checkpoint `tadp-tiny`, and the vocabulary of CLIP."""

from importlib.resources import files
from pathlib import Path


def tiny_folder() -> Path:
    """The folder of `tadp-tiny`, laid out as Stable Diffusion is on the hub, with a `captioner/` besides."""
    return Path(str(files(__name__))) / "tadp-tiny"


def clip_merges() -> Path:
    """The merges of CLIP's byte-pair encoding, one a line, packed; OpenAI's, under the MIT licence beside it."""
    return Path(str(files(__name__))) / "clip" / "merges.txt.gz"
