"""A page of the study: a Markdown file with a JSON file and a picture of the same name."""

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tadp.drawing import sheet
from tadp.files.atomic import replace_file

from .settings import Settings

SIDE_PX = 136
SCENES = Settings()
OPENINGS = Path(__file__).parents[2] / "openings.toml"


def opening(name: str, settings: Settings = SCENES) -> str:
    """What the page of a table or figure says first: the question, the rows and the columns."""
    texts = tomllib.loads(OPENINGS.read_text(encoding="utf-8"))
    text = texts.get(name, "").strip()
    if name == "modifiers":
        text = text.format(**texts["modifier-words"]["both"])
    if settings.data != "scenes":
        text = re.sub(r"\[rendered\s+scenes?\]\(\S+?\)", f"images of {settings.data}", text)
    if settings.model != "tadp-tiny":
        text = text.replace("[`tadp-tiny`](../tadp-tiny.md)", f"`{Path(settings.model).name}`")
    return text


def found(command: str) -> str:
    """What the stored results show, for the page of the command that made them; empty for other commands."""
    return tomllib.loads(OPENINGS.read_text(encoding="utf-8"))["found"].get(command, "").strip()


def write_page(page: Path, parts: Sequence[str], summary: Any) -> None:
    """Write PAGE.md and PAGE.json, each complete or not at all, and print the text."""
    text = "\n\n".join(part for part in parts if part)
    page.parent.mkdir(parents=True, exist_ok=True)
    for suffix, content in ((".md", text), (".json", json.dumps(summary, indent=1))):
        with replace_file(page.with_suffix(suffix)) as part:
            part.write_text(content + "\n", encoding="utf-8")
    print(text)


def cell(picture: Image.Image, title: str) -> Image.Image:
    """A small picture with its title above."""
    return sheet([[picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)]], titles=[title or " "])


def write_sheet(rows: Sequence[Sequence[Image.Image]], page: Path) -> None:
    """Write PAGE.png with 255 colours, which are enough for small pictures."""
    page.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(page.with_suffix(".png")) as part:
        sheet(rows).quantize(255).save(part, format="png")
