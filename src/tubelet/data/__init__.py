"""From a file to a batch: reading videos, choosing frames and crops, data sets, their check, synthetic ones."""
