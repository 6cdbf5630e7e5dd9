"""`python -m dnewton.plan`: see :mod:`dnewton.cli.plan`."""

from dnewton.cli.plan import main as main

if __name__ == "__main__":
    main()
