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
The table shows the paper's figures for its data sets, and our differences next to the paper's, all in per cent. The
verdict compares their signs:

- agrees: our interval excludes zero and has the paper's sign.
- disagrees: our interval excludes zero and has the opposite sign.
- cannot tell: our interval includes zero, or the paper has no difference.

The paper gives a single figure per row without an interval, so its own small differences may be chance, too."""
TINY = """\
`tadp-tiny` was trained on all four styles: of ten scenes, seven were plain, one was a watercolor, one a comic, and
one a night scene. Captions of these three styles began with "a watercolor painting of", "a comic style painting of"
and "a dark night photo of". Captions of plain scenes sometimes began with "a photo of" or "a picture of". So the target
domains are new only to the head, not to the U-Net, and the U-Net knows the words of the simple row. Stable Diffusion
has also seen watercolors, comics and nights, so in this respect the two models are alike.

No caption contained "constructivism", "dashcam", "foggy" or "sks". They are not among the 693 entries of the
vocabulary, and are spelled from pieces that no caption has trained. In rows that use one of these words, the model
knows only the words next to it: "painting", which belongs to watercolors and comics; "style", which belongs only to
comics; "photo", which belongs to plain scenes and nights; "dark" and "night".

Textual inversion and DreamBooth put their token (TOKEN) and the caption (…) into a template. Their template for
watercolors and comics, "a TOKEN style painting of …", already contains half of the words for comics. Their templates
for the night, "a dark TOKEN photo of …" and "a dashcam photo of … at TOKEN night", already contain half of the words
for the night."""
CLAIMS = {
    "detection": """\
- Can be tested: whether it helps to name the target's style while training on the source, whether a learned token does
  what the words do, whether DreamBooth's U-Net does more, and what cleaning changes (the last row).
- Cannot be tested: whether a nearby style is worse than the right one, and how it compares with an unrelated one,
  because the model knows neither. The verdicts on these two rows only say what unknown words do. Comparisons with
  other methods cannot be tested, either.
- The paper's text says that words for another kind of image (nearby and unrelated) "reduce performance on all
  datasets". But its own AP on Comic2k is higher with them (31.8 and 32.0) than without (31.1), and so is AP of the
  unrelated row on Watercolor2k (42.2 against 42.1).""",
    "segmentation": """\
- Can be tested: whether it helps to name the night while training on the day, whether a learned token or DreamBooth's
  U-Net does better, and what cleaning changes (the last row). The unrelated row is a fair test, because this model
  knows watercolors.
- Cannot be tested: the nearby row, because the model does not know fog (its verdicts only say what unknown words do),
  and comparisons with other methods.
- The paper has two night data sets with the same words. Here they correspond to one target, so both are compared with
  the same column, and their verdicts are not independent.""",
}
