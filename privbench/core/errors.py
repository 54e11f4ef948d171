"""The one error a user can cause.

Everything a user can get wrong (a name, a value, a file, a device) is raised as `UserError` with one line that says what was
given, what is accepted and what to do; the command line prints that line and exits with code 2.
"""

import difflib
import re
from collections.abc import Iterable

__all__ = ["AttackError", "BusyError", "ImageError", "StoreError", "UserError", "shortened", "unknown_name"]


_LONGEST_WORD = 200
_LONGEST_LINE = 4000


def shortened(text: str) -> str:
    """A message as one line, without what a user may have put in it at any length: words end after 200 characters."""
    line = re.sub(rf"(\S{{{_LONGEST_WORD}}})\S+", r"\1...", " ".join(text.split()))
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}..."


class UserError(ValueError):
    """Bad input: the message is one line, complete enough to act on."""

    def __init__(self, message: str) -> None:
        super().__init__(shortened(message))


class StoreError(UserError):
    """The place where results go cannot be written: full, read-only, gone. It says nothing about a case."""


class ImageError(UserError):
    """A private image cannot be read: damaged, gone, no image. It says nothing about cases of other images."""


class AttackError(RuntimeError):
    """An attack broke for another reason than numbers that fail: a fault of its code or of the set-up, no measurement."""


class BusyError(UserError):
    """Another process is computing the case."""


def unknown_name(kind: str, given: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not registered, with near misses and the full list.

    Args:
        kind: What the name stands for, in the singular ("defense").
        given: The name as the user wrote it.
        known: The accepted names.

    Returns:
        An error to raise; its message is one line.
    """
    names = sorted(known)
    # What differs by upper and lower case alone is meant; no other name is as near.
    folded = {name.casefold(): name for name in names}
    alike = [given.casefold()] if given.casefold() in folded else difflib.get_close_matches(given.casefold(), folded, 2, 0.5)
    near = [folded[name] for name in alike]
    hint = f" did you mean {' or '.join(near)}?" if near else ""
    if given.strip().isdecimal():
        # What is left of `mask_ratio=0,27`: a comma begins the next name.
        hint = f" if '{given}' belongs to a number, write its decimals after a point (0.27);"
    return UserError(f"unknown {kind} '{given}';{hint} accepted: {', '.join(names) or 'none'}")
