"""Export of a checkpoint to ONNX and torch.export."""
