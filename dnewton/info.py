"""`python -m dnewton.info`: see :mod:`dnewton.cli.info`."""

from dnewton.cli.info import main as main

if __name__ == "__main__":
    main()
