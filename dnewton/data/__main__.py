"""`python -m dnewton.data convert`: see :mod:`dnewton.cli.convert`."""

from dnewton.cli.convert import main_of_data as main

if __name__ == "__main__":
    main()
