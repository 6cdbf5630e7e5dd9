"""`python -m dnewton.train`: see :mod:`dnewton.cli.train`."""

import sys

from dnewton.cli import interrupt as interrupt  # before MPI
from dnewton.cli import starting

if __name__ == "__main__":
    starting.say(sys.argv[1:])

# This takes longer than users like to see nothing.
from dnewton.cli.train import main as main

if __name__ == "__main__":
    main()
