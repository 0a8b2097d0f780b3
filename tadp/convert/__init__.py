"""Read files of other programs, including pickles. Only this package reads pickles, always with `weights_only=True`.

    report = tadp.convert.convert_file("tadp_depth_blipmin40.ckpt", "my-depth-model")
    model = tadp.TADPForDepthEstimation.from_pretrained("my-depth-model")
    token = tadp.convert.read_token("learned_embeds.bin")
    backbone = tadp.convert.from_single_file("v1-5-pruned-emaonly.ckpt", tokenizer="clip-tokenizer/")

The functions and classes that a pickle refers to are compared with a list of harmless ones before it is read.
"""

from tadp.convert.ledger import Part as Part
from tadp.convert.ledger import Report as Report
from tadp.convert.release import convert_file as convert_file
from tadp.convert.single_file import from_single_file as from_single_file
from tadp.convert.text_weights import read_token as read_token

__all__ = ["Part", "Report", "convert_file", "from_single_file", "read_token"]
