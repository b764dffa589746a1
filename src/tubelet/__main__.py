"""`python -m tubelet`, as `torchrun -m tubelet` needs it."""

from tubelet.cli import main

main()
