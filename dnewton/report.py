"""`python -m dnewton.report`: see :mod:`dnewton.cli.report`."""

from dnewton.cli.report import main as main

if __name__ == "__main__":
    main()
