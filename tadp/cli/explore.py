"""`tadp explore`: a page in the browser to try images, captions, prompts and models."""

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tadp.assets import TASK_MODELS
from tadp.cli.app import CaptionerName, Device, DtypeOption, Model, Revision, Variant, command
from tadp.cli.task_options import Task, find_task_model, load_task
from tadp.cli.terminal import TINY, Dtype, echo, load_backbone, load_captioner, native_px, own_captioner, print_warning
from tadp.errors import MissingExtraError
from tadp.files.checks import need

if TYPE_CHECKING:
    from tadp.tasks import TaskModel


@command(
    "tadp explore",
    "tadp explore --model stable-diffusion-v1-5/stable-diffusion-v1-5 --captioner blip2 --dtype bfloat16",
    "tadp explore --model-b my-tuned-model --modifier my-watercolors",
    "tadp explore --task-model my-model --port 8000",
)
def explore(
    model: Model = TINY,
    model_b: Annotated[
        str | None,
        typer.Option(
            "--model-b",
            help="A second model to compare with: a folder in diffusers layout, or a hub id.",
            show_default=False,
        ),
    ] = None,
    captioner: CaptionerName = None,
    task_model: Annotated[
        list[str] | None,
        typer.Option(
            "--task-model",
            help="Task model whose prediction is shown: a folder that save_pretrained wrote, or a hub id. Repeatable.",
            show_default="with --model tadp-tiny: the three that come with tadp",
        ),
    ] = None,
    modifier: Annotated[
        list[Path] | None,
        typer.Option(
            "--modifier", help="Folder of a saved caption modifier to choose from. Repeatable.", show_default=False
        ),
    ] = None,
    max_side: Annotated[
        int | None,
        typer.Option(
            "--max-side",
            min=8,
            help="Shrink images for the models if their longer side has more pixels than this.",
            show_default="the model's own size",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port of the page on 127.0.0.1; 0 is any free port.")
    ] = 7860,
    share: Annotated[
        bool,
        typer.Option(
            "--share",
            help="Make the page reachable from the internet, through a server of Gradio, for whoever has the address.",
        ),
    ] = False,
    device: Device = None,
    dtype: DtypeOption = Dtype.float32,
    revision: Revision = None,
    variant: Variant = None,
) -> None:
    """Explore images, captions, prompts and models on a page in the browser.

    Open the address that the command prints. On the page, choose an image, write its caption or let the captioner
    write it, and press Show. The page shows where each word is in the image, the principal components of the features,
    and the predictions of task models. Two captions, models or timesteps can be compared.

    The page is only reachable from this computer, and it sends nothing elsewhere. Ctrl-C ends the command.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # Gradio reads it when it is imported
    gradio = need("gradio", install="pip install 'tadp[app]'")
    port = _free_port(port)

    from tadp.datasets.scenes import CLASSES
    from tadp.explore import Explorer, serve
    from tadp.modifiers import CaptionModifier

    sources = dict.fromkeys([model, model_b or model])
    backbones = {
        source: load_backbone(
            source,
            dtype=dtype,
            device=device,
            revision=revision if source == model else None,
            variant=variant if source == model else None,
        )
        for source in sources
    }
    writer = captioner or own_captioner(model)
    explorer = Explorer(
        backbones,
        captioner=None if writer is None else load_captioner(writer, device),
        task_models=_task_models(task_model, model, device=device, dtype=dtype),
        modifiers={str(folder): CaptionModifier.from_pretrained(folder) for folder in modifier or ()},
        classes=CLASSES if model == TINY else (),
        max_side_px=max_side or min(map(native_px, backbones.values())),
    )
    note = " tadp-tiny only knows rendered scenes, as in the examples." if TINY in (model, writer) else ""
    serve(
        gradio,
        explorer,
        port=port,
        share=share,
        title=f"{' and '.join(sources)}. Captioner: {writer or 'none'}.{note}",
        started=lambda address: echo(f"open {address} in a browser; Ctrl-C ends the page"),
    )
    echo("ended")


def _free_port(port: int) -> int:
    """The port; for 0, any that is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            reason = f"port {port} cannot be used ({error.strerror}); pass another, or 0 for any free port."
            raise typer.BadParameter(reason, param_hint="--port") from error
        return probe.getsockname()[1]


def _task_models(names: list[str] | None, model: str, *, device: str | None, dtype: Dtype) -> dict[str, "TaskModel"]:
    """The task models by name; those that come with tadp if none are named and the backbone is tadp-tiny."""
    if names is None:
        kinds = {name: Task(task) for task, name in TASK_MODELS.items()} if model == TINY else {}
    else:
        kinds = {name: find_task_model(None, name, revision=None)[0] for name in names}
    models = {}
    for name, task in kinds.items():
        try:
            models[name] = load_task(task, name, base_model=None, device=device, dtype=dtype, revision=None)
        except MissingExtraError as error:
            if names is not None:
                raise
            print_warning(f"{name} is left out: {error}")
    return models
