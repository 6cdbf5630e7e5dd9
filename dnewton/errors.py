"""The exception for a user's mistake."""


class UserError(Exception):
    """A mistake in a configuration, a file or a command line.

    The message is one line that names the file, key or row and says what is right instead. The command
    lines print it on rank 0 and end with exit code 2 on every rank.
    """


def one_line(text: object) -> str:
    """The text of an exception folded into one line."""
    return " ".join(str(text).split())
