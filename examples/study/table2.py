r"""Table 2 of the paper: segmentation of ADE20K, tested at one scale and at several.

    python examples/study/table2.py --out study --page docs/results/study-table2
    python examples/study/table2.py --data ade20k --root ADEChallengeData2016 --out ade --unet tuned --device cuda \
        --model stable-diffusion-v1-5/stable-diffusion-v1-5 --captioner blip2 --micro-batch 2

The paper's multi-scale test averages the probabilities at six scales, 0.5 to 1.75, of each image and of its mirror
image. Only the rows that use Stable Diffusion are here. Finished runs are not repeated.
"""

from shared.measuring import MULTI_SCALE
from shared.options import run
from shared.paper_rows import ORACLE, TADP, VPD_LS, VPD_R
from shared.parts import Part, Table
from shared.table import main

TABLE = Table(
    name="table2",
    title="Table 2: segmentation at one scale and at several",
    task="segmentation",
    metrics=("mIoU", MULTI_SCALE, "multi-scale gain"),
    parts=[
        Part(
            title="Segmentation",
            rows=[VPD_R, VPD_LS, TADP[40], ORACLE],
            reference="VPD(LS)",
            paper={"VPD(R)": 53.1, "VPD(LS)": 53.7, "TADP-40": 54.8, "TADP-Oracle": 72.0},
        ),
    ],
    notes="The paper's multi-scale mIoU is 54.2 for VPD(R), 54.4 for VPD(LS) and 55.9 for TADP-40, a gain of 1.1, 0.7 "
    "and 1.1. The paper has none for the oracle.",
)

if __name__ == "__main__":
    run(lambda: main(TABLE, __doc__))
