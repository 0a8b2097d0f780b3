"""Convert, check and push a model of the paper's release or of your own, with a model card.

    python examples/publish.py tadp_depth_blipmin40.ckpt me/tadp-depth --data nyu --root nyu_depth_v2 --captions c.db
    python examples/publish.py learned_embeds.bin me/watercolor --template "a {token} painting of {{caption}}"
    python examples/publish.py run/model me/scenes --data scenes --count 50 --dry-run

MODEL is a checkpoint of the paper's release, a learned token, or a folder that tadp wrote: a task model, a modifier, a
backbone, or a run of DreamBooth with a LoRA. The features of a task model are compared with those that plain diffusers
computes from the same weights. `--data` measures it on a data set and draws the first predictions for the card.
`--dry-run` sends nothing: what would be pushed is in OUT/upload.
"""

import argparse
from contextlib import suppress
from pathlib import Path
from typing import Any

from publishing.plain_features import feature_error

from tadp import CaptionModifier, TADPBackbone
from tadp.convert import convert_file, read_token
from tadp.datasets import Sample
from tadp.datasets.readers.named import DATASETS, open_dataset
from tadp.diffusion.loading.lora_fusion import LORA_NAME
from tadp.drawing import sheet
from tadp.errors import ModifierError, TADPError
from tadp.files.hub import read_json
from tadp.files.publishing import Pushable
from tadp.personalize import TrainedLora
from tadp.tasks import TaskModel, evaluate
from tadp.trainer.run_plan import TASKS
from tadp.trainer.trained_task import TrainedTask

LARGEST_TOKEN = 50_000_000  # bytes; a checkpoint of the release has gigabytes
LARGEST_ERROR = 1e-3  # of features, relative; float32 gives about 1e-6
PICTURES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL", help="a checkpoint, a learned token, or a folder")
    parser.add_argument("repository", metavar="OWNER/NAME", help="the repository on the hub")
    parser.add_argument("--base-model", help="base model of a checkpoint or token; Stable Diffusion 1.5 by default")
    parser.add_argument("--token-name", help="name of a learned token, if its file has none, such as '<watercolor>'")
    parser.add_argument("--template", default="a {token} style painting of {{caption}}", help="template of a token")
    parser.add_argument("--classes", help="class names of a checkpoint that has none, separated by commas")
    parser.add_argument("--data", choices=sorted(DATASETS), help="data set to measure a task model on")
    parser.add_argument("--root", type=Path, help="folder of the data set")
    parser.add_argument("--captions", type=Path, help="caption file of the data set")
    parser.add_argument("--count", type=int, help="number of images to measure; all by default")
    parser.add_argument("--trained-on", help="the training data, for the card")
    parser.add_argument("--license", help="licence, such as apache-2.0; that of the base model by default")
    parser.add_argument("--notes", default="", help="a text for the end of the card")
    parser.add_argument("--private", action="store_true", help="create a private repository")
    parser.add_argument("--out", type=Path, default=Path("publish"), help="folder of the conversion and the dry run")
    parser.add_argument("--dry-run", action="store_true", help="write what would be pushed to OUT/upload")
    options = parser.parse_args()
    try:
        publish(options)
    except TADPError as error:
        raise SystemExit(f"publish.py: {error}") from None


def publish(options: argparse.Namespace) -> None:
    """Convert, check and push."""
    model = read(options)
    card: dict[str, Any] = {"data": options.trained_on, "license": options.license}
    notes = [getattr(model, "record", {}).get("notes"), options.notes]
    if isinstance(model, TaskModel):
        notes.append(check_features(model, options))
        if options.data is not None:
            card |= measure(model, options)
    card["notes"] = " ".join(note for note in notes if note)
    card = {name: value for name, value in card.items() if value}
    if not options.dry_run:
        private = True if options.private else None
        print(f"pushed: {model.push_to_hub(options.repository, private=private, model_card_kwargs=card)}")
        return
    upload = options.out / "upload"
    model.stage(upload, repo_id=options.repository, entries=card)
    for path in sorted(path for path in upload.rglob("*") if path.is_file()):
        print(f"{path.stat().st_size:>12,} bytes  {path.relative_to(upload).as_posix()}")
    print(f"{upload} is what would be pushed to {options.repository}")


