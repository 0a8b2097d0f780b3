"""The site builds without a warning, makes no network requests, and has every public name within two clicks."""

import ast
import inspect
import os
import re
import subprocess
import sys
import zlib
from html import unescape
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

import tadp

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NOT_FOR_IMPORT = {
    "tadp._lazy",
    "tadp.assets",
    "tadp.cli",
    "tadp.explore",
}  # a helper, data, and the commands, which `tadp --help` documents
KINDS = {"class", "exception", "function", "data", "module"}


class Entry(NamedTuple):
    """Where the site describes an object."""

    kind: str
    uri: str
    is_alias: bool


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder of the site: what CI has built, or else a build by the same command."""
    if "TADP_SITE" in os.environ:
        return Path(os.environ["TADP_SITE"])
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "--quiet", str(DOCS), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    return folder


@pytest.fixture(scope="module")
def entries(site) -> dict[str, Entry]:
    """The Python entries of the site's objects.inv, by full name."""
    result = {}
    content = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    for line in zlib.decompress(content).decode().splitlines():
        if match := re.fullmatch(r"(\S+) py:(\w+) (-?\d+) (\S+) .*", line):
            name, kind, priority, uri = match.groups()
            result[name] = Entry(kind, uri.replace("$", name), int(priority) < 0)
    return result


def modules() -> list[ModuleType]:
    """The modules of tadp that have an `__all__`."""
    paths = sorted((ROOT / "tadp").rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return [import_module(name) for name, path in zip(names, paths, strict=True) if "\n__all__ = [" in path.read_text()]


def whole_modules() -> list[ModuleType]:
    """The modules that a page documents in full and that have no `__all__`."""
    text = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    names = re.findall(r"automodule:: (\S+)\n   :members:\n", text)
    return [module for module in map(import_module, names) if not hasattr(module, "__all__")]


def imported() -> dict[str, str]:
    """The full names that README and docs import from tadp, and the page. Scripts may also import internal modules."""
    sources = {}
    for page in (ROOT / "README.md", *DOCS.rglob("*.md")):
        blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        sources[page] = "\n".join(blocks)
    names = {}
    for page, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tadp":
                names |= {f"{node.module}.{alias.name}": page.name for alias in node.names}
            elif isinstance(node, ast.Import):
                names |= {alias.name: page.name for alias in node.names if alias.name.startswith("tadp.")}
    return names


def resolved(name: str) -> object:
    """The object with this full name: a module, or something defined in a module or class."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            value: object = import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            value = getattr(value, part)
        return value
    raise AttributeError(name)


def is_described(name: str, entries: dict[str, Entry]) -> bool:
    """Whether an object has an entry, under this name, its name in `tadp` or the name of its definition."""
    value = resolved(name)
    home = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
    exported = [f"tadp.{export}" for export in tadp.__all__ if getattr(tadp, export) is value]
    return any(alias in entries for alias in (name, home, *exported))


def links(page: Path) -> set[str]:
    """The targets of the links in a page's own text, without its navigation bars."""
    article = re.search(r"<article.*?</article>", page.read_text(), re.DOTALL)
    assert article
    return set(re.findall(r'<a [^>]*href="([^"]+)"', article[0]))


def test_names_of_the_package_have_entries(entries):
    assert {name for name in tadp.__all__ if f"tadp.{name}" not in entries} == set()


def test_public_names_of_its_modules_have_entries(entries):
    shown = [module for module in modules() if module.__name__ not in NOT_FOR_IMPORT]
    assert {"tadp.heads", "tadp.metrics", "tadp.datasets", "tadp.prompts"} <= {module.__name__ for module in shown}
    names = {f"{module.__name__}.{name}" for module in shown for name in module.__all__}
    assert {name for name in names if not is_described(name, entries)} == set()


def test_modules_that_are_shown_whole_are_whole(entries):
    shown = whole_modules()
    assert {"tadp.training.losses", "tadp.training.schedules", "tadp.errors"} <= {module.__name__ for module in shown}
    for module in shown:
        for name, value in vars(module).items():
            is_own = getattr(value, "__module__", "") == module.__name__ and not name.startswith("_")
            if is_own and (inspect.isclass(value) or inspect.isfunction(value)):
                assert f"{module.__name__}.{name}" in entries


def test_what_docs_import_has_an_entry(entries):
    names = imported()
    assert "tadp.export.OnnxBackbone" in names
    assert {name: where for name, where in names.items() if not is_described(name, entries)} == {}


def test_entries_are_of_things_that_are_there(entries):
    for name, entry in entries.items():
        if entry.kind in KINDS:
            resolved(name)


def test_every_name_is_two_clicks_away(site, entries):
    assert "api/index.html" in links(site / "index.html")
    listed = {f"api/{link}" for link in links(site / "api" / "index.html")} | {"api/index.html#tadp.__version__"}
    described = {
        name: entry.uri for name, entry in entries.items() if entry.kind in KINDS - {"module"} and not entry.is_alias
    }
    assert len(described) > 150
    assert {name: uri for name, uri in described.items() if uri not in listed} == {}


def test_signatures_read_as_they_are_written(site):
    text = unescape(re.sub(r"<[^>]+>", "", (site / "api" / "backbone.html").read_text()))
    assert "Float[Tensor, 'b c h w']" in text
    assert "images: ImageLike | Sequence[ImageLike]" in text
    assert "jaxtyping" not in text


def test_pages_ask_nothing_of_the_network(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in (*pages, *site.rglob("*.css")):
        text = page.read_text()
        assert not re.findall(r"""<(?:script|img|link|iframe)[^>]*(?:src|href)=["'](?:https?:)?//""", text), page
        assert not re.findall(r"""@import|url\(["']?(?:https?:)?//""", text), page


def test_the_first_figure_is_the_page_that_the_command_writes(site):
    for name in ("index", "explore"):
        ((source,),) = [re.findall(r'<iframe class="figure" src="([^"]+)"', (site / f"{name}.html").read_text())]
        page = (site / source).read_text()
        assert '<img id="image" alt="a cat a bus and a dog" src="data:image/png' in page
        assert '"text":"bus","found":true' in page


def test_every_page_is_on_the_site(site):
    for page in DOCS.rglob("*.md"):
        assert (site / page.relative_to(DOCS).with_suffix(".html")).exists()


def test_the_figure_is_what_its_script_draws(tmp_path):
    script, picture = DOCS / "figures" / "data_flow.py", DOCS / "images" / "data-flow.svg"
    subprocess.run([sys.executable, str(script), "--out", str(tmp_path / "drawn.svg")], check=True)
    assert (tmp_path / "drawn.svg").read_text() == picture.read_text()


def test_ci_builds_the_site_as_the_page_says():
    documented = next(
        line for line in (DOCS / "contributing.md").read_text().splitlines() if line.startswith("python -m sphinx")
    )
    executed = next(
        line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("python -m sphinx")
    )
    assert "-W" in executed
    assert documented.split()[:-1] == executed.split()[:-1]
