"""Convert a whole file of the paper's release, of VPD or of mmseg's VPD to a folder that a task model loads."""

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
from tadp.files.atomic import complete_folder, remove_partial_folders
from tadp.files.checks import check_utf8
from tadp.files.hub import HubOptions, read_json
from tadp.files.model_folder import model_folder, read_config
from tadp.files.run_lock import FOLDER_LOCK, one_run_per_output
from tadp.files.weight_values import check_finite
from tadp.language.class_names import ADE20K_CLASSES, CITYSCAPES_CLASSES, VOC_CLASSES
from tadp.text.stack import only_encoder

STABLE_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_CLASSES: dict[tuple[str, int], tuple[str, ...]] = {
    ("segmentation", 150): ADE20K_CLASSES,
    ("segmentation", 19): CITYSCAPES_CLASSES,
    ("segmentation", 21): ("background", *VOC_CLASSES),
    ("detection", 20): VOC_CLASSES,
}


@one_run_per_output
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
    """Convert a checkpoint of other code to a folder that a task model, such as `TADPForDepthEstimation`, loads.

    The function reads the paper's files for depth, segmentation (ADE20K and Cityscapes, by mmcv, and Pascal VOC) and
    detection, VPD's files for depth and segmentation, and mmseg's VPD. A file is either a pickle, of which nothing is
    run, or in the safetensors format. All of these models run at timestep 1. Every tensor of the file is used, compared
    with the base model, or left out for a reason that the report gives. A file with any other tensor is refused.

    Args:
        path: Path of the file.
        output: Folder to write to. It must be empty or not exist yet.
        base_model: The Stable Diffusion model from which the file's model was trained: a folder in diffusers' layout,
            or a hub id. VAE and text encoder come from it.
        task: Expected task of the file; "auto", the default, accepts any task.
        class_names: Names of the classes that the head predicts, in the order of its outputs. None uses the names in
            the file, or those of the data set with as many classes (ADE20K, Cityscapes or Pascal VOC).
        scale_latents: Whether latents were multiplied by the VAE's scaling factor in training. Segmentation and
            detection files show this by the place of their VAE. None, for depth, assumes what the releases do: scaled
            for models with captions, unscaled for models with class embeddings (VPD).
        imagenet_pixels: Whether pixels were normalised with ImageNet's mean and standard deviation in training. None
            assumes what the releases do: true for detection and Cityscapes, false otherwise.
        room: For depth models with class embeddings: the room that all images show, one of VPD's 27 names of rooms
            (`tadp.language.class_names.NYU_ROOMS`). None keeps the embeddings of all rooms: the converted model takes
            the room of each image, and uses the mean of all rooms, "any_room", for images without one.
        learned_token: Name of the learned token in the file, such as "<watercolor>"; the file only has its vectors. ""
            leaves the token out. None is for files without a learned token.
        allow_unused: Glob patterns of names of tensors in the file that may remain unused.
        ignore_frozen: Whether to use the base model's VAE and text encoder even if the file has different ones.
        revision: Branch, tag or commit of the base model on the hub; None is its default branch.
        local_files_only: Whether to use only files on this machine and never connect to the hub.
        cache_dir: Folder for downloads; None is huggingface_hub's own cache.

    Returns:
        A report of what became of every part of the file, the options in the new configuration, and the assumptions.

    Raises:
        MissingFileError, CorruptFileError: If there is no such file, if it is damaged, or if it contains more than
            tensors and plain values.
        ModelError: If the file is of an unknown kind or for another task, a tensor is unknown, missing, of another
            shape or not finite, or an argument does not fit the file.
        OutputError: If the folder is not empty or cannot be written to, or another run is writing to it.

    Source:
        TADP/tadp_depth.py, TADP/tadp_seg.py, TADP/tadp_seg_mm.py, TADP/tadp_objdet.py and TADP/utils/inference.py of
        the release; VPD's vpd/, depth/ and segmentation/; mmsegmentation's backbones/vpd.py and
        decode_heads/vpd_depth_head.py.
    """
    path, output = Path(path), Path(output)
    check_utf8(output, OutputError)
    was_killed = complete_folder(output)
    remove_partial_folders(output)
    is_empty = all(entry.name.startswith((".part", FOLDER_LOCK)) for entry in output.glob("*"))
    if output.is_file() or not (is_empty or (was_killed and _is_conversion(output, path))):
        raise OutputError(f"{output} is not empty; choose another folder. Nothing was changed.")
    hub = HubOptions(revision=revision, cache_dir=cache_dir, local_files_only=local_files_only)
    state, extra = state_of(read_pickle(path), path)
    form = recognise(state, path)
    if task not in ("auto", form.task):
        raise ModelError(f"{path} is a {form.task} file, not {task}: {form.kind}.")
    channels = read_config(model_folder(base_model, hub=hub), "unet").get("block_out_channels", ())
    text = read_text(form, state, widths=head_widths(form, state, len(channels)), channels=channels, path=path)
    options = {
        "timestep": 1,
        "scale_latents": _scale_latents(form, state, text, scale_latents),
        "imagenet_pixels": _imagenet_pixels(form, state, extra, imagenet_pixels),
        "attach_attention": text.attach_attention,
        "text_adapter": text.adapter,
    }
    backbone = _load_base(base_model, text, options, path, hub)
    encoder = None if backbone.text_encoder is None else only_encoder(backbone.text_encoder)
    state, learned = split_vocabulary(state, form, encoder)
    head, classes = head_options(form, state, path)
    names = _class_names(form, classes, extra, class_names, path)
    file = File(path, form, Ledger(state, path), extra, text, head, names)
    model, notes = build_model(file, backbone, room)
    weights = account(file, model, ignore_frozen=ignore_frozen, base=str(base_model))
    file.ledger.close(allow_unused=allow_unused)
    for module, tensors in weights:
        module.load_state_dict(tensors, strict=False)  # the ledger has checked what may be missing
        check_finite(module.named_parameters(), path)
    if learned is not None and encoder is not None:
        notes.append(learn(encoder, learned_token, learned, path))
    model.record["notes"] = f"Converted from {path.name}: {form.kind}."
    model.save_pretrained(output)
    written = options | {"prompt_mode": text.mode, "classes": len(names)}
    return Report(form.kind, form.task, tuple(file.ledger.parts), written, tuple(notes))


