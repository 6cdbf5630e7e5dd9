"""`python -m dnewton.report`: see :mod:`dnewton.cli.report`."""

import sys

from dnewton.cli.report import main as main

if __name__ == "__main__":
    sys.exit(main())
