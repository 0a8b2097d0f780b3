"""A run continues as if it had not been interrupted, or reports why it cannot."""

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders_personalize import QUICK, TUNE, build_model, learn, pictures, tune
from killing import partial_name
from running import run_function
from safetensors.torch import load_file

from tadp.errors import CorruptFileError, ModifierError, OutputError
from tadp.files.run_lock import only_run
from tadp.personalize import loop, textual_inversion
from tadp.personalize.loop import _indices
from tadp.personalize.sampling import SampleSheets

pytestmark = pytest.mark.usefixtures("one_thread")
EIGHT = QUICK | {"steps": 8, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("resume") / "sd")


def vectors(folder):
    return load_file(folder / "learned_embeds.safetensors")["<wash>"]


@pytest.fixture(scope="module")
def whole(one_thread, source, tmp_path_factory):
    """The vectors of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    learn(source, pictures(), **EIGHT, output=folder)
    return vectors(folder)


def test_an_output_from_which_no_checkpoint_could_be_read_is_refused(source, tmp_path):
    with pytest.raises(OutputError, match=r"the name .* is not UTF-8"):
        learn(source, pictures(), **EIGHT, output=tmp_path / "caf\udce9")


def learn_and_die(source: Path, out: Path, while_saving: bool) -> None:
    """A run that is killed in step 6, or while a checkpoint is half written. Runs in a process of its own."""
    torch.set_num_threads(1)
    check = loop._check

    def deadly(value, what, step, options, folder):
        check(value, what, step, options, folder)
        if step + 1 == 6 and what == "gradient":
            if while_saving:
                (out / partial_name("checkpoint.safetensors")).write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)

    loop._check = deadly
    learn(source, pictures(), **EIGHT, output=out)


@pytest.mark.parametrize("while_saving", [False, True])
def test_a_killed_run_ends_with_the_same_token(source, whole, tmp_path, while_saving, monkeypatch):
    done = run_function(learn_and_die, source, tmp_path, while_saving)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "modifier.json").exists()
    (tmp_path / ".download.part").touch()  # not of tadp
    steps = taken(monkeypatch)
    learn(source, pictures(), **EIGHT, output=tmp_path)
    assert steps == [4, 5, 6, 7]
    assert torch.equal(vectors(tmp_path), whole)
    assert [path.name for path in tmp_path.glob(".*")] == [".download.part"]


def taken(monkeypatch):
    """The steps that are taken from now on."""
    steps, losses = [], loop._losses

    def watch(model, draws, step, options):
        steps.append(step)
        return losses(model, draws, step, options)

    monkeypatch.setattr(loop, "_losses", watch)
    return steps


def test_a_finished_run_takes_no_step_and_more_steps_are_taken_from_its_end(source, whole, tmp_path, monkeypatch):
    learn(source, pictures(), **EIGHT | {"steps": 5}, output=tmp_path)
    before = vectors(tmp_path)
    steps = taken(monkeypatch)
    learn(source, pictures(), **EIGHT | {"steps": 5}, output=tmp_path)
    assert steps == []
    assert torch.equal(vectors(tmp_path), before)
    learn(source, pictures(), **EIGHT, output=tmp_path)
    assert steps == [5, 6, 7]
    assert torch.equal(vectors(tmp_path), whole)
    with pytest.raises(ModifierError, match=r"has already done 8 steps, more than steps=4.*resume=False"):
        learn(source, pictures(), **EIGHT | {"steps": 4}, output=tmp_path)


def test_another_run_is_not_gone_on_with(source, tmp_path):
    learn(source, pictures(), **EIGHT | {"steps": 2}, output=tmp_path)
    before = vectors(tmp_path)
    for images, other, match in (
        (pictures(), {"lr": 1.0}, r"another run: lr was 0.01 and is 1.0"),
        (pictures(), {"seed": 5}, r"seed was 0 and is 5"),
        (pictures(), {"initializer": "dog"}, r"initializer was 'photo' and is 'dog'"),
        (pictures(seed=1), {}, r"another run: images was '\w+' and is '\w+'\. Pass"),
        (pictures(), {"captions": ["a dog"] * len(pictures())}, r"another run: texts was .* and is "),
    ):
        with pytest.raises(ModifierError, match=match):
            learn(source, images, **EIGHT | other, output=tmp_path)
    assert torch.equal(vectors(tmp_path), before)
    learn(source, pictures(), **EIGHT | {"steps": 2, "seed": 5}, resume=False, output=tmp_path)
    assert not torch.equal(vectors(tmp_path), before)


def test_a_damaged_checkpoint_is_named(source, tmp_path):
    learn(source, pictures(), **EIGHT | {"steps": 2}, output=tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptFileError, match=r"checkpoint.safetensors is not a complete safetensors file"):
        learn(source, pictures(), **EIGHT, output=tmp_path)
    path.write_bytes((tmp_path / "learned_embeds.safetensors").read_bytes())
    with pytest.raises(CorruptFileError, match=r"is not a checkpoint of tadp.personalize"):
        learn(source, pictures(), **EIGHT, output=tmp_path)


@pytest.mark.parametrize("rank", [None, 2])
def test_dreambooth_goes_on_too(source, tmp_path, rank, monkeypatch):
    settings = TUNE | {"steps": 4, "checkpoint_every": 2, "lora_rank": rank}
    straight = tune(source, pictures(), **settings)._steps[0].unet.state_dict()
    losses = loop._losses

    def interrupted(model, draws, step, options):
        if step == 3:
            raise KeyboardInterrupt
        return losses(model, draws, step, options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_losses", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tune(source, pictures(), **settings, output=tmp_path)
    steps = taken(monkeypatch)
    resumed = tune(source, pictures(), **settings, output=tmp_path)._steps[0].unet.state_dict()
    assert steps == [3]  # a step that was whole when Ctrl-C came is kept
    assert all(torch.equal(resumed[name], value) for name, value in straight.items())


def test_every_image_has_its_turn(source):
    captured = []

    def catch(model, concepts, *, options, **_):
        captured.append(options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(textual_inversion, "train", catch)
        learn(source, pictures(), **QUICK | {"batch_size": 4})
    seen = [index for step in range(6) for index in _indices(3, step, captured[0])]
    assert np.array_equal(np.sort(np.reshape(seen, (8, 3)), axis=1), [[0, 1, 2]] * 8)
    assert len({tuple(seen[start : start + 3]) for start in range(0, 24, 3)}) > 1


class EightBitAdam(torch.optim.AdamW):
    """Saves its state like AdamW8bit of bitsandbytes 0.50, which nests tensors one level down and loads both forms."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options, fused=True)  # as the optimizer that it stands for

    def state_dict(self):
        saved = super().state_dict()
        state = {
            index: {"step": int(values["step"]), "quantized": {key: values[key] for key in ("exp_avg", "exp_avg_sq")}}
            for index, values in saved["state"].items()
        }
        return saved | {"state": state}

    def load_state_dict(self, saved):
        state = {
            index: values | {"step": torch.tensor(float(values["step"]))} for index, values in saved["state"].items()
        }
        super().load_state_dict(saved | {"state": state})


