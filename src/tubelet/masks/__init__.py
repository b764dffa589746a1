"""Which tokens the encoder does not see."""
