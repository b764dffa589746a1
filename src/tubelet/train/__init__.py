"""Make it learn: the loop and what it stands on."""
