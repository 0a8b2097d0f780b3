"""Figure 3 of the paper: do scaled latents and longer captions help, in segmentation and in depth?

    python examples/study/figure3.py --out study --page docs/results/study-figure3

Draws results of tables 1 and 3, and does the runs that are missing. It also reports what scaling does to the latents.
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
    ("segmentation", "mIoU", "minimum caption length", LENGTHS, "TADP-0"),
    ("depth", "RMSE", "latent scaling", [ROOM_R, ROOM_LS], "VPD(R)"),
    ("depth", "RMSE", "minimum caption length", LENGTHS, "TADP-0"),
]
TABLES = [
    Table("figure3", "Figure 3", task, [Part(title, rows, reference)], (metric,))  # pyright: ignore[reportArgumentType]
    for task, metric, title, rows, reference in PANELS
]


def main() -> None:
    settings, how = read(__doc__)
    if settings.data != "scenes":
        raise StopStudyError(
            "figure 3 shows segmentation and depth, but a data set has labels for only one. Use table1.py or table3.py."
        )
    if not (how.report or how.rewrite):
        carry_out([run for table in TABLES for run in runs_of(table, table.parts[0], how)], settings, how)
    write_figure(
        TABLES,
        settings,
        how,
        name="figure3",
        title="Figure 3: latent scaling and caption length",
        measure_more=lambda: (
            {"standard deviation of latents": deviations(settings, how.out)} | lengths(settings, how.out)
        ),
    )


def deviations(settings: Settings, out: Path) -> dict[str, float]:
    """Standard deviation of the test images' latents, unscaled and scaled; the scaled one should be 1."""
    half = Images(settings, "test", out=out, task="depth")
    by_scaling = {}
    for name, scaled in (("unscaled", False), ("scaled", True)):
        backbone = tadp.TADPBackbone.from_pretrained(settings.model, scale_latents=scaled)
        by_scaling[name] = float(half.latents(backbone).std())
    return by_scaling


def lengths(settings: Settings, out: Path) -> dict[str, dict[str, float]]:
    """For each minimum length: tokens per caption, classes named per caption, and the share that repeats a sentence."""
    half = Images(settings, "test", out=out, task="segmentation")
    backbone = tadp.TADPBackbone.from_pretrained(settings.model)
    measures: dict[str, dict[str, float]] = {
        "mean tokens per caption": {},
        "mean number of classes named per caption": {},
        "share of captions that repeat a sentence": {},
    }
    for min_tokens in TADP:
        captions = half.captions(min_tokens)
        named = [len({mention.name for mention in mentions(caption, half.names)}) for caption in captions]
        sentences = [[part.strip() for part in caption.split(".") if part.strip()] for caption in captions]
        figures = (
            statistics.fmean(backbone.text_encoder.count_tokens(captions)),
            statistics.fmean(named),
            statistics.fmean(len(set(parts)) < len(parts) for parts in sentences),
        )
        for name, figure in zip(measures, figures, strict=True):
            measures[name][f"TADP-{min_tokens}"] = float(figure)
    return measures


if __name__ == "__main__":
    run(main)
