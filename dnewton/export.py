"""`python -m dnewton.export`: see :mod:`dnewton.cli.export`."""

import sys

from dnewton.cli.export import main as main

if __name__ == "__main__":
    sys.exit(main())
