"""Convert a whole file: the paper's release, VPD's, or mmseg's VPD, to a folder that a task model loads."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from tadp.backbone import TADPBackbone
from tadp.convert.assembly import File, account, build_model
from tadp.convert.forms import Form, Task, recognise, state_of
from tadp.convert.head_weights import head_options, head_widths
from tadp.convert.ledger import Ledger, Report
from tadp.convert.pickles import read_pickle
from tadp.convert.text_weights import FileText, learn, read_text, split_vocabulary
from tadp.errors import Argument, ModelError, OutputError
from tadp.files.hub import HubOptions
from tadp.files.model_folder import model_folder, read_config
from tadp.language.class_names import ADE20K_CLASSES, CITYSCAPES_CLASSES, VOC_CLASSES
from tadp.text.stack import only_encoder

STABLE_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_CLASSES: dict[tuple[str, int], tuple[str, ...]] = {
    ("segmentation", 150): ADE20K_CLASSES,
    ("segmentation", 19): CITYSCAPES_CLASSES,
    ("segmentation", 21): ("background", *VOC_CLASSES),
    ("detection", 20): VOC_CLASSES,
}


def convert_file(
    path: str | Path,
    output: str | Path,
    *,
    base_model: str | Path = STABLE_DIFFUSION,
    task: Task | Literal["auto"] = "auto",
    class_names: Sequence[str] | None = None,
    scale_latents: bool | None = None,
    imagenet_pixels: bool | None = None,
    room: str | None = None,
    learned_token: str | None = None,
    allow_unused: Sequence[str] = (),
    ignore_frozen: bool = False,
    revision: str | None = None,
    local_files_only: bool = False,
    cache_dir: str | Path | None = None,
) -> Report:
    """Turn a trained file of others into a folder for `TADPFor….from_pretrained`.

    Read are the paper's depth, mmcv segmentation (ADE20K, Cityscapes) and detection files, VPD's depth and
    segmentation, and mmseg's VPD: pickles, with nothing in them run, or safetensors. All of them run at timestep 1.
    Every tensor of the file is used, compared, or dropped for a reason that the report gives; else the file is refused.

    Args:
        path: The file.
        output: A folder that is not there yet, or is empty.
        base_model: The Stable Diffusion it was trained from, in diffusers' layout: VAE and text encoder come from it.
        task: What the file must be; "auto" takes what it is.
        class_names: In the order of the head's outputs; by default those in the file, or those of the data set with as
            many classes (ADE20K, Cityscapes, Pascal VOC).
        scale_latents: Whether latents were scaled. Segmentation and detection files tell it, by where their VAE is; for
            depth the default is what was released: scaled with captions, unscaled with class embeddings (VPD).
        imagenet_pixels: Whether pixels were normalised by ImageNet's mean and deviation. The default is what was
            released: for detection and Cityscapes they were.
        room: For depth with class embeddings, the room that all images show, one of VPD's 27; by default their mean.
        learned_token: What a learned token in the file is called; "" leaves it out.
        allow_unused: Patterns of names that may be in the file and are not used.
        ignore_frozen: Use the base's VAE and text encoder though the file has others.
        revision: Of the base.
        local_files_only: Never ask the hub.
        cache_dir: Where hub models are kept.

    Returns:
        What became of each part, what was written into the config, and what was assumed.

    Raises:
        MissingFileError, CorruptFileError: If there is no such file, or it is damaged, or needs more than tensors.
        ModelError: If it is of another kind, or a tensor is unknown, missing, of another shape or not finite; if an
            option does not fit the file.
        OutputError: If the folder is not empty or cannot be written.

    Source:
        TADP/tadp_depth.py, TADP/tadp_seg_mm.py, TADP/tadp_objdet.py and TADP/utils/inference.py of the release; VPD's
        vpd/, depth/ and segmentation/; mmsegmentation's backbones/vpd.py and decode_heads/vpd_depth_head.py.
    """
    path, output = Path(path), Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(f"{output} is not empty; choose another folder, nothing was changed.")
    hub = HubOptions(revision=revision, cache_dir=cache_dir, local_files_only=local_files_only)
    state, others = state_of(read_pickle(path), path)
    form = recognise(state, path)
    if task not in ("auto", form.task):
        raise ModelError(f"{path} is a {form.task} file, not {task}: {form.kind}.")
    channels = read_config(model_folder(base_model, hub=hub), "unet").get("block_out_channels", ())
    text = read_text(form, state, widths=head_widths(form, state, len(channels)), channels=channels, path=path)
    options = {
        "timestep": 1,
        "scale_latents": _scale_latents(form, state, text, scale_latents),
        "imagenet_pixels": _imagenet_pixels(form, state, others, imagenet_pixels),
        "attach_attention": text.attach_attention,
        "text_adapter": text.adapter,
    }
    backbone = _load_base(base_model, text, options, path, hub)
    encoder = None if backbone.text_encoder is None else only_encoder(backbone.text_encoder)
    state, learned = split_vocabulary(state, form, encoder)
    head, classes = head_options(form, state, path)
    names = _class_names(form, classes, others, class_names, path)
    file = File(path, form, Ledger(state, path), others, text, head, names)
    model, notes = build_model(file, backbone, room)
    weights = account(file, model, ignore_frozen=ignore_frozen, base=str(base_model))
    file.ledger.close(allow_unused=allow_unused)
    for module, tensors in weights:
        module.load_state_dict(tensors, strict=False)  # what may be missing is known
    if learned is not None and encoder is not None:
        notes.append(learn(encoder, learned_token, learned, path))
    model.record["notes"] = f"Converted from {path.name}: {form.kind}."
    model.save_pretrained(output)
    written = options | {"prompt_mode": text.mode, "classes": len(names)}
    return Report(form.kind, form.task, tuple(file.ledger.parts), written, tuple(notes))


def _load_base(base: str | Path, text: FileText, options: dict[str, Any], path: Path, hub: HubOptions) -> TADPBackbone:
    """The base as the file's model was built on it; compared with the text that its head takes."""
    length = text.length if text.mode == "stored" else None
    backbone = TADPBackbone.from_pretrained(base, **asdict(hub), text_length=length, **options)
    if text.mode == "captions" and text.length not in (None, backbone.text_length):
        raise ModelError(
            f"{path}: the head takes the attention of {text.length} tokens, a caption of {base} has "
            f"{backbone.text_length}. A file trained with captions and class embeddings joined is not read."
        )
    return backbone


