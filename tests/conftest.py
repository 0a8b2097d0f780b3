import shutil
from pathlib import Path

import jaxtyping
import pytest
from builders import build_backbone, build_folder

from tadp import TADPBackbone


@pytest.fixture(scope="session")
def backbone() -> TADPBackbone:
    """A small random backbone that no test changes."""
    return build_backbone()


@pytest.fixture(scope="session")
def model_source(tmp_path_factory) -> Path:
    """A small random model on disk that no test changes."""
    return build_folder(tmp_path_factory.mktemp("model") / "sd")


@pytest.fixture
def model(model_source, tmp_path) -> Path:
    """A copy of it, to break."""
    return Path(shutil.copytree(model_source, tmp_path / "sd"))


@pytest.fixture
def no_type_checker(monkeypatch):
    """Switch off the type checker that the tests run under, which speaks before the package's own message."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
