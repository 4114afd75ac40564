"""Text that others wrote, for a terminal. Pure."""


def printable(text: str) -> str:
    """On one line, and without what a terminal would obey: such characters are written as Python does, ``\\x1b``."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)
