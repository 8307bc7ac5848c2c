"""What is on disk: ONNX files, the metadata in them, reference bundles beside them."""
