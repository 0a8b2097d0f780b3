"""The training loop of examples/training: order, accumulation, processes, checkpoints and failures."""

import json
import resource
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import NonCallableMagicMock

import pytest
import torch
from builders_training import (
    FLIP,
    labelled_pixels,
    loss,
    make_data,
    make_model,
    make_options,
    own_training_state,
    train,
    weights,
)
from PIL import Image
from running import run_processes, run_script
from safetensors.torch import load_file
from training import options as training_options
from training import session

from tadp.captions import CaptionTable, Provenance
from tadp.datasets import (
    IGNORE_LABEL,
    Augmented,
    CenterCrop,
    PadTo,
    PascalVOC,
    RandomCrop,
    RandomFlip,
    RenderedScenes,
    Resize,
)
from tadp.errors import CaptionError, ImageError, OutputError, TrainingError
from tadp.images import to_tensor
from tadp.trainer.encoded_data import EncodedData
from tadp.trainer.processes import Accelerator
from tadp.trainer.run_data import Kept, captioner_of, largest_class, mean_depths, scenes
from tadp.trainer.run_record import Record
from tadp.trainer.trained_task import prompted
from tadp.trainer.training_batches import parts_of_epoch, training_data
from tadp.training.schedules import Schedule, get_schedule

pytestmark = pytest.mark.usefixtures("one_thread")
WORKER = Path(__file__).parents[1] / "support" / "training_worker.py"


def processes(**values) -> Any:
    """An accelerator with these values, without the state of a real one."""
    return NonCallableMagicMock(spec=Accelerator, **{"is_main_process": True, "device": torch.device("cpu")} | values)


ALONE = processes()


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in lines(out)]


def same(actual: dict, expected: dict) -> bool:
    return actual.keys() == expected.keys() and all(torch.equal(actual[name], expected[name]) for name in actual)


@pytest.fixture(autouse=True)
def own_state():
    with own_training_state():
        yield


@pytest.fixture(scope="module")
def whole(one_thread, tmp_path_factory):
    """The weights and losses of an uninterrupted run with dropout and flips."""
    out = tmp_path_factory.mktemp("whole")
    return weights(train(make_options(out))), losses(out)


def test_training_changes_what_trains_and_nothing_else(whole):
    before, (after, run_losses) = weights(make_model()), whole
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in changed} == {"head", "backbone"}
    assert not [name for name in changed if name.startswith(("backbone.vae", "backbone.text_encoder"))]
    assert len(run_losses) == 6
    assert run_losses[-1] < run_losses[0]


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(whole, tmp_path):
    assert same(weights(train(make_options(tmp_path / "same"))), whole[0])
    assert not same(weights(train(make_options(tmp_path / "other", seed=4))), whole[0])


@pytest.mark.parametrize("kill", [("--kill-in-step", 4), ("--kill-while-saving", 4)])
def test_a_run_that_was_killed_goes_on_to_the_same_weights(kill, whole, tmp_path):
    assert run_script(WORKER, tmp_path, *kill).returncode == -9
    assert [path.name for path in sorted((tmp_path / "checkpoints").glob("step-*"))] == ["step-00000002"]
    model = train(make_options(tmp_path))
    assert same(weights(model), whole[0])
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert losses(tmp_path) == whole[1]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000006"]


def test_a_lora_goes_on_to_the_same_weights_too(tmp_path):
    expected = weights(train(make_options(tmp_path / "whole"), model=make_model(tune="lora", lora_rank=2)))
    with pytest.raises(TrainingError):
        train(make_options(tmp_path / "run"), model=make_model(tune="lora", lora_rank=2), loss=stop_after(5))
    kept = load_file(next((tmp_path / "run" / "checkpoints").glob("step-*")) / "trained.safetensors")
    assert {name.split(".")[0] for name in kept} == {"head", "backbone"}
    assert all("lora" in name for name in kept if name.startswith("backbone"))
    assert same(weights(train(make_options(tmp_path / "run"), model=make_model(tune="lora", lora_rank=2))), expected)


def test_a_run_that_is_finished_gives_its_weights_again(whole, tmp_path):
    train(make_options(tmp_path))
    assert same(weights(train(make_options(tmp_path), loss=stop_after(0))), whole[0])