def read(options: argparse.Namespace) -> Pushable:
    """The model: converted if it is a file, and loaded from where it will be pushed from."""
    path: Path = options.model
    if path.is_file():
        if path.stat().st_size < LARGEST_TOKEN:
            with suppress(ModifierError):  # it is a checkpoint, not a token
                return of_token(options)
        path = convert(options)
    if (path / "config.json").exists():
        name = read_json(path / "config.json").get("model")
        for task in TASKS.values():
            if task.kind.__name__ == name:
                return task.kind.from_pretrained(path)
    if (path / "modifier.json").exists() and not (path / LORA_NAME).exists():
        return CaptionModifier.from_pretrained(path)
    return TrainedLora(path) if (path / LORA_NAME).exists() else TADPBackbone.from_pretrained(path)


def of_token(options: argparse.Namespace) -> CaptionModifier:
    """A modifier with the token in a file."""
    token, vectors = read_token(options.model, token=options.token_name)
    modifier = CaptionModifier(options.template.format(token=token), token=token, embedding=vectors)
    base = {"base_model": options.base_model} if options.base_model else {}
    modifier.record |= base | {"notes": f"The token is that of {options.model.name}, with its vectors unchanged."}
    return modifier


def convert(options: argparse.Namespace) -> Path:
    """The folder of the converted checkpoint, which a dry run may have written before."""
    folder = options.out / "model"
    done = folder / "config.json"
    if done.exists():
        notes = str((read_json(done).get("record") or {}).get("notes"))
        if not notes.startswith(f"Converted from {options.model.name}:"):
            raise SystemExit(f"publish.py: {folder} holds another model; pass another --out.")
        return folder
    names = options.classes and [name.strip() for name in options.classes.split(",")]
    base = {"base_model": options.base_model} if options.base_model else {}
    print(convert_file(options.model, folder, class_names=names, learned_token=options.token_name, **base))
    return folder


def check_features(model: TaskModel, options: argparse.Namespace) -> str:
    """Compare the features with those of plain diffusers, and say the result for the card."""
    source = model.backbone.source
    name, revision = (source.name, source.revision) if source else ("", None)
    error = feature_error(model.backbone, options.model, base=name, revision=revision)
    print(f"features differ from those of plain diffusers by at most {error:.1e} of the largest")
    if error > LARGEST_ERROR:
        raise SystemExit(f"publish.py: that is more than {LARGEST_ERROR:g}, so the model is not pushed.")
    agree = f"agree within {error:.0e} (relative) with" if error else "are exactly"
    return f"Its features {agree} those that diffusers computes from the same weights."


def measure(model: TaskModel, options: argparse.Namespace) -> dict[str, Any]:
    """Figures on a data set, and a sheet of its first predictions, as entries of the card."""
    task: TrainedTask = next(task for task in TASKS.values() if isinstance(model, task.kind))
    classes = {"class_names": model.options["class_names"]} if task.name == "detection" and options.root else {}
    samples = open_dataset(options.data, options.root, captions=options.captions, **classes)
    names = {"segmentation": "class_names", "detection": "box_class_names"}.get(task.name)
    if names and tuple(getattr(samples, names)) != tuple(model.options["class_names"]):
        raise SystemExit(f"publish.py: the classes of {options.data} are not those of the model.")
    count = min(options.count or len(samples), len(samples))
    rows: list[Any] = []

    def draw(sample: Sample, result: Any) -> None:
        if len(rows) < PICTURES:
            rows.append(task.row(sample, result, model))

    result = evaluate(model, (samples[number] for number in range(count)), on_sample=draw)
    print(result)
    figures = {f"{name}, {options.data}, {count} images": value for name, value in task.figures(result).items()}
    return {
        "metrics": model.record.get("metrics", {}) | figures,
        "picture": sheet(rows, titles=("image", "truth", "prediction")),
    }


if __name__ == "__main__":
    main()
