r"""Table 3 of the paper: does the text decide how well a diffusion model estimates depth?

    python examples/study/table3.py --out study --page docs/results/study-table3
    python examples/study/table3.py --data nyu --root nyu_depth_v2 --out nyu --unet tuned --device cuda \
        --model stable-diffusion-v1-5/stable-diffusion-v1-5 --captioner blip2 --micro-batch 3

Compares rows that differ in text and latent scaling, on a normal and on a fast schedule, and shows the paper's figures
for NYU Depth v2. The paper's depth head takes no attention, so the text acts only through the features.
"""

from shared.options import run
from shared.paper_rows import ROOM_LS, ROOM_R, TADP
from shared.parts import Part, Table
from shared.table import main

TABLE = Table(
    name="table3",
    title="Table 3: depth",
    task="depth",
    metrics=("RMSE", "d1", "REL"),
    parts=[
        Part(
            title="Normal schedule",
            rows=[ROOM_R, ROOM_LS, TADP[0], TADP[20], TADP[40]],
            reference="VPD(LS)",
            paper={"VPD(R)": 0.248, "VPD(LS)": 0.235, "TADP-40": 0.225},
        ),
        Part(
            title="Fast schedule: half as many steps",
            schedule="fast",
            rows=[ROOM_R, ROOM_LS, TADP[0]],
            reference="VPD(LS)",
            paper={"VPD(R)": 0.340, "VPD(LS)": 0.332, "TADP-0": 0.328},
        ),
    ],
)

if __name__ == "__main__":
    run(lambda: main(TABLE, __doc__))
