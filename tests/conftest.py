import gc
import json
import os
import shutil
from pathlib import Path

import jaxtyping
import pytest
import torch

# Shapes and types are checked at every call; an int may stand for a float. Not in modules with many small functions of
# text and numbers, where the checks take longer than the tests: a tenth of a millisecond per call, and 800,000 calls in
# tests/images/test_windows.py. pyright reads their types.
PACKAGE = Path(__file__).parents[1] / "tadp"
UNCHECKED = ("files", "language", "images/windows.py")
CHECKED = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("[!_]*.py")
    if not path.relative_to(PACKAGE).as_posix().startswith(UNCHECKED)
]
jaxtyping.install_import_hook(CHECKED, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

from builders import build_backbone, build_folder  # noqa: E402  what they import is checked

from tadp import TADPBackbone  # noqa: E402

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # the workers and their child processes share the cores
    threads = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", str(threads))))


LONG = ("test_backbone_text", "test_export", "test_examples", "test_docs", "test_study")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run modules with long tests first, so that no worker idles at the end while another finishes a long test."""
    items.sort(key=lambda item: item.path.stem not in LONG)
    gc.freeze()  # what is there before the first test stays until the end


@pytest.fixture(scope="session")
def backbone() -> TADPBackbone:
    """A small random backbone, shared by all tests; do not modify it."""
    return build_backbone()


@pytest.fixture(scope="session")
def model_source(tmp_path_factory) -> Path:
    """The folder of a small random model, shared by all tests; do not modify it."""
    return build_folder(tmp_path_factory.mktemp("model") / "sd")


@pytest.fixture
def model(model_source, tmp_path) -> Path:
    """A copy of `model_source` that a test may modify."""
    return Path(shutil.copytree(model_source, tmp_path / "sd"))


@pytest.fixture(scope="module")
def browser():
    """One browser for all tests of a module. While it runs, asyncio cannot be used in this process."""
    from browsing import launched

    with launched() as browser:
        yield browser


@pytest.fixture
def no_type_checker(monkeypatch):
    """Switch off the type checker of the tests, which would raise before the package raises its own error."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="module")
def one_thread():
    """Use one thread, as the worker processes do: results are bit-identical only for equal numbers of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def nltk_data(tmp_path, monkeypatch):
    """A folder of NLTK data in the real layout: a sentence splitter without rules and a tagger of six words."""
    from nltk import data, tag
    from nltk.tag.perceptron import PerceptronTagger

    splitter = tmp_path / "tokenizers" / "punkt_tab" / "english"
    tagger = tmp_path / "taggers" / "averaged_perceptron_tagger_eng"
    for folder in (splitter, tagger):
        folder.mkdir(parents=True)
    for name in ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt"):
        (splitter / name).touch()
    words = {"a": "DT", "dog": "NN", "two": "CD", "cats": "NNS", "Paris": "NNP", "runs": "VBZ"}
    for name, value in {"weights": {}, "tagdict": words, "classes": sorted(words.values())}.items():
        (tagger / f"averaged_perceptron_tagger_eng.{name}.json").write_text(json.dumps(value))
    monkeypatch.setattr(data, "path", [str(tmp_path)])
    monkeypatch.setattr(tag, "_get_tagger", lambda lang: PerceptronTagger())  # it keeps the first one it loads
    return tmp_path
