"""`python -m dnewton.predict`: see :mod:`dnewton.cli.predict`."""

from dnewton.cli.predict import main as main

if __name__ == "__main__":
    main()
