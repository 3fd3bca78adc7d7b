"""ONNX Runtime, OpenVINO and TensorRT behind one interface, and the cache of built engines."""
