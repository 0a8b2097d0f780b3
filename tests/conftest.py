import os
import shutil
from pathlib import Path

import jaxtyping
import pytest
import torch
from builders import build_backbone, build_folder

from tadp import TADPBackbone

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # workers, and what they start, share the cores
    threads = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", str(threads))))


LONG = ("test_backbone_text", "test_export", "test_examples", "test_docs", "test_study")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules with long tests come first, so that at the end no worker waits for another's last test."""
    items.sort(key=lambda item: item.path.stem not in LONG)


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
