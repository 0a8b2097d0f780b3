"""The text of the training scripts: its options, and the classes in it."""

import argparse
from collections.abc import Iterable

from tadp.tasks import PROMPT_MODES
from tadp.trainer.trained_task import OF_NAMES

WITH_BACKGROUND = ("voc",)  # data sets whose class names include "background" in the paper's text


def add_text_options(group: argparse._ArgumentGroup, data: Iterable[str]) -> None:
    """Add the options. Scripts for depth have rooms in place of classes."""
    modes = [mode for mode in PROMPT_MODES if mode != "stored"]  # stored text comes with converted models
    group.add_argument("--text", choices=modes, default="captions", help="text for the U-Net")
    if "nyu" in data:
        group.add_argument(
            "--own-class",
            action=argparse.BooleanOptionalAction,
            default=True,
            help="in a text of names, give each image only the name of its own room, as in the paper, or the place of "
            "its scene; --no-own-class names all rooms",
        )
    else:
        group.add_argument(
            "--background",
            action=argparse.BooleanOptionalAction,
            help="whether a text of names includes 'background'; the default is the paper's choice: only for voc",
        )
    group.add_argument("--text-adapter", action="store_true", help="train VPD's text adapter, too (TA in the paper)")
    group.add_argument(
        "--no-latent-scaling", action="store_true", help="leave latents unscaled, as VPD does (no LS in the paper)"
    )


def settle_text(options: argparse.Namespace) -> None:
    """Set the options that only apply to a text of names: `own_class` and `background`, which are False without one."""
    values, is_of_names = vars(options), options.text in OF_NAMES
    background = values.get("background")
    options.own_class = is_of_names and values.get("own_class", False)
    options.background = is_of_names and (options.data in WITH_BACKGROUND if background is None else background)
