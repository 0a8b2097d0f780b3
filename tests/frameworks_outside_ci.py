"""Runs the recipes of docs/frameworks.md on packages that CI does not install, and writes a page about what worked.

    python -m tests.frameworks_outside_ci --out docs/results/frameworks.md

A package that is not installed is left out, and the page says so. detectron2 is on no package index: clone its source
and put it on PYTHONPATH; its recipe needs none of its C++ operators. mmcv's operators are replaced if mmcv-lite is
installed.
"""

import argparse
import importlib
import json
import os
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import tadp
from tadp.datasets import RenderedScenes, collate
from tadp.integrations import Pyramid

os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # mmengine 0.10.7 resumes from a pickle
CLASSES = 13
SCENES = RenderedScenes(4, seed=1, size=64)[:]
CAPTIONS = {str(number): scene.caption for number, scene in enumerate(SCENES)}
Steps = dict[str, str]
PAGE = """# Frameworks outside of the tests

These recipes of [Use the backbone in other frameworks](../frameworks.md) were run with packages that the tests do not
install: a few training steps of a small model on `tadp-tiny`, on rendered scenes of 64x64 pixels. Then the model is
saved, loaded, compared weight by weight, and evaluated. The command was

    {command}

on {day}, with torch {torch}. detectron2 ran without its C++ operators. If mmcv-lite is installed, mmcv's operators
are replaced by dummies, which these models do not call. mmengine 0.10.7 only resumes with the environment variable
`TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1`, because its checkpoints contain more than tensors.

{table}
"""


@contextmanager
def step(steps: Steps, name: str) -> Iterator[None]:
    """Note that a step worked, or the first line of its error."""
    try:
        yield
    except Exception as error:
        steps[name] = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:150]}"
    else:
        steps[name] = "yes"


def same(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Check that two state dicts have the same tensors."""
    differing = [name for name, tensor in before.items() if not torch.equal(tensor.cpu(), after[name].cpu())]
    if differing or before.keys() != after.keys():
        raise AssertionError(f"{len(differing)} weights differ, such as {differing[:1]}")


def detectron2(folder: Path) -> Steps:
    """Faster R-CNN with detectron2's FPN, `DefaultTrainer` and `COCOEvaluator`."""
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.engine import DefaultTrainer
    from detectron2.evaluation import COCOEvaluator
    from detectron2.modeling import BACKBONE_REGISTRY, FPN

    from tadp.integrations.detectron2 import PIXELS, backbone_of

    def rows() -> list[dict[str, Any]]:
        listed = []
        for number, scene in enumerate(SCENES):
            path = folder / f"{number}.png"
            Image.fromarray(scene.image).save(path)
            objects = zip(scene.boxes.boxes.tolist(), scene.boxes.labels.tolist(), strict=True)
            annotations = [{"bbox": box, "bbox_mode": 0, "category_id": label, "iscrowd": 0} for box, label in objects]
            listed.append({"file_name": str(path), "image_id": number, "height": 64, "width": 64})
            listed[-1]["annotations"] = annotations
        return listed

    DatasetCatalog.register("scenes", rows)
    MetadataCatalog.get("scenes").set(thing_classes=[str(number) for number in range(CLASSES - 1)])
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny", default_text=None)
    levels = ["stride8", "stride16", "stride32", "stride64"]

    @BACKBONE_REGISTRY.register()
    def build_tadp_fpn_backbone(cfg: Any, input_shape: Any) -> Any:
        return FPN(backbone_of(backbone, captions=CAPTIONS), levels, out_channels=32)

    class Trainer(DefaultTrainer):
        @classmethod
        def build_model(cls, cfg: Any) -> Any:
            model = super().build_model(cfg)
            pyramid = next(module for module in model.modules() if isinstance(module, Pyramid))
            pyramid.read_text(model, image_ids=lambda rows: [row["image_id"] for row in rows])
            return model

        @classmethod
        def build_evaluator(cls, cfg: Any, dataset_name: str) -> Any:
            return COCOEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR, use_fast_impl=False)

    cfg: Any = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE, cfg.OUTPUT_DIR = "GeneralizedRCNN", "cpu", str(folder)
    cfg.MODEL.BACKBONE.NAME, cfg.INPUT.FORMAT, cfg.MODEL.WEIGHTS = "build_tadp_fpn_backbone", "RGB", ""
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = PIXELS["PIXEL_MEAN"], PIXELS["PIXEL_STD"]
    maps = ["p3", "p4", "p5", "p6"]
    cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = maps
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256]]
    cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_HEADS.NUM_CLASSES = "StandardROIHeads", CLASSES - 1
    cfg.MODEL.ROI_BOX_HEAD.NAME, cfg.MODEL.ROI_BOX_HEAD.NUM_FC, cfg.MODEL.ROI_BOX_HEAD.FC_DIM = (
        "FastRCNNConvFCHead",
        1,
        32,
    )
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("scenes",)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST, cfg.DATALOADER.NUM_WORKERS = (64,), 64, 0
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR = 2, 3, 1e-3
    steps: Steps = {}
    with step(steps, "train"):
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
    with step(steps, "save"):
        trainer.checkpointer.save("again")
    with step(steps, "load"):
        before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
        model = Trainer.build_model(cfg)
        DetectionCheckpointer(model).load(str(folder / "again.pth"))
        same(before, model.state_dict())
    with step(steps, "evaluate"):
        if "bbox" not in Trainer.test(cfg, trainer.model):
            raise AssertionError("no average precision")
    return steps


