r"""Table 1 of the paper: does the text decide how well a diffusion model segments?

    python examples/study/table1.py --out study --page docs/results/study-table1
    python examples/study/table1.py --data voc --root VOCdevkit/VOC2012 --out voc --unet tuned --device cuda \
        --model stable-diffusion-v1-5/stable-diffusion-v1-5 --captioner blip2 --micro-batch 2

Compares eleven kinds of text for the U-Net, frozen and tuned, with three seeds each, and shows the paper's figures for
Pascal VOC. Three of them also run on the fast schedule, as in the paper's Table S1 for ADE20K. Finished runs are not
repeated.
"""

from shared.options import run
from shared.paper_rows import AVERAGED_EOS, EMBEDDINGS, NAMES, NOUNS, ORACLE, TADP, TADP_ADAPTER, VPD_LS, VPD_R
from shared.parts import Part, Table
from shared.table import main

TABLE = Table(
    name="table1",
    title="Table 1: prompting for segmentation",
    task="segmentation",
    metrics=("mIoU",),
    parts=[
        Part(
            title="All texts",
            rows=[
                *(VPD_R, VPD_LS, AVERAGED_EOS, EMBEDDINGS, NAMES),
                *(TADP[0], TADP[20], TADP[40], TADP_ADAPTER, NOUNS, ORACLE),
            ],
            reference="VPD(LS)",
            paper={
                "VPD(R)": 82.34,
                "VPD(LS)": 83.06,
                "Class Embs": 82.72,
                "Class Names": 84.08,
                "TADP-0": 86.36,
                "TADP-20": 86.19,
                "TADP-40": 87.11,
                "TADP(NO)-20": 86.35,
                "TADP-Oracle": 89.85,
            },
        ),
        Part(
            title="Fast schedule: half as many steps",
            schedule="fast",
            rows=[VPD_LS, TADP[0], TADP[40]],
            reference="VPD(LS)",
        ),
    ],
    notes="The paper has no figures for *averaged EOS, LS, no adapter* and *TADP-40, adapter*. About the latter, it "
    'says: "We also explore adding a text-adapter (TA) to TADP, but find no significant gain" (Sec. 4.2). It also has '
    "no figures for a fast schedule on Pascal VOC. The adapter also trains if the U-Net is frozen, because gradients "
    "pass through the U-Net.",
)

if __name__ == "__main__":
    run(lambda: main(TABLE, __doc__))
