"""A backbone outside of Python: as a `torch.export` program or an ONNX file."""

from tadp.export.facts import Facts as Facts
from tadp.export.onnx_file import to_onnx as to_onnx
from tadp.export.program import to_program as to_program
from tadp.export.runtime import OnnxBackbone as OnnxBackbone

__all__ = ["Facts", "OnnxBackbone", "to_onnx", "to_program"]
