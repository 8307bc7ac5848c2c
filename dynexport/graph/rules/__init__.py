"""Rules: patterns in ONNX graphs that can be written better, or that TensorRT refuses.

One file a rule, which declares it as ``RULE``; `order` lists them.
"""
