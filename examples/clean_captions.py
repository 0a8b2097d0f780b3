"""How clean are the captions of a target domain, and what does cleaning do to them?

    python examples/clean_captions.py watercolor=captions/watercolor_captions.json comic=captions/comic_captions.json
    python examples/clean_captions.py night=night.json --endpoint http://localhost:8000/v1 --model NAME --out cleaned/

Reads files of the form {image_id: {"captions": ["…"]}}, like the released code, and prints a table: the share of
captions that name the domain before and after, and how often content words changed. Details follow: the words that
captions lost in addition to the domain's own (--read prints each of these captions), the words that followed a removed
word for the domain ("character" in "comic book character"), and how captions begin. Captions are cleaned by
rules, or by a language model behind an endpoint or in a folder. --out writes the cleaned captions in the same form.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tadp.cleaning import CleaningReport, EndpointCleaner, ModelCleaner, RuleCleaner
from tadp.cleaning.domains import any_of
from tadp.files.atomic import replace_file
from tadp.language.grammar import content_words, without_bullet, words_of

COLUMNS = (
    "captions", "name the domain, before", "name the domain, after", "name a medium, before", "name a medium, after",
    "begin with a list marker, before", "begin with a list marker, after", "captions changed",
    "content words changed", "not fully cleaned",
)  # fmt: skip
MARK = re.compile(r"\s*(?:-|\d+[.)])\s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="DOMAIN=FILE", help="domain to remove, and a JSON file of captions")
    parser.add_argument(
        "--endpoint", help="OpenAI-compatible API that cleans captions, such as http://localhost:8000/v1"
    )
    parser.add_argument("--model", help="name of the model at the endpoint; without --endpoint, a folder or hub id")
    parser.add_argument("--out", type=Path, help="folder for the cleaned captions")
    parser.add_argument("--batches", type=int, help="also print how batches of this many captions differ")
    parser.add_argument("--read", action="store_true", help="also print each caption whose content words changed")
    options = parser.parse_args()
    if options.endpoint and not options.model:
        parser.error("--endpoint needs --model, the name of the model there")
    print(f"| file | {' | '.join(COLUMNS)} |\n|{'---|' * 11}")
    details = []
    for argument in options.files:
        domain, _, name = argument.partition("=")
        entries = json.loads(Path(name).read_text(encoding="utf-8"))
        captions = [caption for entry in entries.values() for caption in entry["captions"]]
        report = cleaner_for(domain, options).clean(captions)
        print(row(Path(name).name, report))
        details += describe(Path(name).name, report, size=options.batches, read=options.read)
        if options.out:
            cleaned = iter(report.after)
            output = {
                key: entry | {"captions": [next(cleaned) for _ in entry["captions"]]} for key, entry in entries.items()
            }
            with replace_file(options.out / Path(name).name) as path:
                path.write_text(json.dumps(output, ensure_ascii=False), encoding="utf-8")
    print("\n".join(details))


def cleaner_for(domain: str, options: argparse.Namespace) -> RuleCleaner | EndpointCleaner | ModelCleaner:
    if options.endpoint:
        return EndpointCleaner(options.endpoint, options.model, domain=domain)
    if options.model:
        return ModelCleaner.from_pretrained(options.model, domain=domain)
    return RuleCleaner(domain)


def row(name: str, report: CleaningReport) -> str:
    count = len(report)
    before, after, domain = report.before, report.after, report.domain
    cells = [
        str(count),
        share(len(report.naming_before), count),
        share(len(report.naming_after), count),
        share(sum(map(domain.medium_in, before)), count),
        share(sum(map(domain.medium_in, after)), count),
        share(sum(bool(MARK.match(text)) for text in before), count),
        share(sum(bool(MARK.match(text)) for text in after), count),
        share(len(report.changed), count),
        share(len(report.content_changed), count),
        str(len(report.failures)),
    ]
    return f"| {name} | {' | '.join(cells)} |"


def describe(name: str, report: CleaningReport, *, size: int | None, read: bool) -> list[str]:
    """The words that were lost, the captions that could not be cleaned, and how batches of the input differ."""
    lines = [
        "",
        f"{name}: words that captions lost, in addition to the words for the domain: {listing(report.words_lost)}",
        f"  words that followed a removed word for the domain: {listing(removed_before(report))}",
        f"  captions that begin with a medium, before cleaning: {listing(openings(report))}",
    ]
    if read:
        lines += [f"  {report.before[number]!r} -> {report.after[number]!r}" for number in report.content_changed]
    for number, reason in report.failures.items():
        lines.append(f"  not cleaned: {report.before[number]!r}: {reason}")
    if size:
        traits: dict[str, Callable[[str], object]] = {
            "name the domain": report.domain.named_in,
            "begin with a dash": re.compile(r"\s*-\s").match,
            "begin with a number": re.compile(r"\s*\d+[.)]\s").match,
            "begin with a space": re.compile(r"\s").match,
            "end with a full stop": re.compile(r".*\.\s*$", re.DOTALL).match,
        }
        for trait, matches in traits.items():
            counts = [sum(bool(matches(text)) for text in batch) for batch in batches(report.before, size)]
            lines.append(f"  captions that {trait}, in each batch of {size}: {' '.join(map(str, counts))}")
    return lines


def listing(counts: Counter[str]) -> str:
    return ", ".join(f"{word} {times}" for word, times in counts.most_common()) or "none"


def removed_before(report: CleaningReport) -> Counter[str]:
    """The remaining words that followed a word of the domain, such as "owl" in "a cartoon owl"."""
    own = any_of((*report.domain.nouns, *report.domain.adjectives))
    counts: Counter[str] = Counter()
    for number in report.changed:
        followers = re.findall(rf"{own}[ -]+([^\W\d_]+)", report.before[number], re.IGNORECASE)
        left = set(words_of(report.after[number]))
        counts.update(word for word in map(str.lower, followers) if word in left and content_words(word))
    return counts


def openings(report: CleaningReport) -> Counter[str]:
    """How many captions began with "a drawing of" or the like before cleaning, without articles and list markers."""
    media = any_of(report.domain.media)
    matches = (re.match(rf"(?:an?\s+|the\s+)?({media})\s+of\b", without_bullet(text), re.I) for text in report.before)
    return Counter(f"{match[1].lower()} of" for match in matches if match)


def batches(captions: tuple[str, ...], size: int) -> list[tuple[str, ...]]:
    return [captions[start : start + size] for start in range(0, len(captions), size)]


def share(part: int, count: int) -> str:
    return f"{part} ({part / count:.1%})" if count else "0"


if __name__ == "__main__":
    main()
