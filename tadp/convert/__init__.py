"""Files that other programs wrote, pickles included: here, with `weights_only=True`, and nowhere else.

report = tadp.convert.convert_file("tadp_depth_blipmin40.ckpt", "my-depth-model")
model = tadp.TADPForDepthEstimation.from_pretrained("my-depth-model")
token = tadp.convert.read_token("learned_embeds.bin")
"""

from tadp.convert.release import convert_file as convert_file
from tadp.convert.report import Part as Part
from tadp.convert.report import Report as Report
from tadp.convert.token_files import read_token as read_token

__all__ = ["Part", "Report", "convert_file", "read_token"]
