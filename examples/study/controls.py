"""Controls that the paper lacks: does the text help, the training on pictures and words, or would any network do?

    python examples/study/controls.py --out study --page docs/results/study-controls

The image's own captions are compared with captions of another image, averaged end tokens, the empty prompt, a U-Net
with random weights, and a plain convolutional encoder of the U-Net's size that is trained from scratch (so it has
nothing to freeze). docs/results/tadp-tiny-control.md has the results of a U-Net that was trained without supervised
attention; its weights do not come with tadp.
"""

from shared.options import run
from shared.paper_rows import AVERAGED_EOS, TADP
from shared.parts import Part, Table
from shared.rows import Row
from shared.table import main
from shared.texts import Text

TABLE = Table(
    name="controls",
    title="Controls that the paper lacks",
    task="segmentation",
    metrics=("mIoU",),
    parts=[
        Part(
            title="Segmentation",
            rows=[
                TADP[0],
                Row("captions of other images", Text("others", 0)),
                AVERAGED_EOS,
                Row("empty prompt", Text("empty")),
                Row("untrained U-Net, captions", Text("captions", 0), unet="untrained"),
                Row("plain encoder from scratch", Text("empty"), unet="plain"),
            ],
            reference="TADP-0",
        )
    ],
    notes="The plain encoder sees pixels rather than latents, so it does not profit from a VAE that was trained on "
    "scenes. It is trained for as many steps in total as the other rows, which is few for a network without trained "
    "weights.",
)

if __name__ == "__main__":
    run(lambda: main(TABLE, __doc__))
