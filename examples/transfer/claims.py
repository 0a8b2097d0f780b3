"""The paper's figures, and what a study on rendered scenes can say of its claims."""

_ROWS = ("null", "simple", "textual_inversion", "dreambooth", "nearby", "unrelated")


def _of(*values: float) -> dict[str, float]:
    return dict(zip(_ROWS, values, strict=True))


# By name: our column on rendered scenes, and the paper's figures (Table 5: AP50, Table 4: mIoU).
PAPER = {
    "detection": {
        "watercolor2k": ("watercolor", _of(72.1, 72.2, 72.2, 72.2, 71.5, 71.9)),
        "comic2k": ("comic", _of(57.4, 56.6, 57.4, 56.9, 56.4, 55.9)),
    },
    "segmentation": {
        "dark-zurich": ("night", _of(42.8, 39.1, 41.4, 38.9, 41.9, 42.3)),
        "nighttime-driving": ("night", _of(57.5, 56.9, 60.8, 60.4, 56.9, 55.1)),
    },
}
AGREEMENT = {
    "agrees": "Agrees: our interval does not hold zero, and its sign is the paper's.",
    "disagrees": "Disagrees: it does not hold zero, and the sign is the other.",
    "cannot tell": "Cannot tell: our interval holds zero, or the paper has no difference. The paper gives one figure a "
    "row and no interval, so its own differences of a point or less may be chance too.",
    "not measured": "",
}
TINY = (
    "`tadp-tiny` was trained on all four styles: seven scenes in ten plain, one in ten each a watercolor, a comic and a "
    'night. Their captions began with "a watercolor painting of", "a comic style painting of" and "a dark night photo '
    'of", and plain ones at times with "a photo of". So the target domains are not new to the U-Net, only to the head; and '
    "the words of the simple row are ones it was taught. Stable Diffusion has seen watercolors, comics and nights too, so "
    'that far the two are alike. But "constructivism", "dashcam", "foggy" and "sks" were in none of its captions: its '
    "vocabulary of 693 entries has no such words and spells them in pieces whose vectors are still random. The nearby and "
    'the unrelated row are therefore noise beside known words: what is left of them is "painting", which it knows from '
    'watercolors and comics, and "photo", which it knows from plain scenes and nights.'
)
CLAIMS = {
    "detection": (
        "It can test whether saying the target's style while training on the source helps, whether a learned token does "
        "what the words do, and what cleaning is for (the last row). It cannot test that nearby styles harm less or more "
        "than unrelated ones, as the model knows neither of the two, nor any comparison with other methods."
    ),
    "segmentation": (
        "It can test whether saying the night while training on the day helps, and whether a learned token or a tuned U-Net "
        "does better. The unrelated row is a fair test, as this model knows watercolors; the nearby row is not, as it does "
        "not know fog. The paper's two targets share their words and are one target here, so both are compared with one "
        "column. It cannot test any comparison with other methods."
    ),
}
