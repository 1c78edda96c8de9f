"""A library that turns a PyTorch network into a verified ONNX file. Knows no jobs, no queue and no HTTP."""
