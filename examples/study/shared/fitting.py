"""A run: build a model, train it and measure it."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import tadp
from tadp.files.atomic import replace_file
from tadp.text.conditioning import Conditioning
from tadp.training.schedules import Schedule

from .images import MAX_DEPTH_M, Images
from .looking import HeadInputs, in_parts
from .loop import fit
from .measuring import measure, seconds_to_measure
from .plain import PlainSegmentation
from .rows import Run
from .settings import Settings
from .texts import ImageTexts, Text, make_texts

# The paper's widths (256 and 192) are for a backbone ten times as wide as tadp-tiny.
HEADS = {"segmentation": {"fpn_channels": 64, "channels": 64}, "depth": {"channels": 16}}


class Study:
    """The data of a task, with features that runs of the same row share.

    Args:
        settings: Settings of the study.
        out: Folder of the study.
        task: "segmentation" or "depth".
        device: Device of the models; "cuda" trains in bfloat16.
        micro_batch: Images at a time in training; None for a whole batch.
    """

    def __init__(
        self, settings: Settings, *, out: Path, task: str, device: str = "cpu", micro_batch: int | None = None
    ):
        self.settings, self.out, self.task, self.device, self.micro_batch = settings, out, task, device, micro_batch
        self.halves = {split: Images(settings, split, out=out, task=task) for split in ("train", "test")}
        self._kept: tuple[Any, dict[str, Any]] = (None, {})

    def carry_out(self, run: Run, *, trial: bool = False) -> dict[str, Any]:
        """Train and measure.

        Args:
            run: The row to train, with its seed.
            trial: Only take a few steps, measure nothing, and estimate in "seconds" how long the run would take.
        """
        started, cpu = time.perf_counter(), time.process_time()
        model, texts = self._build(run)
        features = self._features(run, model, texts)
        seconds, first, main = 0.0, *self._schedules(run)
        if first is not None:
            seconds += self._head_first(run, model, first, features, trial=trial)
        is_kept = features is not None and not run.is_tuned and not run.row.adapter
        inputs = HeadInputs(self, run, model, texts, features if is_kept else None)
        seconds += fit(model, inputs, main, seed=run.seed, count=len(self.halves["train"]), trial=trial)
        if trial:
            return {"seconds": seconds + seconds_to_measure(model, inputs)}
        figures = measure(model, inputs)
        return {
            "figures": figures,
            "head_steps": None if first is None else first.steps,
            "steps": main.total_steps(len(self.halves["train"])),
            "seconds": round(time.perf_counter() - started, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
        }

    def _schedules(self, run: Run) -> tuple[Schedule | None, Schedule]:
        """The schedule for training only the head at first, or None, and the schedule of the run."""
        first, main = self.settings.head_first(run.task, run.schedule), self.settings.schedule(run.schedule)
        if run.row.unet == "plain" and first is not None:  # it has no features before its training
            return None, replace(first, steps=(first.steps or 0) + (main.steps or 0))
        return first, main

    def _head_first(self, run: Run, model: Any, schedule: Schedule, features: Any, *, trial: bool) -> float:
        """Train only the head, or load one that was trained on the same features with the same seed."""
        name = f"{run.task}-{run.schedule}/{replace(run.row, adapter=False).name}-{run.seed}.pt"
        file = self.out / "heads" / name
        if file.exists():
            model.head.load_state_dict(torch.load(file, weights_only=True))
            return 0.0
        inputs = HeadInputs(self, run, model, {}, features)
        count = len(self.halves["train"])
        seconds = fit(model, inputs, schedule, seed=run.seed, count=count, trial=trial, only_head=True)
        if not trial:
            file.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(file) as part:
                torch.save(model.head.state_dict(), part)
        return seconds

    def prepare(self, text: Text, *, scale_latents: bool) -> None:
        """Make the captions and latents that several runs share, before several processes need them at once."""
        for half in self.halves.values():
            if text.kind in ("captions", "nouns", "others"):
                half.captions(text.min_tokens)
            if half.is_rendered:
                half.latents(tadp.TADPBackbone.from_pretrained(self.settings.model, scale_latents=scale_latents))

    def _build(self, run: Run) -> tuple[Any, dict[str, ImageTexts]]:
        """The model, and the texts of both halves of the data."""
        row, train = run.row, self.halves["train"]
        options = {"head_options": HEADS[self.task] if train.is_rendered else {}}
        if row.unet == "plain":
            torch.manual_seed(run.seed)
            return PlainSegmentation(num_classes=len(train.class_names), **options).to(self.device), {}
        more: dict[str, Any] = {"attach_attention": ()} if self.task == "depth" else {}
        more |= {"scale_latents": row.scale_latents, "text_adapter": row.adapter, "device": self.device}
        backbone = tadp.TADPBackbone.from_pretrained(self.settings.model, **more)
        texts = {
            split: make_texts(row.text, backbone, half, seed=number)
            for number, (split, half) in enumerate(self.halves.items())
        }
        if row.unet == "untrained":
            torch.manual_seed(run.seed)
            random = type(backbone.unet).from_config(backbone.unet.config)
            backbone = tadp.TADPBackbone.from_pretrained(self.settings.model, **more, unet=random)
        if isinstance(texts["train"].texts, Conditioning) and self.task == "segmentation":
            length = texts["train"].texts.embeddings.shape[1]  # the head gets as many attention channels
            backbone = backbone.with_options(text_length=length)
        options |= {"tune": "all" if run.is_tuned else "nothing", "window_px": self.settings.crop_px}
        torch.manual_seed(run.seed)  # the head's initial weights, which are equal in all rows with texts of one length
        if self.task == "depth":
            return tadp.TADPForDepthEstimation(backbone, max_depth_m=MAX_DEPTH_M[self.settings.data], **options), texts
        if self.settings.data == "voc":  # as released
            options |= {"head": "smp_fpn", "loss": "focal"}
        return tadp.TADPForSemanticSegmentation(backbone, class_names=train.class_names, **options), texts

    def _features(self, run: Run, model: Any, texts: dict[str, ImageTexts]) -> dict[str, Any] | None:
        """The features of all rendered scenes before any training of the U-Net, in half precision; None for others."""
        row = run.row
        if row.unet == "plain" or not self.halves["train"].is_rendered:
            return None
        key = (row.text, row.scale_latents, run.seed if row.unet == "untrained" else None)
        if self._kept[0] == key:
            return self._kept[1]
        features = {}
        for split, half in self.halves.items():
            latents, parts = half.latents(model.backbone), []
            with torch.no_grad():
                for rows in in_parts(len(half)):
                    maps = model.features(None, texts[split].of(rows), latents=latents[rows]).maps
                    parts.append([level.half() for level in maps])
            features[split] = ([torch.cat(level) for level in zip(*parts, strict=True)], tuple(half.truths.shape[1:]))
        self._kept = (key, features)
        return features
