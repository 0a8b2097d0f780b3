"""Arguments of constructors and functions, and options of the command line, with values of each wrong class."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from .cases import Kind, family, tadp
from .damage import VALUES
from .fixtures import CLASSES, copy, fixture, picture

# For each type of argument, the values of `VALUES` that are wrong for it.
TYPES: dict[str, tuple[str, ...]] = {
    "count": ("null", "true", "text", "list", "object", "negative", "zero", "fraction", "NaN", "infinite"),
    "length": ("true", "text", "list", "object", "negative", "zero", "fraction", "NaN", "infinite"),
    "whole": ("true", "text", "list", "object", "negative", "fraction", "NaN", "infinite"),
    "positive": ("text", "list", "object", "negative", "zero", "NaN", "infinite"),
    "share": ("text", "list", "object", "negative", "NaN", "infinite", "huge"),
    "flag": ("text", "list", "object", "fraction"),
    "choice": ("true", "text", "empty text", "list", "object", "fraction"),
    "names": ("null", "text", "list", "empty list", "fraction", "zero"),
    "levels": ("text", "list", "object", "fraction", "negative"),
    "label": ("null", "true", "text", "list", "object", "fraction"),
    "amount": ("text", "list", "object", "negative", "NaN", "infinite"),
    "text": ("true", "list", "empty list", "object", "fraction"),
    "words": ("list", "object", "fraction", "true"),
}
PRESENT = [["sky"], ["tree"]]


class Call(NamedTuple):
    """Something to call, its arguments as "name:type", and values for those that it needs besides."""

    call: Callable[..., Any]
    arguments: str
    needs: Mapping[str, Any] = {}


def lazy(path: str, *positional: Any) -> Callable[..., Any]:
    """A call of "module:attribute" that imports it first; positional arguments that are functions are called."""

    def call(**arguments: Any) -> Any:
        from importlib import import_module

        module, _, names = path.partition(":")
        target = import_module(module)
        for name in names.split("."):
            target = getattr(target, name)
        return target(*(value() if callable(value) else value for value in positional), **arguments)

    return call


def info() -> Any:
    from builders_heads import INFO

    return INFO


def maps() -> Any:
    from builders_heads import build_features

    return build_features(64, 64)


def backbone() -> Any:
    from tadp import TADPBackbone

    return TADPBackbone.from_pretrained(fixture("sd"))


def called(images: Any, text: Any, **options: Any) -> Any:
    return backbone()(images, text, **options)


def task(kind: str, **arguments: Any) -> Any:
    return lazy(f"tadp.tasks:{kind}", backbone)(**arguments)


OPTIONS = lazy("tadp:TADPBackbone.from_pretrained", lambda: fixture("sd"))
CALLS: dict[str, dict[str, Call]] = {
    "backbone": {
        "from_pretrained": Call(OPTIONS,
            "timestep:choice combine_timesteps:choice noise_samples:whole noise_seed:whole scale_latents:flag "
            "sample_posterior:flag imagenet_pixels:flag attach_attention:levels detach_attention:flag "
            "record_attention:levels record_heads:flag text_adapter:flag text_length:length pool_attention:words "
            "default_text:words levels:levels"),
    },
    "heads": {
        "LinearHead": Call(lazy("tadp.heads:LinearHead", info), "num_classes:count"),
        "SegmentationHead": Call(lazy("tadp.heads:SegmentationHead", info),
            "num_classes:count fpn_channels:count dropout:share norm:choice", {"num_classes": 3, "channels": 8}),
        "DepthHead": Call(lazy("tadp.heads:DepthHead", info), "max_depth_m:positive channels:count norm:choice",
            {"max_depth_m": 10.0, "channels": 4}),
        "DetectionHead": Call(lazy("tadp.heads:DetectionHead", info), "num_classes:count score_threshold:share",
            {"num_classes": 3, "channels": 8, "hidden_channels": 8}),
    },
    "metrics and losses": {
        "MeanIoU": Call(lazy("tadp.metrics:MeanIoU"), "classes:count ignore_label:label", {"classes": 3}),
        "MeanIoU of names": Call(lazy("tadp.metrics:MeanIoU"), "classes:words", {"classes": CLASSES}),
        "DepthMetrics": Call(lazy("tadp.metrics:DepthMetrics"), "max_depth_m:positive crop:choice"),
        "VOCDetection": Call(lazy("tadp.metrics:VOCDetection"), "class_names:names rule:choice iou:share",
            {"class_names": CLASSES}),
        "oracle": Call(lazy("tadp.prompts:oracle", PRESENT, CLASSES), "precision:share recall:share seed:words"),
        "class_names": Call(lazy("tadp.prompts:class_names"), "classes:names"),
    },
    "task models": {
        "segmentation": Call(partial(task, "TADPForSemanticSegmentation"),
            "class_names:names head:choice prompt_mode:choice tune:choice lora_rank:count loss:choice window_px:count "
            "stride_px:length", {"class_names": CLASSES, "tune": "nothing"}),
        "depth": Call(partial(task, "TADPForDepthEstimation"), "max_depth_m:positive", {"tune": "nothing"}),
    },
    "captioner and cleaners": {
        "Captioner": Call(lazy("tadp:Captioner.from_pretrained", lambda: fixture("blip")),
            "min_new_tokens:whole max_new_tokens:count batch_size:count num_beams:count temperature:amount prompt:words"
            ),
        "EndpointCleaner": Call(lazy("tadp.cleaning:EndpointCleaner"),
            "url:choice domain:words key_variable:choice batch_size:count timeout_s:positive retries:whole "
            "backoff_s:amount", {"url": "http://127.0.0.1:9/v1", "model": "m"}),
    },
    "personalize": {
        "RunOptions": Call(lazy("tadp.personalize:RunOptions"),
            "steps:whole batch_size:whole micro_batch:whole lr:positive weight_decay:share seed:whole side_px:whole "
            "checkpoint_every:whole sample_every:whole"),
    },
    "schedules": {
        "Schedule": Call(lazy("tadp.training.schedules:Schedule"),
            "steps:length batch:count lr:positive unet_scale:amount weight_decay:amount groups:choice shape:choice "
            "power:positive min_lr:amount warmup_steps:whole", {"steps": 10, "batch": 2, "lr": 1e-3}),
    },
    "calls and readers": {
        "CaptionModifier": Call(lazy("tadp:CaptionModifier"), "template:choice token:words",
            {"template": "a {caption}"}),
        "backbone(images)": Call(partial(called, text="a dog"), "images:choice"),
        "backbone(images, text)": Call(called, "text:text", {"images": picture}),
        "MaskFolder": Call(
            lazy("tadp.datasets:MaskFolder", lambda: fixture("own/images"), lambda: fixture("own/masks")),
            "class_names:names captions:choice on_error:choice", {"class_names": CLASSES}),
        "PascalVOC": Call(lazy("tadp.datasets:PascalVOC", lambda: fixture("voc")), "split:choice captions:words"),
        "RenderedScenes": Call(lazy("tadp.datasets:RenderedScenes"), "count:label size:label", {"count": 1, "seed": 1}),
    },
}  # fmt: skip


def call_with(call: Call, name: str, sort: str, folder: Path, rng: Random) -> Any:
    arguments = {key: value() if callable(value) else value for key, value in call.needs.items()}
    return call.call(**(arguments | {name: VALUES[sort]}))


MORE_NAMES = {"images": "image", "text": "text|caption", "names": "class_names"}


def arguments_of(group: str) -> Iterator[Kind]:
    for title, call in CALLS[group].items():
        for argument in call.arguments.split():
            name, _, kind = argument.partition(":")
            for sort in TYPES[kind]:
                run = partial(call_with, call, name, sort)
                yield Kind(f"{title}, {name} is {sort}", run, names=MORE_NAMES.get(name, name))


def capped(group: str) -> Iterator[Kind]:
    """At most 60 kinds, spread over all arguments."""
    kinds = list(arguments_of(group))
    step = -(-len(kinds) // 60)
    return iter(kinds[::step])


for group in CALLS:
    family(f"arguments: {group}")(partial(capped, group))

# Options of commands: a valid command, and for each option the wrong values.
PHOTO = "photos/photo-0.png"
COMMANDS: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "extract": (f"extract {PHOTO} -o out --caption dog", {
        "--batch-size": ("0", "-1", "two", "1.5", "9" * 5000), "--max-side": ("7", "x"), "--tile": ("0", "100", "x"),
        "--overlap": ("-1", "x"), "--level": ("9", "-1", "x"), "--attention": ("3", "x"), "--dtype": ("float8", ""),
        "--device": ("tpu:99", "cuda:99"), "--model": ("nowhere", "", "a/b/c", "../..", "\x1b[31m"),
        "--captions": ("nowhere.json", PHOTO, "."),
    }),
    "caption": (f"caption {PHOTO} -o out.json", {
        "--max-new-tokens": ("0", "x"), "--num-beams": ("0", "x"), "--min-new-tokens": ("-1", "100"),
        "-o": ("out.txt", "out", "photos", f"{PHOTO}/out.json", ""), "--model": ("nowhere", "photos"),
    }),
    "clean": ("clean captions/captions.jsonl -o out.jsonl", {
        "--domain": ("", ",", "mars", "watercolour"), "-o": ("out.txt", "captions/captions.json", ""),
        "--endpoint": ("ftp://x", "localhost", "http://u:p@127.0.0.1/", ""),
    }),
    "show": (f"show {PHOTO} --caption dog -o out.png", {
        "-o": ("out.txt", PHOTO), "--level": ("9",), "--caption": ("", "!!!"), "--max-side": ("0",),
    }),
    "prompt": ("prompt class-names --classes dog,cat", {
        "--classes": ("", ",", "@nowhere", "@photos", "@/dev/zero"), "--modifier": ("mars:simple", "x", ":"),
    }),
    "export": ("export tadp-tiny -o out.onnx", {
        "--size": ("0x0", "x", "64", "64x-64", "1x1", f"{'9' * 30}x64"), "--opset": ("3", "x", "9999"),
        "--batch-size": ("0",),
    }),
}  # fmt: skip


def run_with(base: str, option: str, value: str, folder: Path, rng: Random) -> str:
    for name in ("photos", "captions"):
        copy(name, folder)
    arguments = base.split()
    if option in arguments:
        arguments[arguments.index(option) + 1] = value
    else:
        arguments += [option, value]
    return tadp(*arguments)


@family("arguments: command line")
def command_line() -> Iterator[Kind]:
    for command, (base, options) in COMMANDS.items():
        for option, values in options.items():
            for value in values[: 3 if command == "extract" else 2]:
                shown = value if len(value) < 30 else f"{value[:20]}…"
                long = {"-o": "--output|out|photo"}.get(option, option)
                names = f"{long}|{option.lstrip('-')}" + (f"|{value}" if value.isalpha() else "")
                yield Kind(f"{command} {option} {shown!r}", partial(run_with, base, option, value), names)
