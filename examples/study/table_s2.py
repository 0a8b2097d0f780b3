"""Table S2 of the paper: which does more harm, false names or missing names?

    python examples/study/table_s2.py --out study --page docs/results/study-table_s2

Compares oracle prompts at precision and recall 0.5, 0.75 and 1.0 (nine cells) on the fast schedule, like the paper
(ADE20K, 4k steps). Training and test images have the same kind of text.
"""

from shared.options import run
from shared.parts import Part, Table
from shared.rows import Row
from shared.sizes import SIZES
from shared.table import main
from shared.texts import Text

LEVELS = (0.5, 0.75, 1.0)
CELLS = {
    f"precision {precision:.2f}, recall {recall:.2f}": Text("oracle", precision=precision, recall=recall)
    for precision in LEVELS
    for recall in LEVELS
}
TABLE = Table(
    name="table_s2",
    title="Table S2: an oracle with mistakes",
    task="segmentation",
    metrics=("mIoU", *(f"IoU {size}" for size in SIZES)),
    parts=[
        Part(
            title="mIoU by precision and recall",
            schedule="fast",
            rows=[Row(label, text) for label, text in CELLS.items()],
            reference="precision 1.00, recall 1.00",
            grid={
                label: (f"precision {text.precision:.2f}", f"recall {text.recall:.2f}") for label, text in CELLS.items()
            },
        )
    ],
    notes="The paper's nine figures are in its supplement, which we do not have. The text of the paper (Sec. 4.2) "
    "gives differences, which [the paper on one page](paper.md) compares with ours.",
)

if __name__ == "__main__":
    run(lambda: main(TABLE, __doc__))
