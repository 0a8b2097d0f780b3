"""The page of the study: two tables per method, and whether each claim holds."""

from collections.abc import Sequence
from typing import Any

from personalizing.conditions import STYLES
from personalizing.tables import distance_arrays, distance_table, interval, loss_arrays, loss_table

NAMES = {
    "token": "Learned token (textual inversion)",
    "dreambooth": "DreamBooth, whole U-Net",
    "lora": "DreamBooth, LoRA",
}


def page_of(results: dict[str, Any]) -> str:
    """The text of the page, in Markdown."""
    parts = [_opening(results)]
    for method in results["settings"]:
        parts += [
            f"## {NAMES[method]}",
            loss_table(results, method),
            distance_table(results, method),
            _verdicts(results, method),
        ]
    if results["choice"]:
        parts += ["## How the settings were chosen", HOW_CHOSEN, choice_table(results["choice"])]
    return "\n\n".join(parts) + "\n"


HOW_CHOSEN = """The settings were chosen on ten night scenes of seed 100, with held-out images and captions of that
seed. None of these is used above. A shorter trial with watercolors of that seed also favoured captions; comics were
not used. *Before* and *learned* are losses, and the other figures are distances of samples from held-out images.
*Texts* describe the images in training: textual inversion's neutral texts ("a painting in the style of …", of whose
words `tadp-tiny` knows few), the template without a caption, or the template with a caption as above. We chose the
setting that brings samples nearest among those that lower the loss."""


def choice_table(rows: Sequence[dict[str, Any]]) -> str:
    """The settings that were tried."""
    lines = [
        "| method | texts | learning rate | before | learned | colour | texture | halves |",
        "|---" * 8 + "|",
    ]
    lines += [
        f"| {NAMES[row['method']]} | {row['called']} | {row['lr']:g} | {row['before']:.4f} | "
        f"{row['loss']:.4f} | {row['colour']:.1f} | {row['texture']:.2f} | "
        f"{row['colour of halves']:.1f}, {row['texture of halves']:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


TINY_KNEW = """\
**`tadp-tiny` saw these styles in its training**, in 10 % of its scenes each, and knows their words ("a watercolor
painting of", "a comic style painting of", "a dark night photo of"). So the study asks whether a few images, without any
word for the style, lead to what the model already has. It does not ask whether a model can learn a style that it never
saw. `tadp-tiny` was not trained on any image of the study."""


def _opening(results: dict[str, Any]) -> str:
    settings = "; ".join(
        f"{NAMES[method]}: {setting['steps']} steps of {setting['batch_size']} images, learning rate {setting['lr']:g}"
        for method, setting in results["settings"].items()
    )
    known = TINY_KNEW if results.get("model", "tadp-tiny") == "tadp-tiny" else f"The model is `{results['model']}`."
    count, samples, seeds = results["images"], results["samples"], results["seeds"]
    return f"""# Does a learned token capture its style?

Command: `{results["command"].strip()}`; {results["machine"]}; {results["cpu_minutes"]} minutes of CPU time. Seeds
{", ".join(map(str, seeds))}. Each seed has its own ten images to learn from, held-out images, captions, noise and order
of training. {settings}.

{known} All styles are learned with the same template, "a … style painting of {{caption}}". The token starts from the
word "painting", and the template itself is close to what the model calls a comic. While the model learns, the ten
images are described by the captions of `tadp-tiny`'s captioner without their words for the style (`RuleCleaner`). No
label is used.

**Loss** is measured on {count} held-out images per seed with captions that do not name the style, at {results["draws"]}
timesteps and noises per image, which are the same in every column. *Before* is the same sentence before learning.
*Other styles'* is the mean over what was learned from the other two styles. *Own words* is the sentence that the
model was trained with. Differences are paired by image: the tables give their mean with a 95 % interval over {
        count * len(seeds)
    } images of {len(seeds)} seeds, and in brackets the smallest and the largest mean of a seed. The interval
applies to what these {len(seeds)} seeds learned. They are too few for an interval over everything that could be
learned.

**Samples** are drawn for {samples} captions of other scenes, from the same noise in each condition (DDIM,
{results["denoising_steps"]} steps, guidance 4). They are compared with {samples} held-out images of the style *after a
pass through the VAE*, because the VAE also blurs all samples. *Colour* is the Wasserstein distance between Gaussians
fitted to all pixels in CIE Lab. *Texture* is the root mean square difference, in decibels, of the power of lightness in
octaves and four directions, with each image's variance set to one. *Halves* is the distance of {samples} other held-out
images from these, which shows the effect of chance. Figures are means over seeds, with the smallest and the largest in
brackets."""


def _verdicts(results: dict[str, Any], method: str) -> str:
    lines = []
    for name in ("only caption", "before", "other styles'"):
        failing = []
        for style in STYLES:
            arrays = loss_arrays(results, method, style)
            mean, half = interval(arrays["learned"] - arrays[name])
            if mean + half >= 0:
                failing.append(style)
        lines.append(f"- The loss is lower than with {_against(name)}: {_held(failing, 'the interval is below zero')}")
    for kind in ("colour", "texture"):
        for name in ("only caption", "before", "other styles'"):
            failing, nearer = [], 0
            for style in STYLES:
                arrays = distance_arrays(results, method, style, kind)
                better = arrays["learned"] < arrays[name]
                nearer += int(better.sum())
                if not better.all():
                    failing.append(style)
            count = len(STYLES) * len(results["seeds"])
            lines.append(
                f"- Samples are closer in {kind} than with {_against(name)}: {_held(failing, 'for every seed')} "
                f"Closer in {nearer} of {count} cases."
            )
    return "\n".join(lines)


def _against(name: str) -> str:
    return {"only caption": "only the caption", "before": "the same words before learning"}.get(
        name, "what was learned from the other styles"
    )


def _held(failing: list[str], how: str) -> str:
    if not failing:
        return f"**holds** for all three styles ({how})."
    if len(failing) == len(STYLES):
        return "**does not hold** for any style."
    good = ", ".join(style for style in STYLES if style not in failing)
    return f"holds for {good} ({how}), **not for {', '.join(failing)}**."
