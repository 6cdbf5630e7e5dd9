"""`python -m dnewton.watch`: see :mod:`dnewton.cli.watch`."""

import sys

from dnewton.cli.watch import main as main

if __name__ == "__main__":
    sys.exit(main())
