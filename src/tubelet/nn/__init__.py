"""Tensors only: patches, attention, the encoder that is kept and the decoders that are thrown away."""
