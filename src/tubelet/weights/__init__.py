"""Weights of others in our names, strictly: what was read, reshaped, left out and begun afresh is always said."""
