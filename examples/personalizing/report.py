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
seed. None of these is used above. *Texts* describe the images in training: textual inversion's neutral texts ("a
painting in the style of …", most of whose words `tadp-tiny` does not know), the template without a caption, or the
template with a caption as above. *Before* and *learned* are losses, and the other figures are distances of samples from
held-out images; *halves* gives the distances in colour and in texture. Of the settings that lower the loss, we chose
the one whose samples are closest in colour to the held-out images. In a shorter trial with watercolors of that seed,
captions also did best; comics were not used."""


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
**`tadp-tiny` saw these styles in its training**, each in 10 % of the scenes, and learned a phrase for each of them ("a
watercolor painting of", "a comic style painting of", "a dark night photo of"). So the study asks whether a few images,
without any word for the style, are enough for the model to find a style that it already knows. It does not ask whether
a model can learn a style that it never saw. `tadp-tiny` was not trained on any image of the study."""


def _opening(results: dict[str, Any]) -> str:
    settings = "; ".join(
        f"{NAMES[method]}: {setting['steps']} steps of {setting['batch_size']} images, learning rate {setting['lr']:g}"
        for method, setting in results["settings"].items()
    )
    known = TINY_KNEW if results.get("model", "tadp-tiny") == "tadp-tiny" else f"The model is `{results['model']}`."
    count, samples, seeds = results["images"], results["samples"], results["seeds"]
    total = count * len(seeds)
    return f"""# Does a learned token capture its style?

A token, a U-Net (DreamBooth) or a LoRA was learned from ten images of a style. Does it capture the style? There are two
measures, and lower is better for both: the denoising *loss* of other images of the style, and the *distance* of
generated samples from such images. A list below the tables of each method says which comparisons hold.

Command: `{results["command"].strip()}`; {results["machine"]}; {results["cpu_minutes"]} minutes of CPU time; seeds
{", ".join(map(str, seeds))}. Each seed has its own ten images to learn from, held-out images, captions, noise and
training order.
{settings}.

{known}

All styles are learned with the same template, "a … style painting of {{caption}}". In the place of "…" is the
learned token, which starts from the word "painting", or the rare word "sks" for DreamBooth. The template itself is
close to the model's phrase for comics. During training, each image is described by a caption that `tadp-tiny`'s
captioner wrote, with any words for the style removed (`RuleCleaner`). No labels are used.

**Loss** is measured on {count} held-out images per seed with captions that do not name the style, at {results["draws"]}
timesteps per image, spread evenly. Timesteps and noise are the same in every column. *Only caption* is the caption
without the template, and *learned* is the template with what was learned from the style. *Before* is the template
before learning. *Other styles'* is the template with what was learned from each of the other two styles instead, as a
mean. *Own words* is the phrase for the style that the model was trained with. Differences are paired by image: the
tables give their mean with a 95 % interval over {total} images of {len(seeds)} seeds, and in brackets the smallest
and the largest of the means per seed. The interval accounts for the choice of images only, given what
these {len(seeds)} seeds learned. Another seed would learn something else, and {len(seeds)} seeds are too few for an
interval over seeds.

**Samples** are drawn for {samples} captions of other scenes, from the same noise in each condition (DDIM,
{results["denoising_steps"]} steps, guidance 4). They are compared with {samples} held-out images of the style *after a
pass through the VAE*, because the VAE also blurs all samples. *Colour* is the Wasserstein distance between Gaussians
fitted to all pixels in CIE Lab. *Texture* compares the spatial frequencies of lightness, after each image's variance
is set to one: it is the root mean square difference of their power, in decibels, over bands of one octave and four
directions. *Halves* is the distance between the {samples} held-out images and {samples} others of the same style, which
shows how large a distance arises by chance. Figures are means over seeds, with the smallest and the largest in
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
