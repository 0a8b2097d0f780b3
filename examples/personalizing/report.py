"""The page of the study: tables of figures for each method, and a table of verdicts."""

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


HOW_CHOSEN = """We tried these settings on ten night scenes of another seed (100), with held-out images and captions of
that seed, none of which is used above. *Texts* are the descriptions of the images in training: neutral texts of textual
inversion ("a painting in the style of …", most of whose words `tadp-tiny` does not know), the template without a
caption, or the template with a caption as above (*captions*). *Before* and *learned* are losses. *Colour* and *texture*
are distances of samples from held-out images, and *halves* gives both distances between real images, as above. All
settings lower the loss. For each method we chose the setting whose samples are closest to the held-out images in
colour."""


def choice_table(rows: Sequence[dict[str, Any]]) -> str:
    """The settings that were tried."""
    lines = [
        "| method | texts | learning rate | before | learned | colour | texture | halves: colour, texture |",
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
**`tadp-tiny` saw these styles in its training**, each in 10 % of the scenes, and learned a phrase for each of them ("a
watercolor painting of", "a comic style painting of", "a dark night photo of"). So the study asks whether a few images,
without a word for the style, are enough to find a style that the model already knows. It does not ask whether a model
can learn a new style. No image of the study was used to train `tadp-tiny`."""


def _opening(results: dict[str, Any]) -> str:
    settings = "; ".join(
        f"{NAMES[method]}: {setting['steps']} steps of {setting['batch_size']} images, learning rate {setting['lr']:g}"
        for method, setting in results["settings"].items()
    )
    known = TINY_KNEW if results.get("model", "tadp-tiny") == "tadp-tiny" else f"The model is `{results['model']}`."
    count, samples, seeds = results["images"], results["samples"], results["seeds"]
    total = count * len(seeds)
    return f"""# Do a learned token and DreamBooth capture a style?

A token (textual inversion), a whole U-Net or a LoRA (both by DreamBooth) was learned from ten [rendered
scenes](../concepts.md#glossary) in one style: watercolors, comics or night scenes. Does what was learned capture the
style? There are two measures, and lower is better for both: the denoising *loss* of other images of the style, and the
*distance* of generated samples from such images. There is a section for each method, which ends with a table of
verdicts.

Command: `{results["command"].strip()}`; {results["machine"]}; {results["cpu_minutes"]} minutes of CPU time; seeds
{", ".join(map(str, seeds))}. Each seed has its own ten images to learn from, held-out images, captions, noise and
training order. {settings}.

{known}

All styles are learned with the same template, `a … style painting of {{caption}}`, which is close to the model's phrase
for comics. "…" stands for the learned token, which starts as a copy of the word "painting", or for the rare word "sks"
(DreamBooth). `{{caption}}` is a caption of the image by `tadp-tiny`'s captioner, from which rules (`RuleCleaner`)
removed words for the style. No labels are used.

The columns of the tables are texts for the U-Net:

- *Only caption*: the caption without the template.
- *Before*: the template before anything is learned.
- *Other styles'*: the template with what was learned from another style, as a mean over the other two styles.
- *Learned*: the template with what was learned from the style.
- *Own words*: the phrase for the style that the model learned in its training.

**Loss** is the mean squared error of denoising {count} held-out images per seed, with captions that do not name the
style, at {results["draws"]} timesteps per image. Timesteps and noise are the same in every column. Differences are
computed for each image. The tables give their mean with a 95 % interval over the {total} images of {len(seeds)} seeds,
and in brackets the smallest and the largest mean of a single seed. The interval covers the choice of held-out images,
but not the differences between what the seeds learned.

**Samples** are generated for {samples} captions of other scenes, from the same noise in each column (DDIM,
{results["denoising_steps"]} steps, guidance scale 4). They are compared with {samples} held-out images of the style,
which are encoded and decoded by the VAE first, because the VAE also blurs all samples. *Colour* is the Wasserstein
distance between Gaussians fitted to all pixels in the colour space CIE Lab. *Texture* is in decibels: the root mean
square difference of the power of spatial frequencies in lightness, over bands of one octave and four directions, after
the variance of each image is set to one. *Halves* is the distance between these {samples} images and {samples} others
of the same style; it shows how large a distance arises by chance. Figures are means over seeds, with the smallest and
the largest in brackets.

**Verdicts** say for which styles *learned* is lower than another column. A loss must be lower with an interval below
zero, and a distance must be lower for every seed. Brackets count the pairs of a style and a seed with a lower
distance."""


def _verdicts(results: dict[str, Any], method: str) -> str:
    lines = ["| learned is lower than | loss | colour | texture |", "|---|---|---|---|"]
    count = len(STYLES) * len(results["seeds"])
    for name in ("only caption", "before", "other styles'"):
        failing = []
        for style in STYLES:
            arrays = loss_arrays(results, method, style)
            mean, half = interval(arrays["learned"] - arrays[name])
            if mean + half >= 0:
                failing.append(style)
        cells = [_held(failing)]
        for kind in ("colour", "texture"):
            failing, nearer = [], 0
            for style in STYLES:
                arrays = distance_arrays(results, method, style, kind)
                better = arrays["learned"] < arrays[name]
                nearer += int(better.sum())
                if not better.all():
                    failing.append(style)
            cells.append(f"{_held(failing)} ({nearer} of {count})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _held(failing: list[str]) -> str:
    if not failing:
        return "all styles"
    if len(failing) == len(STYLES):
        return "**no style**"
    good = ", ".join(style for style in STYLES if style not in failing)
    return f"{good}, **not {', '.join(failing)}**"
