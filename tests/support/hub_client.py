"""A client of the loopback Hub, in a process of its own: `python hub_client.py push|read|offline FOLDER`.

Each action writes what it saw to FOLDER/ACTION.json.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from torch import Tensor, nn

from tadp import Captioner, CaptionModifier, TADPBackbone, TADPForDepthEstimation, TADPForSemanticSegmentation
from tadp.datasets.scenes import Scenes
from tadp.images.reading import to_pil
from tadp.personalize import RunOptions, TrainedLora, dreambooth
from tadp.tasks import TaskModel

CLASSES = ["sky", "road"]
PHOTO = to_pil(Scenes(1, seed=3)[0].image)


def digest(tensors: dict[str, Tensor]) -> str:
    """A hash of names, types, shapes and every bit of the values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.ndim else str(tensor.item()).encode())
    return digest.hexdigest()


def backbone_digest(backbone: TADPBackbone) -> str:
    parts: dict[str, Any] = {"unet": backbone.unet, "vae": backbone.vae, "text": backbone.text_encoder}
    return digest({f"{part}.{name}": value for part, module in parts.items() for name, value in _state(module).items()})


def _state(part: Any) -> dict[str, Tensor]:
    return (part if isinstance(part, nn.Module) else part.model).state_dict()


def task_digest(model: TaskModel) -> str:
    return digest(model.head.state_dict()) + backbone_digest(model.backbone) + json.dumps(model.options, default=list)


def modifier_digest(modifier: CaptionModifier) -> str:
    vectors = {str(number): step.vectors for number, step in enumerate(modifier._steps) if step.vectors is not None}
    unets = [digest(step.unet.state_dict()) for step in modifier._steps if step.unet is not None]
    return f"{modifier!r} {digest(vectors)} {unets} {modifier.record}"


def captioner_digest(captioner: Captioner) -> str:
    [caption] = captioner.describe(PHOTO)
    return f"{digest(captioner._model.state_dict())} {caption}"


def vectors(*size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(1)) / 8


def push(folder: Path) -> dict[str, Any]:
    """Push one of every kind, and return the digest and the commit of each."""
    torch.manual_seed(0)
    seen: dict[str, Any] = {}

    def sent(name: str, model: Any, found: str, **options: Any) -> None:
        seen[name] = {"url": model.push_to_hub(f"me/{name}", **options), "digest": found}

    tiny = TADPBackbone.from_pretrained("tadp-tiny", dtype=torch.bfloat16, timestep=20)
    with torch.no_grad():
        next(tiny.unet.parameters()).add_(0.5)
    sent("backbone", tiny, backbone_digest(tiny), commit_message="halved", private=False)
    loaded = TADPBackbone.from_pretrained("me/backbone", dtype=torch.bfloat16)
    seen["backbone"]["timestep"] = loaded.options.timestep
    depth = TADPForDepthEstimation(
        TADPBackbone.from_pretrained("me/backbone"), max_depth_m=10.0, tune="nothing", prompt_mode="null"
    )
    figures = {"metrics": {"RMSE": 1.25}, "data": "two | scenes", "license": "My own: licence!", "picture": PHOTO}
    sent("depth", depth, task_digest(depth), model_card_kwargs=figures)
    segmenter = TADPForSemanticSegmentation(
        TADPBackbone.from_pretrained("tadp-tiny"), class_names=CLASSES, tune="lora", lora_rank=2
    )
    with torch.no_grad():
        for name, parameter in segmenter.backbone.unet.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    sent("segmentation", segmenter, task_digest(segmenter))
    token = CaptionModifier("a <toy> photo of {caption}", token="<toy>", embedding=vectors(2, 96).half())
    token.record["base_model"] = "tadp-tiny"
    sent("token", token, modifier_digest(token), model_card_kwargs={"picture": str(_photo(folder))})
    words = CaptionModifier.style("watercolor")
    sent("words", words, modifier_digest(words), branch="side/branch")
    large = CaptionModifier("a <big> {caption}", token="<big>", embedding=vectors(7, 1 << 20))
    sent("large", large, modifier_digest(large))
    captioner = Captioner.from_pretrained("tadp-tiny", min_new_tokens=3, dtype=torch.float16)
    seen["captioner"] = {"url": captioner.push_to_hub("captioner"), "digest": captioner_digest(captioner)}
    scenes = [scene.image for scene in Scenes(2, seed=1)]
    options = RunOptions(steps=1, progress=False)
    run = folder / "run"
    tuned = dreambooth("tadp-tiny", scenes, lora_rank=2, output=run, options=options)
    lora = TrainedLora(run)
    sent("lora", lora, hashlib.sha256(lora.path.read_bytes()).hexdigest())
    sent("dreambooth", tuned, modifier_digest(tuned))
    seen["segmentation"]["second"] = segmenter.save_pretrained(
        folder / "segmentation", push_to_hub=True, commit_message="second", model_card_kwargs={"notes": "Later."}
    )
    os.chdir(_photo(folder).parent)
    page = Path(__file__).parents[2] / "docs" / "publish.md"
    exec("\n".join(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)), {})
    (folder / "data").mkdir()
    (folder / "data" / "train.png").write_bytes(b"image" * 10)
    (folder / "data" / "labels.csv").write_text("train.png,dog\n")
    api = HfApi()
    api.create_repo("me/pictures", repo_type="dataset", exist_ok=True)
    api.upload_folder(repo_id="me/pictures", repo_type="dataset", folder_path=folder / "data")
    api.create_tag("me/pictures", repo_type="dataset", tag="v1")
    return seen


