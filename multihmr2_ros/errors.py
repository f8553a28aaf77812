"""The one error that users' mistakes raise."""

from __future__ import annotations


class UserError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that says what was expected, what came, and what to do. Commands print it without a
    traceback and exit with status 2; the node logs it once.
    """

    def __init__(self, message: str) -> None:
        """Names from files may hold anything; what would break the line or steer a terminal becomes a question mark."""
        super().__init__("".join(letter if letter.isprintable() else "?" for letter in message))
