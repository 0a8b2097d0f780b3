"""Task models: a backbone and a head as one model that trains, predicts, and is saved and loaded.

    model = TADPForSemanticSegmentation(backbone, class_names=["background", "dog", "cat"])
    loss = model(images, captions, masks).loss
    result = model.predict("photo.jpg", caption="a dog and a cat")
    result.plot().save("classes.png")

`evaluate` predicts every sample of a data set and compares the predictions with the labels, by default with the metric
that `model.make_metric()` returns.
"""

from tadp.tasks.base import TaskModel
from tadp.tasks.depth import DepthOutput, TADPForDepthEstimation
from tadp.tasks.detection import DetectionOutput, TADPForObjectDetection
from tadp.tasks.evaluation import evaluate
from tadp.tasks.lora_training import Tune
from tadp.tasks.model_text import PROMPT_MODES, PromptMode
from tadp.tasks.predictions import DepthResult, DetectionResult, SegmentationResult
from tadp.tasks.segmentation import SegmentationOutput, TADPForSemanticSegmentation

__all__ = [
    "PROMPT_MODES",
    "DepthOutput",
    "DepthResult",
    "DetectionOutput",
    "DetectionResult",
    "PromptMode",
    "SegmentationOutput",
    "SegmentationResult",
    "TADPForDepthEstimation",
    "TADPForObjectDetection",
    "TADPForSemanticSegmentation",
    "TaskModel",
    "Tune",
    "evaluate",
]
