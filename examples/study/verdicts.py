"""Every claim of the paper with our figure and a verdict: docs/results/paper.md, and a page of details per section.

    python examples/study/verdicts.py --results docs/results --page docs/results/paper.md

This runs no training. It reads the study's JSON files and claims.toml, which says what each claim is compared with.
Results that are missing are shown as "not run yet".
"""

import argparse
import tomllib
from pathlib import Path
from typing import Any

from shared.judgement import Judgement
from shared.judging import judge
from shared.options import run
from shared.results import Results
from shared.summaries import costs, real_text, study_pages, supervision

from tadp.files.atomic import replace_file

HERE = Path(__file__).parent
WHOLE = ("agrees", "partly agrees", "cannot tell", "partly disagrees", "disagrees", "mixed")
DETAILS = """\
For each claim, this page gives the paper's figure, our own and a verdict. Differences between rows of a table have 95 %
intervals. [The paper on one page](paper.md) explains the verdicts and the words *frozen* and *tuned*. The rows of
tables are explained [with Table 1](study-table1.md) (VPD(LS), TADP-40, averaged EOS …) and [with Tables 4 and
5](study-domains.md) (null, simple …)."""
Judged = tuple[dict[str, Any], Judgement]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("docs/results"), help="folder of the JSON files")
    parser.add_argument(
        "--page",
        type=Path,
        default=Path("docs/results/paper.md"),
        help="path of the page; details go to paper-*.md next to it",
    )
    how = parser.parse_args()
    claims = tomllib.loads((HERE / "claims.toml").read_text(encoding="utf-8"))
    texts = {name: text.strip() for name, text in claims["page"].items()}
    results = Results(how.results)
    judged = [(claim, judge(claim, results)) for claim in claims["claim"]]
    write(how.page, overview(texts, claims["section"], judged, results))
    for page, sections in by_page(claims["section"]).items():
        write(how.page.with_name(f"paper-{page}.md"), details(sections, judged))
    basis = [texts["basis"], supervision(results), texts["real_text"], real_text(results), texts["real_text_end"]]
    write(how.page.with_name("paper-basis.md"), [*basis, texts["changes"]])
    full_scale = [texts["full_scale"], costs(how.results / "schedule-cost.md")]
    write(how.page.with_name("paper-full-scale.md"), full_scale)
    print(count(judged))


def write(page: Path, parts: list[str]) -> None:
    page.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(page) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def overview(
    texts: dict[str, str], sections: list[dict[str, str]], judged: list[Judged], results: Results
) -> list[str]:
    """The page with one verdict per claim."""
    tables = [table(section, in_section(section, judged)) for section in sections]
    parts = [texts["opening"], count(judged), texts["findings"], texts["reading"], *tables]
    return [*parts, texts["commands"], study_pages(results), texts["closing"]]


def by_page(sections: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """The sections on each page of details."""
    pages: dict[str, list[dict[str, str]]] = {}
    for section in sections:
        pages.setdefault(section["page"], []).append(section)
    return pages


def in_section(section: dict[str, str], judged: list[Judged]) -> list[Judged]:
    return [(claim, judgement) for claim, judgement in judged if claim["section"] == section["name"]]


def count(judged: list[Judged]) -> str:
    """How many claims have which verdict."""
    verdicts = [judgement.short_verdict or judgement.verdict for _, judgement in judged]
    words = [word for word in (*WHOLE, "cannot be tested", "not run yet") if word in verdicts]
    words += [word for word in dict.fromkeys(verdicts) if word not in words]
    return f"**{len(judged)} claims. Verdicts: {'; '.join(f'{word}: {verdicts.count(word)}' for word in words)}.**"


def table(section: dict[str, str], judged: list[Judged]) -> str:
    lines = [f"## {section['name']}", "", "| claim | the paper | ours (frozen; tuned) | verdict |", "|---|---|---|---|"]
    for claim, judgement in judged:
        cells = (
            claim["claim"],
            claim["paper"],
            judgement.in_short(),
            f"**{judgement.short_verdict or judgement.verdict}**",
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, "", f"[Details of these claims](paper-{section['page']}.md)"])


def details(sections: list[dict[str, str]], judged: list[Judged]) -> list[str]:
    """A page with all figures of the claims of some sections, and why we think each came out as it did."""
    parts = [
        f"# {sections[0]['title']}",
        DETAILS,
    ]
    for section in sections:
        parts += [f"## {section['name']}"] * (len(sections) > 1)
        level = "###" if len(sections) > 1 else "##"
        for claim, judgement in in_section(section, judged):
            parts += [f"{level} {claim['claim'].rstrip('.')}", f"The paper: {claim['paper']}."]
            if judgement.figures and "" not in judgement.figures:
                parts += [
                    "Ours, in percentage points, as differences from the null modifier (plain captions):"
                    if "cross" in claim
                    else f"Ours, {claim.get('differences', 'as differences')}:",
                    judgement.details(),
                ]
            elif judgement.details() != "-":
                parts += [f"Ours{compared(claim)}: {judgement.details()}."]
            parts += [f"Verdict: **{judgement.verdict}**. {claim['why']}"]
    return parts


def compared(claim: dict[str, Any]) -> str:
    """The two rows whose difference a claim is about, such as ", TADP-40 minus VPD(LS)"; empty for other claims.

    With two parts of a table, which are the fast and the normal schedule, it is the difference of their differences.
    """
    terms = claim.get("rows", {})
    rows = terms.get("rows", {})
    if list(rows.values()) != [1, -1]:
        return ""
    difference = " minus ".join(f"({row})" if "," in row else row for row in rows)
    if isinstance(terms.get("part"), list):
        return f", ({difference}, fast schedule) minus ({difference}, normal schedule)"
    return f", {difference}"


if __name__ == "__main__":
    run(main)
