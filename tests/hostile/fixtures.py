"""Small intact models and data, built once per run; kinds copy them and damage the copy."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = "HOSTILE_FIXTURES"  # the variable with the folder of the fixtures
PICTURE_FORMATS = ("png", "jpg", "gif", "bmp", "tiff", "webp", "ppm", "avif")
CLASSES = ("sky", "tree", "house")


def fixture(name: str) -> Path:
    """An intact fixture, which must not be changed."""
    return Path(os.environ[ROOT], name)


def copy(name: str, folder: Path) -> Path:
    """A copy of a fixture in a folder."""
    source = fixture(name)
    return Path((shutil.copytree if source.is_dir() else shutil.copy)(source, folder / source.name))


def picture(size: tuple[int, int] = (72, 64)) -> Image.Image:
    """A small picture in which no two neighbouring pixels are equal."""
    image = Image.new("RGB", size)
    image.putdata([((7 * k) % 256, (k * k) % 256, (13 * k) % 256) for k in range(size[0] * size[1])])
    return image


def build() -> None:
    """Build all fixtures in the folder that `ROOT` names. Runs in a child, so that the warm process never computes."""
    _pictures()
    _captions(fixture("captions"))
    _data_sets()
    _models()
    _task_models()
    _personalized()
    _trained()
    results = {"features": features(fixture("sd")), "captions": described(fixture("blip"))}
    results["trained"] = trained(Path(shutil.copytree(fixture("stopped"), fixture("continued"))))
    results |= {task: predicted(fixture(task), task) for task in ("segmentation", "depth")}
    fixture("reference.json").write_text(json.dumps(results))


def reference(name: str) -> Any:
    """What the intact fixtures give: "features" of `sd`, "captions" of `blip`, "segmentation" and "depth"."""
    return json.loads(fixture("reference.json").read_text())[name]


def features(folder: Path, **options: Any) -> list[float]:
    """A few numbers that depend on every weight of a backbone's U-Net, VAE encoder and text encoder."""
    import torch

    from tadp import TADPBackbone

    backbone = TADPBackbone.from_pretrained(folder, **options)
    with torch.inference_mode():
        maps = backbone(picture((64, 64)), "a red dog on grass").maps
    return [round(float(value), 3) for map_ in maps for value in (map_.mean(), map_.std(), map_.flatten()[7])]


def described(folder: Path) -> list[str]:
    """Captions of two pictures by a captioner."""
    from tadp import Captioner

    return Captioner.from_pretrained(folder, max_new_tokens=8)([picture(), picture((90, 64))])


def predicted(folder: Path, task: str = "segmentation") -> list[float]:
    """A few numbers of a task model's prediction."""
    from tadp import TADPForDepthEstimation, TADPForObjectDetection, TADPForSemanticSegmentation

    kinds: dict[str, Any] = {
        "segmentation": (TADPForSemanticSegmentation, lambda result: result.scores),
        "depth": (TADPForDepthEstimation, lambda result: result.depth_m),
        "detection": (TADPForObjectDetection, lambda result: result.boxes),
    }
    kind, values = kinds[task]
    numbers = values(kind.from_pretrained(folder).predict(picture((64, 64)), "a red dog")).float()
    return [round(float(number), 3) for number in (numbers.mean(), numbers.std(), numbers.flatten()[7])]


def _pictures() -> None:
    for suffix in PICTURE_FORMATS:
        fixture("pictures").mkdir(exist_ok=True)
        picture().save(fixture(f"pictures/photo.{suffix}"))
    for number in range(5):
        fixture("photos").mkdir(exist_ok=True)
        picture((64 + 8 * number, 64)).save(fixture(f"photos/photo-{number}.png"))


def _captions(folder: Path) -> None:
    from tadp.captions import CaptionTable

    folder.mkdir()
    pairs = {f"picture-{k}": (f"a watercolor painting of a red dog {k}", "a dog") for k in range(20)}
    table = CaptionTable(pairs)
    table.to_json(folder / "captions.json")
    table.to_jsonl(folder / "captions.jsonl")
    table.to_parquet(folder / "captions.parquet")
    with CaptionTable.create(folder / "captions.db") as stored:
        stored.update(pairs)


def _data_sets() -> None:
    import trees

    trees.voc(fixture("voc"))
    trees.ade20k(fixture("ade20k"))
    trees.cityscapes(fixture("cityscapes"))
    trees.nyu(fixture("nyu"))
    (fixture("own.json")).write_text(json.dumps({str(number): {"captions": ["a dog"]} for number in range(3)}))
    for number in range(3):
        trees.write_image(fixture(f"own/images/{number}.png"))
        trees.write_mask(fixture(f"own/masks/{number}.png"), trees.quadrants(0, 1, 2, 255))
    for number in range(6):
        trees.write_image(fixture(f"labelled/images/{number}.png"))
        trees.write_mask(fixture(f"labelled/masks/{number}.png"), trees.quadrants(0, 1, 2, 255))
    fixture("labelled/masks/classes.txt").write_text("\n".join(CLASSES))


