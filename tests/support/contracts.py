"""Compares what tests cover with the public names of the class of another package whose place an adapter takes."""

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from packaging.version import Version


def public_names(*kinds: type) -> set[str]:
    """The names without an underscore that these classes themselves define."""
    return {name for kind in kinds for name in vars(kind) if not name.startswith("_")}


def check_covered(
    names: set[str],
    *,
    written_for: tuple[str, str],
    tested: Mapping[str, Iterable[str]],
    left_out: Mapping[str, Iterable[str]],
    tests: Mapping[str, Any],
) -> None:
    """Check that each name is covered by a test that exists, or is left out for a reason, and nothing else is listed.

    Args:
        names: The public names in the installed package.
        written_for: The package, and the version for which the lists were written. Names that an older version lacks
            may be listed.
        tested: Names that tests cover, by the name of the test.
        left_out: Names that no test covers, by the reason.
        tests: The namespace of the test module.
    """
    covered = [name for group in (*tested.values(), *left_out.values()) for name in group]
    problems = {
        "no such test": [test for test in tested if not callable(tests.get(test))],
        "not a reason": [reason for reason in left_out if len(reason.split()) < 3],
        "listed twice": sorted({name for name in covered if covered.count(name) > 1}),
        "neither tested nor left out": sorted(names - set(covered)),
        "not in the installed package": sorted(set(covered) - names) if is_at_least(*written_for) else [],
    }
    problems = {problem: found for problem, found in problems.items() if found}
    assert not problems, problems


def is_at_least(package: str, written_for: str) -> bool:
    """Whether a package is installed in this version or a newer one."""
    return Version(version(package)) >= Version(written_for)
