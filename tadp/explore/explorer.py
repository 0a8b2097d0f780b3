"""`Explorer`: the models of `tadp explore`, and what they compute for one request. Nothing here knows the browser."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Event, Lock
from typing import Any

import torch
from PIL import Image
from torch import nn

from tadp import prompts
from tadp.backbone import TADPBackbone
from tadp.captioner import Captioner
from tadp.errors import CaptionError, ImageError, ModifierError, TADPError
from tadp.extract import shrink
from tadp.features import Features
from tadp.images.reading import ImageLike, to_pil
from tadp.modifiers import CaptionModifier
from tadp.tasks import TaskModel
from tadp.text.conditioning import Conditioning

MODES = {  # names as in `tadp prompt`, with what the page calls them
    "caption": "Caption",
    "nouns": "Nouns of the caption",
    "oracle": "Oracle: names of what is in the image",
    "class-names": "Class names in one line",
    "class-embeddings": "Class names, each encoded separately",
    "averaged-eos": "Class names, averaged end tokens",
    "null": "Empty prompt",
}
_PAPER_KINDS = ("simple", "nearby", "unrelated")  # "null" changes nothing, and the others need trained weights
_SHOWN_PX = 1024  # longer side of the image that the page shows
_CAPTION_PASSES = 20  # of a captioner, for the progress bar: about one per token

Report = Callable[[float, str], object]  # progress from 0 to 1, and the current step


class Stopped(Exception):  # noqa: N818  not an error
    """The person who sent the request stopped it."""


@dataclass(frozen=True)
class Side:
    """One of the texts that a request compares, and how the features with it are computed.

    Attributes:
        model: Name of the backbone.
        mode: The source of the text, a key of `MODES`.
        words: The caption, or class names separated by commas. If it is empty, the captioner writes the caption, and
            the class names are those of the explorer.
        modifier: Name of a modifier, or a template such as "a foggy photo of {caption}"; "" for none.
        timestep: Timestep of the features.
        noise_samples: Number of noise samples whose features are averaged; 0 adds no noise.
        noise_seed: Seed of the noise.
    """

    model: str
    mode: str = "caption"
    words: str = ""
    modifier: str = ""
    timestep: int = 0
    noise_samples: int = 0
    noise_seed: int = 0


@dataclass(frozen=True, eq=False)
class View:
    """What a request computed for one side.

    Attributes:
        text: The text that the backbone read; for embeddings, their names separated by commas.
        details: Sentences about the text and the image.
        image: The image as the models saw it.
        features: The features of the image, with the attention of all levels and nothing attached.
        page: The interactive figure, as a complete HTML page.
        predictions: By the name of each task model, the picture of its prediction, or a sentence why it is missing.
        strides: Stride in pixels of each level, by level.
    """

    text: str
    details: tuple[str, ...]
    image: Image.Image
    features: Features
    page: str
    predictions: Mapping[str, Image.Image | str]
    strides: tuple[int, ...]


class Explorer:
    """Models that several people may use at once. One request is computed at a time, and leaves the models unchanged.

    Args:
        backbones: The backbones by name.
        captioner: The captioner of images without a typed caption; None if all captions must be typed.
        task_models: Task models by name, whose predictions are shown.
        modifiers: Saved modifiers by name, besides the paper's.
        classes: Class names of the prompts that need them, if none are typed.
        max_side_px: Limit of an image's longer side in pixels. Larger images are shrunk for the models.
    """

    def __init__(
        self,
        backbones: Mapping[str, TADPBackbone],
        *,
        captioner: Captioner | None = None,
        task_models: Mapping[str, TaskModel] | None = None,
        modifiers: Mapping[str, CaptionModifier] | None = None,
        classes: Sequence[str] = (),
        max_side_px: int = 512,
    ):
        self.backbones, self.captioner, self.task_models = dict(backbones), captioner, dict(task_models or {})
        self.modifiers = {
            f"{domain}:{kind}": CaptionModifier.for_domain(domain, kind)
            for domain in ("watercolor", "comic", "night")
            for kind in _PAPER_KINDS
        } | dict(modifiers or {})
        self.classes, self.max_side_px = tuple(classes), max_side_px
        self._lock = Lock()

    def explore(
        self,
        image: ImageLike,
        sides: Sequence[Side],
        *,
        names: Sequence[str] = (),
        with_heads: bool = False,
        predict: bool = True,
        report: Report = lambda share, step: None,
        stop: Event | None = None,
    ) -> list[View]:
        """Compute features and predictions of an image for each side.

        Args:
            image: The image.
            sides: The texts and settings to compare.
            names: Names to pool attention by.
            with_heads: Whether the figures have layers and heads.
            predict: Whether the task models predict.
            report: Function that is called with the progress.
            stop: Event that stops the work, also in the middle of a pass; None if nothing stops it.

        Returns:
            One `View` per side.

        Raises:
            Stopped: If `stop` was set.
            TADPError, TypeError, ValueError: If the image, a text or a setting cannot be used. The message is for the
                person who sent the request.
        """
        picture = to_pil(image)
        seen = shrink(picture, self.max_side_px)
        details = () if seen is picture else (f"The image is shrunk from {_size(picture)} to {_size(seen)} pixels.",)
        steps = len(sides) * (2 + len(self.task_models) * predict)
        with self._lock, torch.inference_mode():
            work = _Work(steps, report, stop or Event())
            captions: dict[str, str] = {}  # by the words that were typed, so that the captioner runs once
            views = []
            for side in sides:
                if side.mode in ("caption", "nouns") and side.words not in captions:
                    captions[side.words] = side.words or self._described(seen, work)
                work.finish_step()
                views.append(
                    self._view(
                        side,
                        captions.get(side.words, ""),
                        seen,
                        shrink(picture, _SHOWN_PX),
                        work,
                        details=details,
                        names=names,
                        with_heads=with_heads,
                        predict=predict,
                    )
                )
        return views

    def _view(
        self,
        side: Side,
        caption: str,
        seen: Image.Image,
        shown: Image.Image,
        work: "_Work",
        *,
        details: tuple[str, ...],
        names: Sequence[str],
        with_heads: bool,
        predict: bool,
    ) -> View:
        """The view of one side, for an image as the models see it and as the page shows it."""
        backbone = self.backbones[side.model]
        modifier = self._modifier(side.modifier)
        tasks = self.task_models if predict else {}
        levels = backbone.layout.attention_levels
        options: dict[str, Any] = {"attach_attention": (), "levels": None, "record_attention": levels}
        options |= {"timestep": side.timestep, "noise_samples": side.noise_samples, "noise_seed": side.noise_seed}
        backbone = backbone.with_options(**options, record_heads=with_heads)
        with ExitStack() as installed:  # a modifier with weights changes the backbones until the end of the block
            for model in (backbone, *(task.backbone for task in tasks.values())):
                if modifier.brings_unet or set(modifier.tokens):
                    installed.enter_context(modifier.install(model))
            text = self._text(side, caption, modifier, backbone)
            with work.step(f"features of {side.model}", backbone, passes=max(1, side.noise_samples)):
                features = backbone(seen, text, truncate=True)
            for sentence in features.broken().values():
                raise ImageError(f"The features cannot be shown: {sentence}")
            predictions = {name: _prediction(task, name, seen, text, work) for name, task in tasks.items()}
        page = features.to_html(shown, names=names, layers=backbone.layout.attention_layers)
        words, sentence = _described_text(text, backbone)
        return View(words, (sentence, *details), seen, features, page, predictions, backbone.strides)

    def _described(self, seen: Image.Image, work: "_Work") -> str:
        if self.captioner is None:
            raise CaptionError("There is no captioner: type a caption, or start tadp explore with --captioner.")
        with work.step("caption", self.captioner.model, passes=_CAPTION_PASSES, finish=False):
            caption = self.captioner(seen)[0]
        if not caption:
            raise CaptionError("The captioner wrote no caption for this image. Type one.")
        return caption

    def _modifier(self, name: str) -> CaptionModifier:
        if name in self.modifiers:
            return self.modifiers[name]
        if name and "{" not in name:
            raise ModifierError(
                f"There is no modifier {name!r}. Choose one from the list, or type a template such as 'a foggy photo "
                "of {caption}'."
            )
        return CaptionModifier(name or "{caption}")

    def _text(self, side: Side, caption: str, modifier: CaptionModifier, backbone: TADPBackbone) -> str | Conditioning:
        """The text of a side: what G is in the paper."""
        typed = tuple(name.strip() for name in side.words.split(",") if name.strip())
        if side.mode == "oracle" and not typed:
            raise CaptionError("Type the names of what is in the image, separated by commas, such as: dog, car.")
        names = typed or self.classes
        if side.mode.startswith(("class", "averaged")) and not names:
            raise CaptionError("Type class names, separated by commas, such as: dog, dining table.")
        if side.mode in ("class-embeddings", "averaged-eos"):
            if side.modifier:
                raise ModifierError(
                    f"A modifier changes words, which the prompt {MODES[side.mode]!r} does not have. Choose another "
                    "prompt, or no modifier."
                )
            make = prompts.class_embeddings if side.mode == "class-embeddings" else prompts.averaged_eos
            return make(names, backbone)
        if side.mode == "null":
            texts = prompts.null(1)
        elif side.mode in ("oracle", "class-names"):
            texts = prompts.class_names(names)
        else:
            texts = prompts.nouns(caption) if side.mode == "nouns" else [caption]
        return modifier(texts)[0] if side.modifier else texts[0]


def _prediction(
    model: TaskModel, name: str, seen: Image.Image, text: str | Conditioning, work: "_Work"
) -> Image.Image | str:
    """The picture of a prediction, or the reason why it is missing."""
    with work.step(f"prediction of {name}", model):
        try:
            return model.predict(seen, text if model.prompt_mode == "captions" else None).plot()
        except (TADPError, ValueError) as error:
            return f"No prediction: {error}"


def _described_text(text: str | Conditioning, backbone: TADPBackbone) -> tuple[str, str]:
    """What the page writes about a text: its words, and a sentence about its length."""
    if isinstance(text, Conditioning):
        words = text.words[0] if text.words else ()
        return ", ".join(word.text for word in words), f"{text.embeddings.shape[1]} embeddings."
    encoder = backbone.text_encoder
    if encoder is None:
        return text, ""
    count, limit = encoder.count_tokens([text])[0], encoder.max_length
    cut = "" if count <= limit else " The end was cut, because the text is too long."
    return text, f"{count} of {limit} tokens.{cut}"


def _size(picture: Image.Image) -> str:
    return f"{picture.width}x{picture.height}"


class _Work:
    """The progress of a request, which can be stopped before each block of a network."""

    def __init__(self, steps: int, report: Report, stop: Event):
        self._steps, self._report, self._stop = steps, report, stop
        self._done = 0

    @contextmanager
    def step(self, title: str, network: nn.Module, *, passes: int = 1, finish: bool = True) -> Iterator[None]:
        """Run a network in this block.

        Args:
            title: The step for the progress bar.
            network: The network that runs.
            passes: About how often it runs.
            finish: Whether the step is done at the end of the block.
        """
        blocks = [module for module in network.modules() if next(module.children(), None) is not None]
        total, count = len(blocks) * passes, 0

        def before_block(*_: object) -> None:
            nonlocal count
            if self._stop.is_set():
                raise Stopped
            self._report((self._done + min(count / total, 0.95)) / self._steps, title)
            count += 1

        hooks = [block.register_forward_pre_hook(before_block) for block in blocks]
        try:
            before_block()
            yield
        finally:
            for hook in hooks:
                hook.remove()
        if finish:
            self.finish_step()

    def finish_step(self) -> None:
        """Count a step as done."""
        self._done += 1
