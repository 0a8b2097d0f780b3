"""The package as a whole: its names, the direction of its imports, its examples, and its built distributions."""

import ast
import doctest
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

import tadp
from tadp.cli import app

ROOT = Path(tadp.__file__).parent
MODULES = sorted(
    ".".join(("tadp", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
)
PYPROJECT = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
DESIGN = (ROOT.parent / "docs" / "design.md").read_text(encoding="utf-8")


def table(header: str) -> list[tuple[str, str]]:
    """The rows of a table in design.md: the code in the first column, and the text in the second column."""
    below = DESIGN.partition(f"| {header} |")[2].partition("\n\n")[0]
    return re.findall(r"^\| `([^`]+)` \| (.+) \|$", below, re.MULTILINE)


ORDER = {folder: number for number, (folder, _) in enumerate(table("folder | what is inside"))}
# Names that several modules have, and what they share; the folder says what differs.
SHARED_NAMES = {
    "segmentation": "the head, the metric and the model of a task",
    "depth": "the same",
    "detection": "the same",
    "backbone": "a folder and the class it is about",
    "captioner": "the same",
    "convert": "a folder and its command",
    "explore": "the same",
    "export": "the same",
    "extract": "the same",
    "features": "what a backbone returns, and the command for stored features",
    "personalize": "the same",
}


def path_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def folder_of(module: str) -> str:
    return module.split(".")[1]


def is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(module: str) -> set[str]:
    """The package's modules that a module imports: at the top, in a function, or only for type checkers."""
    return imported_by(ast.parse(path_of(module).read_text(encoding="utf-8")))


def imported_by(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import of {node.module}"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in MODULES else node.module or "")
    return {name for name in names if name in MODULES}


def imports_in_functions(module: str) -> set[str]:
    functions = (
        node
        for node in ast.walk(ast.parse(path_of(module).read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return set().union(*(imported_by(function) for function in functions))


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
    blocks = [node for node in tree.body if is_for_type_checkers(node)]
    names = {alias.asname for block in blocks for node in block.body for alias in node.names}
    assert names == set(tadp.__all__) - {"__version__"}


def test_a_name_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(AttributeError, match=r"has no attribute 'TADP'; it has AttentionMaps, CaptionModifier, Cap"):
        _ = tadp.TADP


LIGHT = (
    "tadp", "tadp.errors", "tadp.files.atomic", "tadp.captions", "tadp.cleaning", "tadp.datasets",
    "tadp.datasets.scenes", "tadp.metrics",
)  # fmt: skip


@pytest.mark.parametrize("module", LIGHT)
def test_importing_is_cheap(module, tmp_path):
    program = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = set(run("-c", program, cwd=tmp_path).split())
    assert not loaded & {"torch", "torchvision", "diffusers", "transformers", "huggingface_hub"}


def test_importing_tadp_imports_nothing_but_its_list_of_names(tmp_path):
    program = "import sys; before = set(sys.modules); import tadp; print(*set(sys.modules) - before)"
    assert set(run("-c", program, cwd=tmp_path).split()) == {"tadp", "tadp._lazy", "tadp._version"}


# Structure


def test_the_package_has_at_most_seven_files_of_its_own():
    files = {path.name for path in ROOT.iterdir() if path.is_file()}
    assert len(files) <= 7, files


def test_every_folder_has_its_place():
    assert set(ORDER) == {folder_of(module) for module in MODULES if module != "tadp"}


@pytest.mark.parametrize("module", [module for module in MODULES if module != "tadp"])
def test_imports_point_up_the_table(module):
    own = ORDER[folder_of(module)]
    wrong = {other for other in imports(module) if other == "tadp" or ORDER[folder_of(other)] > own}
    assert not wrong, f"{module} imports {wrong}, which stand below it in the table of docs/design.md"


def test_heads_see_only_what_a_backbone_returns():
    allowed = {"errors", "features", "files", "images", "heads"}
    for module in MODULES:
        if module.startswith("tadp.heads"):
            assert {other for other in imports(module) if folder_of(other) not in allowed} == set()


def test_no_imports_go_in_a_circle():
    graph = {module: imports(module) for module in MODULES}
    while graph:
        leaves = {module for module, imported in graph.items() if not imported & graph.keys() - {module}}
        assert leaves, f"a circle among {sorted(graph)}"
        graph = {module: imported for module, imported in graph.items() if module not in leaves}


def test_imports_inside_functions_are_those_of_the_design_page():
    """The command line is not included: it imports inside its commands, so that `tadp --help` is fast."""
    imported = {
        f"{module} > {other}"
        for module in MODULES
        if module != "tadp" and folder_of(module) != "cli"
        for other in imports_in_functions(module)
    }
    assert imported == {name for name, _ in table("import inside a function | reason")}


def test_no_two_modules_share_a_name():
    paths = [path for path in ROOT.rglob("*.py") if path.name != "__init__.py"]
    names = Counter([path.stem for path in paths] + [path.parent.name for path in ROOT.rglob("__init__.py")])
    assert {name for name, count in names.items() if count > 1} == set(SHARED_NAMES)


def test_no_file_grows_too_long():
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in ROOT.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 410} == {}


def test_a_command_is_in_a_file_named_after_it():
    commands: Any = typer.main.get_command(app)
    files = {path.stem for path in (ROOT / "cli").glob("*.py")}
    assert len(commands.commands) > 8
    assert set(commands.commands) <= files


def test_the_import_reader_sees_imports():
    """Otherwise the tests above would prove nothing."""
    assert {"tadp.text.conditioning", "tadp.files.checks"} <= imports("tadp.backbone.backbone")
    assert imported_by(ast.parse("if TYPE_CHECKING:\n    from tadp.backbone import TADPBackbone")) == {"tadp.backbone"}
    assert imported_by(ast.parse("def load():\n    from tadp import tasks")) == {"tadp.tasks"}
    assert imported_by(ast.parse("from tadp import __version__")) == {"tadp"}


# Examples


def examples(module: str) -> list[doctest.DocTest]:
    """Docstring examples, read from the source: doctest's finder skips functions that the type checker wraps."""
    tree = ast.parse(path_of(module).read_text(encoding="utf-8"))
    tests = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            name = f"{module}.{getattr(node, 'name', '')}"
            test = doctest.DocTestParser().get_doctest(text, {}, name, str(path_of(module)), getattr(node, "lineno", 1))
            tests += [test] if test.examples else []
    return tests


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
    """A folder with the sdist and the wheel that is built from it: CI's, or else a build of this test run."""
    if os.environ.get("TADP_DIST"):
        return Path(os.environ["TADP_DIST"])
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
    assert "tadp/assets/tadp-tiny-depth/model.safetensors" in names
    assert {name for name in names if ".dist-info/" not in name} == sources
    assert "tadp = tadp.cli:app" in entry_points


@pytest.mark.slow
def test_the_sdist_holds_what_tests_and_docs_need(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"README.md", "LICENSE", "pyproject.toml", "tests/conftest.py", "tests/data/golden/facts.json"} <= names
    assert "tadp/assets/tadp-tiny/vae/diffusion_pytorch_model.safetensors" in names


@pytest.mark.slow
def test_the_package_page_has_absolute_links_from_one_address(built):
    repository = PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"]
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        page = wheel.read(next(name for name in wheel.namelist() if name.endswith("METADATA"))).decode()
    links = set(re.findall(r"\]\(([^)]+)\)", page))
    assert len(links) > 30
    assert not {link for link in links if not link.startswith("https://")}
    pages = {link for link in links if "github.io" in link}
    site = repository.replace("https://github.com/", "https://").replace("/tadp", ".github.io/tadp")
    assert {link.partition("/tadp/")[0] + "/tadp" for link in pages} == {site}
    for link in pages:
        name = link.removeprefix(f"{site}/").partition("#")[0].removesuffix(".html")
        assert (ROOT.parent / "docs" / f"{name}.md").exists(), link
    for link in links - pages:
        if link.startswith(repository):
            path = link.removeprefix(repository).split(f"/v{tadp.__version__}/")[1]
            assert (ROOT.parent / path).exists(), link
    assert f"Project-URL: Source, {repository}\n" in page
    assert f"Project-URL: Documentation, {site}\n" in page


def test_hints_name_extras_that_exist():
    extras = PYPROJECT["project"]["optional-dependencies"]
    pages = [path for folder in ("tadp", "examples", "docs") for path in (ROOT.parent / folder).rglob("*.[mp][dy]")]
    hints = [
        name
        for path in (*pages, ROOT.parent / "README.md")
        for names in re.findall(r"tadp\[([a-z,]+)\]", path.read_text(encoding="utf-8"))
        for name in names.split(",")
    ]
    assert len(hints) > 20
    assert set(hints) <= set(extras)


def test_every_named_version_of_python_is_tested():
    versions = re.findall(r"Python :: (3\.\d+)", " ".join(PYPROJECT["project"]["classifiers"]))
    workflow = (ROOT.parent / ".github" / "workflows" / "tests.yml").read_text()
    assert f"python: {versions}".replace("'", '"') in workflow


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
