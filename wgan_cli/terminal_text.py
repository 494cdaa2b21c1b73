"""Make text from files safe to print."""

from __future__ import annotations


def printable(text: str, line_break: str = " ") -> str:
    r"""Return text that no terminal obeys: control characters are written out, as `\x1b`.

    A line break becomes `line_break`, and any other white space a space. Lone surrogates, which
    stand for bytes in the names of files, are written out, too.
    """
    return "".join(sign if sign.isprintable() else _written_out(sign, line_break) for sign in text)


def _written_out(sign: str, line_break: str) -> str:
    if sign == "\n":
        return line_break
    return " " if sign.isspace() else sign.encode("unicode_escape").decode()
