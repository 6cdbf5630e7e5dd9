"""`python -m dnewton.compare`: see :mod:`dnewton.cli.compare`."""

from dnewton.cli.compare import main as main

if __name__ == "__main__":
    main()
