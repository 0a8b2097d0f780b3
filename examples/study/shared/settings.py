"""What decides the figures of a study, and must stay the same from one call to the next."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tadp.files.atomic import replace_file
from tadp.training.schedules import Schedule, get_schedule

DATA = ("scenes", "voc", "ade20k", "nyu")
# First the head alone, on features that are kept, at a rate that learned most in a minute (seed 0 of the captions).
# Then the head and all that trains. A head that has learned nothing yet would spoil a U-Net in so few steps.
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
    "voc": ("pascal-15-epochs", "pascal-15-epochs"),  # the paper has no fast one for Pascal; --fast-steps cuts it
    "ade20k": ("ade20k-80k", "ade20k-4k"),
    "nyu": ("nyu-25-epochs", "nyu-1-epoch"),
}


class StopStudyError(RuntimeError):
    """The study cannot go on; the message says why."""


@dataclass(frozen=True)
class Settings:
    """What decides the figures; a folder of runs has one of these.

    Attributes:
        model: "tadp-tiny", a hub id or a folder.
        captioner: Who writes the captions.
        data: "scenes" are rendered; "voc" and "ade20k" for segmentation, "nyu" for depth.
        root: The data set's folder.
        train: Scenes to train on.
        test: Scenes to measure on; of a data set the first so many, None is all.
        head_steps: Of the head alone, before (scenes only), in place of the schedule's own.
        steps: Of the normal schedule, likewise.
        fast_steps: Of the fast one.
        batch: Images a step.
        lr: Of the head.
        crop_px: Side of training crops and of the windows of a prediction.
    """

    model: str = "tadp-tiny"
    captioner: str = "tadp-tiny"
    data: str = "scenes"
    root: str | None = None
    train: int | None = 800
    test: int | None = 250
    head_steps: int | None = None
    steps: int | None = None
    fast_steps: int | None = None
    batch: int | None = None
    lr: float | None = None
    crop_px: int = 128

    def head_first(self, task: str, name: str) -> Schedule | None:
        """What the head trains alone before, on features that are kept; photographs are too many to keep theirs."""
        if self.data != "scenes":
            return None
        own = HEAD_FIRST[task][name]
        return replace(own, steps=self.head_steps or own.steps, batch=self.batch or own.batch)

    def schedule(self, name: str) -> Schedule:
        """The normal or the fast schedule, with what was given in place of its own."""
        own = SCENES[name] if self.data == "scenes" else get_schedule(PAPER[self.data][name == "fast"])
        steps = self.fast_steps if name == "fast" else self.steps
        changes = {"batch": self.batch, "lr": self.lr}
        if steps:
            changes |= {"steps": steps, "epochs": None, "warmup_steps": min(own.warmup_steps, steps // 10)}
        given = {key: value for key, value in changes.items() if value is not None or key == "epochs"}
        if own.min_lr and self.lr:
            given["min_lr"] = own.min_lr * self.lr / own.lr
        return replace(own, **given)


QUICK = Settings(train=8, test=4, head_steps=2, steps=2, fast_steps=1, batch=2)
CROPS_PX = {"voc": 512, "ade20k": 512, "nyu": 480}


def check_same(settings: Settings, out: Path) -> None:
    """A folder has the runs of one study; more seeds and tables may come to it, other settings may not.

    Raises:
        StopStudyError: If the folder's settings are others.
    """
    asked, file = asdict(settings), out / "settings.json"
    if settings.data == "scenes":  # the steps and rates that go with these settings
        asked |= {f"schedule {name}": asdict(settings.schedule(name)) for name in SCENES}
        for task, names in HEAD_FIRST.items():
            asked |= {f"head first, {task}, {name}": str(settings.head_first(task, name)) for name in names}
    if file.exists():
        found = json.loads(file.read_text(encoding="utf-8"))
        changed = [
            f"{name}: {found.get(name)} then, {asked[name]} now" for name in asked if found.get(name) != asked[name]
        ]
        if changed:
            raise StopStudyError(f"{out} has runs with other settings ({'; '.join(changed)}). Give another --out.")
        return
    out.mkdir(parents=True, exist_ok=True)
    with replace_file(file) as part:
        part.write_text(json.dumps(asked, indent=2) + "\n", encoding="utf-8")
