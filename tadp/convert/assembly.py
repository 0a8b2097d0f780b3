"""Build the model that a file was saved from, and find the model's tensors in the file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tadp import tasks
from tadp.backbone import TADPBackbone
from tadp.convert.forms import Form
from tadp.convert.head_weights import head_names
from tadp.convert.key_names import ldm_text_names, ldm_unet_names, ldm_vae_names
from tadp.convert.ledger import Ledger, Part
from tadp.convert.pickles import tensors_in
from tadp.convert.text_weights import ANY_ROOM, FileText, room_embeddings
from tadp.errors import ModelError
from tadp.text.conditioning import Conditioning
from tadp.text.stack import only_encoder

_CAPTIONER = "Salesforce/blip2-opt-2.7b"  # the release's captioner
# Keys that training saves next to the weights.
_TRAINING = {
    *("optimizer", "meta", "epoch", "iter", "iteration", "step", "global_step", "lr_scheduler", "lr_schedulers"),
    *("scheduler", "scaler", "best", "args", "param_schedulers", "message_hub", "optimizer_states", "loops"),
    *("callbacks", "hparams_name", "hyper_parameters", "pytorch-lightning_version"),
}
_SCHEDULE = re.compile(
    r"(log_one_minus_|sqrt_|sqrt_one_minus_|sqrt_recip_|sqrt_recipm1_)?alphas_cumprod(_prev)?|betas"
    r"|posterior_(variance|log_variance_clipped|mean_coef[12])|logvar|lvlb_weights|scale_factor"
)
_UNUSED_UNET = ("conv_norm_out.", "conv_out.")  # they never run, and the depth models lack them
_ADAPTER = {
    "mlp.0.weight": "text_adapter.fc.0.weight",
    "mlp.0.bias": "text_adapter.fc.0.bias",
    "mlp.2.weight": "text_adapter.fc.2.weight",
    "mlp.2.bias": "text_adapter.fc.2.bias",
    "gate": "gamma",
}


@dataclass(frozen=True)
class File:
    """A checkpoint of other code, after its form was recognised.

    Attributes:
        path: Path of the file.
        form: The kind of the file, which determines the names of its tensors.
        ledger: The tensors of the file, with a record of which are used.
        extra: The content of the file besides its tensors.
        text: The text that the model was trained with.
        head: Arguments with which tadp's head for this model is built.
        class_names: Names of the classes that the head predicts, in the order of its outputs; empty for depth.
    """

    path: Path
    form: Form
    ledger: Ledger
    extra: dict[str, Any]
    text: FileText
    head: dict[str, Any]
    class_names: tuple[str, ...]


def build_model(file: File, backbone: TADPBackbone, room: str | None) -> tuple[tasks.TaskModel, list[str]]:
    """Build the task model on a backbone, with random weights in its head, and notes on what was assumed.

    Raises:
        ModelError: If a room is given, but the file has no embeddings of rooms.
    """
    text = file.ledger.state.get(f"{file.form.root}class_embeddings")
    stored = file.text.mode == "stored"
    rooms: tuple[str, ...] = ()
    if room is not None and not (stored and file.form.task == "depth"):
        raise ModelError(f"room is for depth models with class embeddings; {file.path} has no rooms to choose from.")
    options: dict[str, Any] = {"head_options": file.head, "prompt_mode": file.text.mode}
    notes = []
    if file.form.task == "depth":
        if stored and text is not None:
            text, rooms = room_embeddings(text, room)
        options |= {
            "prompt_classes": rooms,
            "own_class": len(rooms) > 1,
            "default_class": ANY_ROOM if len(rooms) > 1 else None,
            "max_depth_m": 10.0,
            "window_px": 480,
            "stride_px": 160,
            "taper_windows": False,
            "pad_with_grey": True,
        }
        model: tasks.TaskModel = tasks.TADPForDepthEstimation(backbone, **options)
        notes.append("max_depth_m = 10, as released for NYU Depth v2; the file does not record it")
    elif file.form.task == "segmentation":
        if file.form.head == "smp":  # TADPSeg.initialize_loss
            options |= {"head": "smp_fpn", "loss": "focal"}
        prompted = file.class_names if stored else None  # one embedding per class, also for "background"
        model = tasks.TADPForSemanticSegmentation(
            backbone,
            class_names=file.class_names,
            prompt_classes=prompted,
            window_px=512,
            stride_px=341,
            **options,
        )
    else:
        model = tasks.TADPForObjectDetection(backbone, class_names=file.class_names, keep_ratio=False, **options)
    if stored and text is not None:
        model.store_text(Conditioning(text.detach().float().clone()[None], (rooms,) if rooms else None))
        if file.form.task == "depth":
            of_each = f"the embedding of each image's room; without a room, {ANY_ROOM}, " if len(rooms) > 1 else ""
            notes.append(f"text: {of_each}{f'the embedding of {room}' if room else 'the mean of the embeddings'}")
    if file.form.root == "backbone." and backbone.attach_attention:
        notes.append("mmseg's own code fails with attention maps; this file is read like VPD's")
    if not stored:
        model.captioner_name = _CAPTIONER
    if backbone.scale_latents:
        notes.append("latents are the posterior's mode; the released code samples them when it scales them")
    return model, notes


def account(
    file: File, model: tasks.TaskModel, *, ignore_frozen: bool, base: str
) -> list[tuple[nn.Module, dict[str, Tensor]]]:
    """Account for the whole file, and return modules with the tensors to load. The ledger collects problems."""
    form, ledger, backbone = file.form, file.ledger, model.backbone
    weights = [
        (backbone.unet, _take_unet(file, backbone)),
        (model.head, ledger.take("head", head_names(form, model.head, ledger.state), model.head.state_dict())),
    ]
    adapter = backbone.text_adapter
    if adapter is not None:
        names = {here: form.root + there for here, there in _ADAPTER.items()}
        weights.append((adapter, ledger.take("text adapter", names, adapter.state_dict())))
    ledger.drop(
        "text adapter",
        lambda key: key.startswith(f"{form.root}text_adapter.") or key == f"{form.root}gamma",
        "the model did not use it",
    )
    _class_embeddings(file, backbone)
    _frozen(file, backbone, ignore=ignore_frozen, base=base)
    ledger.drop(
        "schedule",
        lambda key: key.startswith(form.whole) and _SCHEDULE.fullmatch(key.removeprefix(form.whole)) is not None,
        "noise levels, which perception never needs",
    )
    ledger.drop("moving average", lambda key: key.startswith(f"{form.whole}model_ema."), "the model ran without it")
    if form.head == "smp":
        ledger.drop("reduce_embeds", lambda key: key.startswith("reduce_embeds."), "built, and never run")
    if form.task == "detection":
        ledger.drop("ResNet-50", lambda key: key.startswith("decode_head.backbone."), "built, and never run")
    for key, value in file.extra.items():
        if key in _TRAINING:
            ledger.parts.append(Part(key, sum(1 for _ in tensors_in(value)), "dropped: training state"))
        else:
            ledger.problem("unknown", f"{key} (next to the weights)")
    return weights


def _take_unet(file: File, backbone: TADPBackbone) -> dict[str, Tensor]:
    form, ledger = file.form, file.ledger
    unet: Any = backbone.unet
    prefix = f"{form.unet}diffusion_model."
    names = {here: prefix + there for here, there in ldm_unet_names(unet).items()}
    tensors = ledger.take("U-Net", names, backbone.unet.state_dict(), optional=_UNUSED_UNET)
    ledger.drop_copy("second U-Net", f"{form.whole}model.diffusion_model.", prefix)
    return tensors


def _class_embeddings(file: File, backbone: TADPBackbone) -> None:
    key = f"{file.form.root}class_embeddings"
    embeddings = file.ledger.state.get(key)
    width = backbone.layout.text_width
    if embeddings is None:
        if file.text.mode == "stored":
            file.ledger.problem("missing", key)
        return
    if file.text.mode != "stored":
        file.ledger.drop("class embeddings", lambda name: name == key, "the text was captions")
        return
    expected = torch.empty(embeddings.shape[0], width)
    file.ledger.take("class embeddings", {"embeddings": key}, {"embeddings": expected})


def _frozen(file: File, backbone: TADPBackbone, *, ignore: bool, base: str) -> None:
    """Compare VAE and text encoder with the base model's, as far as the file has them."""
    form, ledger = file.form, file.ledger
    vae: Any = backbone.vae
    inside = f"{form.whole}first_stage_model."
    prefix = form.vae if ledger.has(form.vae) else inside
    if prefix != inside:
        ledger.drop_copy("second VAE", inside, prefix)
    names = {here: prefix + there for here, there in ldm_vae_names(vae).items()}
    ledger.compare("VAE encoder", names, backbone.vae.state_dict(), base=base, ignore=ignore)
    ledger.drop(
        "VAE decoder",
        lambda key: key.startswith((f"{prefix}decoder.", f"{prefix}post_quant_conv.")),
        "perception never decodes",
    )
    prefix = f"{form.whole}cond_stage_model.transformer."
    if backbone.text_encoder is None:
        if ignore:
            ledger.drop("text encoder", lambda key: key.startswith(prefix), f"{base} has no text encoder to compare")
        return
    model = only_encoder(backbone.text_encoder).model
    text: Mapping[str, Tensor] = model.state_dict()
    names = {here: prefix + there for here, there in ldm_text_names(model).items()}
    ledger.compare("text encoder", names, text, base=base, ignore=ignore)
    ledger.drop("positions", lambda key: key == f"{prefix}text_model.embeddings.position_ids", "0, 1, 2 …")