def _scale_latents(form: Form, state: Mapping[str, Tensor], text: FileText, wanted: bool | None) -> bool:
    """As the file was trained: unscaled, VAE and U-Net go apart; scaled, the VAE stays where the whole model has it."""
    if form.task == "depth" and form.root == "encoder.":
        # The depth models keep both in any case.
        return text.mode == "captions" if wanted is None else wanted
    apart = any(key.startswith(form.vae) for key in state)
    inside = any(key.startswith(f"{form.whole}first_stage_model.") for key in state)
    if not apart and not inside:  # the VAE was taken out
        return text.mode == "captions" if wanted is None else wanted
    told = not apart
    if wanted not in (None, told):
        raise ModelError(
            "this file was trained with ", Argument("scale_latents", told), ", as its names tell; leave the option out."
        )
    return told


def _imagenet_pixels(form: Form, state: Mapping[str, Tensor], others: dict[str, Any], wanted: bool | None) -> bool:
    if wanted is not None:
        return wanted
    meta = others.get("meta")
    config = str(meta.get("config", "")) if isinstance(meta, dict) else ""
    if "123.675" in config or "[127.5" in config:  # mmcv keeps the training's config as text
        return "123.675" in config
    last = state.get("decode_head.conv_seg.weight")
    cityscapes = last is not None and last.shape[0] == len(CITYSCAPES_CLASSES)
    return form.task == "detection" or (cityscapes and form.root == "")


def _class_names(
    form: Form, count: int, others: dict[str, Any], wanted: Sequence[str] | None, path: Path
) -> tuple[str, ...]:
    if form.task == "depth":
        if wanted is not None:
            raise ModelError(f"a depth model has no classes; got class_names for {path}.")
        return ()
    meta = others.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    data = meta.get("dataset_meta")
    found = wanted or meta.get("CLASSES") or (data.get("classes") if isinstance(data, dict) else None)
    names = found or _CLASSES.get((form.task, count))
    if names is None:
        raise ModelError(f"{path} has {count} classes and does not name them; pass class_names= (--classes).")
    if len(names) != count:
        raise ModelError(f"{path} has {count} classes; got {len(names)} names, {', '.join(map(str, names[:3]))} ….")
    return tuple(str(name) for name in names)
