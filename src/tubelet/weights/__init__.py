"""Weights in and out: the formats of others."""
