"""Names of files as they may be shown: they may hold line breaks, terminal commands, and bytes that are no text."""


def printable(text: str, lines: bool = True) -> str:
    r"""Text that a terminal takes for text; what it would obey, or could not encode, as Python writes it.

    Without `lines` it is one line. Letters of every language stay; marks that turn the direction of writing do not.

    >>> print(printable("a\x1b[2Jb\n") + printable("c\nd\udcff", lines=False))
    a\x1b[2Jb
    c\nd\udcff
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(one if one.isprintable() or one in kept else one.encode("unicode_escape").decode() for one in text)
