"""`python -m tubelet`, as `torchrun -m tubelet` needs it."""

from tubelet.cli import main

if __name__ == "__main__":  # and not where a run.json names this module
    main()
