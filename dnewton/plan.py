"""`python -m dnewton.plan`: see :mod:`dnewton.cli.plan`."""

import sys

from dnewton.cli.plan import main as main

if __name__ == "__main__":
    sys.exit(main())