def mmseg(folder: Path) -> Steps:
    """mmengine's `Runner` with an `EncoderDecoder` and a `UPerHead`: training, validation and resuming."""
    try:
        importlib.import_module("mmcv.ops")
    except ImportError:
        sys.modules["mmcv.ops"] = _Dummy("mmcv.ops")
    from mmengine.config import Config
    from mmengine.runner import Runner
    from mmseg.registry import DATASETS
    from mmseg.utils import register_all_modules

    from tadp.integrations.mmseg import PREPROCESSOR, register

    register_all_modules()
    register()
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for number, scene in enumerate(SCENES):
        Image.fromarray(scene.image).save(folder / "images" / f"{number}.png")
        Image.fromarray(scene.mask.astype("uint8")).save(folder / "masks" / f"{number}.png")
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]
    data = {
        "type": "BaseSegDataset", "data_root": str(folder), "pipeline": pipeline, "img_suffix": ".png",
        "data_prefix": {"img_path": "images", "seg_map_path": "masks"}, "seg_map_suffix": ".png",
        "metainfo": {
            "classes": tuple(map(str, range(CLASSES))), "palette": [[0, 0, number] for number in range(CLASSES)],
        },
    }  # fmt: skip
    loader = {"batch_size": 2, "num_workers": 0, "dataset": data}
    config = {
        "default_scope": "mmseg", "work_dir": str(folder / "run"), "log_level": "ERROR",
        "model": {
            "type": "EncoderDecoder",
            "data_preprocessor": {"type": "SegDataPreProcessor", "size": (64, 64), **PREPROCESSOR},
            "backbone": {
                "type": "TADP", "base_model": "tadp-tiny", "captions": CAPTIONS, "out_indices": (0, 1, 2, 3),
                "pyramid": {"stride4": "vae"},
            },
            "decode_head": {
                "type": "UPerHead", "in_channels": [64, 32, 141, 173], "in_index": [0, 1, 2, 3], "channels": 16,
                "num_classes": CLASSES, "norm_cfg": {"type": "BN"}, "align_corners": False,
            },
            "train_cfg": {}, "test_cfg": {"mode": "whole"},
        },
        "train_dataloader": loader | {"sampler": {"type": "InfiniteSampler"}},
        "val_dataloader": loader | {"sampler": {"type": "DefaultSampler", "shuffle": False}},
        "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": 2, "val_interval": 2}, "val_cfg": {"type": "ValLoop"},
        "val_evaluator": {"type": "IoUMetric"},
        "optim_wrapper": {"type": "OptimWrapper", "optimizer": {"type": "AdamW", "lr": 1e-4}},
        "default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": 2, "by_epoch": False}},
    }  # fmt: skip
    assert DATASETS.get("BaseSegDataset")

    def runner(**changes: Any) -> Any:
        built = Runner.from_cfg(Config(config | changes))
        built.model.backbone.pyramid.read_text(
            built.model,
            image_ids=lambda inputs, data_samples, **_: [Path(sample.img_path).stem for sample in data_samples],
        )
        return built

    steps: Steps = {}
    with step(steps, "train"):
        first = runner()
        first.train()
    with step(steps, "save"):
        if not (folder / "run" / "iter_2.pth").exists():
            raise AssertionError("no checkpoint")
    with step(steps, "load"):
        loop = {"type": "IterBasedTrainLoop", "max_iters": 3, "val_interval": 3}
        again = runner(load_from=str(folder / "run" / "iter_2.pth"), resume=True, train_cfg=loop)
        again.load_or_resume()
        same(dict(first.model.state_dict()), dict(again.model.state_dict()))
        again.train()
    with step(steps, "evaluate"):
        if "mIoU" not in again.val():
            raise AssertionError("no mIoU")
    return steps


