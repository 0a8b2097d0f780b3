"""The task models that come with tadp: they load by name offline, predict a new picture, and reach their figures."""

import json

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

import tadp
from tadp.assets import TASK_MODELS, task_model_folder
from tadp.datasets import RenderedScenes
from tadp.datasets.readers.named import SCENE_SEEDS
from tadp.datasets.scenes import Scenes
from tadp.errors import ModelError, UnknownModelError
from tadp.tasks import evaluate
from tadp.tasks.model_kind import KINDS
from tadp.trainer.trained_task import DepthTraining, DetectionTraining, SegmentationTraining

# For each task: the training with the watched figure, the figure on 300 scenes that it must reach, and how far the
# figure on the first 40 of these scenes may be from the one in the card.
FIGURES = {
    "segmentation": (SegmentationTraining(), 0.65, 0.05),
    "depth": (DepthTraining(), 1.7, 0.2),
    "detection": (DetectionTraining(), 0.75, 0.06),
}
MOST_BYTES = 4e6  # of all three together
each_task = pytest.mark.parametrize("task", TASK_MODELS)


@pytest.fixture(scope="module")
def models():
    return {task: KINDS[task].from_pretrained(name) for task, name in TASK_MODELS.items()}


def recorded(task):
    """The figure in the card by which a task is judged, and its name."""
    name = FIGURES[task][0].watched
    return name, json.loads((task_model_folder(TASK_MODELS[task]) / "config.json").read_text())["record"]["metrics"][
        name
    ]


def test_a_model_of_each_task_ships():
    assert TASK_MODELS.keys() == KINDS.keys() == FIGURES.keys()


@each_task
def test_the_code_of_the_card_predicts_a_new_picture(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(Scenes(1, seed=11)[0].image).resize((150, 130)).save("scene.png")
    text = (task_model_folder(TASK_MODELS[task]) / "README.md").read_text()
    names = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    assert names["result"].caption.startswith(("a ", "an "))  # from the captioner that comes with tadp
    with Image.open("prediction.png") as picture:
        assert min(picture.size) > 300


@each_task
def test_the_card_says_how_good_the_model_is_and_how_that_was_measured(task):
    folder = task_model_folder(TASK_MODELS[task])
    card = ModelCard.load(folder / "README.md")
    name, value = recorded(task)
    required = FIGURES[task][1]
    assert value >= required if FIGURES[task][0].higher_is_better else value <= required
    for text in (
        f"| {name} | {value:.4g} |",
        f"`tadp evaluate {task} --model {folder.name} --data scenes --count 300 --captioner tadp-tiny`",
        "(seed 102)",
        "`python examples/tiny/task_models.py` trained the head, with seed 0",
        "| base model | tadp-tiny |",
        "| text | captions |",
        "| captioner | tadp-tiny |",
        "rendered scenes (`tadp.datasets.RenderedScenes`, seed 101) |",
        "(picture.png)",
    ):
        assert text in card.text
    assert card.data.license == "apache-2.0"
    assert SCENE_SEEDS == {"train": 101, "test": 102}


@each_task
def test_the_figure_of_the_card_is_reproduced_on_a_few_scenes(task, models):
    training, _, tolerance = FIGURES[task]
    name, value = recorded(task)
    result = evaluate(models[task], RenderedScenes(40, seed=SCENE_SEEDS["test"]), captions="captioner")
    assert training.figures(result)[name] == pytest.approx(value, abs=tolerance)


@each_task
def test_saving_and_loading_changes_no_bit(task, models, tmp_path):
    models[task].save_pretrained(tmp_path / "model")
    again = KINDS[task].from_pretrained(tmp_path / "model")
    before, after = models[task].state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert again.record == models[task].record


def test_only_small_heads_in_half_precision_are_stored():
    total = 0
    for name in TASK_MODELS.values():
        folder = task_model_folder(name)
        assert {file.name for file in folder.iterdir()} == {
            "README.md",
            "config.json",
            "model.safetensors",
            "picture.png",
        }
        tensors = load_file(folder / "model.safetensors").values()
        assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.float16}
        assert json.loads((folder / "config.json").read_text())["base"]["name"] == "tadp-tiny"
        total += sum(file.stat().st_size for file in folder.iterdir())
    assert total < MOST_BYTES


def test_a_misspelt_name_gets_the_names_of_the_models():
    with pytest.raises(
        UnknownModelError, match=r"unknown model 'tadp-tiny-segmentaton'.*" + ", ".join(TASK_MODELS.values())
    ):
        tadp.TADPForSemanticSegmentation.from_pretrained("tadp-tiny-segmentaton")
    with pytest.raises(
        UnknownModelError, match=r"backbone, not .* models on it are " + ", ".join(TASK_MODELS.values())
    ):
        tadp.TADPForSemanticSegmentation.from_pretrained("tadp-tiny")


def test_a_model_loads_only_as_what_it_is():
    with pytest.raises(
        ModelError, match="holds a 'TADPForSemanticSegmentation'; load it with that class, not with TADPForDepth"
    ):
        tadp.TADPForDepthEstimation.from_pretrained("tadp-tiny-segmentation")
    with pytest.raises(
        UnknownModelError, match=r"tadp-tiny-depth is a task model, not a base model\. Pass its base model, 'tadp-tiny'"
    ):
        tadp.TADPBackbone.from_pretrained("tadp-tiny-depth")