def test_8_bit_adam_goes_on_too(source, whole, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", SimpleNamespace(AdamW8bit=EightBitAdam))
    settings = EIGHT | {"adam_8bit": True, "output": tmp_path}
    learn(source, pictures(), **settings | {"steps": 5})
    steps = taken(monkeypatch)
    learn(source, pictures(), **settings)
    assert steps == [5, 6, 7]
    assert torch.equal(vectors(tmp_path), whole)


def learn_and_die_at_a_sheet(source: Path, out: Path) -> None:
    """A run that is killed after the checkpoint of step 4, where the sheet of that step would be drawn."""
    torch.set_num_threads(1)
    write = SampleSheets.write

    def deadly(self, step):
        if step == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, step)

    SampleSheets.write = deadly
    learn(source, pictures(), **EIGHT | {"sample_every": 4}, output=out)


def test_a_sheet_that_a_kill_prevented_is_drawn_on_resume(tmp_path):
    done = run_function(learn_and_die_at_a_sheet, "tadp-tiny", tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [sheet.name for sheet in (tmp_path / "samples").iterdir()] == ["step-00000000.png"]
    learn("tadp-tiny", pictures(), **EIGHT | {"sample_every": 4}, output=tmp_path)
    sheets = sorted(sheet.name for sheet in (tmp_path / "samples").iterdir())
    assert sheets == [f"step-0000000{step}.png" for step in (0, 4, 8)]
    assert not list(tmp_path.glob(".*"))


def test_two_runs_do_not_train_into_one_folder(source, tmp_path):
    with only_run(tmp_path / "out", is_folder=True):
        for train in (learn, tune):
            with pytest.raises(OutputError, match=r"another run is writing .*out\. Wait for it, or choose another"):
                train(source, pictures(), output=tmp_path / "out")
    with pytest.raises(ModifierError, match="initializer must be a word of one token"):
        learn(source, pictures(), **QUICK | {"initializer": "two words"}, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
