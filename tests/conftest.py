import shutil
from pathlib import Path

import jaxtyping
import pytest
import torch
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


@pytest.fixture(scope="module")
def one_thread():
    """Two processes agree to the last bit only on equally many threads; the tests' workers take one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
