"""`tadp info`: print tables of a model's levels, parts and numbers, which are read from its configuration."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tadp.cli.app import Revision, Variant, command
from tadp.cli.terminal import TINY, cell, no_gc, own_captioner, silence
from tadp.errors import MissingFileError, UnknownModelError

if TYPE_CHECKING:
    from tadp.backbone import TADPBackbone
    from tadp.cli.model_facts import ModelFacts

_PARTS = {"unet": "U-Net", "vae": "VAE encoder"}  # names of parts in the table; others are their folders' names


@command("tadp info", "tadp info stable-diffusion-v1-5/stable-diffusion-v1-5")
def info(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="tadp-tiny, a folder in diffusers layout, or a hub id.")
    ] = TINY,
    revision: Revision = None,
    variant: Variant = None,
) -> None:
    """Print the levels, channels, strides and parts of a model.

    No weights are loaded. If a hub model is not on this machine, only its configuration is downloaded.
    """
    with no_gc():
        tables = model_tables(model, revision=revision, variant=variant)
    console = Console(highlight=False)
    for table in tables:
        console.print(table)
        console.print()


def model_tables(model: str, *, revision: str | None = None, variant: str | None = None) -> list[Table]:
    """Describe a model in three tables: its levels, its parts, and its key numbers.

    Args:
        model: A name, folder or hub id that `TADPBackbone.from_pretrained` accepts. If a model on the hub has not been
            downloaded yet, only its configuration is downloaded.
        revision: Branch, tag or commit of a model on the hub; None is the default branch.
        variant: Variant of the weight files whose size is shown, such as "fp16"; None for files without a variant.

    Raises:
        UnknownModelError: If there is no such model.
        ModelError: If the model belongs to no known family, or a part is missing.
    """
    from tadp.cli.model_facts import facts_of, facts_of_files

    folder = _model_files(model, revision, variant)
    known = facts_of_files(folder, variant) or facts_of(_hollow_backbone(folder))
    facts = Table(box=None, show_header=False, pad_edge=False)
    applied = "" if known.scales_latents else " (not applied)"
    facts.add_row("Scaling factor", f"{known.scaling_factor:g}{applied}")
    facts.add_row("Text length", f"{known.text_length} tokens")
    if known.pooled:
        facts.add_row("Attention by name", cell(", ".join(known.pooled), overflow="fold"))
    facts.add_row("Timestep", known.timestep)
    facts.add_row("Captioner", "its own" if own_captioner(model) else "none of its own")
    facts.add_row("Folder", cell(str(folder), overflow="fold"))
    return [_level_table(model, known), _part_table(folder, variant, known), facts]


def _level_table(model: str, facts: "ModelFacts") -> Table:
    table = Table(
        "Level", "Stride", "Channels", "Attention", "Tapped at", box=None, title=cell(model), title_justify="left",
        pad_edge=False,
    )  # fmt: skip
    for level in facts.levels:
        is_attached = level.attached is not None
        attention = "attached" if is_attached else "yes" if level.has_attention else "no"
        channels = f"{level.channels} + {level.attached}" if is_attached else str(level.channels)
        table.add_row(str(level.number), str(level.stride), channels, attention, level.tap)
    return table


def _part_table(folder: Path, variant: str | None, facts: "ModelFacts") -> Table:
    table = Table("Part", "Parameters", "On disk", box=None, pad_edge=False)
    for part, count in facts.parameters.items():
        name = _PARTS.get(part, part.replace("_", " "))
        table.add_row(name, _readable(count), _on_disk(folder, part, variant))
    return table


def _model_files(model: str, revision: str | None, variant: str | None) -> Path:
    """A model's folder. If a hub model is not on this machine, the folder has only its configuration."""
    from tadp.files.hub import HubOptions, local_folder
    from tadp.files.model_folder import CONFIG_NAME, KNOWN, SCHEDULER, model_folder

    try:
        return model_folder(model, hub=HubOptions(revision, variant, local_files_only=True))
    except UnknownModelError:
        if "/" not in model or Path(model).exists() or len(Path(model).parts) != 2:
            raise
        patterns = [CONFIG_NAME, "*/config.json", "tokenizer*/*", SCHEDULER]
        return local_folder(model, patterns=patterns, known=KNOWN, hub=HubOptions(revision))


def _hollow_backbone(folder: Path) -> "TADPBackbone":
    """The backbone that a folder describes, with shapes but without weights."""
    from tadp.backbone import TADPBackbone
    from tadp.backbone.options import check_saved_options
    from tadp.diffusion.loading.networks import hollow_denoiser, hollow_text, hollow_vae
    from tadp.diffusion.noise import read_scheduler
    from tadp.files.hub import read_json
    from tadp.files.model_folder import CONFIG_NAME

    silence()
    saved = read_json(folder / CONFIG_NAME) if (folder / CONFIG_NAME).exists() else {}
    check_saved_options(saved.get("options", {}), folder / CONFIG_NAME)
    denoiser = hollow_denoiser(folder)
    text = hollow_text(folder, denoiser) if saved.get("has_text_encoder", True) else None
    parts: dict[str, Any] = {"unet": denoiser, "text_encoder": text, "scheduler": read_scheduler(folder)}
    return TADPBackbone(vae=hollow_vae(folder), **parts, **saved.get("options", {}))


def _on_disk(folder: Path, part: str, variant: str | None) -> str:
    from tadp.files.hub import weight_files
    from tadp.files.model_folder import WEIGHTS

    try:
        size = sum(file.stat().st_size for file in weight_files(folder / part, WEIGHTS[part], variant))
    except MissingFileError:
        return "not here"
    return f"{_readable(size)}B"


def _readable(number: float) -> str:
    for unit in ("", "k", "M"):
        if number < 1000:
            return f"{number:.3g} {unit}".strip()
        number /= 1000
    return f"{number:.3g} G"
