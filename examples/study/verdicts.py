"""Every claim of the paper with our figure and a verdict: docs/results/paper.md, and a page of details per section.

    python examples/study/verdicts.py --results docs/results --page docs/results/paper.md

This runs no training. It reads the study's JSON files and claims.toml, which says what each claim is compared with.
Results that are missing are shown as "not run yet". If there is a folder of results of the control, the U-Net whose
attention was not supervised in training, each claim is judged with both models.
"""

import argparse
import tomllib
from pathlib import Path
from typing import Any

from shared.intervals import NOT_RUN
from shared.judgement import Judgement, with_control
from shared.options import run
from shared.results import Results
from shared.summaries import costs, real_text, study_pages, supervision
from shared.tally import Judged, count, judge_all

from tadp.files.atomic import replace_file

HERE = Path(__file__).parent
DETAILS = """\
Each heading below is a claim of the paper, in our words. Under it are the paper's figure, ours if we have one, and a
verdict ([how to read them](paper.md#how-to-read-the-tables)). Unless a claim says otherwise, our figures are for
[`tadp-tiny`](../tadp-tiny.md) on [rendered scenes](../concepts.md#glossary), as means over three seeds with 95 %
intervals. Only the head is trained if the U-Net is *frozen*, and the U-Net is trained too if it is *tuned*. Names of
texts (VPD(LS), TADP-40, averaged EOS …) are explained [with Table 1](study-table1.md), names of modifiers (null, simple
…) [with Tables 4 and 5](study-domains.md), and other terms in the [glossary](../concepts.md#glossary)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("docs/results"), help="folder of the JSON files")
    parser.add_argument(
        "--page",
        type=Path,
        default=Path("docs/results/paper.md"),
        help="path of the page; details go to paper-*.md next to it",
    )
    parser.add_argument("--control", type=Path, help="folder of the control's JSON files (default: RESULTS/control)")
    how = parser.parse_args()
    claims = tomllib.loads((HERE / "claims.toml").read_text(encoding="utf-8"))
    texts = {name: text.strip() for name, text in claims["page"].items()}
    results, control = Results(how.results), how.control or how.results / "control"
    judged = judge_all(claims["claim"], results, Results(control) if control.is_dir() else None)
    write(how.page, overview(texts, claims["section"], judged))
    for page, sections in by_page(claims["section"]).items():
        write(how.page.with_name(f"paper-{page}.md"), details(sections, judged))
    basis = [texts["basis"], supervision(results), texts["real_text"], real_text(results), texts["real_text_end"]]
    basis += [texts["changes"], texts["commands"], study_pages(results)]
    write(how.page.with_name("paper-basis.md"), basis)
    full_scale = [texts["full_scale"], costs(how.results / "schedule-cost.md")]
    write(how.page.with_name("paper-full-scale.md"), full_scale)
    print(count(judged))


def write(page: Path, parts: list[str]) -> None:
    page.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(page) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def overview(texts: dict[str, str], sections: list[dict[str, str]], judged: list[Judged]) -> list[str]:
    """The page with one verdict per claim."""
    tables = [table(section, in_section(section, judged)) for section in sections]
    reading = texts["reading"]
    if not any(entry.verdict == NOT_RUN for entry in judged):
        reading = "\n".join(line for line in reading.splitlines() if not line.startswith(f"- **{NOT_RUN}**"))
    return [texts["opening"], count(judged), texts["findings"], reading, *tables, texts["closing"]]


def by_page(sections: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """The sections on each page of details."""
    pages: dict[str, list[dict[str, str]]] = {}
    for section in sections:
        pages.setdefault(section["page"], []).append(section)
    return pages


def in_section(section: dict[str, str], judged: list[Judged]) -> list[Judged]:
    return [entry for entry in judged if entry.claim["section"] == section["name"]]


def table(section: dict[str, str], judged: list[Judged]) -> str:
    is_compared = any(entry.control for entry in judged)
    headings = ["claim", "the paper", "ours", *(["`tadp-tiny`", "control"] * is_compared), "verdict"]
    lines = [f"## {section['name']}", "", f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for entry in judged:
        cells = [entry.claim["claim"], entry.claim["paper"], entry.judgement.in_short()]
        if is_compared:
            cells += [entry.judgement.brief, entry.control.brief] if entry.control else ["-", "-"]
        cells.append(f"**{entry.verdict}**")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, "", f"[Details](paper-{section['page']}.md)"])


def details(sections: list[dict[str, str]], judged: list[Judged]) -> list[str]:
    """A page with all figures of the claims of some sections, and why we think each came out as it did."""
    parts = [f"# {sections[0]['title']}", DETAILS]
    for section in sections:
        parts += [f"## {section['name']}"] * (len(sections) > 1)
        level = "###" if len(sections) > 1 else "##"
        for claim, judgement, control in in_section(section, judged):
            parts += [
                f"{level} {claim['claim'].rstrip('.')}",
                f"In the paper: {'; '.join(claim[key] for key in ('paper', 'more') if key in claim)}.",
            ]
            parts += measured(claim, judgement, "Ours")
            if control is None:
                single = "" if judgement.brief == judgement.verdict else f" ({judgement.verdict})"
                parts += [f"Verdict: **{judgement.brief}**{single}. {claim['why']}"]
                continue
            parts += measured(claim, control, "The control")
            verdict = with_control(judgement.brief, control.brief)
            verdicts = f"`tadp-tiny`: {judgement.verdict}. The control: {control.verdict}."
            parts += [f"Verdict: **{verdict}**. {verdicts} {claim['why']}"]
    return parts


def measured(claim: dict[str, Any], judgement: Judgement, whose: str) -> list[str]:
    """The figures of a claim with one model, as paragraphs of a page of details."""
    if judgement.figures and "" not in judgement.figures:
        difference = claim.get("differences", "as differences")
        if "cross" in claim:
            difference = "in percentage points, as differences from the null modifier (plain captions)"
        return [f"{whose}, {difference}:", judgement.details()]
    if judgement.figures and not compared(claim):
        return [f"{whose}, {judgement.details()}."]
    return [f"{whose}{compared(claim)}: {judgement.details()}."] if judgement.details() != "-" else []


def compared(claim: dict[str, Any]) -> str:
    """The difference that a claim is about, such as ", for TADP-40 minus VPD(LS)"; empty for claims without rows.

    With two parts of a table, which are the fast and the normal schedule, it is the difference of their differences.
    """
    terms = claim.get("rows", {})
    rows = terms.get("rows", {})
    if rows and "differences" in claim:
        return f", for {claim['differences']}"
    if list(rows.values()) != [1, -1]:
        return ""
    difference = " minus ".join(f"({row})" if "," in row else row for row in rows)
    if isinstance(terms.get("part"), list):
        return f", for ({difference}, fast schedule) minus ({difference}, normal schedule)"
    return f", for {difference}"


if __name__ == "__main__":
    run(main)
