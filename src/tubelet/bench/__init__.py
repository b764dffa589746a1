"""How fast this machine reads these videos and learns from them, where the time goes, and what would help."""
