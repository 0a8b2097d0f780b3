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
The table shows the paper's figures for its data sets in per cent, and our differences next to the paper's in percentage
points. The verdict compares the signs of the differences:

- agrees: our interval excludes zero, and our difference has the sign of the paper's.
- disagrees: our interval excludes zero, and our difference has the opposite sign.
- cannot tell: our interval includes zero, or the paper's difference is zero.

The paper gives no intervals, so its small differences may be due to chance."""
# Said before the comparison.
REPEATED = {
    "detection": "",
    "segmentation": """\
The paper has two data sets of night images, and we have one target. Our differences are therefore compared twice, and
the verdicts of the two comparisons are not independent.""",
}
TINY = """\
Of the scenes that `tadp-tiny` was trained on, 70 % were plain, 10 % watercolors, 10 % comics and 10 % scenes by night.
Captions of the last three began with "a watercolor painting of", "a comic style painting of" and "a dark night photo
of". So the target domains are new to the head, but not to the U-Net, which knows the words of the simple row. Stable
Diffusion has also seen watercolors, comics and nights, so in this respect the two models are alike."""
CLAIMS = {
    "detection": """\
No caption in the training of `tadp-tiny` contained "constructivism", "dashcam" or "sks". In rows with one of these
words, the model only knows the other words, such as "painting" or "photo".

Textual inversion and DreamBooth put the phrase "a TOKEN style painting of" before a caption, where TOKEN is the learned
token or "sks". In the training of `tadp-tiny`, captions of comics contained "style painting", and those of watercolors
contained "painting". So the phrase points to comics even if the token has no effect.

The study can therefore test whether it helps to name the target's style while training on the source, whether a learned
token does as much as the name of the style, whether DreamBooth's U-Net does more, and what cleaning changes (the last
row). The study cannot test how a nearby or an unrelated style compares with the right one, because the model knows
neither "constructivism" nor "dashcam". The verdicts on these two rows only say what unknown words do.""",
    "segmentation": """\
No caption in the training of `tadp-tiny` contained "foggy", "dashcam" or "sks". In rows with one of these words, the
model only knows the other words, such as "photo".

Textual inversion uses the phrase "a dark TOKEN photo of …", and DreamBooth "a dashcam photo of … at TOKEN night". TOKEN
is the learned token or "sks", and "…" is the caption. In the training of `tadp-tiny`, captions of night scenes
contained "dark night photo". So the phrases point to the night even if the token has no effect.

The study can therefore test whether it helps to name the night while training on images by day, whether a learned token
or DreamBooth's U-Net does better, and what cleaning changes (the last row). The unrelated row is a fair test, because
the model knows watercolors. The nearby row is not, because the model does not know fog. The verdicts on the nearby row
only say what an unknown word does.""",
}
