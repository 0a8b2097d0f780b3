"""A seeded sample of the hostile kinds and kills, at most three minutes of one core.

HOSTILE_SEED=N draws another sample. A failure is repeated by `python -m tests.hostile --seed N --only "NAME"`.
"""

import multiprocessing.connection
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from running import fork_server

from .cases import all_kinds
from .child import Outcome
from .controls import CONTROLS
from .kills import COMMANDS, all_kills
from .warm import serve

SEED = int(os.environ.get("HOSTILE_SEED", "0"))
KINDS_PER_FAMILY, KILLS = 2, 10
UNDER_WORK = Path(__file__).with_name("under_work.txt")  # kinds that are not handled yet


def sample() -> list[str]:
    """Some kinds of each family, and some kills, without those that are not handled yet."""
    rng, left_out = Random(SEED), set(UNDER_WORK.read_text().splitlines() if UNDER_WORK.exists() else ())
    families: dict[str, list[str]] = {}
    for name, kind in all_kinds().items():
        families.setdefault(kind.family, []).extend([] if name in left_out else [name])
    kinds = [name for names in families.values() for name in rng.sample(names, min(KINDS_PER_FAMILY, len(names)))]
    kills = [name for name, kill in all_kills().items() if name not in left_out and not COMMANDS[kill.command].is_slow]
    return kinds + rng.sample(kills, KILLS)


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[[str, int], Outcome]]:
    """Runs a case in the warm process, which has imported everything and has never computed."""
    ours, theirs = multiprocessing.connection.Pipe()
    process = fork_server().Process(target=serve, args=(theirs,))
    process.start()
    theirs.close()
    try:
        assert ours.recv() == "ready"

        def ask(name: str, seed: int) -> Outcome:
            ours.send((name, seed))
            return ours.recv()

        yield ask
        ours.send(None)
        process.join(30)
    finally:
        process.kill()
        process.join()
        ours.close()


@pytest.mark.parametrize("name", sample())
def test_bad_input_is_handled(name, run):
    outcome = run(name, SEED)
    assert outcome.is_handled, f'{outcome.detail}\nRepeat: python -m tests.hostile --seed {SEED} --only "{name}"'


@pytest.mark.parametrize("complaint", CONTROLS)
def test_the_judge_and_the_watch_see_what_is_wrong(complaint, run):
    """Otherwise the tests above would prove nothing."""
    outcome = run(complaint, SEED)
    assert not outcome.is_handled
    assert complaint in outcome.detail
