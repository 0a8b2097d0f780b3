"""What determines the figures of a study and must stay the same from one call to the next."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tadp.files.atomic import replace_file
from tadp.training.schedules import Schedule, get_schedule

DATA = ("scenes", "voc", "ade20k", "nyu")
# Only the head trains at first, on features that are kept, at the rate that learned most in a minute (captions, seed
# 0). Then it trains together with everything else. An untrained head would spoil a U-Net in so few steps.
HEAD_FIRST = {
    "segmentation": {
        "normal": Schedule(steps=240, batch=8, lr=1e-2, shape="rise_and_fall"),
        "fast": Schedule(steps=120, batch=8, lr=1e-2, shape="rise_and_fall"),
    },
    "depth": {
        "normal": Schedule(steps=150, batch=8, lr=4e-3, shape="rise_and_fall"),
        "fast": Schedule(steps=75, batch=8, lr=4e-3, shape="rise_and_fall"),
    },
}
SCENES = {
    "normal": Schedule(steps=60, batch=8, lr=2e-3, unet_scale=0.1, warmup_steps=6),
    "fast": Schedule(steps=30, batch=8, lr=2e-3, unet_scale=0.1, warmup_steps=3),
}
PAPER = {
    "voc": ("pascal-15-epochs", "pascal-15-epochs"),  # the paper has no fast one for Pascal; --fast-steps shortens it
    "ade20k": ("ade20k-80k", "ade20k-4k"),
    "nyu": ("nyu-25-epochs", "nyu-1-epoch"),
}


class StopStudyError(RuntimeError):
    """The study cannot continue; the message says why."""


@dataclass(frozen=True)
class Settings:
    """What determines the figures. All runs in a folder share it.

    Attributes:
        model: Base model: "tadp-tiny", a hub id or a folder.
        captioner: Captioner that writes the captions.
        data: "scenes" for rendered scenes; "voc" or "ade20k" for segmentation; "nyu" for depth.
        background: Whether texts of class names include "background", and oracles of images with such pixels.
        root: Folder of the data set.
        train: Number of scenes to train on.
        test: Number of images to test on, the first ones of a data set; None for all.
        head_steps: Steps that train only the head at first (scenes only); None for the schedule's own number.
        steps: Steps of the normal schedule; None for its own number.
        fast_steps: Steps of the fast schedule; None for its own number.
        batch: Images per step; None for the schedule's own number.
        lr: Learning rate of the head; None for the schedule's own.
        crop_px: Side of the training crops and of the prediction windows, in pixels.
    """

    model: str = "tadp-tiny"
    captioner: str = "tadp-tiny"
    data: str = "scenes"
    root: str | None = None
    background: bool = False
    train: int | None = 800
    test: int | None = 250
    head_steps: int | None = None
    steps: int | None = None
    fast_steps: int | None = None
    batch: int | None = None
    lr: float | None = None
    crop_px: int = 128

    def head_first(self, task: str, name: str) -> Schedule | None:
        """The schedule that trains only the head at first; None for photographs, too many to keep features of."""
        if self.data != "scenes":
            return None
        own = HEAD_FIRST[task][name]
        return replace(own, steps=self.head_steps or own.steps, batch=self.batch or own.batch)

    def schedule(self, name: str) -> Schedule:
        """The normal or the fast schedule, with the settings in place of its own values."""
        own = SCENES[name] if self.data == "scenes" else get_schedule(PAPER[self.data][name == "fast"])
        steps = self.fast_steps if name == "fast" else self.steps
        changes = {"batch": self.batch, "lr": self.lr}
        if steps:
            changes |= {"steps": steps, "epochs": None, "warmup_steps": min(own.warmup_steps, steps // 10)}
        changes = {key: value for key, value in changes.items() if value is not None or key == "epochs"}
        if own.min_lr and self.lr:
            changes["min_lr"] = own.min_lr * self.lr / own.lr
        return replace(own, **changes)


QUICK = Settings(train=8, test=4, head_steps=2, steps=2, fast_steps=1, batch=2)
CROPS_PX = {"voc": 512, "ade20k": 512, "nyu": 480}


def check_same(settings: Settings, out: Path) -> None:
    """Check that a folder has runs with these settings. More seeds and tables may be added to it later.

    Raises:
        StopStudyError: If the folder has runs with other settings.
    """
    current, file = asdict(settings), out / "settings.json"
    if settings.data == "scenes":  # the steps and rates that go with these settings
        current |= {f"schedule {name}": asdict(settings.schedule(name)) for name in SCENES}
        for task, names in HEAD_FIRST.items():
            current |= {f"head first, {task}, {name}": str(settings.head_first(task, name)) for name in names}
    if file.exists():
        earlier = {"background": False} | json.loads(file.read_text(encoding="utf-8"))
        changed = [
            f"{name}: {earlier.get(name)} then, {value} now"
            for name, value in current.items()
            if earlier.get(name) != value
        ]
        if changed:
            raise StopStudyError(f"{out} has runs with other settings ({'; '.join(changed)}). Give another --out.")
        return
    out.mkdir(parents=True, exist_ok=True)
    with replace_file(file) as part:
        part.write_text(json.dumps(current, indent=2) + "\n", encoding="utf-8")
