"""A dot plot of the IoU of each class."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tadp.files.atomic import replace_file

COLORS = ("#9db8d2", "#1f4e79", "#b5533c")


def draw(means: Mapping[str, Sequence[float]], models: Sequence[str], path: Path) -> None:
    """Draw one row per class, with a dot for each model.

    Args:
        means: IoU of each class, from 0 to 1, for each model.
        models: Names of the models.
        path: Path of the .png.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 0.3 * len(means) + 1.2), layout="constrained")
    for number, (name, color) in enumerate(zip(models, COLORS, strict=False)):
        ious = [100 * values[number] for values in means.values()]
        axis.plot(ious, range(len(means)), "o", color=color, label=name, markersize=6)
    axis.set_yticks(range(len(means)), list(means))
    axis.invert_yaxis()
    axis.grid(axis="both", color="#e4e4e4")
    axis.set_axisbelow(True)
    axis.set_xlabel("IoU, %; higher is better")
    axis.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)
