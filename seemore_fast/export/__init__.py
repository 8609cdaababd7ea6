"""Networks as files for other runtimes, checked before they appear."""

from seemore_fast.export.onnx_graph import export_onnx
from seemore_fast.export.torch_program import export_aoti, export_program

__all__ = ["export_aoti", "export_onnx", "export_program"]
