"""The training loop of examples/training: order, accumulation, processes, checkpoints, latents, and what may go wrong."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from training_worker import labelled_pixels, loss, make_data, make_model, make_options, train, weights

from tadp.captions import CaptionTable
from tadp.datasets import IGNORE_LABEL, Augmented, PascalVOC, RandomFlip, RenderedScenes, Resize
from tadp.errors import CaptionError, ImageError, OutputError
from tadp.schedules import Schedule
from training import data as training_data_module
from training import loop, options as training_options
from training.data import Kept, largest_class, mean_depths, scenes, with_captions
from training.latents import cached_latents
from training.loop import Record
from training.model import training_data
from training.options import StopTraining

WORKER = Path(__file__).parent / "training_worker.py"


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in lines(out)]


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def work(*arguments: object, processes: int | None = None) -> subprocess.CompletedProcess:
    launch = [] if processes is None else ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    folders = [str(WORKER.parent.parent), str(WORKER.parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launch, str(WORKER), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights of a run that was left alone, with dropout and flips."""
    out = tmp_path_factory.mktemp("whole")
    return weights(train(make_options(out))), losses(out)


def test_training_changes_what_trains_and_nothing_else(whole):
    before, (after, said) = weights(make_model()), whole
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in changed} == {"head", "backbone"}
    assert not [name for name in changed if name.startswith(("backbone.vae", "backbone.text_encoder"))]
    assert len(said) == 6
    assert said[-1] < said[0]


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(whole, tmp_path):
    assert same(weights(train(make_options(tmp_path / "same"))), whole[0])
    assert not same(weights(train(make_options(tmp_path / "other", seed=4))), whole[0])


@pytest.mark.parametrize("kill", [("--kill-in-step", 4), ("--kill-while-saving", 4)])
def test_a_run_that_was_killed_goes_on_to_the_same_weights(kill, whole, tmp_path):
    assert work(tmp_path, *kill).returncode == -9
    assert [one.name for one in sorted((tmp_path / "checkpoints").glob("step-*"))] == ["step-00000002"]
    model = train(make_options(tmp_path))
    assert same(weights(model), whole[0])
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert losses(tmp_path) == whole[1]
    assert sorted(one.name for one in (tmp_path / "checkpoints").iterdir()) == ["step-00000006"]


def test_a_run_that_is_finished_gives_its_weights_again(whole, tmp_path):
    train(make_options(tmp_path))
    assert same(weights(train(make_options(tmp_path), loss=None)), whole[0])


def with_holes() -> Kept:
    """Scenes of which some have few labelled pixels, so that a mean of means is another than the mean."""
    data = make_data(8)
    for index in (0, 3, 5):
        data[index].mask[: 60 - index] = IGNORE_LABEL
    return data


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_accumulated_batches_are_one_large_batch(micro_batch, tmp_path):
    results = []
    for size in (4, micro_batch):
        out = tmp_path / str(size)
        model = train(
            make_options(out, micro_batch=size, schedule={"steps": 3}), model=make_model(dropout=0), data=with_holes()
        )
        results.append((losses(out), weights(model)))
    (large, large_weights), (small, small_weights) = results
    assert small == pytest.approx(large, rel=1e-5)
    for name, one in large_weights.items():
        torch.testing.assert_close(small_weights[name], one, rtol=1e-3, atol=2e-4)


def test_the_weights_matter_where_labels_are_missing(tmp_path):
    said = []
    for number, weight in enumerate((labelled_pixels, len)):
        train(
            make_options(tmp_path / str(number), micro_batch=1, schedule={"steps": 1}),
            model=make_model(dropout=0),
            data=with_holes(),
            weight=weight,
        )
        said += losses(tmp_path / str(number))
    assert abs(said[0] - said[1]) > 1e-4


