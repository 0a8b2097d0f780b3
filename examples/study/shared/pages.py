"""A page of the study: Markdown, JSON and a picture, side by side."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tadp.drawing import sheet
from tadp.files.atomic import replace_file

SIDE_PX = 136


def write_page(page: Path, parts: Sequence[str], summary: Any) -> None:
    """PAGE.md and PAGE.json, each whole or not at all; the text is printed too."""
    text = "\n\n".join(parts)
    page.parent.mkdir(parents=True, exist_ok=True)
    for suffix, content in ((".md", text), (".json", json.dumps(summary, indent=1))):
        with replace_file(page.with_suffix(suffix)) as part:
            part.write_text(content + "\n", encoding="utf-8")
    print(text)


def cell(picture: Image.Image, title: str) -> Image.Image:
    """A small picture under its title."""
    return sheet([[picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)]], titles=[title or " "])


def write_sheet(rows: Sequence[Sequence[Image.Image]], page: Path) -> None:
    """PAGE.png, in 255 colours, which a page of small pictures can do with."""
    page.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(page.with_suffix(".png")) as part:
        sheet(rows).quantize(255).save(part, format="png")
