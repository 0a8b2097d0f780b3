"""`tadp predict` and `tadp evaluate`, as a user runs them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from killing import partial_name
from PIL import Image
from running import plain, tadp_run
from typer.testing import CliRunner

import tadp
from tadp.cli import app
from tadp.datasets.scenes import CLASSES, Scenes
from tadp.files.run_lock import only_run
from tadp.tasks.predictions import DetectionResult

TASKS = ("segmentation", "depth", "detection")


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a small untrained model of each task."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    untrained = {
        "segmentation": tadp.TADPForSemanticSegmentation(
            backbone, class_names=["background", *CLASSES], head="linear", tune="nothing", window_px=128
        ),
        "depth": tadp.TADPForDepthEstimation(
            backbone, max_depth_m=20.0, tune="nothing", window_px=128, head_options={"channels": 16}
        ),
        "detection": tadp.TADPForObjectDetection(
            backbone, class_names=CLASSES, tune="nothing", image_px=128, head_options={"channels": 8}
        ),
    }
    for task, model in untrained.items():
        model.captioner_name = "tadp-tiny"
        model.save_pretrained(root / task)
    untrained["segmentation"].captioner_name = None
    untrained["segmentation"].save_pretrained(root / "without")
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, scene in enumerate(Scenes(2, seed=5)):
        Image.fromarray(scene.image).resize((150, 130)).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_predict_writes_a_picture_and_data(task, models, photos, tmp_path):
    done = run("predict", task, photos, "-m", models / task, "-o", tmp_path)
    assert done.exit_code == 0, done.output
    data = {"segmentation": ["png", "json"], "depth": ["png", "json"], "detection": ["json"]}[task]
    expected = {f"{k}.{task}.{suffix}" for k in (0, 1) for suffix in ("plot.png", *data)}
    assert {path.name for path in tmp_path.iterdir()} == expected
    record = json.loads((tmp_path / f"0.{task}.json").read_text())
    assert record["caption"]
    if task != "detection":
        with Image.open(tmp_path / f"0.{task}.png") as picture:
            assert picture.size == (150, 130)
    if task == "segmentation":
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in record["shares"].items() if share >= 0.005)
        assert f"0.png: 130x150: {shares}" in done.output
    again = run("predict", task, photos, "-m", models / task, "-o", tmp_path)
    assert "2 already done" in again.output


@pytest.mark.parametrize("task", TASKS)
def test_without_a_model_the_one_that_comes_with_tadp_is_used_and_named(task, photos, tmp_path):
    done = run("predict", task, photos / "0.png", "-o", tmp_path)
    assert done.exit_code == 0, done.output
    name = f"tadp-tiny-{task}"
    assert f"model: {name}. It comes with tadp and knows only rendered scenes; --model chooses another." in done.output
    assert done.output.count("knows only rendered scenes") == 1
    record = json.loads((tmp_path / f"0.{task}.json").read_text())
    assert record["settings"]["model"] == name
    assert record["caption"].startswith(("a ", "an "))


def test_without_a_model_a_command_needs_a_task(photos, tmp_path):
    for command in (("predict", photos / "0.png", "-o", tmp_path), ("evaluate", "--data", "scenes")):
        done = run(*command)
        assert done.exit_code == 2
        assert "pass a model, or name the task (segmentation, depth or detection)" in plain(done.output)
        assert "--model" in done.output


def test_evaluate_without_a_model_measures_the_one_that_comes_with_tadp(tmp_path):
    done = run("evaluate", "depth", "--data", "scenes", "--count", 1, "--captioner", "tadp-tiny")
    assert done.exit_code == 0, done.output
    assert "model: tadp-tiny-depth. It comes with tadp" in done.output


def test_the_help_names_the_default_model():
    for command in ("predict", "evaluate"):
        assert "comes with tadp and knows only rendered scenes. [default: (tadp-tiny-TASK)]" in plain(
            run(command, "--help").output
        )


def test_the_score_chooses_the_boxes_in_the_pictures(models, photos, tmp_path, monkeypatch):
    shown = []
    plot = DetectionResult.plot
    monkeypatch.setattr(DetectionResult, "plot", lambda self, **options: (shown.append(options), plot(self))[1])
    done = run("predict", "detection", photos, "-m", models / "detection", "-o", tmp_path, "--score", 0.2)
    assert done.exit_code == 0, done.output
    assert "the pictures show boxes with a score above 0.2 (--score); the .json files have all" in plain(done.output)
    assert shown == [{"score": 0.2}] * 2
    assert json.loads((tmp_path / "0.detection.json").read_text())["box"] == "left, top, right, bottom in pixels"
    again = run("predict", "detection", photos, "-m", models / "detection", "-o", tmp_path)
    assert again.exit_code == 0, again.output
    assert shown[2:] == [{"score": 0.5}] * 2  # only the pictures differ, so they are drawn again
    assert "2 already done" in run("predict", "detection", photos, "-m", models / "detection", "-o", tmp_path).output


def test_the_score_of_the_run_chooses_the_boxes_in_the_pictures(models, photos, tmp_path):
    model = shutil.copytree(models / "detection", tmp_path / "run")
    result = {"figures": {}, "baselines": {}, "drawing_score": 0.37}
    (model / "result.json").write_text(json.dumps(result))
    done = run("predict", photos, "-m", model, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    text = "above 0.37 (the best F1 on the images that its run held out; --score changes it)"
    assert text in plain(done.output)
    assert json.loads((tmp_path / "out" / "0.detection.json").read_text())["settings"]["score"] == 0.37
    (model / "result.json").write_text(json.dumps(result | {"drawing_score": "high"}))
    done = run("predict", photos, "-m", model, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "drawing_score must be a number from 0 to 1; got 'high'" in plain(done.output)


def test_an_image_that_was_not_finished_is_done_again(models, photos, tmp_path, monkeypatch):
    options = ("-m", models / "without", "--caption", "a dog", "-o", tmp_path)

    def killed(*_):
        raise KeyboardInterrupt

    for part in (
        "tadp.tasks.predictions._save_png",
        "tadp.tasks.predictions._save_json",
        "tadp.cli.predict._save_plot",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(part, killed)
            assert run("predict", "segmentation", photos / "0.png", *options).exit_code == 130
    done = run("predict", "segmentation", photos / "0.png", *options)
    assert "already done" not in done.output
    assert {path.name for path in tmp_path.iterdir()} == {
        f"0.segmentation.{suffix}" for suffix in ("plot.png", "png", "json")
    }
    assert "1 already done" in run("predict", "segmentation", photos / "0.png", *options).output
    (tmp_path / "0.segmentation.plot.png").unlink()
    assert "already done" not in run("predict", "segmentation", photos / "0.png", *options).output
    assert (tmp_path / "0.segmentation.plot.png").exists()


def test_what_another_model_or_option_predicted_is_not_taken_for_done(models, photos, tmp_path):
    model = shutil.copytree(models / "without", tmp_path / "model")
    image, options = photos / "0.png", ("-m", model, "-o", tmp_path / "out", "--caption", "a dog")
    assert run("predict", "segmentation", image, *options).exit_code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def refused(*arguments, why):
        done = run("predict", "segmentation", *arguments)
        assert done.exit_code == 1, done.output
        assert why in done.output
        assert "--overwrite" in done.output
        assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before

    refused(image, "-m", models / "without", *options[2:], why="model was")
    refused(image, *options, "--flip", why="options was")
    refused(image, *options[:-1], "a cat", why='text was {"caption": "a dog"} and is {"caption": "a cat"}')
    other = tmp_path / "0.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(other)
    refused(other, *options, why="the image has changed")
    assert "1 already done" in run("predict", "segmentation", image, *options).output
    retrained = tadp.TADPForSemanticSegmentation.from_pretrained(model)
    with torch.no_grad():
        next(retrained.head.parameters()).add_(1)
    retrained.save_pretrained(model)
    refused(image, *options, why="for 0.segmentation, weights was")
    done = run("predict", "segmentation", image, *options, "--overwrite")
    assert done.exit_code == 0
    assert json.loads((tmp_path / "out" / "0.segmentation.json").read_text())["settings"]["model"] == str(model)


def test_predict_takes_a_caption_and_names_what_it_cannot_read(models, photos, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "in" / "fine.png")
    done = run(
        "predict", "segmentation", tmp_path / "in", "-m", models / "without", "-o", tmp_path, "--caption", "a dog"
    )
    assert done.exit_code == 1
    assert "broken.png" in done.output
    assert json.loads((tmp_path / "fine.segmentation.json").read_text())["caption"] == "a dog"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("segmentation", "-m", "without"), "does not know its captioner"),
        (("segmentation", "-m", "segmentation", "--caption", "a", "--captioner", "b"), "--caption or --captioner"),
        (("depth", "-m", "depth", "--multi-scale"), "use only --flip"),
        (("depth", "-m", "depth", "--stride-px", "129"), "at most the side of a window, 128"),
        (("segmentation", "-m", "without", "--window-px", "64", "--stride-px", "65"), "the side of a window, 64"),
        (("segmentation", "-m", "without", "--window-px", "0"), "should be greater than or equal to 8"),
        (("segmentation", "-m", "without", "--stride-px", "0"), "should be greater than or equal to 1"),
        (("depth", "-m", "depth", "--short-side-px", "-3"), "should be greater than or equal to 8"),
        (("detection", "-m", "detection", "--window-px", "0"), "should be greater than or equal to 8"),
        (("detection", "-m", "detection", "--flip"), "processes the whole image at once"),
    ],
)
def test_wrong_usage_of_predict_is_said(arguments, message, models, photos, tmp_path):
    task, _, model, *rest = arguments
    done = run("predict", task, photos, "-m", models / model, "-o", tmp_path, *rest)
    assert done.exit_code == 2
    assert message in plain(done.output)
    assert not list(tmp_path.iterdir())


def test_a_results_name_depends_on_its_own_argument_alone(models, photos, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(other / "dark.png")
    options = ("-m", models / "without", "--caption", "a dog")
    run("predict", "segmentation", photos / "0.png", *options, "-o", tmp_path / "out")
    done = run("predict", "segmentation", photos / "0.png", other / "dark.png", *options, "-o", tmp_path / "out")
    assert "1 already done" in done.output
    assert {path.name.split(".")[0] for path in (tmp_path / "out").iterdir()} == {"0", "dark"}
    assert "dark.segmentation.plot.png" in done.output


def test_a_file_that_is_not_there_does_not_stop_the_others(models, photos, tmp_path):
    options = ("-m", models / "without", "--caption", "a dog", "-o", tmp_path)
    done = run("predict", "segmentation", photos / "nofile.png", photos / "0.png", *options)
    assert done.exit_code == 1
    assert "nofile.png" in done.output
    assert (tmp_path / "0.segmentation.png").exists()


def test_two_images_of_one_name_are_refused(models, photos, tmp_path):
    (tmp_path / "more").mkdir()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "more" / "0.png")
    options = ("-m", models / "without", "--caption", "a dog", "-o", tmp_path / "out")
    done = run("predict", "segmentation", photos / "0.png", tmp_path / "more" / "0.png", *options)
    assert done.exit_code == 2
    assert "would both be written as 0" in " ".join(done.output.replace("│", " ").split())


def test_the_embedded_backbone_is_no_task_model(photos, tmp_path):
    done = run("predict", "segmentation", photos, "-m", "tadp-tiny", "-o", tmp_path)
    assert done.exit_code == 1
    assert "tadp-tiny is a backbone, not a model that predicts" in done.output


def test_a_model_of_another_task_is_named(models, photos, tmp_path):
    done = run("predict", "depth", photos, "-m", models / "segmentation", "-o", tmp_path)
    assert done.exit_code == 1
    assert "holds a 'TADPForSemanticSegmentation'" in done.output


@pytest.mark.parametrize(
    ("task", "figure"), [("segmentation", "miou"), ("depth", "rmse"), ("detection", "by_iou")], ids=TASKS
)
def test_evaluate_prints_figures_and_writes_them(task, figure, models, tmp_path):
    target = tmp_path / "figures.json"
    done = run("evaluate", task, "-m", models / task, "--data", "scenes", "--count", 2, "-o", target)
    assert done.exit_code == 0, done.output
    assert figure in json.loads(target.read_text())


def test_a_model_of_other_classes_is_refused_before_the_first_image(tmp_path):
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    model = tadp.TADPForSemanticSegmentation(backbone, class_names=["ground", "ball"], head="linear", tune="nothing")
    model.save_pretrained(tmp_path / "balls")
    done = run("evaluate", "segmentation", "-m", tmp_path / "balls", "--data", "scenes", "--count", 1)
    assert done.exit_code == 2
    assert "scenes has 13 classes" in " ".join(done.output.replace("│", " ").split())


def test_evaluate_takes_the_captioners_words_where_asked(models, monkeypatch):
    captions = []
    predict = tadp.TADPForSemanticSegmentation.predict
    monkeypatch.setattr(
        tadp.TADPForSemanticSegmentation,
        "predict",
        lambda self, image, caption=None, **options: (
            captions.append(caption) or predict(self, image, caption, **options)
        ),
    )
    options = ("-m", models / "segmentation", "--data", "scenes", "--count", 1)
    assert run("evaluate", "segmentation", *options).exit_code == 0
    assert run("evaluate", "segmentation", *options, "--captioner", "tadp-tiny").exit_code == 0
    assert captions[0]
    assert captions[1] is None


def test_evaluate_is_what_the_library_measures(models, tmp_path):
    from tadp.datasets.readers.named import open_dataset
    from tadp.tasks import evaluate

    model = tadp.TADPForSemanticSegmentation.from_pretrained(models / "segmentation")
    samples = open_dataset("scenes", count=2)
    expected = evaluate(model, [samples[0], samples[1]], flip=True)
    options = ("--data", "scenes", "--count", 2, "--flip", "-o", tmp_path / "figures.json")
    assert run("evaluate", "segmentation", "-m", models / "segmentation", *options).exit_code == 0
    assert json.loads((tmp_path / "figures.json").read_text())["miou"] == expected.miou


def test_batches_of_windows_change_no_figure_and_no_result(models, photos, tmp_path):
    figures, results = [], []
    for size in (1, 2):
        options = ("--batch-size", size, "-m", models / "without")
        out = ("-o", tmp_path / f"{size}.json")
        assert run("evaluate", "segmentation", "--data", "scenes", "--count", 2, *options, *out).exit_code == 0
        figures.append(json.loads((tmp_path / f"{size}.json").read_text()))
        out = ("--caption", "x", "-o", tmp_path / str(size))
        done = run("predict", "segmentation", photos, *options, *out)
        assert done.exit_code == 0, done.output
        paths = sorted((tmp_path / str(size)).rglob("*.*ation.png"))
        results.append({path.name: np.asarray(Image.open(path)) for path in paths})
    assert figures[0] == figures[1]
    near_ties = 4  # pixels that rounding decides, of 19,500, with some processors and versions of torch
    assert results[0].keys() == results[1].keys() != set()
    assert all((labels != results[1][name]).sum() <= near_ties for name, labels in results[0].items())
    again = run("predict", "segmentation", photos, "-m", models / "without", "--caption", "x", "-o", tmp_path / "2")
    assert f"{len(results[0])} already done" in again.output


def test_images_and_masks_of_ones_own_are_measured(models, tmp_path, monkeypatch):
    from tadp.datasets import MaskFolder
    from tadp.tasks import evaluate

    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    scenes = Scenes(2, seed=5)[:]
    for number, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(tmp_path / "photos" / f"{number}.png")
        Image.fromarray(scene.mask).save(tmp_path / "masks" / f"{number}.png")
    captions = {str(number): scene.caption() for number, scene in enumerate(scenes)}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    model = tadp.TADPForSemanticSegmentation.from_pretrained(models / "without")
    own = MaskFolder(tmp_path / "photos", tmp_path / "masks", class_names=model.class_names, captions=captions)
    expected = evaluate(model, own)
    options = ("--images", tmp_path / "photos", "--masks", tmp_path / "masks", "-o", tmp_path / "figures.json")
    opened, real = [], Image.open
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", lambda path, *rest, **more: opened.append(path) or real(path, *rest, **more))
        captions = ("--captions", tmp_path / "captions.json")
        done = run("evaluate", "segmentation", "-m", models / "without", *options, *captions)
    assert done.exit_code == 0, done.output
    assert len(opened) == 4  # each image and each mask once
    assert json.loads((tmp_path / "figures.json").read_text())["miou"] == expected.miou
    assert {path.name for path in (tmp_path / "masks").iterdir()} == {"0.png", "1.png"}
    (tmp_path / "masks" / "1.png").unlink()
    done = run("evaluate", "segmentation", "-m", models / "without", *options)
    assert done.exit_code == 1
    assert "1.png is not there" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("segmentation",), "pass --data NAME, or --images FOLDER and --masks FOLDER"),
        (("segmentation", "--images", "photos"), "pass --data NAME, or --images FOLDER and --masks FOLDER"),
        (("depth", "--images", "photos", "--masks", "masks"), "masks are labels for segmentation, not for depth"),
        (("segmentation", "--data", "scenes", "--masks", "masks"), "not both"),
        (("segmentation", "--data", "coco"), "unknown data set 'coco'; known: scenes, voc"),
        (("depth", "--data", "voc", "--root", "."), "voc has labels for segmentation, not for depth"),
        (("segmentation", "--data", "voc"), "voc is read from a folder"),
        (("depth", "--data", "scenes", "--crop", "middle"), "the crop must be eigen or garg"),
        (("detection", "--data", "scenes", "--rule", "voc10"), "the rule must be voc07, voc12 or coco"),
    ],
)
def test_wrong_usage_of_evaluate_is_said(arguments, message, models):
    task, *rest = arguments
    done = run("evaluate", task, "-m", models / task, *rest)
    assert done.exit_code == 2
    assert message in plain(done.output)


def test_a_data_set_that_is_not_there_says_what_to_get(models, tmp_path):
    done = run("evaluate", "segmentation", "-m", models / "segmentation", "--data", "voc", "--root", tmp_path)
    assert done.exit_code == 1
    assert "JPEGImages" in done.output


def test_predict_does_not_read_its_own_pictures(models, photos, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(photos, tmp_path / "here"))
    monkeypatch.chdir(folder)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save("2.depth.png")  # named like a result
    options = ("-m", models / "without", "--caption", "a dog", "-o", ".")
    (folder / partial_name("0.segmentation.json")).touch()  # a killed run's
    assert run("predict", "segmentation", "0.png", "1.png", "2.depth.png", *options).exit_code == 0
    before = {path.name for path in folder.iterdir()}
    assert not [name for name in before if name.startswith(".")]
    Path("1.segmentation.json").unlink()  # as if the run had been killed before its last file
    for arguments in ((".",), tuple(sorted(str(path) for path in Path().glob("[012]*.png")))):
        done = run("predict", "segmentation", *arguments, *options)
        assert done.exit_code == 0, done.output
        assert {path.name for path in folder.iterdir()} == before
        assert "left out" not in done.output


def test_predictions_have_a_folder_of_their_own(models, photos, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(photos, tmp_path / "here"))
    monkeypatch.chdir(folder)
    for already in ("predictions/1.segmentation.plot.png", "2 already done"):
        done = run("predict", ".", "-m", models / "without", "--caption", "a dog")
        assert already in done.output
        assert {path.name for path in folder.iterdir()} == {"0.png", "1.png", "predictions"}
    assert len([*(folder / "predictions").iterdir()]) == 6


def test_one_run_predicts_into_a_folder_at_a_time(models, photos, tmp_path):
    arguments = (
        "predict",
        "segmentation",
        photos / "0.png",
        "-m",
        models / "without",
        "--caption",
        "x",
        "-o",
        tmp_path,
    )
    with only_run(tmp_path, is_folder=True):
        refused = run(*arguments)
    assert refused.exit_code == 1
    assert "another run is writing" in refused.output
    assert run(*arguments).exit_code == 0


def test_what_predict_cannot_read_or_hold_costs_no_other_image(models, photos, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    (folder / "gone.png").symlink_to("/mnt/disk/gone.png")
    (folder / "notes.txt").touch()
    shutil.copy(folder / "0.png", folder / f"{'x' * 240}.png")
    real = tadp.TADPForSemanticSegmentation.predict

    def predict(self, image, *arguments, **options):
        if Path(image).name == "1.png":
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return real(self, image, *arguments, **options)

    monkeypatch.setattr(tadp.TADPForSemanticSegmentation, "predict", predict)
    done = run("predict", "segmentation", folder, "-m", models / "without", "--caption", "x", "-o", tmp_path / "out")
    text = " ".join(done.output.split())
    assert done.exit_code == 1
    assert "left out: 1 file that is not an image (.txt 1)" in text
    assert "gone.png is a link to /mnt/disk/gone.png, which is not there" in text
    assert "1.png needs more memory than there is. Shrink the file, or pass --short-side-px 512." in text
    assert "The disk allows no such name; rename the file that it comes from" in text
    assert (tmp_path / "out" / "0.segmentation.json").exists()


def test_an_output_folder_that_disappears_is_an_error(models, photos, tmp_path, monkeypatch):
    real = tadp.TADPForSemanticSegmentation.predict

    def predict(self, image, *arguments, **options):
        if Path(image).name == "1.png":
            shutil.rmtree(tmp_path / "out")
        return real(self, image, *arguments, **options)

    monkeypatch.setattr(tadp.TADPForSemanticSegmentation, "predict", predict)
    done = run("predict", "segmentation", photos, "-m", models / "without", "--caption", "x", "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "was deleted, moved or unmounted" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("path", "value", "difference"),
    [
        (("options", "max_depth_m"), 40.0, "model_options was"),
        (("base", "options", "timestep"), 5, "backbone_options was"),
    ],
)
def test_a_model_with_other_options_does_not_keep_the_predictions(path, value, difference, models, photos, tmp_path):
    folder = Path(shutil.copytree(models / "depth", tmp_path / "model"))
    options = (photos / "0.png", "-m", folder, "--caption", "a ball", "-o", tmp_path / "out")
    assert run("predict", *options).exit_code == 0
    assert "1 already done" in run("predict", *options).output
    config = json.loads((folder / "config.json").read_text())
    entry = config
    for key in path[:-1]:
        entry = entry[key]
    entry[path[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))
    refused = run("predict", *options)
    assert refused.exit_code == 1
    assert difference in refused.output
    assert run("predict", *options, "--overwrite").exit_code == 0


def test_control_characters_of_file_names_do_not_reach_the_terminal(tmp_path):
    for name in ("good\x1b[31m.png", "bad\x1b[31m.png"):
        (tmp_path / name).write_bytes(b"")
    Image.new("RGB", (64, 64)).save(tmp_path / "good\x1b[31m.png")
    done = tadp_run("extract", tmp_path, "--caption", "a dog", "-o", tmp_path / "out", code=1)
    assert "\x1b" not in done.output
    assert done.output.count(r"\x1b[31m.png") == 2
