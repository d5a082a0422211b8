"""From a network of torch to an ONNX file that computes the same."""
