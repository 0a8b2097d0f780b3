"""The task of a saved model, which its config names."""

from pathlib import Path

from tadp.datasets.readers.named import TaskName
from tadp.errors import ModelError
from tadp.files.hub import HubOptions, read_json
from tadp.files.schema import shown
from tadp.tasks.base import TaskModel
from tadp.tasks.depth import TADPForDepthEstimation
from tadp.tasks.detection import TADPForObjectDetection
from tadp.tasks.segmentation import TADPForSemanticSegmentation
from tadp.tasks.task_files import CONFIG_NAME, find_task

KINDS: dict[TaskName, type[TaskModel]] = {
    "segmentation": TADPForSemanticSegmentation,
    "depth": TADPForDepthEstimation,
    "detection": TADPForObjectDetection,
}


def task_name(model: str | Path, hub: HubOptions) -> TaskName:
    """Return the task of a model.

    Args:
        model: The folder of a task model, its id on the hub, or the name of one that comes with tadp.
        hub: Where the hub's models are found.

    Raises:
        UnknownModelError: If there is no such model.
        ModelError: If it is not a task model of tadp.
    """
    folder = find_task(model, hub)
    kind = read_json(folder / CONFIG_NAME).get("model")
    name: TaskName | None = next((name for name, known in KINDS.items() if known.__name__ == kind), None)
    if name is None:
        known = ", ".join(known.__name__ for known in KINDS.values())
        raise ModelError(f"{folder / CONFIG_NAME} names the model {shown(kind)}; the models that predict are {known}.")
    return name
