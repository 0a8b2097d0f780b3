"""The page of the study: two tables a method, and for each claim whether it holds."""

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
    """Markdown."""
    parts = [_told(results)]
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


HOW_CHOSEN = """On ten nights of seed 100, with held-out images and captions of that seed, none of which is used above.
A shorter trial with watercolors of that seed spoke for captions too; comics had no part in it. *Before* and *learned*
are the loss, the rest is how far samples are from held-out images. *Called* is what the images are called in training:
textual inversion's neutral texts ("a painting in the style of …", words of which `tadp-tiny` knows few), the template
alone, or the template with a caption as above. Taken was what brings samples nearest, where the loss falls too."""


def choice_table(rows: Sequence[dict[str, Any]]) -> str:
    """The settings that were tried."""
    lines = [
        "| | called | learning rate | before | learned | colour | texture | halves |",
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
**`tadp-tiny` saw these styles when it was trained**, 10 % of its scenes each, and knows their words ("a watercolor
painting of", "a comic style painting of", "a dark night photo of"). So the study asks whether a few images without any
word for the style lead to what the model has, not whether a model can be taught a style that it never saw. No image of
the study was trained on."""


def _told(results: dict[str, Any]) -> str:
    settings = "; ".join(
        f"{NAMES[method]}: {one['steps']} steps of {one['batch_size']} images, learning rate {one['lr']:g}"
        for method, one in results["settings"].items()
    )
    known = TINY_KNEW if results.get("model", "tadp-tiny") == "tadp-tiny" else f"The model is `{results['model']}`."
    count, samples, seeds = results["images"], results["samples"], results["seeds"]
    return f"""# Does a learned token mean its style?

Command: `{results["command"]}`; {results["machine"]}; {results["cpu_minutes"]} minutes of CPU. Seeds
{", ".join(map(str, seeds))}; each has its own ten images to learn from, held-out images, captions, noise and order of
training. {settings}.

{known} All styles are learned under one template, "a … style painting of {{caption}}", the token from
the word "painting", and the template itself is near to what the model calls a comic. While they are learned from, the
ten images are called what `tadp-tiny`'s captioner says of them, less what it says of their style (`RuleCleaner`); no
label is used.

**Loss**: of {count} held-out images a seed with their captions less the style, {results["draws"]} times and noises an
image, the same in every column. *Before* is the same sentence before learning; *other styles'* is the mean under what
was learned of the other two styles; *own words* is the sentence that the model was trained with. Differences are
paired, image by image: their mean with a 95 % interval over {count * len(seeds)} images of {len(seeds)} seeds, and in
brackets the least and the greatest of the seeds' means. The interval is for what these {len(seeds)} seeds learned; they
are too few for one over all that could be learned.

**Samples**: {samples} captions of other scenes, drawn from the same noise under each condition (DDIM,
{results["denoising_steps"]} steps, guidance 4), against {samples} held-out images of the style *as the VAE gives them
back*, since it blurs whatever the model draws. *Colour* is the Wasserstein distance of Gaussians fitted to all pixels
in CIE Lab; *texture* the root mean square difference, in decibels, of the power of lightness in octaves and four
directions, each image's variance set to one. *Halves* is the distance of {samples} other held-out images from those:
what chance alone makes. Means of the seeds, least and greatest in brackets."""


def _verdicts(results: dict[str, Any], method: str) -> str:
    lines = []
    for name in ("caption alone", "before", "other styles'"):
        failing = []
        for style in STYLES:
            arrays = loss_arrays(results, method, style)
            mean, half = interval(arrays["learned"] - arrays[name])
            if mean + half >= 0:
                failing.append(style)
        lines.append(f"- The loss is lower than with {_against(name)}: {_held(failing, 'the interval is below zero')}")
    for kind in ("colour", "texture"):
        for name in ("caption alone", "before", "other styles'"):
            failing, nearer = [], 0
            for style in STYLES:
                arrays = distance_arrays(results, method, style, kind)
                better = arrays["learned"] < arrays[name]
                nearer += int(better.sum())
                if not better.all():
                    failing.append(style)
            count = len(STYLES) * len(results["seeds"])
            lines.append(
                f"- Samples are nearer in {kind} than with {_against(name)}: {_held(failing, 'for every seed')} "
                f"Nearer in {nearer} of {count}."
            )
    return "\n".join(lines)


def _against(name: str) -> str:
    return {"caption alone": "the caption alone", "before": "the same words before learning"}.get(
        name, "what was learned of the other styles"
    )


def _held(failing: list[str], how: str) -> str:
    if not failing:
        return f"**holds** for all three styles ({how})."
    if len(failing) == len(STYLES):
        return "**does not hold** for any style."
    good = ", ".join(style for style in STYLES if style not in failing)
    return f"holds for {good} ({how}), **not for {', '.join(failing)}**."
