"""Files that ship inside the package: the embedded checkpoint `tadp-tiny`."""

from importlib.resources import files
from pathlib import Path


def tiny_folder() -> Path:
    """The folder of `tadp-tiny`, laid out as Stable Diffusion is on the hub, with a `captioner/` besides."""
    return Path(str(files(__name__))) / "tadp-tiny"