def test_two_processes_are_one_with_twice_the_batch(tmp_path):
    done = work(tmp_path / "two", "--micro-batch", 2, "--dropout", 0, processes=2)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / "two" / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first[0] == second[0] == 2
    assert same(first[1], second[1])
    model = train(make_options(tmp_path / "one"), model=make_model(dropout=0))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    for name, one in weights(model).items():
        torch.testing.assert_close(first[1][name], one, rtol=1e-3, atol=5e-4)


@pytest.mark.parametrize(("processes", "parts"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_a_steps_images_are_the_same_however_they_are_split(processes, parts):
    asked = SimpleNamespace(
        seed=5, micro_batch=8 // processes // parts, workers=0, schedule=Schedule(steps=9, batch=8, lr=1.0)
    )
    seen: list[set[str]] = [set(), set()]
    data = Augmented(make_data(20), [])
    for rank in range(processes):
        accelerator = SimpleNamespace(
            num_processes=processes, process_index=rank, gradient_accumulation_steps=parts, device=torch.device("cpu")
        )
        for step, made in enumerate(loop._epoch(data, asked, accelerator, epoch=1, start=0)):
            assert len(made) == parts
            seen[step] |= {image_id for part in made for image_id in part.batch.image_ids}
    alone = SimpleNamespace(
        num_processes=1, process_index=0, gradient_accumulation_steps=1, device=torch.device("cpu")
    )
    asked.micro_batch = 8
    wanted = [set(made[0].batch.image_ids) for made in loop._epoch(data, asked, alone, epoch=1, start=0)]
    assert seen == wanted
    assert len(wanted[0] | wanted[1]) == 16


def test_workers_change_nothing(whole, tmp_path):
    assert same(weights(train(make_options(tmp_path, workers=2))), whole[0])


def test_a_loss_that_is_no_number_stops_with_the_batch_named(tmp_path):
    count = 0

    def fails(model, part):
        nonlocal count
        count += 1
        return loss(model, part) * (float("nan") if count == 4 else 1)

    with pytest.raises(StopTraining, match=r"loss is nan at step 3; its images: plain-1-\d+, .*step-00000002 is from"):
        train(make_options(tmp_path), loss=fails)
    assert len(losses(tmp_path)) == 3


def test_infinity_at_the_first_step_says_that_there_is_no_checkpoint(tmp_path):
    with pytest.raises(StopTraining, match="loss is inf at step 0.*There is no checkpoint from before"):
        train(make_options(tmp_path), loss=lambda model, part: loss(model, part) + float("inf"))


def test_a_checkpoint_of_another_number_of_classes_is_refused(tmp_path):
    train(make_options(tmp_path, schedule={"steps": 2}))
    with pytest.raises(StopTraining, match="is of 13 classes, this run has 12. Give another --out"):
        train(make_options(tmp_path, schedule={"steps": 2}), model=make_model(classes=12), data=make_data())


def test_other_options_are_named(tmp_path):
    train(make_options(tmp_path, schedule={"steps": 2}))
    with pytest.raises(StopTraining, match=r"of another run: steps was 2 and is 4; lr was 0.01 and is 0.02"):
        train(make_options(tmp_path, schedule={"steps": 4, "lr": 0.02}))


def limit_files(size: int) -> tuple[int, int]:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    return old


@pytest.mark.parametrize("size", [2_000, 300_000])
def test_a_full_disk_leaves_the_checkpoint_before(size, whole, tmp_path, monkeypatch):
    """The system refuses files over a size, as a full disk would: the weights first, or the optimiser's state."""
    train(make_options(tmp_path / "run", schedule={"steps": 6}, save_every=3), loss=stop_after(4))
    kept = next((tmp_path / "run" / "checkpoints").glob("step-*"))
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    old = limit_files(size)
    try:
        with pytest.raises(OutputError, match=r"cannot write the checkpoint of step 6: .*step-00000003 is untouched"):
            train(make_options(tmp_path / "run", save_every=3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert [one.name for one in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000003"]
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before
    assert same(weights(train(make_options(tmp_path / "run", save_every=3))), whole[0])