def _models() -> None:
    import builders_captioner
    import builders_single_file as single
    import torch
    from builders import WIDTH, build_unet
    from builders_personalize import build_model
    from release_files import vpd_depth
    from safetensors.torch import save_file

    from tadp import CaptionModifier, TADPBackbone

    build_model(fixture("sd"))
    TADPBackbone.from_pretrained(fixture("sd"), text_adapter=True).save_pretrained(fixture("saved"))
    builders_captioner.build_blip(fixture("blip"))
    builders_captioner.build_llava(fixture("llava"))
    fixture("single").mkdir()
    for suffix in ("ckpt", "safetensors"):
        single.write(single.whole("sd1"), fixture(f"single/sd.{suffix}"))
    single.write_configs("sd1", fixture("single/configs"))
    vpd_depth(fixture("sd")).save(fixture("vpd.pth"))
    vectors = torch.linspace(-1, 1, 2 * WIDTH).reshape(2, WIDTH)
    save_file({"<toy>": vectors}, fixture("learned.safetensors"))
    torch.save({"<toy>": vectors}, fixture("learned.bin"))
    CaptionModifier("a <toy> style scene of {caption}", token="<toy>", embedding=vectors).save_pretrained(
        fixture("modifier")
    )
    state = build_unet().state_dict()
    layers = [name.removesuffix(".weight") for name in state if name.endswith(("attn2.to_q.weight", "to_v.weight"))]
    lora = {}
    for layer in layers:
        out, into = state[f"{layer}.weight"].shape
        lora |= {f"unet.{layer}.lora_A.weight": torch.full((2, into), 0.1)}
        lora |= {f"unet.{layer}.lora_B.weight": torch.full((out, 2), 0.1)}
    settings = {"unet.r": 2, "unet.lora_alpha": 2, "unet.target_modules": ["to_q", "to_v"]}
    fixture("lora").mkdir()
    file = fixture("lora/pytorch_lora_weights.safetensors")
    save_file(lora, file, metadata={"lora_adapter_metadata": json.dumps(settings)})


def _task_models() -> None:
    from tadp import TADPBackbone, TADPForDepthEstimation, TADPForObjectDetection, TADPForSemanticSegmentation

    backbone = TADPBackbone.from_pretrained(fixture("sd"))
    options: dict[str, Any] = {"tune": "nothing"}
    TADPForSemanticSegmentation(
        backbone, class_names=CLASSES, window_px=64, head_options={"fpn_channels": 8, "channels": 8}, **options
    ).save_pretrained(fixture("segmentation"))
    TADPForDepthEstimation(
        backbone, max_depth_m=10.0, window_px=64, head_options={"channels": 4, "deconv_channels": (6, 6, 6)}, **options
    ).save_pretrained(fixture("depth"))
    TADPForObjectDetection(
        backbone, class_names=CLASSES, image_px=64, head_options={"channels": 8, "hidden_channels": 16}, **options
    ).save_pretrained(fixture("detection"))


def _personalized() -> None:
    from builders_personalize import QUICK, learn

    learn(fixture("sd"), [str(path) for path in sorted(fixture("photos").iterdir())], **QUICK,
          output=fixture("personalized"), checkpoint_every=2)  # fmt: skip


TRAINING: dict[str, Any] = {
    "tune": "head", "head_options": {"fpn_channels": 8, "channels": 8, "dropout": 0.5}, "crop": 32, "steps": 4,
    "batch": 2, "save_every": 2, "evaluate_every": 1, "patience": 9, "ema": 0.5, "progress": False,
}  # fmt: skip


def trained(folder: Path, **changes: Any) -> list[float]:
    """A few numbers that depend on the weights, the random numbers and the figures of a training in a folder."""
    from builders_training import own_training_state
    from safetensors.torch import load_file

    from tadp.trainer import train

    with own_training_state():
        run = train("segmentation", fixture("labelled"), folder, model=str(fixture("sd")), **TRAINING | changes)
    weights = load_file(folder / "model.safetensors").values()
    return [*run.figures.values(), sum(float(weight.double().sum()) for weight in weights)]


def _trained() -> None:
    """The folder of a training that stopped after two of four steps, and of a finished one."""
    from unittest.mock import patch

    from tadp.trainer.checkpoints import Checkpoints

    def save_and_stop(self: Any, step: int, save: Any = Checkpoints.save) -> None:
        save(self, step)
        raise KeyboardInterrupt

    with patch.object(Checkpoints, "save", save_and_stop), suppress(KeyboardInterrupt):
        trained(fixture("stopped"))
    trained(fixture("finished"))