class _Dummy(types.ModuleType):
    """A module of which every name is a class that does nothing, in place of mmcv's compiled operators."""

    __path__ = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (torch.nn.Module,), {})


def lightning(folder: Path) -> Steps:
    """`Trainer` with a `LightningModule` of the page, also with `precision="bf16-true"`."""
    import lightning as L

    from tadp.heads import SegmentationHead

    class Segmenter(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny", default_text=None)
            self.pyramid = Pyramid(self.backbone)
            self.head = SegmentationHead(self.pyramid.feature_info, num_classes=CLASSES, fpn_channels=16, channels=16)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            with self.backbone.conditioning(batch.captions):
                return torch.nn.functional.cross_entropy(self.head(self.pyramid(batch.images)), batch.masks)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("loss", self.training_step(batch, batch_idx))

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW([weight for weight in self.parameters() if weight.requires_grad], lr=1e-4)

    def trainer(**options: Any) -> Any:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        return L.Trainer(max_steps=2, accelerator="cpu", default_root_dir=folder, **quiet, **options)

    data = torch.utils.data.DataLoader(SCENES, batch_size=2, collate_fn=collate)
    steps: Steps = {}
    with step(steps, "train"):
        model = Segmenter()
        fitted = trainer(enable_checkpointing=False)
        fitted.fit(model, data)
        trainer(precision="bf16-true", enable_checkpointing=False).fit(Segmenter(), data)
    with step(steps, "save"):
        fitted.save_checkpoint(folder / "model.ckpt")
    with step(steps, "load"):
        again = Segmenter.load_from_checkpoint(folder / "model.ckpt")
        same(dict(model.state_dict()), dict(again.state_dict()))
    with step(steps, "evaluate"):
        if not trainer(enable_checkpointing=False).validate(again, data, verbose=False)[0]["loss"] > 0:
            raise AssertionError("no loss")
    return steps


def torchgeo(folder: Path) -> Steps:
    """`SemanticSegmentationTask`, which builds a model of smp."""
    import lightning as L
    from torchgeo.trainers import SemanticSegmentationTask

    from tadp.integrations.smp import register

    register("tadp-tiny", name="tadp", captions=None, text="a room with objects")
    steps: Steps = {}
    batch = collate(SCENES[:2])
    data = [{"image": batch.images, "mask": batch.masks}]
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"accelerator": "cpu", "default_root_dir": folder, "enable_checkpointing": False}
    loader = torch.utils.data.DataLoader(data, batch_size=None)
    with step(steps, "train"):
        task = SemanticSegmentationTask(model="unet", backbone="tadp", task="multiclass", num_classes=CLASSES)
        task.transfer_batch_to_device = lambda batch, *_: batch  # pyright: ignore[reportAttributeAccessIssue]
        trainer = L.Trainer(max_steps=2, **quiet)
        trainer.fit(task, loader, loader)
    with step(steps, "save"):
        trainer.save_checkpoint(folder / "task.ckpt")
    with step(steps, "load"):
        again = SemanticSegmentationTask.load_from_checkpoint(folder / "task.ckpt")
        same(dict(task.model.state_dict()), dict(again.model.state_dict()))
    with step(steps, "evaluate"):
        L.Trainer(**quiet).test(task, loader, verbose=False)
    return steps


