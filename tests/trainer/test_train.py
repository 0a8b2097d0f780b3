"""`tadp.trainer.train`: from a folder of labelled images to a measured model, and what stops or changes a run."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import fields, replace
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from builders_training import make_options, own_training_state, reset_accelerate, weights
from builders_training import train as fit_small
from exported import CLASSES, coco_folder, mask_folder
from killing import partial_name
from PIL import Image
from running import ENVIRONMENT, plain, run_function, tadp_run
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tadp import TADPBackbone, datasets
from tadp.captions import CaptionTable
from tadp.cli.field_options import field_values
from tadp.datasets import MaskFolder, RenderedScenes
from tadp.datasets.readers.data_options import ReaderOptions
from tadp.datasets.readers.opening import LAYOUTS
from tadp.errors import CaptionError, DatasetError, OptionError, OutputError, TrainingError
from tadp.files import progress
from tadp.files.run_lock import only_run
from tadp.tasks import TADPForSemanticSegmentation
from tadp.trainer import TrainingRun, TrainOptions, dry_run, estimate, run_report, train, training_loop, training_run
from tadp.trainer.checkpoints import Watch
from tadp.trainer.encoded_data import EncodedData
from tadp.trainer.recipes import DETECTION
from tadp.trainer.run_data import contents, open_parts
from tadp.trainer.run_plan import TASKS, head_options, make_plan
from tadp.trainer.run_record import drawing_score
from tadp.trainer.run_report import command
from tadp.trainer.training_batches import drawn_images
from tadp.training.schedules import Schedule

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings(
        "ignore:the part '(train|val)' of the split has no"
    ),  # a few images cannot show all classes
]
SMALL = {
    "class_names": CLASSES, "crop": 32, "steps": 4, "batch": 4, "evaluate_every": 0, "save_every": 2, "progress": False,
    "tune": "head", "head_options": {"fpn_channels": 8, "channels": 8, "dropout": 0.1},
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_state():
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores SIGINT
    with own_training_state():
        yield
    signal.signal(signal.SIGINT, inherited)


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> Path:
    return mask_folder(tmp_path_factory.mktemp("export") / "photos", 15)


def run(data: object, output: Path, task: str = "segmentation", **changes):
    reset_accelerate()
    return train(task, data, output, **SMALL | changes)


@pytest.fixture(scope="module")
def whole(one_thread, export, tmp_path_factory):
    """A run that nothing interrupted."""
    with own_training_state():
        return run(export, tmp_path_factory.mktemp("whole") / "run")


def same_weights(first: Path, second: Path) -> bool:
    own, other = (weights(TADPForSemanticSegmentation.from_pretrained(folder)) for folder in (first, second))
    return all(torch.equal(own[name], other[name]) for name in own)


def test_a_folder_becomes_a_model_with_a_report(whole, export):
    assert set(whole.figures) == {"mIoU", "pixel accuracy"}
    assert list(whole.baselines) == ["background everywhere"]
    assert whole.model.class_names == CLASSES
    assert whole.model.short_side_px == 40
    assert "pixel accuracy" in str(whole)
    report = whole.report.read_text()
    for text in ("# Segmentation on", "this model", "background everywhere", "## Confusion matrix", "| torch | 2.",
                 f"\n```sh\n{command()}\n```\n", "README.md", "class",
                 "images (val), after training on 12."):  # fmt: skip
        assert text in report, text
    for picture in ("curves.png", "worst.png"):
        assert f"({picture})" in report
        with Image.open(whole.folder / picture) as image:
            assert min(image.size) > 100
    assert (
        "15 images, masks of 13 classes, of which 12 images were used for training"
        in (whole.folder / "README.md").read_text()
    )
    record = json.loads((whole.folder / "run.json").read_text())
    assert record["choices"]["steps"] == 4
    assert record["data"]["data"] == str(export)
    assert not (whole.folder / "checkpoints").exists()


def test_evaluations_in_batches_of_windows_give_the_same_figures(whole, export, tmp_path, monkeypatch, one_thread):
    sizes, evaluate = [], run_report.evaluate
    monkeypatch.setattr(
        run_report,
        "evaluate",
        lambda *data, **options: sizes.append(options["batch_size"]) or evaluate(*data, **options),
    )
    batched = run(export, tmp_path / "run", evaluate_batch=3, evaluate_every=2)
    assert len(sizes) > 1
    assert set(sizes) == {3}
    assert batched.figures == pytest.approx(whole.figures)


def test_the_confusion_matrix_and_the_worst_images_are_those_of_the_model(whole, export):
    from tadp import datasets
    from tadp.metrics import MeanIoU

    held_out = datasets.split(datasets.open(export, class_names=CLASSES))["val"]
    scores, total = {}, MeanIoU(len(CLASSES))
    for sample in held_out:
        single = MeanIoU(len(CLASSES))
        for metric in (single, total):
            metric.update(whole.model.predict(sample.image).class_map[None], torch.from_numpy(sample.mask)[None])
        scores[sample.image_id] = single.compute().miou
    details = json.loads((whole.folder / "result.json").read_text())["details"]
    assert details["miou"] == pytest.approx(total.compute().miou)
    share = total.confusion[0, 0] / total.confusion[0].sum()
    assert f"| background | {100 * share:.0f} %" in whole.report.read_text()
    assert min(scores, key=scores.get) in (whole.folder / "run.json").read_text()


@pytest.mark.parametrize(
    ("program", "start"),
    [("/bin/tadp", "tadp"), ("/lib/tadp/__main__.py", "python -m tadp"), ("my train.py", "python 'my train.py'")],
)
def test_the_command_of_the_report_can_be_pasted(program, start, monkeypatch):
    arguments = [
        "train",
        "segmentation",
        "--palette",
        "#000000=0",
        "--data",
        "my photos",
        "-o",
        "it's",
        "--group",
        "^a|$b",
        "",
    ]
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    assert command().startswith(f"{start} train ")
    shell = subprocess.run(["bash", "-c", f"printf '%s\\n' {command()}"], capture_output=True, text=True, check=True)
    assert shell.stdout.split("\n")[-len(arguments) - 1 :] == [*arguments, ""]


def kill_in_step(folder: str, output: str, step: int, options: dict) -> None:
    """Train in this process, and kill it during a step."""
    take_step = training_loop.take_step

    def take_or_kill(*arguments, **more):
        if more["step"] == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return take_step(*arguments, **more)

    training_loop.take_step = take_or_kill
    train("segmentation", folder, output, **SMALL | options)


@pytest.mark.parametrize("options", [{}, {"ema": 0.9, "evaluate_every": 1, "patience": 9, "tune": "lora"}])
def test_a_run_that_was_killed_goes_on_to_the_same_model(options, export, whole, tmp_path):
    expected = whole.folder if not options else run(export, tmp_path / "whole", **options).folder
    process = run_function(kill_in_step, str(export), str(tmp_path / "run"), 3, options)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")] == ["step-00000002"]
    resumed = run(export, tmp_path / "run", **options)
    assert same_weights(resumed.folder, expected)
    assert resumed.figures == json.loads((expected / "result.json").read_text())["figures"]
    steps = [json.loads(line)["step"] for line in (resumed.folder / "metrics.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == [1, 2, 3, 4]


def test_ctrl_c_saves_the_step_and_the_same_call_continues(export, whole, tmp_path, monkeypatch):
    take_step, output = training_loop.take_step, tmp_path / "run"

    def interrupted(*arguments, **more):
        if more["step"] == 2:
            signal.raise_signal(signal.SIGINT)
        return take_step(*arguments, **more)

    monkeypatch.setattr(training_loop, "take_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(export, output)
    assert [path.name for path in (output / "checkpoints").glob("step-*")] == ["step-00000003"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    assert same_weights(run(export, output).folder, whole.folder)


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_run_whose_images_or_labels_changed_is_refused(whole, export, tmp_path, kind):
    data, output = tmp_path / "photos", tmp_path / "run"
    shutil.copytree(export, data)  # copying changes the times of files, but not their contents
    shutil.copytree(whole.folder, output)
    record = json.loads((output / "run.json").read_text())
    assert run(data, output).figures == whole.figures
    target = next((data / {"images": "images", "labels": "masks"}[kind]).glob("*.png"))
    with Image.open(target) as picture:
        picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(target)
    with pytest.raises(TrainingError, match=rf"the contents of the {kind} have changed since it began\. Pass ano"):
        run(data, output)
    del record["data"]["contents"]  # that of an older version
    (output / "run.json").write_text(json.dumps(record))
    assert run(data, output).figures == whole.figures


def test_images_without_files_are_recognised_by_their_pixels():
    first, second, again = (contents([RenderedScenes(3, seed=seed)]) for seed in (0, 1, 0))
    assert first == again
    assert first["images"] != second["images"]
    assert first["labels"] != second["labels"]


def test_a_finished_run_is_returned_as_it_is(whole, export, monkeypatch):
    monkeypatch.setattr("tadp.trainer.training_run.build_model", None)
    (whole.folder / "checkpoints/step-00000003").mkdir(parents=True)  # the run was killed while it removed them
    (whole.folder / partial_name("report.md")).touch()
    assert run(export, whole.folder).figures == whole.figures
    assert not [path.name for path in whole.folder.iterdir() if path.name.startswith((".", "checkpoints"))]


def test_a_folder_with_other_settings_or_images_is_refused(whole, export, tmp_path):
    with pytest.raises(TrainingError, match=r"run with other settings: steps was 4 and is 5\. Pass another output, or"):
        run(export, whole.folder, steps=5)
    with pytest.raises(TrainingError, match="the training images are others"):
        run(export, whole.folder, split_seed=1)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(OutputError, match=r"a model that this run did not write\. Pass another output"):
        run(export, tmp_path)


def test_two_runs_in_one_folder_exclude_each_other(export, tmp_path):
    with only_run(tmp_path, is_folder=True), pytest.raises(OutputError, match="another run is writing"):
        run(export, tmp_path)


def test_accumulated_batches_are_one_large_batch(export, tmp_path):
    head = {"fpn_channels": 8, "channels": 8, "dropout": 0.0, "norm": "group"}
    models = [run(export, tmp_path / str(size), micro_batch=size, steps=2, head_options=head).model for size in (4, 2)]
    large, small = (weights(model.head) for model in models)
    for name, expected in large.items():
        torch.testing.assert_close(small[name], expected, rtol=1e-3, atol=2e-4)


def test_a_limit_takes_some_images_of_each_part(export, tmp_path):
    parts = open_parts("segmentation", export, TrainOptions(class_names=CLASSES, limit=4, fraction=0.4))
    whole = open_parts("segmentation", export, TrainOptions(class_names=CLASSES, fraction=0.4))
    for part, all_images in ((parts.train, whole.train), (parts.test, whole.test)):
        assert len(part) == 4 < len(all_images)
        assert set(part.image_ids) < set(all_images.image_ids)
    finished = run(export, tmp_path / "run", limit=4, fraction=0.4, steps=1)
    details = json.loads((finished.folder / "result.json").read_text())["details"]
    assert evaluated(finished.folder, export) == details
    with pytest.raises(TrainingError, match="the training images are others"):
        run(export, tmp_path / "run", limit=5, fraction=0.4, steps=1)
    with pytest.raises(OptionError, match="limit is for data of your own; nyu is read as published"):
        open_parts("depth", "nyu", TrainOptions(root=tmp_path, limit=4))


def test_a_start_that_failed_does_not_block_the_folder(export, tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise TrainingError("no step was possible")

    with monkeypatch.context() as patch:
        patch.setattr(training_run, "build_model", fail)
        with pytest.raises(TrainingError, match="no step was possible"):
            run(export, tmp_path / "run", lr=0.5)
    assert (tmp_path / "run" / "run.json").exists()
    run(export, tmp_path / "run", steps=1)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["choices"]["lr"] != 0.5


def test_class_names_that_are_too_long_together_name_the_text_to_choose(export, tmp_path):
    names = [f"{name} with a very long description of many words" for name in CLASSES]
    with pytest.raises(CaptionError, match=r"class names together do not fit .* 77 tokens\. .* pass text='class_embed"):
        run(export, tmp_path / "run", class_names=names)
    done = tadp_run("train", "segmentation", "--data", export, "-o", tmp_path / "run", "--class-names", ",".join(names),
                    "--dry-run", code=1)  # fmt: skip
    assert "--text class_embeddings" in plain(done.output)


@pytest.mark.parametrize(("score", "is_warned"), [(0.2, True), (0.5, True), (float("nan"), True), (0.51, False)])
def test_a_model_that_is_not_better_than_a_trivial_prediction_is_named(score, is_warned, tmp_path):
    baselines = {"boxes of a random image": {"mAP50": 0.5}}
    text = str(TrainingRun(tmp_path, "detection", {"mAP50": score}, baselines))
    assert ("not better than 'boxes of a random image'" in text) == is_warned
    depth = str(TrainingRun(tmp_path, "depth", {"RMSE (m)": score}, {"mean depth": {"RMSE (m)": 0.505}}))
    assert ("not better than 'mean depth'" in depth) == (not score < 0.505)


def encoded_images(folder: Path) -> int:
    count = 0
    for path in (folder / "encoded").glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            count += file.get_slice("latents").get_shape()[0]
    return count


def test_a_short_run_encodes_only_the_images_that_it_takes(tmp_path, monkeypatch):
    folder, changes = coco_folder(tmp_path / "export", 15), {"class_names": CLASSES[1:], "steps": 2, "crop": 64}
    changes |= {"head_options": {"channels": 8, "hidden_channels": 16}}
    cost = estimate("detection", folder, **SMALL | changes)
    assert cost.encode_s > 0
    assert "image size: longer side 64 pixels in prediction and in training; the option crop changes it" in cost.choices
    assert cost.total_s == pytest.approx(cost.encode_s + 2 * cost.step_s + cost.evaluate_s)
    short = run(folder, tmp_path / "short", "detection", **changes)
    monkeypatch.setattr(training_run, "drawn_by", lambda *_: None)
    whole = run(folder, tmp_path / "whole", "detection", **changes)
    assert encoded_images(short.folder) == 2 * 4  # of 12 images
    assert encoded_images(whole.folder) == 12
    own, expected = (weights(finished.model) for finished in (short, whole))
    assert all(torch.allclose(own[name], expected[name], atol=1e-5) for name in own)
    schedule = Schedule(steps=5, batch=4, lr=1e-3)
    assert drawn_images(12, schedule, seed=0) == list(range(12))
    assert len(drawn_images(12, replace(schedule, steps=1), seed=0)) == 4


def test_captions_are_written_once_and_the_model_knows_its_captioner(export, tmp_path, monkeypatch):
    finished = run(export, tmp_path / "run", captioner="tadp-tiny", steps=1)
    captions = dict(CaptionTable.open(tmp_path / "run" / "captions.db"))
    assert len(captions) == 15
    assert finished.model.captioner_name == "tadp-tiny"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["captions"] == "captions.db"
    monkeypatch.setattr("tadp.Captioner.from_pretrained", None)  # it is not needed again
    run(export, tmp_path / "second", captions=tmp_path / "run" / "captions.db", steps=1)


def test_a_file_without_all_captions_needs_a_captioner(export, tmp_path):
    with CaptionTable.create(tmp_path / "few.db") as table:
        table.add("plain-41-000000", "a dog")
    with pytest.raises(TrainingError, match=r"has no caption for 1\d of 1\d images, such as .* or pass captioner="):
        run(export, tmp_path / "run", captions=tmp_path / "few.db", model="owner/other")
    with pytest.raises(OptionError, match=r"captions are written by a captioner; pass captioner=…, such as blip2"):
        run(export, tmp_path / "run", text="captions", model="owner/other")
    with pytest.raises(OptionError, match=r"captioner is for the text 'captions'; got the text 'null'"):
        run(export, tmp_path / "run", text="null", captioner="tadp-tiny")


def test_detection_learns_from_a_coco_export(tmp_path):
    coco = coco_folder(tmp_path / "coco", 10, size=96)
    head = {"channels": 8, "hidden_channels": 16, "samples_per_image": 16}
    result = run(coco, tmp_path / "run", "detection", class_names=None, crop=64, head_options=head, batch=2)
    assert list(result.figures) == ["mAP50"]
    assert "| nothing |" in result.report.read_text()
    assert "Predictions with a score above 0.5 count" in result.report.read_text()
    stored = json.loads((result.folder / "result.json").read_text())
    best, drawn = (stored["details"][name] for name in ("best", "drawn"))
    assert stored["drawing_score"] == drawing_score(result.folder) == best["score"]
    assert (
        f"{drawn['right']} of {drawn['objects']} objects found, {drawn['wrong']} false box" in result.report.read_text()
    )
    assert f"above the score {best['score']:g}: {best['right']} of" in result.report.read_text()
    assert result.model.class_names == CLASSES[1:]


def test_own_images_are_padded_and_the_recipe_of_the_paper_stretches_them(tmp_path):
    recipes = {name: DETECTION[name] for name in ("small", "voc-detection-10-epochs")}
    sample = RenderedScenes(1, seed=3, size=64)[0]
    wide = replace(sample, image=sample.image[:32], mask=None, depth_m=None)
    rows = {}
    for name, recipe in recipes.items():
        image = wide
        for transform in recipe.transforms(64):
            image = transform(image, np.random.default_rng(0))
        assert image.image.shape == (64, 64, 3)
        rows[name] = int((image.image == 128).all(axis=(1, 2)).sum())  # rows of padding
    assert rows == {"small": 32, "voc-detection-10-epochs": 0}
    coco = coco_folder(tmp_path / "coco", 10, size=96)
    for name, recipe in recipes.items():
        parts, options = open_parts("detection", coco, TrainOptions()), TrainOptions(recipe=name, text="class_names")
        model = TASKS["detection"].build(
            TADPBackbone.from_pretrained("tadp-tiny"), parts.train, make_plan("detection", parts, options).recipe,
            text="class_names",
        )  # fmt: skip
        assert model.keep_ratio is (name == "small")
        assert model.image_px == recipe.crop_px


def test_an_option_of_the_head_keeps_the_others_of_the_recipe_and_a_wrong_one_gets_the_list(tmp_path):
    coco = coco_folder(tmp_path / "coco", 10, size=96)
    parts = open_parts("detection", coco, TrainOptions())
    plan = make_plan("detection", parts, TrainOptions(head_options={"samples_per_image": 16}))
    assert plan.choices["head_options"] == DETECTION["small"].model["head_options"] | {"samples_per_image": 16}
    with pytest.raises(
        OptionError,
        match=r"head_options: DetectionHead has no option 'chanels'; it has channels, hidden_channels, anchor_sizes, "
        r"aspect_ratios, score_threshold, nms_iou, max_detections, max_proposals, samples_per_image\.",
    ):
        make_plan("detection", parts, TrainOptions(head_options={"chanels": 16}))


def test_help_and_docs_list_all_options_of_the_heads():
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    listed, task = {}, ""
    for name, option, default, small in re.findall(
        r"^\| (\w*) ?\| `(\w+)` \| ([^|]+) \| ([^|]*)\|", text, re.MULTILINE
    ):
        task = name or task
        listed.setdefault(task, {})[option] = (json.loads(default), json.loads(small) if small.strip() else None)
    shown = " ".join(plain(tadp_run("train", "--help").output).split())
    for task, trained in TASKS.items():
        options, small = head_options(trained.heads[""]), trained.recipes["small"].model["head_options"]
        defaults = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
        assert listed[task] == {name: (value, small.get(name)) for name, value in defaults.items()}
        assert f"{task}: {', '.join(options)}." in shown


def test_an_untrained_network_is_a_choice_of_its_own_and_comes_back(export, whole, tmp_path):
    random = run(export, tmp_path / "run", untrained=True)
    convolution, trained = (result.model.backbone.unet.conv_in.weight for result in (random, whole))
    assert not torch.equal(convolution, trained)
    assert random.figures != whole.figures
    assert evaluated(random.folder, export) == json.loads((random.folder / "result.json").read_text())["details"]
    assert "untrained" not in json.loads((whole.folder / "run.json").read_text())["choices"]
    with pytest.raises(TrainingError, match="untrained was True and is None"):
        run(export, tmp_path / "run")


def test_crowds_are_not_learned_but_stay_in_the_images_that_are_measured(tmp_path):
    coco = coco_folder(tmp_path / "coco", 10, size=96)
    path = coco / "annotations.json"
    content = json.loads(path.read_text())
    for entry in content["annotations"][::2]:
        entry["iscrowd"] = 1
    path.write_text(json.dumps(content))
    parts = open_parts("detection", coco, TrainOptions())
    assert not any(bool(sample.boxes.difficult.any()) for sample in parts.train)
    assert [len(sample.boxes) for sample in parts.test] == [
        len(datasets.open(coco).box_names_in(image_id)) for image_id in parts.test.image_ids
    ]
    assert any(bool(sample.boxes.difficult.any()) for sample in parts.test)


def test_depth_takes_its_largest_depth_from_the_images(tmp_path):
    data = RenderedScenes(10, seed=3, size=64)
    result = run(data, tmp_path / "run", "depth", class_names=None, head_options={"channels": 8})
    assert result.model.max_depth_m == 20
    assert result.model.prompt_mode == "null"
    assert "10 to 20 m" in result.report.read_text()


def test_labels_of_another_task_are_refused(export, tmp_path):
    with pytest.raises(DatasetError, match=r"has no labels for detection: its layout is that of MaskFolder \(seg"):
        run(export, tmp_path, "detection")
    with pytest.raises(TrainingError, match="has no labels for detection; it has labels for segmentation"):
        run(datasets.open(export, class_names=CLASSES), tmp_path, "detection", class_names=None)
    with pytest.raises(OptionError, match="task must be one of segmentation, depth, detection; got 'pose'"):
        run(export, tmp_path, "pose")


def test_a_dry_run_counts_and_writes_nothing(export, tmp_path):
    plan = estimate("segmentation", export, tmp_path / "run", **SMALL | {"captioner": "tadp-tiny"})
    assert not (tmp_path / "run").exists()
    assert 0 < plan.trained < plan.parameters
    assert plan.steps == 4
    assert plan.caption_s > 0
    assert plan.encode_s == 0
    assert plan.total_s >= 4 * plan.step_s + plan.caption_s
    text = str(plan)
    scale = "image size: shorter side 40 pixels in prediction, and in training before the random resize; the "
    for line in ("recipe small: 4 steps of 4 images of 32 pixels", scale, "parameters: ", "memory: ", "about "):
        assert line in text
    head = sum(weight.numel() for weight in run(export, tmp_path / "run", steps=1).model.head.parameters())
    assert plan.trained == head


@pytest.mark.parametrize(("flip", "views"), [(False, 1), (True, 2)])
def test_the_first_prediction_does_not_count_in_the_time_of_evaluations(flip, views, export, monkeypatch):
    clock, durations = [0.0], iter([60.0, 1.0, 2.0, 3.0])

    def predict(self, image, caption=None, **options):
        clock[0] += next(durations)

    monkeypatch.setattr(dry_run, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(TADPForSemanticSegmentation, "predict", predict)
    cost = estimate("segmentation", export, **SMALL | {"flip": flip, "steps": 5, "evaluate_every": 2})
    held_out = len(open_parts("segmentation", export, TrainOptions(class_names=CLASSES)).test)
    assert cost.evaluate_s == 2.0 * (2 * held_out + views * held_out)


@pytest.mark.parametrize(
    ("changes", "every"),
    [
        ({"steps": 99}, 0),
        ({"steps": 100}, 10),
        ({"steps": 50, "patience": 2}, 5),
        ({"steps": 50, "evaluate_every": 7}, 7),
    ],
)
def test_a_short_run_is_evaluated_only_at_the_end(export, changes, every):
    options = TrainOptions(**SMALL | {"evaluate_every": None} | changes)
    assert make_plan("segmentation", open_parts("segmentation", export, options), options).evaluate_every == every


def test_without_a_terminal_there_is_a_line_now_and_then(export, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    run(export, tmp_path / "run", progress=True)
    lines = capsys.readouterr().err.splitlines()
    steps = [line for line in lines if line.startswith("training: step ")]
    assert [line.split(",")[0] for line in steps] == [f"training: step {step} of 4" for step in (1, 2, 3, 4)]
    assert "loss " in steps[0]
    assert "left" in steps[0]
    assert not [line for line in lines if "\r" in line]
    assert "recipe small: 4 steps" in "\n".join(lines)


def test_options_out_of_range_are_named():
    for options, message in (
        ({"steps": 0}, "steps must be 1 or more; got 0"),
        ({"steps": 1, "epochs": 1}, "pass steps or epochs, not both"),
        ({"ema": 1.0}, "ema must be from 0 to below 1; got 1.0"),
        ({"lr": 0.0}, "lr must be above 0"),
    ):
        with pytest.raises(OptionError, match=message):
            TrainOptions(**options)


def test_an_unknown_recipe_is_refused(export, tmp_path):
    with pytest.raises(OptionError, match="recipe must be one of small, scenes, pascal-15-epochs"):
        run(export, tmp_path, recipe="large")


def evaluated(folder: Path, data: Path, *more: object) -> dict:
    tadp_run("evaluate", "--model", folder, "--data", data, "-o", folder / "again.json", *more)
    return json.loads((folder / "again.json").read_text())


def test_evaluate_gives_the_figures_of_the_report_again(whole, export):
    details = json.loads((whole.folder / "result.json").read_text())["details"]
    assert evaluated(whole.folder, export) == details
    assert evaluated(whole.folder, export, "--split", "all") != details


def test_evaluate_says_what_it_measures_and_how_much_of_it_the_training_used(export, tmp_path):
    folder = shutil.copytree(export, tmp_path / "photos")
    for path in (folder / "masks").iterdir():
        values = np.array(Image.open(path))
        Image.fromarray(np.where(values == 0, 99, values).astype(np.uint8)).save(path)
    finished = run(folder, tmp_path / "run", labels={99: 0}, steps=1)
    command = ["evaluate", "--model", finished.folder, "--data"]
    done = plain(tadp_run(*command, folder, "--split", "all").output)
    assert "with these options of the run: class_names, labels" in done
    assert "measuring 15 images (all); 12 of them were used for training; figures on those are too good" in done
    other = shutil.copytree(folder, tmp_path / "other")
    for name in ("images", "masks"):
        for place, path in enumerate(sorted((other / name).iterdir())):
            path.rename(path.with_name(f"{place}{path.suffix}"))
    done = plain(tadp_run(*command, other).output)
    assert "with these options of the run: labels" in done
    assert "measuring 15 images (all) of a folder that is not that of the training" in done
    coco = coco_folder(tmp_path / "coco", 4)
    wrong = plain(tadp_run(*command, coco, code=1).output)  # its reader has no labels, so that only the task is wrong
    assert "has labels for detection, not for segmentation" in wrong


def test_evaluate_takes_the_split_of_another_folder_as_train_does(export, whole, tmp_path):
    other = shutil.copytree(export, tmp_path / "other")
    ids = datasets.open(other, class_names=CLASSES).image_ids
    (tmp_path / "test.txt").write_text("\n".join(ids[:4]))
    command = ["evaluate", "--model", whole.folder, "--data", other]
    done = tadp_run(*command, "--lists", f"test={tmp_path}/test.txt", "-o", tmp_path / "listed.json")
    assert "measuring 4 images (test) of a folder that is not that of the training" in plain(done.output)
    for name in ("images", "masks"):
        (other / name / "seq1").mkdir()
        for image_id in ids[:4]:
            (other / name / f"{image_id}.png").rename(other / name / "seq1" / f"{image_id}.png")
    done = tadp_run(*command, "--folders", "seq=seq1", "-o", tmp_path / "folder.json")
    assert "measuring 4 images (seq)" in plain(done.output)
    assert (tmp_path / "folder.json").read_text() == (tmp_path / "listed.json").read_text()
    assert "measuring 3 images (val)" in plain(tadp_run(*command, "--fraction", "0.2", "--split-seed", 3).output)
    again = [*command[:-1], export, "--lists", f"test={tmp_path}/test.txt"]
    assert "measuring 4 images (test); " in plain(tadp_run(*again).output)  # in place of the images held out
    wrong = plain(tadp_run("evaluate", "--model", whole.folder, "--data", "scenes", "--group", "a", code=2).output)
    assert "--group is for a folder in --data" in wrong


def test_evaluate_renames_the_classes_of_another_folder_as_the_run_did(tmp_path):
    folder = coco_folder(tmp_path / "boxes", 6)
    content = json.loads((folder / "annotations.json").read_text())
    first, second = (content["categories"][place]["name"] for place in (0, 1))
    content["categories"][0]["name"] = first.title()
    (folder / "annotations.json").write_text(json.dumps(content))
    small = {"class_names": {first.title(): first, second: None}, "head_options": {"channels": 8, "hidden_channels": 8}}
    finished = run(folder, tmp_path / "run", "detection", crop=64, steps=1, **small)
    other = shutil.copytree(folder, tmp_path / "other")
    content["categories"].reverse()
    for number, row in enumerate(content["categories"]):
        row["id"], row["was"] = 100 + number, row["id"]
    ids = {row["was"]: row["id"] for row in content["categories"]}
    for row in content["annotations"]:
        row["category_id"] = ids[row["category_id"]]
    (other / "annotations.json").write_text(json.dumps(content))
    assert datasets.open(other).box_class_names[-1] == first.title()  # another order
    assert evaluated(finished.folder, folder, "--split", "all") == evaluated(finished.folder, other, "--split", "all")
    done = plain(tadp_run("evaluate", "--model", finished.folder, "--data", other).output)
    assert "with these options of the run: class_names" in done


def test_evaluate_uses_the_captions_and_the_options_of_the_run(export, tmp_path):
    finished = run(export, tmp_path / "run", captioner="tadp-tiny", flip=True, steps=1)
    details = json.loads((finished.folder / "result.json").read_text())["details"]
    assert evaluated(tmp_path / "run", export) == details
    moved = export.rename(export.with_name("moved"))
    try:
        assert evaluated(tmp_path / "run", moved) == details
    finally:
        moved.rename(export)


def test_predict_takes_task_and_captioner_from_the_model(export, tmp_path):
    run(export, tmp_path / "run", captioner="tadp-tiny", steps=1)
    image = next((export / "images").iterdir())
    done = tadp_run("predict", image, "--model", tmp_path / "run", "-o", tmp_path / "out")
    assert "SegmentationResult" not in done.output
    record = json.loads((tmp_path / "out" / f"{image.stem}.segmentation.json").read_text())
    assert record["caption"]
    assert record["settings"]["text"]["captioner"]["name"] == "tadp-tiny"


def test_the_command_trains_and_says_what_it_would_cost(export, tmp_path):
    options = ["--data", export, "-o", tmp_path / "run", "--class-names", ",".join(CLASSES), "--crop", 32, "--steps", 2]
    options += ["--batch", 4, "--tune", "head", "--head-options", '{"fpn_channels": 8, "channels": 8}']
    options += ["--evaluate-every", 0]
    plan = tadp_run("train", "segmentation", *options, "--dry-run")
    assert "parameters: " in plan.output
    assert not (tmp_path / "run").exists()
    reset_accelerate()
    done = tadp_run("train", "segmentation", *options)
    assert "background everywhere" in done.output
    assert "report.md has the details" in plain(done.output)
    reset_accelerate()
    refused = tadp_run("train", "segmentation", *options, "--lr", "0.1", code=1)
    assert "lr was 0.002 and is 0.1. Pass another --output" in plain(refused.output)
    wrong = tadp_run("train", "segmentation", *options, "--labels", "eleven", code=2)
    assert "labels are written as 11=255,12=0; got 'eleven'" in plain(wrong.output)


def test_the_options_of_readers_reach_the_reader_and_an_evaluation_reads_the_folder_in_the_same_way(tmp_path):
    """Masks a_label.png next to nothing, with white for the first class, and a split by lists."""
    folder = mask_folder(tmp_path / "photos", 10)
    for path in (folder / "masks").iterdir():
        values = np.array(Image.open(path))
        Image.fromarray(np.where(values == 0, 99, values).astype(np.uint8)).save(path)
        path.rename(path.with_stem(f"{path.stem}_label"))
    (folder / "masks" / f"{RenderedScenes(10, seed=41).image_ids[9]}_label.png").unlink()
    names = RenderedScenes(10, seed=41).image_ids
    for part, ids in (("train", names[:6]), ("val", names[6:9])):
        (tmp_path / f"{part}.txt").write_text("\n".join(ids))
    options = ["--data", folder, "--class-names", ",".join(CLASSES), "--labels", "99=0", "--mask-suffix", "_label"]
    options += ["--unpaired", "skip", "--lists", f"train={tmp_path}/train.txt,val={tmp_path}/val.txt"]
    small = ["--crop", 32, "--steps", 2, "--batch", 4, "--tune", "head", "--evaluate-every", 0]
    small += ["--head-options", '{"fpn_channels": 8, "channels": 8}']
    tadp_run("train", "segmentation", *options, *small, "-o", tmp_path / "run")
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["data"]["held_out"] == names[6:9]
    tadp_run("evaluate", "--model", tmp_path / "run", "--data", folder, "-o", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures == json.loads((tmp_path / "run/result.json").read_text())["details"]
    reset_accelerate()
    other = [str(option).replace("99=0", "99=1") for option in options]
    refused = tadp_run("train", "segmentation", *other, *small, "-o", tmp_path / "run", code=1)
    assert "labels was {'pairs': [[99, 0]]} and is {'pairs': [[99, 1]]}" in plain(refused.output)


def test_every_option_of_a_reader_is_an_option_of_train_and_data():
    places = {"root", "folders", "depths", "captions", "on_error", "task", "options"}
    known = {option.name for option in fields(ReaderOptions)}
    for layout in LAYOUTS:
        reader = MaskFolder if layout.reader == "MaskFolder" else layout.open
        assert {*signature(reader).parameters} - places - {"images", "masks"} <= known, layout.reader


def test_options_are_read_from_text():
    texts = {
        "class_names": "Car=car, dirt=", "labels": "11=255, 3=road", "palette": "#804080=road,#000000=255",
        "lists": "train=a.txt, val=b.txt", "scale": 0.001,
    }  # fmt: skip
    assert field_values(texts) == {
        "class_names": {"Car": "car", "dirt": None}, "labels": {11: 255, 3: "road"},
        "palette": {"#804080": "road", "#000000": 255}, "lists": {"train": "a.txt", "val": "b.txt"}, "scale": 0.001,
    }  # fmt: skip
    assert field_values({"class_names": "car, bus", "palette": "#000000,#ffffff"}) == {
        "class_names": ["car", "bus"], "palette": ["#000000", "#ffffff"],
    }  # fmt: skip
    for name, text, words in (
        ("class_names", "Car=car,bus", "written as car,bus, or as Car=car,dirt= to rename them; got 'Car=car,bus'"),
        ("palette", "#804080=", "a palette is written as #804080=road,#000000=255"),
        ("lists", "train.txt", "parts are written as train=train.txt,val=val.txt; got 'train.txt'"),
        ("head_options", "[1]", 'options are written as {"channels": 64}'),
    ):
        with pytest.raises(typer.BadParameter, match=re.escape(words)):
            field_values({name: text})


def test_options_of_readers_are_refused_where_no_reader_opens_the_data(export, tmp_path):
    with pytest.raises(OptionError, match="class_names is for a folder that a reader opens, not for a data set that"):
        run(RenderedScenes(10, seed=3, size=64), tmp_path, "depth")
    with pytest.raises(OptionError, match="labels is for a folder that a reader opens, not for scenes, which is read"):
        run("scenes", tmp_path, class_names=None, labels={11: 255})


def test_a_split_without_a_part_to_measure_is_refused(export, tmp_path):
    (tmp_path / "train.txt").write_text("\n".join(datasets.open(export, class_names=CLASSES).image_ids))
    with pytest.raises(TrainingError, match="a run needs the parts train and val, or train and test; got train"):
        run(export, tmp_path / "run", lists={"train": tmp_path / "train.txt"})


def test_a_run_stops_when_its_score_no_longer_rises(tmp_path):
    scores, kept = iter([0.1, 0.5, 0.4, 0.3, 0.9]), []

    def evaluate(model):
        kept.append(weights(model))
        return {"score": next(scores)}

    options = make_options(tmp_path, evaluate_every=1, schedule={"steps": 6})
    model = fit_small(options, evaluate=evaluate, watch=Watch("score", higher_is_better=True, patience=2))
    assert len(kept) == 4
    assert all(torch.equal(weights(model)[name], tensor) for name, tensor in kept[1].items())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["score"] for line in lines if "score" in line] == [0.1, 0.5, 0.4, 0.3]
    again = fit_small(options, evaluate=None, watch=Watch("score", higher_is_better=True, patience=2))
    assert all(torch.equal(weights(again)[name], tensor) for name, tensor in kept[1].items())


def test_the_moving_average_of_the_weights_becomes_the_model(tmp_path, monkeypatch):
    seen, take_step = [], training_loop.take_step

    def record(model, *arguments, **more):
        seen.append(weights(model.head))
        return take_step(model, *arguments, **more)

    monkeypatch.setattr(training_loop, "take_step", record)
    averaged = weights(fit_small(make_options(tmp_path / "ema", ema=0.5)).head)
    first, *later = seen
    reset_accelerate()
    last = weights(fit_small(make_options(tmp_path / "plain")).head)
    average = dict(first)
    for step, state in enumerate([*later, last], start=1):
        decay = min(0.5, (1 + step) / (10 + step))
        average = {name: decay * average[name] + (1 - decay) * state[name] for name in average}
    for name, tensor in average.items():
        torch.testing.assert_close(averaged[name], tensor)
    assert any(not torch.equal(averaged[name], last[name]) for name in average)


def test_a_lora_is_saved_with_the_run(export, tmp_path):
    finished = run(export, tmp_path / "run", tune="lora", lora_rank=2, steps=1)
    assert (tmp_path / "run" / "pytorch_lora_weights.safetensors").exists()
    assert finished.model.tuned == "lora"
    assert finished.model.lora_rank == 2


def test_two_processes_measure_the_model_that_is_saved(export, tmp_path):
    """On CPUs the running means of batch normalisation differ between processes, but the report is of one model."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "tadp", "train"]
    options = ["segmentation", "--data", export, "-o", tmp_path / "run", "--class-names", ",".join(CLASSES)]
    options += ["--crop", 32, "--steps", 2, "--batch", 4, "--tune", "head", "--evaluate-every", 0]
    process = subprocess.run([*launch, *map(str, options)], capture_output=True, text=True, env=ENVIRONMENT)
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout.count("this model") == 1
    assert evaluated(tmp_path / "run", export) == json.loads((tmp_path / "run" / "result.json").read_text())["details"]


