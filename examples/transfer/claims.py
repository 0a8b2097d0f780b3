"""The paper's figures, and what a study on rendered scenes can say of its claims."""

_ROWS = ("null", "simple", "textual_inversion", "dreambooth", "nearby", "unrelated")


def _of(*values: float) -> dict[str, float]:
    return dict(zip(_ROWS, values, strict=True))


# Tables 5 and 4. By the column's name: ours on rendered scenes, and the paper's figures.
PAPER = {
    "detection": {
        "watercolor2k AP": ("watercolor AP", _of(42.1, 43.5, 43.2, 43.2, 42.0, 42.2)),
        "watercolor2k AP50": ("watercolor AP50", _of(72.1, 72.2, 72.2, 72.2, 71.5, 71.9)),
        "comic2k AP": ("comic AP", _of(31.1, 31.9, 33.2, 32.9, 31.8, 32.0)),
        "comic2k AP50": ("comic AP50", _of(57.4, 56.6, 57.4, 56.9, 56.4, 55.9)),
    },
    "segmentation": {
        "dark-zurich mIoU": ("night mIoU", _of(42.8, 39.1, 41.4, 38.9, 41.9, 42.3)),
        "nighttime-driving mIoU": ("night mIoU", _of(57.5, 56.9, 60.8, 60.4, 56.9, 55.1)),
    },
}
VERDICTS = """\
- agrees: our interval does not hold zero, and its sign is the paper's.
- disagrees: it does not hold zero, and its sign is the other.
- cannot tell: our interval holds zero, or the paper has no difference.

The paper gives one figure a row and no interval, so its own small differences may be chance too."""
TINY = """\
`tadp-tiny` was trained on all four styles: seven scenes in ten plain, one in ten each a watercolor, a comic and a
night. Captions of these began with "a watercolor painting of", "a comic style painting of" and "a dark night photo of",
those of plain scenes at times with "a photo of" or "a picture of". So the target domains are not new to the U-Net, only
to the head, and the words of the simple row are ones that it was taught. Stable Diffusion has seen watercolors, comics
and nights too; so far the two are alike.

"Constructivism", "dashcam", "foggy" and "sks" were in none of its captions. They are no entries of its vocabulary of
693, and are spelled in pieces that no caption has trained. What is left of those rows are the known words beside them:
"painting", which belongs to watercolors and comics, "style", which belongs to comics alone, "photo", which belongs to
plain scenes and nights, "dark" and "night". So the templates of textual inversion and DreamBooth for paintings ("a …
style painting of") name half of the comic by themselves, and those for the night ("a dark … photo of", "a dashcam photo
of … at sks night") half of the night."""
CLAIMS = {
    "detection": """\
- Can be tested: whether to say the target's style while training on the source helps, whether a learned token does what
  the words do, whether a tuned U-Net does more, and what cleaning is for (the last row).
- Cannot be tested: that a nearby style is worse than the right one and how it compares with an unrelated one, as the
  model knows neither; nor any comparison with other methods.
- The paper's text says that off-target words "reduce performance on all datasets". Its own AP on Comic2k is higher with
  them (31.8 and 32.0) than with none (31.1), and so is that of the unrelated row on Watercolor2k (42.2 after 42.1).""",
    "segmentation": """\
- Can be tested: whether to say the night while training on the day helps, whether a learned token or a tuned U-Net does
  better, and what cleaning is for (the last row). The unrelated row is a fair test, as this model knows watercolors.
- Cannot be tested: the nearby row, as the model does not know fog; nor any comparison with other methods.
- The paper's two targets share their words. Here they are one, so both are compared with the same column, and their
  verdicts are not independent.""",
}