def _photo(folder: Path) -> Path:
    PHOTO.save(folder / "photo.jpg")
    return folder / "photo.jpg"


def load(folder: Path) -> dict[str, Any]:
    """Load everything that `push` pushed, at the commits that it returned, and run the code of every card."""
    pushed = json.loads((folder / "push.json").read_text())
    at = {name: {"revision": facts["url"].rsplit("/", 1)[1]} for name, facts in pushed.items()}
    lora = hf_hub_download("me/lora", "pytorch_lora_weights.safetensors", **at["lora"])
    backbone = TADPBackbone.from_pretrained("me/backbone", dtype=torch.bfloat16, **at["backbone"])
    captioner = Captioner.from_pretrained("me/captioner", min_new_tokens=3, dtype=torch.float16, **at["captioner"])
    modifiers = {name: CaptionModifier.from_pretrained(f"me/{name}", **at[name]) for name in ("words", "large")}
    modifiers["dreambooth"] = CaptionModifier.from_pretrained("me/dreambooth", **at["dreambooth"])
    modifiers["token"] = CaptionModifier.from_pretrained("me/token", **at["token"])
    seen = {name: modifier_digest(modifier) for name, modifier in modifiers.items()}
    depth = TADPForDepthEstimation.from_pretrained("me/depth", **at["depth"])
    segmenter = TADPForSemanticSegmentation.from_pretrained("me/segmentation", **at["segmentation"])
    main = TADPForSemanticSegmentation.from_pretrained("me/segmentation")
    fused = TADPBackbone.from_pretrained("tadp-tiny", lora="me/segmentation")
    pictures = Path(snapshot_download("me/pictures", repo_type="dataset", revision="v1"))
    return seen | {
        "backbone": backbone_digest(backbone),
        "timestep": backbone.options.timestep,
        "depth": task_digest(depth),
        "base": [str(depth.backbone.source.name), depth.backbone.source.revision],  # pyright: ignore
        "segmentation": task_digest(segmenter),
        "records": [segmenter.record, main.record],
        "lora": hashlib.sha256(Path(lora).read_bytes()).hexdigest(),
        "fused": backbone_digest(fused) != backbone_digest(TADPBackbone.from_pretrained("tadp-tiny")),
        "captioner": captioner_digest(captioner),
        "pictures": {path.name: path.read_text() for path in sorted(pictures.iterdir())},
    }


def cards(folder: Path) -> dict[str, Any]:
    """Run the code of every card in a folder with a picture `photo.jpg`."""
    os.chdir(_photo(folder).parent)
    names = json.loads((folder / "push.json").read_text()).keys() - {"words", "large"}  # on a branch; fits no model
    texts = {name: Path(hf_hub_download(f"me/{name}", "README.md")).read_text() for name in names}
    for text in texts.values():
        exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], {})  # pyright: ignore[reportOptionalSubscript]
    return texts


def message(action: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """The message of an error, caught as a user would."""
    try:
        action(*arguments, **options)
    except (ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def push_words(folder: Path) -> str:
    """What a push without a connection says."""
    return message(CaptionModifier.style("watercolor").push_to_hub, "me/words")


def trouble(folder: Path) -> dict[str, Any]:
    """The messages of loads and pushes that fail."""
    words = CaptionModifier.style("watercolor")
    load, loads = CaptionModifier.from_pretrained, {}
    for name in ("missing", "private", "forbidden", "limited", "faulty", "broken"):
        loads[name] = message(load, f"other/{name}")
    loads["gated"] = message(load, "other/gated")
    loads["gated without token"] = message(load, "other/gated", token=False)
    loads["wrong token"] = message(load, "other/gated", token="hf_wrong")
    loads["revision"] = message(load, "other/broken", revision="v9")
    loads["file"] = message(TADPBackbone.from_pretrained, "tadp-tiny", unet="other/broken/unet.safetensors")
    loads["other kind"] = message(TADPForDepthEstimation.from_pretrained, "other/faulty")
    pushes = {name: message(words.push_to_hub, f"me/{name}") for name in ("limited", "faulty")}
    pushes["other account"] = message(words.push_to_hub, "other/words")
    pushes["no token"] = message(words.push_to_hub, "me/words", token=False)
    pushes["wrong token"] = message(words.push_to_hub, "words", token="hf_wrong")
    pushes["name"] = message(words.push_to_hub, "me/no spaces")
    pushes["entry"] = message(words.push_to_hub, "me/never", model_card_kwargs={"licence": "mit"})
    return {"loads": loads, "pushes": pushes}


if __name__ == "__main__":
    command, place = sys.argv[1], Path(sys.argv[2])
    actions: list[Any] = {"push": [push], "offline": [load, push_words], "read": [load, cards, trouble]}[command]
    results = [action(place) for action in actions]
    (place / f"{command}.json").write_text(json.dumps(results[0] if len(results) == 1 else results))