class Payload:
    """Pickles as a call that creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


@pytest.fixture(scope="module")
def stopped(export, one_thread, tmp_path_factory) -> Path:
    """The folder of a run that was killed in step 3, with a checkpoint of step 2."""
    output = tmp_path_factory.mktemp("stopped") / "run"
    process = run_function(kill_in_step, str(export), str(output), 3, {})
    assert process.returncode == -signal.SIGKILL, process.stderr
    return output


@pytest.mark.parametrize("name", ["custom_checkpoint_0.pkl", "random_states_0.pkl", "optimizer.bin"])
def test_a_checkpoint_runs_no_code(name, export, stopped, tmp_path):
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    torch.save(Payload(tmp_path / "executed"), folder / "checkpoints/step-00000002" / name)
    with pytest.raises(
        TrainingError, match=r"step-00000002 cannot be read \(.*Delete the folder .*checkpoints to start"
    ):
        run(export, folder)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "change", [lambda states: {}, lambda states: states | {"random_state": 5}], ids=["without", "wrong"]
)
def test_a_checkpoint_without_random_numbers_is_not_continued(change, export, stopped, tmp_path):
    """Accelerate would continue with other random numbers, to other weights."""
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    path = folder / "checkpoints/step-00000002/random_states_0.pkl"
    torch.save(change(torch.load(path, weights_only=False)), path)
    with pytest.raises(TrainingError, match="step-00000002 cannot be read"):
        run(export, folder)


def test_weights_of_another_shape_are_not_spread_over_those_of_the_model(export, stopped, tmp_path):
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    path = folder / "checkpoints/step-00000002/trained.safetensors"
    state = load_file(path)
    name = next(name for name, tensor in state.items() if tensor.ndim == 1)
    save_file(state | {name: state[name][:1]}, path)
    with pytest.raises(TrainingError, match=r"trained\.safetensors holds other tensors"):
        run(export, folder)


def test_damaged_lines_of_the_record_are_left_out(export, stopped, whole, tmp_path):
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"loss": 1}\n[1]\n{"step": 1, "loss": "low"}\n\xff\xfe}\n')
    assert same_weights(run(export, folder).folder, whole.folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"] for line in lines} == {1, 2, 3, 4}


def test_a_figure_without_value_is_nan_when_a_finished_run_is_read_again(export, whole, tmp_path):
    folder = Path(shutil.copytree(whole.folder, tmp_path / "run"))
    result = json.loads((folder / "result.json").read_text())
    name = next(iter(result["figures"]))
    result["figures"][name] = None
    (folder / "result.json").write_text(json.dumps(result))
    again = run(export, folder)
    assert np.isnan(again.figures[name])
    assert "nan" in str(again)


def test_stored_latents_are_those_of_the_images_as_they_are_now(tmp_path):
    export, folder = mask_folder(tmp_path / "photos", 2), tmp_path / "encoded"
    backbone = TADPBackbone.from_pretrained("tadp-tiny")

    def stored(**options) -> torch.Tensor:
        data = datasets.open(export, class_names=CLASSES)
        encoded = EncodedData.encode(folder, backbone, data, captions=False, **options)
        return torch.cat([encoded[index].latents for index in range(2)])

    first, file = stored(), folder / "00000000.safetensors"
    written = file.stat().st_mtime_ns
    assert torch.equal(stored(), first)
    assert file.stat().st_mtime_ns == written
    file.unlink()
    file.write_bytes(b"cut")
    assert torch.equal(stored(), first)
    image = next((export / "images").glob("*"))
    with Image.open(image) as picture:
        mirrored = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    mirrored.save(image)
    with pytest.raises(OutputError, match=r"other settings: images was '\w+' and is '\w+'\. Delete the folder"):
        stored()
    changed = stored(overwrite=True)
    assert not torch.equal(changed, first)
    backbone.vae.config["scaling_factor"] *= 2
    torch.testing.assert_close(stored(overwrite=True), 2 * changed)
