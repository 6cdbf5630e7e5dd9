"""`python -m dnewton.train`: see :mod:`dnewton.cli.train`."""

from dnewton.cli import interrupt as interrupt  # before MPI
from dnewton.cli.train import main as main

if __name__ == "__main__":
    main()
