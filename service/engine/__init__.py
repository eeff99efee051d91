"""Batches of images through ONNX Runtime."""