def with_holes() -> Kept:
    """Scenes with different numbers of labelled pixels, so that a mean of means differs from the mean."""
    data = make_data(8)
    for index in range(6):
        data[index].mask[: 62 - 4 * index] = IGNORE_LABEL
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
    for name, expected in large_weights.items():
        torch.testing.assert_close(small_weights[name], expected, rtol=1e-3, atol=2e-4)


def test_the_weights_matter_where_labels_are_missing(tmp_path):
    first_losses = []
    for number, weight in enumerate((labelled_pixels, len)):
        train(
            make_options(tmp_path / str(number), micro_batch=1, schedule={"steps": 1}),
            model=make_model(dropout=0),
            data=with_holes(),
            weight=weight,
        )
        first_losses += losses(tmp_path / str(number))
    assert abs(first_losses[0] - first_losses[1]) > 1e-4


def test_two_processes_are_one_with_twice_the_batch(tmp_path):
    for process in run_processes(WORKER, tmp_path / "two", "--micro-batch", 2, "--dropout", 0, count=2):
        assert process.returncode == 0, process.stderr[-2000:]
    first, second = (torch.load(tmp_path / "two" / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first[0] == second[0] == 2
    assert same(first[1], second[1])
    model = train(make_options(tmp_path / "one"), model=make_model(dropout=0))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    for name, expected in weights(model).items():
        torch.testing.assert_close(first[1][name], expected, rtol=1e-3, atol=5e-4)


@pytest.mark.parametrize(("count", "parts"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_a_steps_images_are_the_same_however_they_are_split(count, parts):
    schedule = Schedule(steps=9, batch=8, lr=1.0)
    seen: list[set[str]] = [set(), set()]
    data = Augmented(make_data(20), [])
    for rank in range(count):
        accelerator = processes(num_processes=count, process_index=rank, gradient_accumulation_steps=parts)
        size = 8 // count // parts
        for step, step_parts in enumerate(
            parts_of_epoch(data, schedule, accelerator, seed=5, micro_batch=size, epoch=1)
        ):
            assert len(step_parts) == parts
            seen[step] |= {image_id for part in step_parts for image_id in part.batch.image_ids}
    single = processes(num_processes=1, process_index=0, gradient_accumulation_steps=1)
    steps = parts_of_epoch(data, schedule, single, seed=5, micro_batch=8, epoch=1)
    expected = [set(part.batch.image_ids) for [part] in steps]
    assert seen == expected
    assert len(expected[0] | expected[1]) == 16


def test_workers_change_nothing(whole, tmp_path):
    assert same(weights(train(make_options(tmp_path, workers=2))), whole[0])


def test_a_loss_that_is_no_number_stops_with_the_batch_named(tmp_path):
    with pytest.raises(
        TrainingError, match=r"loss is nan at step 3\. Images of the part: plain-1-\d+, .*step-00000002 is from"
    ):
        train(make_options(tmp_path), loss=stop_after(3))
    assert len(losses(tmp_path)) == 3


def test_infinity_at_the_first_step_says_that_there_is_no_checkpoint(tmp_path):
    with pytest.raises(TrainingError, match=r"loss is inf at step 0.*No earlier checkpoint exists"):
        train(make_options(tmp_path), loss=lambda model, part: loss(model, part) + float("inf"))


def test_a_gradient_that_is_no_number_stops_before_it_reaches_a_weight(tmp_path):
    """The square root of zero is finite, and so is the loss, but its gradient is not."""
    count = 0

    def steep(model, part):
        nonlocal count
        count += 1
        value = loss(model, part)
        return value if count <= 3 else value + (value - value).sqrt()

    with pytest.raises(
        TrainingError, match=r"a gradient is nan at step 3.*Images of the step: plain-1-\d+, .*step-00000002 is from"
    ):
        train(make_options(tmp_path), loss=steep)
    kept = load_file(next((tmp_path / "checkpoints").glob("step-*")) / "trained.safetensors")
    assert all(tensor.isfinite().all() for tensor in kept.values())


def test_a_checkpoint_of_another_number_of_classes_is_refused(tmp_path):
    train(make_options(tmp_path, schedule={"steps": 2}))
    with pytest.raises(TrainingError, match=r"has 13 classes, but this run has 12\. Give another output"):
        train(make_options(tmp_path, schedule={"steps": 2}), model=make_model(classes=12), data=make_data())


def test_other_options_are_named(tmp_path):
    train(make_options(tmp_path, schedule={"steps": 2}))
    with pytest.raises(TrainingError, match=r"to another run: steps was 2 and is 4; lr was 0.01 and is 0.02"):
        train(make_options(tmp_path, schedule={"steps": 4, "lr": 0.02}))


def test_a_run_does_not_go_on_with_other_captions(tmp_path):
    options = captioning(tmp_path)
    [data] = session.open_captioned([scenes(8, seed=1)], options, ALONE)
    first = {"schedule": {"steps": 2, "batch": 2}, "micro_batch": 2, "captions_sha256": options.captions_sha256}
    train(make_options(tmp_path, **first), data=data)
    moved = captioning(tmp_path, captions=tmp_path / "moved.db", captioner="someone/else")
    shutil.copy(options.captions, moved.captions)
    session.open_captioned([scenes(8, seed=1)], moved, ALONE)
    train(make_options(tmp_path, **first | {"captions_sha256": moved.captions_sha256}), data=data)
    with CaptionTable.open(moved.captions) as table:
        captions = dict(table.items()) | {data.image_ids[3]: "a cat"}
    changed = captioning(tmp_path, captions=tmp_path / "other.json")
    changed.captions.write_text(json.dumps(captions))
    session.open_captioned([scenes(8, seed=1)], changed, ALONE)
    with pytest.raises(TrainingError, match=r"run: captions_sha256 was '[0-9a-f]+' and is '[0-9a-f]+'\. Give"):
        train(make_options(tmp_path, **first | {"captions_sha256": changed.captions_sha256}), data=data)


def stop_after(steps: int):
    """A loss that becomes NaN after this number of steps."""
    count = 0

    def stopping(model, part):
        nonlocal count
        count += 1
        return loss(model, part) * (1 if count <= steps else float("nan"))

    return stopping


def limit_files(size: int) -> tuple[int, int]:
    """Limit the size of files in bytes, and return the previous limits."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    return limits


@pytest.mark.parametrize("size", [2_000, 300_000])
def test_a_full_disk_leaves_the_checkpoint_before(size, whole, tmp_path, monkeypatch):
    """Writing fails above a file size, as on a full disk: for the weights, or later for the optimiser's state."""
    with pytest.raises(TrainingError):
        train(make_options(tmp_path / "run", save_every=3), loss=stop_after(4))
    kept = next((tmp_path / "run" / "checkpoints").glob("step-*"))
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    limits = limit_files(size)
    try:
        with pytest.raises(OutputError, match=r"cannot write the checkpoint of step 6: .*step-00000003 is untouched"):
            train(make_options(tmp_path / "run", save_every=3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000003"]
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before
    assert same(weights(train(make_options(tmp_path / "run", save_every=3))), whole[0])


def test_latents_are_made_once_and_train_to_the_same_weights(whole, tmp_path):
    seen = []

    def encode(images):
        seen.append(len(images))
        return original(images)

    model = make_model()
    original = model.backbone.encode_image
    model.backbone.encode_image = encode
    trained = train(make_options(tmp_path, cache_latents=True), model=model)
    assert sum(seen) == 20  # 10 images and their mirror images
    for name, tensor in weights(trained).items():
        torch.testing.assert_close(tensor, whole[0][name], rtol=1e-3, atol=1e-3)
    model = make_model()
    model.backbone.encode_image = encode
    train(make_options(tmp_path / "again", cache=tmp_path, cache_latents=True), model=model)
    assert sum(seen) == 20


def test_latents_of_another_encoder_are_not_taken(tmp_path):
    backbone, data = make_model().backbone, make_data(2)
    first = EncodedData.encode(tmp_path, backbone, data, [RandomFlip()])[0].latents
    assert first.shape == (1, 4, 8, 8)
    with torch.no_grad():
        next(backbone.vae.parameters()).mul_(1.5)
    with pytest.raises(
        OutputError, match=r"encoded with other settings: vae was '\w+' and is '\w+'\. Delete the folder"
    ):
        EncodedData.encode(tmp_path, backbone, data, [RandomFlip()])
    assert torch.equal(EncodedData(tmp_path, data, [RandomFlip()])[0].latents, first)
    again = EncodedData.encode(tmp_path, backbone, data, [RandomFlip()], overwrite=True)
    assert not torch.equal(again[0].latents, first)


@pytest.mark.parametrize("flips", [[RandomFlip(0.7)], []])
def test_kept_latents_belong_to_the_padded_and_flipped_images(flips, tmp_path):
    model, data = make_model(), make_data(4)
    transforms = [CenterCrop((40, 64)), *flips, Resize(48, longest=48), PadTo(48, fill="grey")]
    kept = training_data(model, data, transforms, seed=4, folder=tmp_path / "l", accelerator=ALONE)
    augmented = Augmented(data, transforms, seed=4)
    for epoch in range(3):
        kept.set_epoch(epoch)
        augmented.set_epoch(epoch)
        for index, expected in enumerate(augmented):
            encoded = kept[index]
            assert (encoded.sample.image == expected.image).all()
            torch.testing.assert_close(encoded.latents, model.backbone.encode_image(to_tensor(expected.image)))
    options = {"seed": 4, "folder": tmp_path / "l", "accelerator": ALONE}
    before = kept[0].latents
    with pytest.raises(OutputError, match=r"transforms was .*PadTo.* and is"):  # the file with padding is not taken
        training_data(model, data, transforms[:-1], **options)
    other = training_data(model, data, transforms[:-1], overwrite=True, **options)
    assert not torch.equal(other[0].latents, before)


def test_latents_are_not_kept_where_images_are_cropped(tmp_path):
    with pytest.raises(
        TrainingError, match=r"at most flipped at random, but they go through RandomFlip, RandomCrop\. Leave it out"
    ):
        training_data(
            make_model(),
            make_data(2),
            [RandomFlip(), RandomCrop(32)],
            seed=0,
            folder=tmp_path / "l",
            accelerator=ALONE,
        )


def test_bfloat16_trains_and_is_near_float32(whole, tmp_path):
    train(make_options(tmp_path, mixed_precision="bf16"))
    assert losses(tmp_path) != whole[1]
    assert losses(tmp_path) == pytest.approx(whole[1], rel=0.03)


def test_gradient_checkpointing_changes_nothing(whole, tmp_path):
    trained = weights(train(make_options(tmp_path, gradient_checkpointing=True)))
    for name, tensor in trained.items():
        torch.testing.assert_close(tensor, whole[0][name], rtol=1e-3, atol=1e-3)


def test_figures_of_an_evaluation_stand_between(tmp_path):
    train(make_options(tmp_path, evaluate_every=2), evaluate=lambda model: {"mIoU": 0.5})
    assert [line["step"] for line in lines(tmp_path) if "mIoU" in line] == [2, 4]


def test_the_record_drops_what_is_done_again_and_a_line_that_was_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2}\n{"step": 2, "loss": 3}\n{"step": 3, "lo')
    Record(path, is_writing=True, keep_steps=1).write(2, loss=4.0)
    assert lines(tmp_path) == [{"step": 1, "loss": 2}, {"step": 2, "loss": 4.0}]


@pytest.fixture
def voc(tmp_path) -> Path:
    """Four images in Pascal VOC's folders."""
    root = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    names = [f"2007_{number:06}" for number in range(4)]
    for name, sample in zip(names, RenderedScenes(4, seed=1, size=64), strict=True):
        Image.fromarray(sample.image).save(root / "JPEGImages" / f"{name}.jpg")
        Image.fromarray(sample.mask.astype("uint8")).save(root / "SegmentationClass" / f"{name}.png")
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(names) + "\n")
    return root


class BrokenInEpochThree(Augmented):
    """A data set that truncates a file when the third epoch begins."""

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        if epoch == 2:
            path = self.data.image_paths["2007_000002"]
            path.write_bytes(path.read_bytes()[:300])


def train_on(voc: Path, out: Path, **options):
    data = PascalVOC(
        voc, split="train", captions=dict.fromkeys([f"2007_00000{k}" for k in range(4)], "a dog"), **options
    )
    return train(
        make_options(out, schedule={"steps": 5}, micro_batch=4),
        model=make_model(classes=21),
        data=BrokenInEpochThree(data, [RandomFlip()]),
    )


def test_an_image_that_breaks_in_the_third_epoch_is_named(voc, tmp_path):
    with pytest.raises(ImageError, match=r"2007_000002\.jpg"):
        train_on(voc, tmp_path / "run")
    assert len(losses(tmp_path / "run")) == 2


def test_it_is_skipped_when_that_is_asked_for(voc, tmp_path):
    with pytest.warns(UserWarning, match="skipped '2007_000002', used '2007_000003' instead"):
        train_on(voc, tmp_path / "run", on_error="skip")
    assert len(losses(tmp_path / "run")) == 5


def captioning(out: Path, **changes) -> SimpleNamespace:
    return SimpleNamespace(
        **({"text": "captions", "captions": out / "captions.db", "captioner": "tadp-tiny"} | changes)
    )


def test_captions_are_made_once_and_kept(tmp_path, monkeypatch):
    first, second = session.open_captioned([scenes(2, seed=1), scenes(1, seed=2)], captioning(tmp_path), ALONE)
    captions = [first[0].caption, first[1].caption, second[0].caption]
    assert all(captions)
    assert dict(CaptionTable.open(tmp_path / "captions.db")) == dict(
        zip([*first.image_ids, *second.image_ids], captions, strict=True)
    )
    monkeypatch.setattr("tadp.Captioner.from_pretrained", None)  # it is not needed again
    [reopened] = session.open_captioned([scenes(2, seed=1)], captioning(tmp_path), ALONE)
    assert reopened[1].caption == captions[1]


def test_captions_of_another_captioner_are_not_mixed(tmp_path):
    with CaptionTable.create(tmp_path / "captions.db") as table:
        table.add("plain-1-000000", "a dog")
    with pytest.raises(CaptionError, match="the table's are of unknown origin, the new ones by 'tadp-tiny'"):
        session.open_captioned([scenes(2, seed=1)], captioning(tmp_path), ALONE)


def test_a_fixed_text_has_no_captions(tmp_path):
    [data] = session.open_captioned([scenes(2, seed=1)], captioning(tmp_path, text="class_names"), ALONE)
    assert data[0].caption is None
    assert not (tmp_path / "captions.db").exists()


def test_trivial_answers_are_those_of_the_training_data():
    data = make_data(3)
    depths = torch.stack([torch.from_numpy(data[k].depth_m) for k in range(3)])
    below = depths < 20
    mean, pixel_means = mean_depths(data, farthest_m=20.0)
    assert mean == pytest.approx(depths[below].double().mean().item(), rel=1e-6)
    assert pixel_means[40, 7] == pytest.approx(depths[:, 40, 7][below[:, 40, 7]].mean().item(), rel=1e-6)
    assert pixel_means[0, 0] == pytest.approx(mean)  # all images show sky there
    assert largest_class(data, 13) == 0


def test_the_model_says_who_captioned_its_images(tmp_path):
    (tmp_path / "authors.json").write_text('{"a": {"captions": ["a dog"]}}')
    assert captioner_of(tmp_path / "authors.json") is None
    with CaptionTable.create(tmp_path / "captions.db", provenance=Provenance("somebody/else")) as table:
        table.add("a", "a dog")
    assert captioner_of(tmp_path / "captions.db") == "somebody/else"


def read(monkeypatch, *arguments: str):
    monkeypatch.setattr(sys, "argv", ["segmentation.py", *arguments])
    scenes = Schedule(steps=600, batch=16, lr=1e-3)
    return training_options.read_options("", data=("scenes", "ade20k"), scenes=scenes)


def test_a_schedule_is_the_papers_less_what_is_given(monkeypatch):
    arguments = ("--data", "ade20k", "--root", "x", "--schedule", "ade20k-8k")
    assert read(monkeypatch, *arguments).schedule == get_schedule("ade20k-8k")
    changed = read(monkeypatch, *arguments, "--epochs", "2", "--lr", "1e-3").schedule
    assert (changed.steps, changed.epochs, changed.lr, changed.warmup_steps) == (None, 2, 1e-3, 150)
    assert read(monkeypatch).schedule.steps == 600


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("voc", "--text", "averaged_eos"), ["background", "dog"]),
        (("voc", "--text", "averaged_eos", "--no-background"), ["dog"]),
        (("ade20k", "--text", "class_names"), ["dog"]),
        (("scenes", "--text", "class_names"), ["dog"]),
        (("scenes", "--text", "class_names", "--background"), ["background", "dog"]),
        (("voc", "--text", "captions"), ["dog"]),
    ],
)
def test_the_background_is_in_the_text_where_the_paper_has_it(arguments, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["", "--root", "x", "--schedule", "ade20k-4k", "--data", *arguments])
    options = training_options.read_options(
        "", data=("scenes", "voc", "ade20k"), scenes=Schedule(steps=1, lr=1.0, batch=1)
    )
    assert prompted(("background", "dog"), background=options.background) == expected
    assert prompted(("dog",), background=options.background) == expected
    assert not options.own_class


@pytest.mark.parametrize(("arguments", "own_class"), [(("null",), False), (("averaged_eos",), True),
                                                      (("averaged_eos", "--no-own-class"), False)])  # fmt: skip
def test_depth_names_the_room_of_each_image(arguments, own_class, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["", "--text", *arguments])
    options = training_options.read_options("", data=("scenes", "nyu"), scenes=Schedule(steps=1, lr=1.0, batch=1))
    assert options.own_class == own_class


@pytest.mark.parametrize("missing", ["--root", "--schedule"])
def test_a_data_set_needs_its_folder_and_a_schedule(missing, monkeypatch, capsys):
    options = {"--root": "x", "--schedule": "ade20k-4k"}
    arguments = [word for name, value in options.items() if name != missing for word in (name, value)]
    with pytest.raises(SystemExit):
        read(monkeypatch, "--data", "ade20k", *arguments)
    assert (
        f"--data ade20k needs {'a' if missing == '--schedule' else 'its folder:'} {missing}" in capsys.readouterr().err
    )


@pytest.mark.parametrize(("data", "head", "loss"), [("voc", "smp_fpn", "focal"), ("ade20k", "fpn", "cross_entropy")])
def test_each_data_set_is_trained_with_the_head_and_loss_of_the_released_code(data, head, loss, backbone):
    import segmentation

    schedule = Schedule(steps=1, batch=1, lr=1.0)
    options = SimpleNamespace(
        data=data, head_options=None, text="null", tune="nothing", background=False, schedule=schedule, own_class=False
    )
    names = SimpleNamespace(class_names=["background", "dog"])
    model = session.build(segmentation.TASK, backbone, names, options)
    assert (model.options["head"], model.options["loss"]) == (head, loss)


def test_what_the_package_can_explain_ends_a_script_without_a_traceback(monkeypatch, tmp_path):
    import segmentation

    arguments = ("--data", "voc", "--root", str(tmp_path), "--schedule", "pascal-15-epochs", "--out", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["segmentation.py", *arguments])
    with pytest.raises(SystemExit, match=r"MissingDataError: Pascal VOC needs .*JPEGImages, which is not there. Get"):
        training_options.run(segmentation.main)


def start(**changes):
    options = SimpleNamespace(
        mixed_precision="no", processes=None, micro_batch=None, seed=0, schedule=Schedule(steps=1, batch=6, lr=1.0)
    )
    vars(options).update(changes)
    return training_options.start(options), options


def test_a_launcher_that_started_too_few_processes_is_found_out():
    with pytest.raises(TrainingError, match=r"1 process\(es\) started, not 2\. Start with python -m torch"):
        start(processes=2)


def test_fewer_images_than_a_batch_are_refused(tmp_path):
    with pytest.raises(TrainingError, match=r"4 images are too few for a batch of 5\. Give a smaller batch"):
        train(make_options(tmp_path, schedule={"batch": 5}), data=Augmented(make_data(4), FLIP))


def test_a_batch_that_cannot_be_split_is_refused():
    with pytest.raises(TrainingError, match=r"batch of 6 cannot be split into 1 process\(es\) x 4 images"):
        start(micro_batch=4)


def test_a_batch_is_split_into_what_fits(capsys):
    accelerator, _ = start(micro_batch=2)
    assert accelerator.gradient_accumulation_steps == 3
    assert "1 process(es) x 2 images x 3 accumulated = 6 images per step" in capsys.readouterr().out
