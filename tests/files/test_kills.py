"""Files and folders after a process was killed at any event."""

import os
import re
import shutil
import threading
from pathlib import Path

import pytest
import torch
from builders import WIDTH, build_backbone, build_folder, build_unet
from builders_captioner import build_blip
from killing import each_kill, kill_at, partial_name
from safetensors.torch import load_file, save_file

import tadp.convert
from tadp.diffusion.loading.lora_fusion import LORA_NAME
from tadp.errors import ModelError, OutputError
from tadp.files.atomic import complete_folder, remove_leftovers, replace_file, replace_folder
from tadp.files.run_lock import FOLDER_LOCK, only_run
from tadp.personalize.trained_lora import TrainedLora

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def write(folder: Path, word: str, *, extra: bool = False) -> None:
    """Fill a folder, as a model is saved: two files and a folder, whose contents belong together, and an extra part."""
    with replace_folder(folder, parts=("extra*",)) as part:
        if extra:
            (part / "extra.txt").write_text(word)
        (part / "config").write_text(word)
        (part / "weights").write_text(word)
        (part / "unet").mkdir()
        (part / "unet" / "weights").write_text(word)


def test_a_folder_is_old_or_new_wherever_its_writer_is_killed(tmp_path):
    folder = tmp_path / "model"
    old, new = (dict.fromkeys(("config", "weights", "unet/weights"), word) for word in ("old", "new"))
    write(folder, "old")
    seen = []
    for number in each_kill(lambda: write(folder, "new"), folder=folder):
        complete_folder(folder)
        content = {name: text for name, text in tree(folder).items() if not name.startswith(".part")}
        assert content in (old, new), f"after kill {number}"
        seen.append(content)
        write(folder, "again")
        assert tree(folder) == dict.fromkeys(old, "again"), f"leftovers of kill {number}"
        write(folder, "old")
    assert old in seen
    assert new in seen
    assert len(seen) > 20


def test_a_part_that_the_new_model_lacks_goes_with_the_old_model_wherever_its_writer_is_killed(tmp_path):
    folder = tmp_path / "model"
    names = ("config", "weights", "unet/weights")
    old, new = {**dict.fromkeys(names, "old"), "extra.txt": "old"}, dict.fromkeys(names, "new")
    write(folder, "old", extra=True)
    seen = set()
    for number in each_kill(
        lambda: write(folder, "new"), folder=folder, events=("os.mkdir", "os.rename", "shutil.rmtree")
    ):
        complete_folder(folder)
        content = {name: text for name, text in tree(folder).items() if not name.startswith(".part")}
        assert content in (old, new), f"after kill {number}"
        seen.add(content == new)
        write(folder, "old", extra=True)
        assert tree(folder) == old
    assert seen == {False, True}


@pytest.mark.parametrize("entry", ["new", "old", "gone", ""])
def test_a_partial_folder_of_somebody_else_moves_nothing_elsewhere(tmp_path, entry):
    folder, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    write(folder, "old")
    for name in ("new", "old", "gone"):
        (elsewhere / name).mkdir(parents=True)
        (elsewhere / name / "config").write_text("mine")
    (elsewhere / "complete").touch()
    partial = folder / partial_name("x").removeprefix(".x.").removesuffix(".part").join((".part-", "-abc"))
    if entry:
        partial.mkdir()
        (partial / "complete").touch()
        (partial / entry).symlink_to(elsewhere / entry)
    else:
        partial.symlink_to(elsewhere)
    before = tree(elsewhere)
    complete_folder(folder)
    write(folder, "new")
    assert tree(elsewhere) == before
    assert (folder / "config").read_text() == "new"


def test_a_folder_is_also_completed_by_the_next_writer(tmp_path):
    folder = tmp_path / "model"
    write(folder, "old")
    for _ in each_kill(lambda: write(folder, "new"), folder=folder, events=("os.rename",)):
        write(folder, "again")
        assert set(tree(folder).values()) == {"again"}
        assert sorted(entry.name for entry in folder.iterdir()) == ["config", "unet", "weights"]
        write(folder, "old")


def test_a_writer_that_lives_keeps_its_partial_folder(tmp_path):
    with replace_folder(tmp_path / "model") as part:
        (part / "a").write_text("first")
        write(tmp_path / "model", "second")
        complete_folder(tmp_path / "model")
        assert (part / "a").exists()
    assert tree(tmp_path / "model") == {"a": "first", **dict.fromkeys(("config", "weights", "unet/weights"), "second")}


