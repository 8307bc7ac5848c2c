"""Patterns in ONNX graphs that can be written better, one file a rule."""