def _is_conversion(output: Path, path: Path) -> bool:
    """Whether a folder holds a conversion of a file of this name."""
    record = read_json(output / "config.json").get("record") if (output / "config.json").exists() else None
    return isinstance(record, dict) and str(record.get("notes")).startswith(f"Converted from {path.name}:")


def _load_base(base: str | Path, text: FileText, options: dict[str, Any], path: Path, hub: HubOptions) -> TADPBackbone:
    """Load the base with the file's options, and check it against the text that the head takes."""
    length = text.length if text.mode == "stored" else None
    backbone = TADPBackbone.from_pretrained(base, **asdict(hub), text_length=length, **options)
    if text.mode == "captions" and text.length not in (None, backbone.text_length):
        raise ModelError(
            f"{path}: the head takes the attention of {text.length} tokens, but a caption of {base} has "
            f"{backbone.text_length}. Files trained with class names, or with captions joined to class embeddings, are "
            "not supported."
        )
    return backbone


def _scale_latents(form: Form, state: Mapping[str, Tensor], text: FileText, requested: bool | None) -> bool:
    """Return whether the file was trained with scaled latents.

    Without scaling, the released code stores the VAE separately; with scaling, the VAE stays inside the whole model.
    """
    if form.task == "depth" and form.root == "encoder.":
        # The depth models always store both.
        return text.mode == "captions" if requested is None else requested
    apart = any(key.startswith(form.vae) for key in state)
    inside = any(key.startswith(f"{form.whole}first_stage_model.") for key in state)
    if not apart and not inside:  # the VAE was removed from the file
        return text.mode == "captions" if requested is None else requested
    scaled = not apart
    if requested not in (None, scaled):
        raise ModelError(
            "the names in this file show that it was trained with ",
            Argument("scale_latents", scaled),
            "; leave the option out.",
        )
    return scaled


def _imagenet_pixels(form: Form, state: Mapping[str, Tensor], extra: dict[str, Any], requested: bool | None) -> bool:
    if requested is not None:
        return requested
    meta = extra.get("meta")
    config = str(meta.get("config", "")) if isinstance(meta, dict) else ""
    if "123.675" in config or "[127.5" in config:  # mmcv keeps the training's config as text
        return "123.675" in config
    last = state.get("decode_head.conv_seg.weight")
    cityscapes = last is not None and last.shape[0] == len(CITYSCAPES_CLASSES)
    return form.task == "detection" or (cityscapes and form.root == "")


def _class_names(
    form: Form, count: int, extra: dict[str, Any], requested: Sequence[str] | None, path: Path
) -> tuple[str, ...]:
    if form.task == "depth":
        if requested is not None:
            raise ModelError(f"a depth model has no classes; got class_names for {path}.")
        return ()
    meta = _entry(extra, "meta")
    recorded = [
        _entry(meta, "CLASSES"), _entry(_entry(meta, "dataset_meta"), "classes"),
        _entry(_entry(extra, "hyper_parameters"), "class_names"),
    ]  # fmt: skip
    lists = [names for names in recorded if isinstance(names, list | tuple) and names]
    names = requested or (lists[0] if lists else _CLASSES.get((form.task, count)))
    if names is None:
        raise ModelError(f"{path} has {count} classes and does not name them; pass class_names= (--classes).")
    if len(names) != count:
        raise ModelError(f"{path} has {count} classes; got {len(names)} names, {', '.join(map(str, names[:3]))} ….")
    return tuple(str(name) for name in names)


def _entry(content: Any, key: str) -> Any:
    return content.get(key) if isinstance(content, dict) else None
