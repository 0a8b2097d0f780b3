"""The package as a whole: its names, the direction of its imports, its examples, and what is built from it."""

import ast
import doctest
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import tadp

ROOT = Path(tadp.__file__).parent
MODULES = sorted(
    ".".join(("tadp", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
)
# docs: design, "Rooms and floors". A package's floor is that of what it holds, unless named itself.
FLOORS = {
    "errors": 0, "features": 0, "words": 0, "captions": 0, "metrics": 0, "files": 0, "hub": 0, "assets": 0,
    "boxes": 0, "losses": 0, "schedules": 0,
    "looping": 0, "english": 0, "grammar": 0,
    "images": 0, "attention": 1, "unet": 1, "vae": 1, "text": 1, "loading": 1, "plot": 1, "clip_tokenizer": 1,
    "conditioning": 1, "token_names": 1,
    "captioner": 1,
    "prompts": 1, "saving": 1, "tokens": 1, "cleaning": 1,
    "windows": 1, "pictures": 1,
    "backbone": 2, "heads": 2,
    "modifiers": 3, "tasks": 3, "personalize": 3, "convert": 3, "cross_domain": 3, "integrations": 3, "datasets": 0,
    "export": 3, "extract": 4, "explorer": 4, "cli": 4, "__main__": 4,
    "pretrained": 1,
    "_lazy": 0,
    "layout": 1, "joint": 1, "joint_attention": 1, "denoiser": 1, "text_stack": 1, "text_loading": 1,
    "parts": 1, "drop_ins": 1, "noise": 1, "tiles": 1, "crops": 1, "image_ids": 1, "lora": 1, "lora_text": 1,
}  # fmt: skip


def path_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def floor(module: str) -> int:
    parts = module.split(".")[1:]
    names = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    found = [FLOORS[name] for name in names if name in FLOORS]
    assert found, f"{module} has no floor; give it one in FLOORS"
    return found[0]


def for_types_alone(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All below a node, functions' bodies too, without what is there for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if for_types_alone(child):
            continue
        yield child
        yield from statements(child)


def imports(module: str) -> set[str]:
    """Modules of the package that a module imports, at its top or in a function."""
    found = set()
    for node in statements(ast.parse(path_of(module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module or "")
    return {name for name in found if name in MODULES and name != "tadp"}


def run(*arguments: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT.parent), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# Names


def test_the_namespace_is_what_it_says():
    assert sorted(tadp.__all__) == tadp.__all__
    assert dir(tadp) == tadp.__all__
    for name in tadp.__all__:
        value = getattr(tadp, name)
        assert name == "__version__" or value.__name__.removeprefix("tadp.") == name
    star: dict[str, object] = {}
    exec("from tadp import *", star)
    assert set(star) - {"__builtins__"} == set(tadp.__all__)


def test_names_for_type_checkers_are_the_same():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if for_types_alone(node)]
    names = {alias.asname for block in blocks for node in block.body for alias in node.names}
    assert names == set(tadp.__all__) - {"__version__"}


def test_a_name_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(AttributeError, match=r"has no attribute 'TADP'; it has AttentionMaps, CaptionModifier, Cap"):
        _ = tadp.TADP


LIGHT = (
    "tadp", "tadp.errors", "tadp.files", "tadp.captions", "tadp.cleaning", "tadp.datasets", "tadp.datasets.scenes",
    "tadp.metrics",
)  # fmt: skip


@pytest.mark.parametrize("module", LIGHT)
def test_importing_is_cheap(module, tmp_path):
    program = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = set(run("-c", program, cwd=tmp_path).split())
    assert not loaded & {"torch", "torchvision", "diffusers", "transformers", "huggingface_hub"}


# Imports


@pytest.mark.parametrize("module", [module for module in MODULES if module != "tadp"])
def test_imports_point_down(module):
    above = {other for other in imports(module) if floor(other) > floor(module)}
    assert not above, f"{module} (floor {floor(module)}) imports {above} from above"


def test_heads_see_the_ground_floor_alone():
    for module in MODULES:
        if module.startswith("tadp.heads"):
            assert {
                other for other in imports(module) if floor(other) > 0 and not other.startswith("tadp.heads")
            } == set()


def test_no_imports_go_in_a_circle():
    graph = {module: imports(module) for module in MODULES}
    while graph:
        leaves = {module for module, others in graph.items() if not others & graph.keys() - {module}}
        assert leaves, f"a circle among {sorted(graph)}"
        graph = {module: others for module, others in graph.items() if module not in leaves}


def test_the_import_reader_sees_imports():
    """Otherwise the tests above would prove nothing."""
    assert {"tadp.denoiser", "tadp.text", "tadp.loading", "tadp.images"} <= imports("tadp.backbone.backbone")
    assert "tadp.vae" in imports("tadp.loading")  # inside a function


# Examples


def examples(module: str) -> list[doctest.DocTest]:
    """Read from the source: doctest's own finder passes over functions that the type checker wraps."""
    tree = ast.parse(path_of(module).read_text(encoding="utf-8"))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            name = f"{module}.{getattr(node, 'name', '')}"
            test = doctest.DocTestParser().get_doctest(text, {}, name, str(path_of(module)), getattr(node, "lineno", 1))
            found += [test] if test.examples else []
    return found


@pytest.mark.parametrize("module", [module for module in MODULES if examples(module)])
def test_examples_in_docstrings_run(module):
    for test in examples(module):
        test.globs = dict(vars(import_module(module)))
        report: list[str] = []
        outcome = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=report.append)
        assert outcome.failed == 0, "".join(report)
        assert outcome.attempted > 0


def test_the_backbones_example_is_among_them():
    assert [test.name for test in examples("tadp.backbone.backbone")] == ["tadp.backbone.backbone.forward"]


# What is built


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel, which is built from the sdist, and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run("-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT.parent), cwd=folder)
    return folder


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        entry_points = wheel.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    sources = {str(Path("tadp") / path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file()}
    sources = {name for name in sources if "__pycache__" not in name}
    assert "tadp/py.typed" in names
    assert "tadp/assets/tadp-tiny/unet/diffusion_pytorch_model.safetensors" in names
    assert {name for name in names if ".dist-info/" not in name} == sources
    assert "tadp = tadp.cli:app" in entry_points


@pytest.mark.slow
def test_the_sdist_holds_what_tests_and_docs_need(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"README.md", "LICENSE", "pyproject.toml", "tests/conftest.py", "tests/data/golden/facts.json"} <= names
    assert "tadp/assets/tadp-tiny/vae/diffusion_pytorch_model.safetensors" in names


@pytest.mark.slow
def test_the_installed_wheel_works_far_from_its_source(built, tmp_path):
    target = tmp_path / "site"
    wheel = str(next(built.glob("*.whl")))
    run("-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), wheel, cwd=tmp_path, PYTHONPATH="")
    program = """
from importlib.metadata import distribution
import tadp, torch
features = tadp.TADPBackbone.from_pretrained("tadp-tiny", local_files_only=True)(torch.rand(1, 3, 64, 64), "a dog")
(script,) = distribution("tadp").entry_points.select(group="console_scripts")
same = tadp.__version__ == distribution("tadp").version
print(tadp.__file__, len(features.maps), same, script.name, callable(script.load()))
"""
    output = run("-c", program, cwd=tmp_path, PYTHONPATH=str(target), HF_HUB_OFFLINE="1").split()
    assert output == [str(target / "tadp" / "__init__.py"), "4", "True", "tadp", "True"]
