"""One run: a model built, trained and measured."""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tadp
from tadp.features import Features
from tadp.metrics import DepthMetrics, MeanIoU
from tadp.text import Conditioning

from .images import MAX_DEPTH_M, Batch, Images
from .options import Settings
from .plain import PlainSegmentation
from .rows import Run
from .texts import Said, Text, say

# The paper's widths (256 and 192) are for a backbone ten times as wide as tadp-tiny.
HEADS = {"segmentation": {"fpn_channels": 64, "channels": 64}, "depth": {"channels": 16}}
AT_ONCE = 16  # images of a pass that measures


class Study:
    """The data of a task, with what was worked out for one run and serves the next of the same row.

    Args:
        settings: Of the study.
        out: Its folder.
        task: "segmentation" or "depth".
        device: Where models go; "cuda" trains in bfloat16.
        micro_batch: Images at once in training.
    """

    def __init__(
        self, settings: Settings, *, out: Path, task: str, device: str = "cpu", micro_batch: int | None = None
    ):
        self.settings, self.out, self.task, self.device, self.micro_batch = settings, out, task, device, micro_batch
        self.halves = {split: Images(settings, split, out=out, task=task) for split in ("train", "test")}
        self._seen: tuple[Any, dict[str, Any]] = (None, {})

    def carry_out(self, run: Run, *, steps: int | None = None) -> dict[str, Any]:
        """Train and measure; `steps` is for a trial, which measures nothing."""
        started, cpu = time.perf_counter(), time.process_time()
        schedule = self.settings.schedule(run.task, run.schedule)
        model, said = self._build(run)
        features = self._features(run, model, said)
        total = schedule.total_steps(len(self.halves["train"]))
        groups = model.parameter_groups(schedule.lr, unet_scale=schedule.unet_scale, weight_decay=schedule.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=schedule.lr)
        slope = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule.lr_factor(step, total_steps=total))
        torch.manual_seed(run.seed)  # of dropout
        model.train()
        begun = time.perf_counter()
        for step, numbers in enumerate(_order(len(self.halves["train"]), schedule.batch, seed=run.seed)):
            if step == (steps or total):
                break
            epoch = step * schedule.batch // len(self.halves["train"])
            optimizer.zero_grad()
            for part in np.array_split(numbers, -(-len(numbers) // (self.micro_batch or len(numbers)))):
                batch = self._batch("train", run, model, part.tolist(), epoch=epoch, features=features)
                with self._precision():
                    seen = self._look(model, batch, said, "train", part.tolist(), features)
                    loss = model.from_features(seen, batch.truth.to(self.device)).loss
                (loss * (len(part) / len(numbers))).backward()
            optimizer.step()
            slope.step()
        trained = time.perf_counter() - begun
        if steps is not None:
            return {"seconds": trained}
        figures = self._measure(run, model, said, features)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        return {"figures": figures, "steps": total, "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}

    def prepare(self, text: Text, *, scale_latents: bool) -> None:
        """Make what several runs share, captions and latents, before several processes want to at once."""
        for half in self.halves.values():
            if text.kind in ("captions", "nouns", "others"):
                half.captions(text.min_tokens)
            if half.is_rendered:
                half.latents(tadp.TADPBackbone.from_pretrained(self.settings.model, scale_latents=scale_latents))

    def _build(self, run: Run) -> tuple[Any, dict[str, Said]]:
        """The model, and the text of both halves of the data."""
        row, train = run.row, self.halves["train"]
        options = {"head_options": HEADS[self.task] if train.is_rendered else {}}
        if row.unet == "plain":
            torch.manual_seed(run.seed)
            return PlainSegmentation(num_classes=len(train.class_names), **options).to(self.device), {}
        more: dict[str, Any] = {"attach_attention": ()} if self.task == "depth" else {}
        more |= {"scale_latents": row.scale_latents, "text_adapter": row.adapter, "device": self.device}
        backbone = tadp.TADPBackbone.from_pretrained(self.settings.model, **more)
        said = {
            split: say(row.text, backbone, half, seed=number)
            for number, (split, half) in enumerate(self.halves.items())
        }
        changes: dict[str, Any] = {}
        if isinstance(said["train"].texts, Conditioning) and self.task == "segmentation":
            changes["text_length"] = said["train"].texts.embeddings.shape[1]
        if row.unet == "untrained":
            torch.manual_seed(run.seed)
            changes["unet"] = type(backbone.unet).from_config(backbone.unet.config)
        torch.manual_seed(run.seed)
        if changes:
            backbone = tadp.TADPBackbone.from_pretrained(self.settings.model, **more, **changes)
        options |= {"tune": "all" if run.is_tuned else "nothing", "window_px": self.settings.crop_px}
        torch.manual_seed(run.seed)  # the head's first weights: the same in all rows whose text is as long
        if self.task == "depth":
            return tadp.TADPForDepthEstimation(backbone, max_depth_m=MAX_DEPTH_M[self.settings.data], **options), said
        options |= {"loss": "focal" if self.settings.data == "voc" else "cross_entropy"}  # as released
        return tadp.TADPForSemanticSegmentation(backbone, class_names=train.class_names, **options), said

    def _batch(self, split: str, run: Run, model: Any, numbers: list[int], *, epoch: int, features: Any) -> Batch:
        half = self.halves[split]
        if features is not None:
            return Batch(None, None, half.truths[numbers])
        keeps = half.is_rendered and run.row.unet != "plain"
        latents = half.latents(model.backbone) if keeps else None
        return half.batch(numbers, latents=latents, epoch=epoch, seed=run.seed)

    def _look(self, model: Any, batch: Batch, said: dict, split: str, numbers: list[int], features: Any) -> Features:
        """What the head sees of some images."""
        if features is not None:
            maps, size = features[split]
            return Features(tuple(one[numbers].float() for one in maps), None, size)
        text = said[split].of(numbers) if said else None
        images = None if batch.images is None else batch.images.to(self.device)
        latents = None if batch.latents is None else batch.latents.to(self.device)
        return model.features(images, text, latents=latents)

    def _features(self, run: Run, model: Any, said: dict[str, Said]) -> dict[str, Any] | None:
        """Of a frozen U-Net on rendered scenes, all that the head will ever see, in half precision."""
        row = run.row
        if run.is_tuned or row.adapter or row.unet == "plain" or not self.halves["train"].is_rendered:
            return None
        key = (row, run.seed if row.unet == "untrained" else None)
        if self._seen[0] == key:
            return self._seen[1]
        found = {}
        for split, half in self.halves.items():
            latents, parts = half.latents(model.backbone), []
            with torch.no_grad():
                for start in range(0, len(half), AT_ONCE):
                    rows = list(range(start, min(start + AT_ONCE, len(half))))
                    seen = model.features(None, said[split].of(rows), latents=latents[rows])
                    parts.append([one.half() for one in seen.maps])
            found[split] = ([torch.cat(level) for level in zip(*parts, strict=True)], tuple(half.truths.shape[1:]))
        self._seen = (key, found)
        return found

    def _measure(self, run: Run, model: Any, said: dict[str, Said], features: Any) -> dict[str, float]:
        half, metric = self.halves["test"], self._metric()
        model.eval()
        with torch.no_grad():
            if half.is_rendered:
                for start in range(0, len(half), AT_ONCE):
                    rows = list(range(start, min(start + AT_ONCE, len(half))))
                    batch = self._batch("test", run, model, rows, epoch=0, features=features)
                    seen = self._look(model, batch, said, "test", rows, features)
                    out = model.from_features(seen)
                    metric.update((out.logits if self.task == "segmentation" else out.depth_m).cpu(), batch.truth)
            else:
                for number in range(len(half)):
                    sample, text = half.samples[number], said["test"].of([number])
                    result = model.predict(sample.image, text if isinstance(text, Conditioning) else text[0])
                    out = result.class_map if self.task == "segmentation" else result.depth_m
                    metric.update(out[None].cpu(), torch.from_numpy(half.truth(sample))[None])
        found = metric.compute()
        if self.task == "segmentation":
            return {"mIoU": found.miou, "pixel accuracy": found.pixel_accuracy}
        names = {"RMSE": "rmse", "d1": "d1", "d2": "d2", "d3": "d3", "REL": "abs_rel", "log10": "log10"}
        return {name: getattr(found, attribute) for name, attribute in names.items()}

    def _metric(self) -> Any:
        if self.task == "segmentation":
            names = self.halves["train"].class_names
            return MeanIoU(len(names), class_names=names)
        crop = "eigen" if self.settings.data == "nyu" else None
        return DepthMetrics(max_depth_m=MAX_DEPTH_M[self.settings.data], crop=crop)

    def _precision(self) -> Any:
        return torch.autocast("cuda", torch.bfloat16) if self.device.startswith("cuda") else nullcontext()


def _order(count: int, batch: int, *, seed: int) -> Iterator[np.ndarray]:
    """Whole batches without end: every image once an epoch, in an order of its own."""
    epoch = 0
    while True:
        order = np.random.default_rng((seed, epoch)).permutation(count)
        yield from (order[start : start + batch] for start in range(0, count - batch + 1, batch))
        epoch += 1
