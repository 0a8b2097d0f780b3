"""The site: `python -m sphinx -W --keep-going -n docs build/site`; docs/contributing.md says more."""

import re

from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation

import tadp
from tadp.backbone import Text
from tadp.images import ImageLike

project = "tadp"
author = "The tadp developers"
copyright = "the tadp developers, Apache-2.0"  # noqa: A001  the name Sphinx reads
release = version = tadp.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["figures"]

html_theme = "furo"
html_title = "tadp"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = html_copy_source = False
smartquotes = False  # quotes in docstrings are Python's

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!tadp\.).*|.*\._\w+")]  # names of other packages have no page here
nitpick_ignore = [("py:class", f"tadp.{name}") for name in ("captions.filling.Image", "tasks.base.Model")]  # variables
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_custom_sections = [("Source", "returns_style")]
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"

ALIASES = {
    stringify_annotation(union, "smart"): f"~tadp.{name}"
    for name, union in {"images.ImageLike": ImageLike, "backbone.Text": Text}.items()
}


def name_unions(app, what, name, obj, options, signature, returns):
    """Say `ImageLike` in a signature where the annotation did, in place of all that it may be."""
    for long, short in ALIASES.items():
        signature = signature and signature.replace(long, short)
    return signature, returns


def in_sphinx_markup(app, what, name, obj, options, lines):
    """Docstrings are written to be read as they are: here their code blocks and their backticks are marked up."""
    if what == "data":
        lines.clear()  # those of its type, `dict` or `str`; the page says what it is
    text = "\n".join(lines)
    if what == "module":
        text = re.sub(r"\n\n((?: {4}.*\n|\n(?= {4}))+)", r"\n\n::\n\n\1", f"{text}\n")
    text = re.sub(r"(?<!`)`([^`]+)`(?!`)", _code, text)
    text = re.sub(r"\|(\S[^|\n]*)\|", r"\|\1\|", text)  # |p - t| is a difference, no substitution
    lines[:] = text.split("\n")


def _code(match: re.Match) -> str:
    code = " ".join(match[1].split())
    end = r"\ " if match.string[match.end() : match.end() + 1].isalnum() else ""  # "`Caption`s"
    return f":py:obj:`.{code}`{end}" if re.fullmatch(r"(tadp\.|[A-Z])[\w.]+", code) else f"``{code}``{end}"


def setup(app: Sphinx) -> None:
    """Hooks of autodoc; docstrings are read before napoleon turns their sections into fields."""
    app.connect("autodoc-process-signature", name_unions)
    app.connect("autodoc-process-docstring", in_sphinx_markup, priority=400)