def effdet(folder: Path) -> Steps:
    """EfficientDet, whose backbone is a model of timm."""
    from effdet import DetBenchPredict, DetBenchTrain, EfficientDet
    from effdet.config import get_efficientdet_config

    from tadp.integrations.timm import register

    register(Pyramid(tadp.TADPBackbone.from_pretrained("tadp-tiny"), text="a room with objects"), name="tadp")
    steps: Steps = {}

    def build() -> Any:
        config = get_efficientdet_config("tf_efficientdet_d0")
        config.update(
            {"backbone_name": "tadp", "backbone_args": {}, "backbone_indices": (0, 1, 2), "image_size": [64, 64]}
        )
        config.update({"num_classes": CLASSES - 1, "fpn_channels": 16, "box_class_repeats": 1, "fpn_cell_repeats": 1})
        return EfficientDet(config, pretrained_backbone=False)

    batch = collate(SCENES[:2])
    with step(steps, "train"):
        bench = DetBenchTrain(build()).train()
        rows = torch.nn.utils.rnn.pad_sequence
        target = {
            "bbox": rows([boxes.boxes[:, [1, 0, 3, 2]] for boxes in batch.boxes or []], batch_first=True),
            "cls": rows([boxes.labels.float() + 1 for boxes in batch.boxes or []], batch_first=True, padding_value=-1),
        }
        bench(batch.images, target)["loss"].backward()
    with step(steps, "save"):
        torch.save(bench.model.state_dict(), folder / "model.pt")
    with step(steps, "load"):
        again = build()
        again.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
        same(dict(bench.model.state_dict()), dict(again.state_dict()))
    with step(steps, "evaluate"), torch.no_grad():
        if not DetBenchPredict(again).eval()(batch.images).isfinite().all():
            raise AssertionError("values that are not finite")
    return steps


CHECKS: dict[str, tuple[Callable[[Path], Steps], tuple[str, ...]]] = {
    "detectron2": (detectron2, ("detectron2",)),
    "mmseg": (mmseg, ("mmsegmentation", "mmengine", "mmcv", "mmcv-lite")),
    "Lightning": (lightning, ("lightning",)),
    "torchgeo": (torchgeo, ("torchgeo", "segmentation_models_pytorch", "lightning")),
    "effdet": (effdet, ("effdet", "timm")),
}
NAMES = ("train", "save", "load", "evaluate")


def versions(packages: tuple[str, ...]) -> str:
    """The versions of those of these packages that are installed."""
    installed = []
    for package in packages:
        try:
            installed.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            if package == "detectron2":  # on PYTHONPATH
                installed.append(f"{package} {importlib.import_module(package).__version__} from source")
    return ", ".join(installed)


def check(name: str) -> tuple[str, Steps]:
    """Run one framework's recipe; the versions, and the result of each step, none without the package."""
    run, packages = CHECKS[name]
    try:
        importlib.import_module({"Lightning": "lightning"}.get(name, name))
    except ImportError:
        return "", {}
    with tempfile.TemporaryDirectory() as folder:
        return versions(packages), run(Path(folder))


def page(results: dict[str, tuple[str, Steps]], *, command: str) -> str:
    """The page about the results."""
    rows = []
    for framework, (installed, steps) in results.items():
        doc = (CHECKS[framework][0].__doc__ or "").strip()
        cells = [steps.get(name, "not run") for name in NAMES] if installed else ["not installed"] * len(NAMES)
        rows.append(f"| {framework} | {doc} | {installed or 'none'} | {' | '.join(cells)} |")
    day = datetime.now(UTC).date().isoformat()
    columns = " | ".join(NAMES)
    table = [f"| framework | what was run | versions | {columns} |", f"|{'---|' * (3 + len(NAMES))}", *rows]
    return PAGE.format(command=command, day=day, torch=torch.__version__, table="\n".join(table))


def main() -> None:
    """Run the recipes and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="the page to write; without it, only print the results")
    parser.add_argument("--only", nargs="*", choices=list(CHECKS), default=list(CHECKS))
    options = parser.parse_args()
    results = {}
    for name in options.only:
        results[name] = check(name)
        print(json.dumps({name: results[name]}, ensure_ascii=False), flush=True)
    if options.out is not None:
        command = "python -m tests.frameworks_outside_ci --out docs/results/frameworks.md"
        options.out.write_text(page(results, command=command), encoding="utf-8")


if __name__ == "__main__":
    main()
