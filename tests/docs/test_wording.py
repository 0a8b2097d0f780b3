"""The most frequent slips of wording stay out of README, the docs, docstrings and comments."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A pattern, and what to write instead. Few, so that a hit is nearly always a slip.
SLIPS = {
    r"\bone an? (?:image|caption|word|token|class|level|tile|frame|name|file|run|row|batch)\b": "one per image",
    r"\b(?:caption|map|channel|file|row|images|times|GB|GFLOP|step|job|picture) an? "
    r"(?:image|word|token|class|name|level|tile|second|process|step|parameter)\b": "one caption per image",
    r"\bnot to be had\b|\bis to be had\b": "not available",
    r"\banew\b": "again",
    r"\b(?:thereby|whereof|thereof|wherein)\b": "so, of which",
    r"(?m)^\s*\w+: (?:Likewise|As above|The same)\.$": "say it again, or see the other argument",
    r"\bhas not(?=[.,;:)]|$)|\bhave not(?=[.,;:)]|$)": "lacks, does not have it",
    r"\b(?:is|was) told (?:the|of|about|a|an|that|how|which|what)\b|\btells? of\b": "receives, reports",
    r"\bgoes without\b|\bgo without\b": "works without",
    r"\bnames alone\b|\bstrings alone\b|\bweights alone\b|\btensors alone\b|\bpixels alone\b": "only names",
}
# A description of an argument that leans on its name.
LEANING = re.compile(r"(?m)^\s{4,}\w+: (Of|Whose|As|That) ")


def sources() -> Iterator[tuple[str, str]]:
    """Where a text is, and the text: pages without code and quotations, and docstrings and comments of the code."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
        yield str(page.relative_to(ROOT)), re.sub(r'"[^"]*"', "", text)
    for folder in ("tadp", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            code = path.read_text(encoding="utf-8")
            name = str(path.relative_to(ROOT))
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{name}: {getattr(node, 'name', 'module')}", ast.get_docstring(node, clean=False) or ""
            tokens = tokenize.generate_tokens(io.StringIO(code).readline)
            yield name, "\n".join(token.string for token in tokens if token.type == tokenize.COMMENT)


def slips(text: str) -> list[str]:
    """Slips in a text, each with a suggestion."""
    hits = [
        f"{' '.join(match[0].split())!r}: write {better!r}"
        for pattern, better in SLIPS.items()
        for match in re.finditer(pattern, text)
    ]
    return hits + [
        f"{match[0].strip()!r}: start with a noun that says what the argument is" for match in LEANING.finditer(text)
    ]


def test_no_slip_of_wording():
    all_slips = [f"{place}: {slip}" for place, text in sources() for slip in slips(text)]
    assert not all_slips, "\n".join(["see docs/contributing.md, Wording", *all_slips])


@pytest.mark.parametrize(
    "text",
    [
        "It has one caption an image.",
        "Levels whose file is not to be had.",
        "        seed: Of the noise.",
        "The head is told the size.",
        "a model that this folder has not.",
    ],
)
def test_slips_are_found(text):
    assert slips(text)


@pytest.mark.parametrize(
    "text", ["One caption per image.", "A caption has not been read.", "    seed: Seed of the noise."]
)
def test_plain_sentences_pass(text):
    assert not slips(text)
