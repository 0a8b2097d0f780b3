"""Draw how images and text become features, with the paper's symbols. The figure is in docs/concepts.md.

    python docs/figures/data_flow.py --out docs/images/data-flow.svg

A box is a step that can be called. The text on an arrow names the data that one step passes to the next.
"""

import argparse
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 740, 590
INK, FAINT, PAPER, FRAME = "#1f2328", "#59636e", "#ffffff", "#f3f6fa"
FILLS = {"image": "#dcebfa", "text": "#fde8d3", "both": "#e3f1de", "yours": "#efe6f7"}
SANS = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


class Box(NamedTuple):
    """A step: its position in the figure, its symbol in the paper, its name in tadp, and its purpose."""

    left: int
    top: int
    symbol: str
    name: str
    note: str
    fill: str
    width: int = 190
    height: int = 66

    @property
    def middle(self) -> tuple[int, int]:
        """The centre of the box, (x, y)."""
        return self.left + self.width // 2, self.top + self.height // 2


IMAGES = Box(20, 24, "x", "images", "paths, arrays, tensors", "image")
CAPTIONER = Box(275, 24, "G", "Captioner", "or prompts", "text")
MODIFIER = Box(530, 24, "M(P)s", "CaptionModifier", "for another domain", "text")
ENCODE_IMAGE = Box(60, 154, "E", "encode_image", "VAE encoder, frozen", "image")
ENCODE_TEXT = Box(490, 154, "τ", "encode_text", "text encoder, frozen", "text")
EXTRACT = Box(275, 240, "ε", "extract", "one pass of the U-Net", "both")
MAPS = Box(60, 342, "F", "raw maps", "one per level, finest first", "both")
ATTENTION = Box(490, 342, "A", ".attention", "one channel per token", "both")
JOINED = Box(275, 406, "V = A ⊕ F", ".maps", "joined at levels 1 and 2", "both")
HEAD = Box(275, 506, "H", "heads", "classes, depth, boxes", "yours")
BOXES = (IMAGES, CAPTIONER, MODIFIER, ENCODE_IMAGE, ENCODE_TEXT, EXTRACT, MAPS, ATTENTION, JOINED, HEAD)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/data-flow.svg"))
    options = parser.parse_args()
    options.out.write_text("\n".join(drawing()) + "\n", encoding="utf-8")


def drawing() -> list[str]:
    """The lines of the SVG file."""
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="{SANS}" font-size="13" fill="{INK}">',
        "<title>From images and captions to features</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{FAINT}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{PAPER}"/>',
        f'<rect x="30" y="124" width="680" height="362" rx="10" fill="{FRAME}" stroke="#c9d1d9"/>',
        text(370, 146, "TADPBackbone: backbone(images, captions)", font=MONO, colour=FAINT),
        *(line for box in BOXES for line in shape(box)),
        arrow((210, 57), (275, 57)),
        arrow((465, 57), (530, 57), label="captions y"),
        arrow((115, 90), (115, 154)),
        arrow((625, 90), (625, 154)),
        arrow((155, 220), (155, 273), (275, 273), label="latents z", at=(210, 265)),
        arrow((585, 220), (585, 273), (465, 273), label="Conditioning C", at=(522, 265)),
        arrow((340, 306), (340, 375), (250, 375)),
        arrow((400, 306), (400, 375), (490, 375)),
        arrow((155, 408), (155, 439), (275, 439)),
        arrow((585, 408), (585, 439), (465, 439)),
        arrow((370, 472), (370, 506)),
        text(478, 544, "predictions, yours to train", anchor="start", colour=FAINT),
        "</svg>",
    ]


def shape(box: Box) -> list[str]:
    """A box with its three lines of text."""
    x = box.middle[0]
    return [
        f'<rect x="{box.left}" y="{box.top}" width="{box.width}" height="{box.height}" rx="8" '
        f'fill="{FILLS[box.fill]}" stroke="{FAINT}"/>',
        text(x, box.top + 20, box.symbol, size=15, style="italic"),
        text(x, box.top + 39, box.name, size=14, font=MONO),
        text(x, box.top + 57, box.note, size=12, colour=FAINT),
    ]


def arrow(*points: tuple[int, int], label: str = "", at: tuple[int, int] | None = None) -> str:
    """A line through the points with a tip at its end, and its label, at `at` or above the middle."""
    path = "M" + "L".join(f"{x} {y}" for x, y in points)
    line = f'<path d="{path}" fill="none" stroke="{FAINT}" stroke-width="1.5" marker-end="url(#tip)"/>'
    if not label:
        return line
    (x, y), (end, _) = points[0], points[-1]
    return line + text(*(at or ((x + end) // 2, y - 8)), label, size=12)


def text(
    x: int,
    y: int,
    content: str,
    *,
    size: int = 13,
    font: str = "",
    style: str = "normal",
    anchor: str = "middle",
    colour: str = INK,
) -> str:
    """One line of text."""
    family = f' font-family="{font}"' if font else ""
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" font-style="{style}" fill="{colour}"'
        f"{family}>{escape(content)}</text>"
    )


if __name__ == "__main__":
    main()
