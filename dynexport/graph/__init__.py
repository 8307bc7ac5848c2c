"""Passes over ONNX graphs, one small file each, on `onnx_ir.Model`; none needs PyTorch."""
