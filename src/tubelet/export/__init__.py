"""Runs for others: transformers, VideoMAE's own code, ONNX, torch.export, the hub."""
