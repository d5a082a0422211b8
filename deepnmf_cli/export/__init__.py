"""From a network to an ONNX file, or a C library, that computes the same."""
