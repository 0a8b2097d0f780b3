"""The site: `python -m sphinx -W --keep-going --quiet docs build/site`; docs/contributing.md says more."""

import contextlib
import io
import re
import tomllib
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import inspect
from sphinx.util.typing import stringify_annotation

import tadp
from tadp.backbone import Text
from tadp.cli import app as command
from tadp.images import ImageLike

project = "tadp"
author = "The tadp developers"
copyright = "the tadp developers, Apache-2.0"
release = version = tadp.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["figures"]

html_theme = "furo"
html_title = "tadp"
# Links to the sources of pages; pyproject.toml has the address of the repository.
PYPROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
REPOSITORY = PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"]
html_theme_options = {"source_repository": REPOSITORY, "source_branch": "main", "source_directory": "docs/"}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = html_copy_source = False
smartquotes_action = "D"  # only dashes: quotes in docstrings are Python's

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

nitpicky = True
# Names of other packages and of internal modules have no page here.
PRIVATE = r"diffusion(?!\.families\.\w+$)|files|text|language\.\w+|backbone\.\w+|extract\.store_index"
INTERNAL = rf"tadp\.(?:errors\.Argument|(?:{PRIVATE})\..*)"
nitpick_ignore_regex = [("py:.*", rf"(?!tadp\.).*|.*\._\w+|{INTERNAL}")]
VARIABLES = ["captions.filling.Image", "tasks.base.Model", "datasets.readers.image_folder.Own",
             "datasets.readers.rows.Rows", "datasets.readers.splitting.Splittable"]  # fmt: skip
nitpick_ignore = [("py:class", f"tadp.{name}") for name in VARIABLES]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_custom_sections = [("Source", "returns_style")]
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"

ALIASES = {
    stringify_annotation(union, "smart"): f"~tadp.{name}"
    for name, union in {"images.ImageLike": ImageLike, "backbone.Text": Text}.items()
}


def readable_signature(app, what, name, obj, options, signature, returns):
    """Constructors as they are called, and `ImageLike` where the annotation says so, for all that it may be."""
    if getattr(obj, "_is_protocol", False):
        return "", None
    if what == "class" and signature == "(*args, **kwargs)":  # the hub mixin's `__new__` hides the constructor
        own = inspect.signature(obj.__init__, bound_method=True)
        signature = inspect.stringify_signature(own, show_return_annotation=False, unqualified_typehints=True)
    for long, short in {**ALIASES, "<factory>": "..."}.items():
        signature = signature and signature.replace(long, short)
    return signature, returns


def in_sphinx_markup(app, what, name, obj, options, lines):
    """Docstrings are written to be read as they are: here their code blocks and their backticks are marked up."""
    if what == "data":
        lines.clear()  # those of its type, `dict` or `str`; the page says what it is
    text = "\n".join(lines)
    if what == "module":
        text = re.sub(r"\n\n((?: {4}.*\n|\n(?= {4}))+)", r"\n\n::\n\n\1", f"{text}\n")
    parts = re.split(r"(?m)(^ *>>> .*(?:\n.*\S.*)*)", text)  # every other one is an example, with what it prints
    lines[:] = "".join(part if number % 2 else _marked_up(part) for number, part in enumerate(parts)).split("\n")


def short_types(app, what, name, obj, options, lines):
    """Fields of data classes, whose types napoleon writes out, as signatures have them."""
    lines[:] = [line.replace("jaxtyping.", "") for line in lines]


def _marked_up(text):
    text = re.sub(r"(?<!`)`([^`]+)`(?!`)", _code, text)
    text = re.sub(r"\bdocs/([\w/-]+)\.md\b", r":doc:`/\1`", text)  # a page of this site
    return re.sub(r"\|(\S[^|\n]*)\|", r"\|\1\|", text)  # |p - t| is a difference, no substitution


def _code(match: re.Match) -> str:
    code = " ".join(match[1].split())
    end = r"\ " if match.string[match.end() : match.end() + 1].isalnum() else ""  # "`Caption`s"
    return f":py:obj:`.{code}`{end}" if re.fullmatch(r"(tadp\.|[A-Z])[\w.]+", code) else f"``{code}``{end}"


def write_figure(app, exception):
    """The page that docs/explore.md and docs/index.md show in a frame, by the command that is next to it."""
    if exception is None and app.builder.format == "html":
        scene, page = Path(__file__).parent / "images/scene.png", Path(app.outdir) / "_static/explore.html"
        with contextlib.redirect_stdout(io.StringIO()):
            options = ["--caption", "a cat, a bus and a dog", "-o", str(page)]
            command(["show", str(scene), *options], standalone_mode=False)


def setup(app: Sphinx) -> None:
    """Hooks of autodoc; napoleon, which turns sections into fields, has a priority of 500."""
    app.connect("autodoc-process-signature", readable_signature)
    app.connect("autodoc-process-docstring", in_sphinx_markup, priority=400)
    app.connect("autodoc-process-docstring", short_types, priority=600)
    app.connect("build-finished", write_figure)