def test_a_half_replaced_folder_that_cannot_be_completed_is_refused_by_name(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    write(folder, "old")
    assert kill_at(3, lambda: write(folder, "new"), folder=folder, events=("os.rename",))

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tadp.files.run_lock.os.open", refuse)
    with pytest.raises(ModelError, match=r"model holds parts of two models, because .* was killed.*save it again"):
        complete_folder(folder)
    monkeypatch.undo()
    complete_folder(folder)
    assert set(tree(folder).values()) == {"new"}


@pytest.mark.parametrize("name", ["result.txt", "x" * 240, "ö" * 120, "\udce9\udcff.txt"])
def test_a_file_is_old_or_new_and_nothing_is_left_wherever_its_writer_is_killed(tmp_path, name):
    path = tmp_path / name

    def replace(word: str) -> None:
        with replace_file(path) as part:
            part.write_text(word)

    replace("old")
    for _ in each_kill(lambda: replace("new"), folder=tmp_path):
        assert path.read_text() in ("old", "new")
        remove_leftovers(tmp_path)
        assert list(tmp_path.iterdir()) == [path]
        replace("old")


def test_partial_files_of_others_are_left_alone(tmp_path):
    own = partial_name("a.txt", thread=threading.get_ident(), process=os.getpid())
    of_parent, elsewhere = partial_name("a.txt", process=os.getppid()), partial_name("a.txt", host="another-machine")
    kept = [own, of_parent, elsewhere, ".a.txt.part", "a.1.2.part", ".a.txt.notes.7.part", ".movie.2024.1080.part"]
    old = [partial_name("b.txt", process=os.getppid()), partial_name("b.txt", host="another-machine")]
    for name in [*kept, *old, partial_name("a.txt", process=os.getpid()), partial_name("a.txt")]:
        (tmp_path / name).touch()
    for name in old:  # processes' numbers are used again, and machines disappear
        os.utime(tmp_path / name, (1e9, 1e9))
    remove_leftovers(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(kept)


def test_two_runs_exclude_each_other_and_a_dead_one_excludes_nobody(tmp_path):
    folder = tmp_path / "out"
    with only_run(folder, is_folder=True) as run:
        run.check()
        with (
            pytest.raises(OutputError, match=r"another run is writing .*out\. Wait for it, or choose another folder"),
            only_run(folder, is_folder=True),
        ):
            pass
    assert not folder.exists()  # it was new, and nothing was written

    def run_and_die() -> None:
        with only_run(folder, is_folder=True):
            os.kill(os.getpid(), 9)

    assert kill_at(10**6, run_and_die, folder=tmp_path)
    assert (folder / FOLDER_LOCK).exists()
    with only_run(folder, is_folder=True):
        pass
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("check", [False, True])
def test_a_folder_that_disappears_during_a_run_is_an_error(tmp_path, again, check):
    folder = tmp_path / "out"

    def run() -> None:
        with only_run(folder, is_folder=True) as guard:
            guard.check()
            shutil.rmtree(folder)
            if again:
                folder.mkdir()
            if check:
                guard.check()
                raise AssertionError

    with pytest.raises(OutputError, match=r"out was deleted, moved or unmounted"):
        run()


def make_backbone(number, _folder):
    return build_backbone(seed=number).with_options(timestep=number)


def read_backbone(folder):
    loaded = tadp.TADPBackbone.from_pretrained(folder)
    return loaded.options.timestep, loaded.state_dict()


def make_task(number, folder):
    """A model with a LoRA (the old one) or a whole U-Net (the new one) for a base model in another folder."""
    torch.manual_seed(number)
    base, names = build_folder(folder / f"base-{number}", seed=number), ["sky", f"dog {number}"]
    backbone = tadp.TADPBackbone.from_pretrained(base, text_adapter=True)
    return tadp.TADPForSemanticSegmentation(backbone, class_names=names, tune=("lora", "all")[number - 1])


def read_task(folder):
    loaded = tadp.TADPForSemanticSegmentation.from_pretrained(folder)
    return loaded.options["class_names"], loaded.state_dict()


def make_modifier(number, _folder):
    vectors, unet = torch.full((number, WIDTH), float(number)), build_unet(seed=number)
    return tadp.CaptionModifier(f"{number} <toy> {{caption}}", token="<toy>", embedding=vectors, unet=unet)


def read_modifier(folder):
    loaded, backbone = tadp.CaptionModifier.from_pretrained(folder), build_backbone()
    loaded.install(backbone)
    return loaded.templates, backbone.state_dict()


def read_token(folder):
    token, vectors = tadp.convert.read_token(folder / "learned_embeds.safetensors")
    return token, {"vectors": vectors}


def make_lora(number, folder):
    run, layer = folder / f"run-{number}", "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
    run.mkdir()
    shapes = {"lora_A": (2, 128), "lora_B": (128, 2)}  # of tadp-tiny
    save_file({f"{layer}.{name}.weight": torch.full(shapes[name], float(number)) for name in shapes}, run / LORA_NAME)
    return TrainedLora(run)


def read_lora(folder):
    return "LoRA", load_file(TrainedLora(folder).path)


def read_lora_file(folder):
    return "LoRA", tadp.TADPBackbone.from_pretrained("tadp-tiny", lora=folder / LORA_NAME).state_dict()


def make_captioner(number, folder):
    return tadp.Captioner.from_pretrained(build_blip(folder / f"blip-{number}", seed=number))


def read_captioner(folder):
    return "BLIP", tadp.Captioner.from_pretrained(folder)._model.state_dict()


@pytest.mark.parametrize(
    ("make", "read"),
    [
        (make_backbone, read_backbone),
        (make_task, read_task),
        (make_modifier, read_modifier),
        (make_modifier, read_token),
        (make_lora, read_lora),
        (make_lora, read_lora_file),
        (make_captioner, read_captioner),
    ],
)
def test_a_model_is_old_or_new_wherever_its_save_is_killed(make, read, tmp_path, one_thread):
    """At every rename the folder loads as one of the two models, with the config that belongs to its weights."""
    folder, models, expected = tmp_path / "model", [make(number, tmp_path) for number in (1, 2)], []
    for number, model in enumerate(models):
        model.save_pretrained(tmp_path / str(number))
        expected.append(read(tmp_path / str(number)))
    shutil.copytree(tmp_path / "0", folder)
    seen, events = [], ("tempfile.mkdtemp", "os.rename")
    for _ in each_kill(lambda: models[1].save_pretrained(folder), folder=folder, events=events):
        loaded = read(folder)
        seen.append([is_same(loaded, model) for model in expected])
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "0", folder)
    assert {tuple(same) for same in seen} == {(True, False), (False, True)}


def is_same(first, second):
    (words, tensors), (other_words, others) = first, second
    return (
        words == other_words
        and tensors.keys() == others.keys()
        and all(torch.equal(tensors[name], others[name]) for name in tensors)
    )


@pytest.mark.parametrize(
    "weights", ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model", "text_adapter"]
)
def test_weights_of_another_save_are_refused_by_name(tmp_path, weights):
    for seed in (1, 2):
        backbone = build_backbone(seed=seed, text_adapter=True)
        backbone.text_adapter.gate.data.fill_(seed)
        backbone.save_pretrained(tmp_path / str(seed))
    shutil.copy(tmp_path / "2" / f"{weights}.safetensors", tmp_path / "1" / f"{weights}.safetensors")
    with pytest.raises(
        ModelError, match=rf"{weights}\.safe.*is not the file that was saved with .*1/tadp_config\.json"
    ):
        tadp.TADPBackbone.from_pretrained(tmp_path / "1")
    build_backbone(seed=1).save_pretrained(tmp_path / "1")
    tadp.TADPBackbone.from_pretrained(tmp_path / "1")


@pytest.mark.parametrize("kind", ["folder", "pipe", "text"])
def test_something_else_with_the_name_of_a_lock_is_named(tmp_path, kind):
    lock = tmp_path / FOLDER_LOCK
    if kind == "folder":
        lock.mkdir()
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.write_text("a lock? " * 1000)
    with (
        pytest.raises(OutputError, match=rf"cannot write .*: .*{re.escape(FOLDER_LOCK)} is not a lock; move it away"),
        only_run(tmp_path, is_folder=True),
    ):
        pass
