"""Figure 3 of the paper: do scaled latents and longer captions help, in segmentation and in depth?

    python examples/study/figure3.py --out study --page docs/results/study-figure3

Draws what tables 1 and 3 have measured; what they have not is run. Says too what scaling does to the latents.
"""

import statistics
from pathlib import Path

from shared.figure import write_figure
from shared.images import Images
from shared.options import read, run
from shared.paper_rows import ROOM_LS, ROOM_R, TADP, VPD_LS, VPD_R
from shared.parts import Part, Table
from shared.runs import carry_out
from shared.settings import Settings, StopStudyError
from shared.table import runs_of

import tadp
from tadp.language.matching import mentions

LENGTHS = [TADP[0], TADP[20], TADP[40]]
PANELS = [
    ("segmentation", "mIoU", "latent scaling", [VPD_R, VPD_LS], "VPD(R)"),
    ("segmentation", "mIoU", "least caption length", LENGTHS, "TADP-0"),
    ("depth", "RMSE", "latent scaling", [ROOM_R, ROOM_LS], "VPD(R)"),
    ("depth", "RMSE", "least caption length", LENGTHS, "TADP-0"),
]
TABLES = [
    Table("figure3", "Figure 3", task, [Part(title, rows, reference)], (metric,))  # pyright: ignore[reportArgumentType]
    for task, metric, title, rows, reference in PANELS
]


def main() -> None:
    settings, how = read(__doc__)
    if settings.data != "scenes":
        raise StopStudyError(
            "this figure has both tasks, which one data set does not; table1.py and table3.py draw each."
        )
    if not how.report:
        carry_out([one for table in TABLES for one in runs_of(table, table.parts[0], how)], settings, how)
    more = {"standard deviation of latents": deviations(settings, how.out)} | lengths(settings, how.out)
    write_figure(TABLES, settings, how, name="figure3", title="Figure 3: latent scaling and caption length", more=more)


def deviations(settings: Settings, out: Path) -> dict[str, float]:
    """Standard deviation of the test images' latents, unscaled and scaled, which is to be 1."""
    half = Images(settings, "test", out=out, task="depth")
    found = {}
    for name, scaled in (("unscaled", False), ("scaled", True)):
        backbone = tadp.TADPBackbone.from_pretrained(settings.model, scale_latents=scaled)
        found[name] = float(half.latents(backbone).std())
    return found


def lengths(settings: Settings, out: Path) -> dict[str, dict[str, float]]:
    """By least length: tokens of a caption, classes it names, and how many captions say a sentence twice."""
    half = Images(settings, "test", out=out, task="segmentation")
    backbone = tadp.TADPBackbone.from_pretrained(settings.model)
    found: dict[str, dict[str, float]] = {
        "tokens of a caption, mean": {},
        "classes that a caption names, mean": {},
        "share of captions that say a sentence twice": {},
    }
    for least in TADP:
        captions = half.captions(least)
        named = [len({one.name for one in mentions(caption, half.names)}) for caption in captions]
        parts = [[part.strip() for part in caption.split(".") if part.strip()] for caption in captions]
        figures = (
            statistics.fmean(backbone.text_encoder.count_tokens(captions)),
            statistics.fmean(named),
            statistics.fmean(len(set(one)) < len(one) for one in parts),
        )
        for name, figure in zip(found, figures, strict=True):
            found[name][f"TADP-{least}"] = float(figure)
    return found


if __name__ == "__main__":
    run(main)
