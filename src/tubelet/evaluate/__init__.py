"""Measure what an encoder knows."""
