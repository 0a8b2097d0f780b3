"""A dot plot of the precision and recall of each class."""

from pathlib import Path

from mentioning.counting import ORACLE
from mentioning.page import by_recall
from tadp.metrics import CaptionAlignment

INK, PALE, MARK = "#1f4e79", "#9db8d2", "#b5533c"


def draw(names: CaptionAlignment, best: CaptionAlignment, path: Path) -> None:
    """Draw two panels with one row per class: hollow dots for only names, filled dots with synonyms."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    classes = by_recall(best)[::-1]  # from the bottom up
    figure, panels = plt.subplots(1, 2, sharey=True, figsize=(9, 0.29 * len(classes) + 1.6), layout="constrained")
    for panel, what, oracle in zip(panels, ("recall", "precision"), ORACLE[::-1], strict=True):
        for row, name in enumerate(classes):
            left, right = getattr(names.classes[name], what), getattr(best.classes[name], what)
            panel.plot([left, right], [row, row], color=PALE, linewidth=2, zorder=2)
            panel.plot(left, row, "o", markerfacecolor="white", markeredgecolor=INK, markersize=6, zorder=3)
            panel.plot(right, row, "o", color=INK, markersize=6, zorder=4)
        panel.axvline(oracle, color=MARK, linestyle=":", linewidth=1.5, zorder=1)
        overall = f"{getattr(names, what):.2f} by names, {getattr(best, what):.2f} with synonyms"
        panel.set_title(f"{what}: {overall}", fontsize=10)
        panel.set_xlim(-0.03, 1.03)
        panel.grid(axis="x", color="#e4e4e4", zorder=0)
        panel.tick_params(length=0)
        panel.spines[["top", "right", "left"]].set_visible(False)
    panels[0].set_yticks(range(len(classes)), [f"{name}  ({best.classes[name].present})" for name in classes])
    panels[0].set_ylim(-0.6, len(classes) - 0.4)
    panels[0].text(-0.02, 1.0, "class (images)", transform=panels[0].transAxes, ha="right", va="bottom", fontsize=9)
    handles = [
        plt.Line2D([], [], marker="o", linestyle="", markerfacecolor="white", markeredgecolor=INK),
        plt.Line2D([], [], marker="o", linestyle="", color=INK),
        plt.Line2D([], [], linestyle=":", color=MARK),
    ]
    labels = ["only names", "with synonyms", "oracle that BLIP-2 performs like (paper, ADE20K)"]
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)
