"""The page of `tadp explore`: Gradio's components, and how they call an `Explorer`."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

from PIL import Image

from tadp.datasets.scenes import Scenes, Style
from tadp.errors import TADPError
from tadp.explore.explorer import MODES, Explorer, Side, Stopped
from tadp.explore.pictures import component_pictures, difference_html, view_html
from tadp.files.checks import is_out_of_memory
from tadp.images.reading import ImageLike
from tadp.web.markup import escaped

_ADDRESS = "127.0.0.1"
_FONTS = ("system-ui", "sans-serif")  # Gradio's own are loaded from a server of Google
_EXAMPLES: tuple[tuple[int, Style, str, str], ...] = (
    (105, "plain", "", "a dog and a boat"),
    (112, "plain", "", ""),
    (105, "watercolor", "watercolor:simple", ""),
)
_LARGEST_FILE = "200mb"
_KEPT_S = 3600  # uploaded images are deleted after this time
_CSS = """
.gradio-container { max-width: none !important; }
.view h2, #difference h2 { font-size: 1.15rem; font-weight: 600; margin: 0 0 0.2rem; overflow-wrap: anywhere; }
.view h3 { font-size: 1rem; font-weight: 600; margin: 0.8rem 0 0.3rem; }
.view p, #difference p { opacity: 0.75; margin: 0 0 0.5rem; overflow-wrap: anywhere; }
.view iframe { border: 1px solid var(--border-color-primary) !important; border-radius: 0.5rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 8.5rem), 1fr)); gap: 0.8rem; }
.pictures figure { margin: 0; }
.pictures img { width: 100%; margin: 0; border-radius: 0.3rem; }
.pictures .cells { image-rendering: pixelated; }
.pictures figcaption { color: var(--body-text-color); font-size: 0.85rem; margin-top: 0.2rem; }
"""


def serve(gr: Any, explorer: Explorer, *, port: int, share: bool, title: str, started: Callable[[str], object]) -> None:
    """Serve the page until the process is interrupted.

    Args:
        gr: The module gradio.
        explorer: The models.
        port: A free port.
        share: Whether Gradio makes the page reachable from the internet.
        title: A line about the models.
        started: Function that is called with the page's address.
    """
    with tempfile.TemporaryDirectory() as folder:
        page = build_page(gr, explorer, title=title, examples=_rendered_examples(Path(folder)))
        _, local, public = page.queue(default_concurrency_limit=1, api_open=False).launch(
            server_name=_ADDRESS,
            server_port=port,
            share=share,
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            footer_links=[],
            max_file_size=_LARGEST_FILE,
            theme=gr.themes.Default(font=list(_FONTS), font_mono=["ui-monospace", "monospace"]),
            css=_CSS,
        )
        try:
            started(public or local)
            Event().wait()
        except KeyboardInterrupt:
            pass
        finally:
            page.close(verbose=False)


def _rendered_examples(folder: Path) -> list[list[Any]]:
    """Examples to click: the path of an image, its caption and modifier, a text to compare with, whether to compare."""
    examples = []
    for index, style, modifier, other_text in _EXAMPLES:
        scene = Scenes(113, seed=7, style=style)[index]
        path = folder / f"{style}-{index}.png"
        Image.fromarray(scene.image).save(path)
        plain_caption = Scenes(113, seed=7)[index].caption()
        examples.append([str(path), plain_caption, modifier, other_text, bool(other_text)])
    return examples


class Answer(NamedTuple):
    """What the page shows after a request.

    Attributes:
        status: HTML of a sentence about the request.
        views: HTML of each side; none if the request failed.
        difference: HTML of the difference between two sides; "" for one side.
    """

    status: str
    views: tuple[str, ...] = ()
    difference: str = ""


def answer(explorer: Explorer, image: ImageLike | None, sides: Sequence[Side], **options: Any) -> Answer:
    """Compute the content of the page. A mistake in the request leads to a sentence.

    Args:
        explorer: The models.
        image: The image, on the page its path; None if none was chosen.
        sides: The one or two sides to compare.
        **options: Keyword arguments of `Explorer.explore`.
    """
    if image is None:
        return _failed("Choose an image first, or click an example.")
    try:
        views = explorer.explore(image, sides, **options)
    except Stopped:
        return _failed("Stopped.")
    except (TADPError, TypeError, ValueError) as error:
        return _failed(str(error).replace(repr(image), "The image") if isinstance(image, str) else str(error))
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _failed("This needs more memory than there is. Use a smaller image, or start with a smaller --max-side.")
    features, levels = [view.features for view in views], range(max(len(view.strides) for view in views))
    components = zip(*(component_pictures(features, level) for level in levels), strict=True)
    sections = [view_html(view, own, letter=letter) for view, own, letter in zip(views, components, "AB", strict=False)]
    return Answer("", tuple(sections), difference_html(*views) if len(views) == 2 else "")


def _failed(sentence: str) -> Answer:
    return Answer(f'<p role="alert">{escaped(sentence)}</p>')


def build_page(gr: Any, explorer: Explorer, *, title: str, examples: Sequence[Any]) -> Any:
    """Build the page, a `gradio.Blocks`.

    Args:
        gr: The module gradio.
        explorer: The models.
        title: A line about the models.
        examples: Examples to click.
    """
    with gr.Blocks(title="tadp explore", analytics_enabled=False, delete_cache=(_KEPT_S, _KEPT_S)) as page:
        gr.HTML(f"<h1>tadp explore</h1><p>{escaped(title)}</p>", elem_id="heading")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                controls = _Controls.build(gr, explorer)
            with gr.Column(scale=3, min_width=280):
                shown = _Shown.build(gr)
        _connect(gr, explorer, controls, shown, examples)
    return page


class _Controls(NamedTuple):
    """The components that a request is read from; `sides` are in the order of `Side`."""

    image: Any
    examples: Any
    sides: tuple[tuple[Any, ...], ...]
    compare: Any
    second: Any
    names: Any
    with_heads: Any
    predict: Any
    run: Any
    stop: Any

    @classmethod
    def build(cls, gr: Any, explorer: Explorer) -> "_Controls":
        image = gr.Image(type="filepath", label="Image", sources=["upload", "clipboard"], height=260, buttons=[])
        # Gradio would open the file, and fail with a traceback if it is broken.
        image.preprocess = lambda payload: None if payload is None else payload.path
        with gr.Column() as examples:
            pass
        with gr.Row():
            run, stop = gr.Button("Show", variant="primary", min_width=90), gr.Button("Stop", min_width=90)
        first = _side_controls(gr, explorer, "A", next(iter(explorer.backbones)))
        compare = gr.Checkbox(label="Compare with another text, model or time")
        with gr.Column(visible=False) as second:
            other = _side_controls(gr, explorer, "B", list(explorer.backbones)[-1])
        with gr.Accordion("More", open=False):
            names = gr.Textbox("", label="Names to pool attention by", placeholder="dog, red car")
            with_heads = gr.Checkbox(label="Layers and heads in the figure")
            predict = gr.Checkbox(
                label="Predict", info=", ".join(explorer.task_models), value=True, visible=bool(explorer.task_models)
            )
        return cls(image, examples, (first, other), compare, second, names, with_heads, predict, run, stop)

    @property
    def inputs(self) -> set[Any]:
        """The components whose values a request has."""
        shared = {self.image, self.compare, self.names, self.with_heads, self.predict}
        return shared.union(*self.sides)


def _side_controls(gr: Any, explorer: Explorer, letter: str, model: str) -> tuple[Any, ...]:
    backbones = explorer.backbones
    with gr.Group():
        name = gr.Dropdown(list(backbones), value=model, label=f"Model {letter}", visible=len(backbones) > 1)
        mode = gr.Dropdown([(label, key) for key, label in MODES.items()], value="caption", label=f"Prompt {letter}")
        words = gr.Textbox(
            "",
            label=f"Text {letter}",
            lines=2,
            max_lines=6,
            placeholder="A caption, or names separated by commas. Empty: the captioner writes the caption.",
        )
        modifiers = [(f"{key} ({', '.join(own.templates)})", key) for key, own in explorer.modifiers.items()]
        modifier = gr.Dropdown(
            [("none", ""), *modifiers],
            value="",
            label=f"Modifier {letter}",
            info="Or type a template with {caption}.",
            allow_custom_value=True,
        )
        with gr.Accordion(f"Time and noise {letter}", open=False):
            start = backbones[model].options.timesteps[0]
            timestep = gr.Slider(0, 999, value=start, step=1, label="Timestep")
            samples = gr.Slider(0, 32, value=0, step=1, label="Noise samples", info="0 adds no noise.")
            seed = gr.Number(0, precision=0, minimum=0, label="Seed of the noise")
    return name, mode, words, modifier, timestep, samples, seed


class _Shown(NamedTuple):
    """The components that a request changes."""

    status: Any
    columns: tuple[Any, Any]
    views: tuple[Any, Any]
    difference: Any

    @classmethod
    def build(cls, gr: Any) -> "_Shown":
        status = gr.HTML("<p>Choose an image, or click an example.</p>", elem_id="status")
        columns, views = [], []
        with gr.Row():
            for letter in "AB":
                with gr.Column(min_width=320, visible=False) as column:
                    views.append(gr.HTML(elem_id=f"view-{letter}", elem_classes="view"))
                columns.append(column)
        difference = gr.HTML(elem_id="difference")
        return cls(status, (columns[0], columns[1]), (views[0], views[1]), difference)


def _connect(gr: Any, explorer: Explorer, controls: _Controls, shown: _Shown, examples: Sequence[Any]) -> None:
    """Let the buttons compute and stop."""
    runs: dict[str, Event] = {}  # by session: what stops its request
    bar = gr.Progress()  # Gradio recognises the default value of a parameter

    def begin(request: gr.Request) -> None:  # pyright: ignore[reportInvalidTypeForm]
        stop(request)
        runs[str(request.session_hash)] = Event()

    def run(
        values: Mapping[Any, Any],
        request: gr.Request,  # pyright: ignore[reportInvalidTypeForm]
        progress: Any = bar,
    ) -> dict[Any, Any]:
        sides = [Side(*(values[control] for control in side)) for side in controls.sides]
        result = answer(
            explorer,
            values[controls.image],
            sides[: 1 + values[controls.compare]],
            names=[name.strip() for name in values[controls.names].split(",") if name.strip()],
            with_heads=values[controls.with_heads],
            predict=values[controls.predict],
            report=lambda share, step: progress(share, desc=step),
            stop=runs.get(str(request.session_hash)),
        )
        views = (*result.views, "", "")
        return {
            shown.status: result.status,
            shown.difference: result.difference,
            **dict(zip(shown.views, views, strict=False)),
            **{column: gr.update(visible=bool(html)) for column, html in zip(shown.columns, views, strict=False)},
        }

    def stop(request: gr.Request) -> None:  # pyright: ignore[reportInvalidTypeForm]
        if str(request.session_hash) in runs:
            runs[str(request.session_hash)].set()

    def close(request: gr.Request) -> None:  # pyright: ignore[reportInvalidTypeForm]
        stop(request)
        runs.pop(str(request.session_hash), None)

    outputs = [shown.status, *shown.columns, *shown.views, shown.difference]
    inputs = [controls.image, controls.sides[0][2], controls.sides[0][3], controls.sides[1][2], controls.compare]
    with controls.examples:
        clicked = gr.Examples(list(examples), inputs, label="Examples", visible_columns=[0]).load_input_event
    for event in (clicked, controls.run.click, controls.sides[0][2].submit, controls.sides[1][2].submit):
        then = event.then if event is clicked else event
        then(begin, queue=False, api_visibility="private").then(
            run, controls.inputs, outputs, show_progress="full", show_progress_on=shown.status, api_visibility="private"
        )
    controls.stop.click(stop, queue=False, api_visibility="private")
    controls.compare.change(
        lambda is_on: gr.update(visible=is_on), controls.compare, controls.second, queue=False, api_visibility="private"
    )
    gr.context.Context.root_block.unload(close)
