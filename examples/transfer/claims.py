"""The paper's figures, and which of its claims a study on rendered scenes can test."""

_ROWS = ("null", "simple", "textual_inversion", "dreambooth", "nearby", "unrelated")


def _by_modifier(*values: float) -> dict[str, float]:
    return dict(zip(_ROWS, values, strict=True))


# Tables 5 and 4: for each column of the paper, our column on rendered scenes and the paper's figures.
PAPER = {
    "detection": {
        "watercolor2k AP": ("watercolor AP", _by_modifier(42.1, 43.5, 43.2, 43.2, 42.0, 42.2)),
        "watercolor2k AP50": ("watercolor AP50", _by_modifier(72.1, 72.2, 72.2, 72.2, 71.5, 71.9)),
        "comic2k AP": ("comic AP", _by_modifier(31.1, 31.9, 33.2, 32.9, 31.8, 32.0)),
        "comic2k AP50": ("comic AP50", _by_modifier(57.4, 56.6, 57.4, 56.9, 56.4, 55.9)),
    },
    "segmentation": {
        "dark-zurich mIoU": ("night mIoU", _by_modifier(42.8, 39.1, 41.4, 38.9, 41.9, 42.3)),
        "nighttime-driving mIoU": ("night mIoU", _by_modifier(57.5, 56.9, 60.8, 60.4, 56.9, 55.1)),
    },
}
VERDICTS = """\
The paper's figures are in per cent, and all differences are in percentage points. A verdict compares the signs of the
two differences from *null*:

- *agrees*: our interval excludes zero, and our difference has the sign of the paper's.
- *disagrees*: our interval excludes zero, and our difference has the opposite sign.
- *cannot tell*: our interval includes zero, or the paper's difference is zero.

The paper gives no intervals, so its small differences may be due to chance."""
# Said before the comparison.
REPEATED = {
    "detection": "",
    "segmentation": """\
The paper has two data sets of night images, and we have one target, so each of our differences occurs twice.""",
}
TINY = """\
**The target styles are not new to the U-Net of `tadp-tiny`, only to the head.** 10 % of the scenes in its training were
watercolors, 10 % comics and 10 % night scenes, with words for the style in their captions, such as those of the row
*simple*. Stable Diffusion has seen such images and words, too."""
CLAIMS = {
    "detection": """\
**The model does not know the word "constructivism" of *nearby*, nor "dashcam" of *unrelated*.** The verdicts on these
two rows therefore only say what unknown words do.

**The phrase of *textual_inversion* and *dreambooth* already points to comics.** It is "a TOKEN style painting of",
where TOKEN is the learned token for *textual_inversion* and "sks" for *dreambooth*. Captions of comics in the training
contained "style painting", and those of watercolors contained "painting".""",
    "segmentation": """\
**The model does not know the word "foggy" of *nearby*.** The verdicts on this row therefore only say what an unknown
word does. The row *unrelated* is a fair test, because the model knows watercolors.

**The phrases of *textual_inversion* and *dreambooth* already point to the night.** They are "a dark TOKEN photo of …",
where TOKEN is the learned token, and "a dashcam photo of … at sks night"; "…" is the caption. Captions of night scenes
in the training contained "dark night photo". The model knows neither "dashcam" nor "sks".""",
}
