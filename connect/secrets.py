"""Secrets as references: where one stands, never what it says.

A reference may be pickled into a job, printed and logged. Its value is read where a connection is made, on the machine that
makes it, and kept nowhere: so a file that is replaced counts for the next connection.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec


class InvalidConnection(ValueError):
    """A connection setting that cannot be used; the message names the variable and the remedy."""


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """A variable of the environment or an absolute path of a file: one of the two. `name` is how messages call it."""

    variable: str = ""
    file: str = ""

    def __post_init__(self) -> None:
        if bool(self.variable) == bool(self.file):
            raise InvalidConnection("a secret names a variable of the environment or a file: one of the two")
        if self.file and not self.file.startswith("/"):
            raise InvalidConnection(f"the secret's file {self.file} must be an absolute path: workers run elsewhere")

    def read(self) -> str:
        """The value, without blanks and line ends around it. Raises InvalidConnection."""
        value = self._raw().strip()
        if not value:
            raise InvalidConnection(f"{self.name} is empty: write the secret there")
        return value

    def kafka_reference(self, quoted: bool) -> str:
        """How Kafka's Java client is told to read it, on whichever machine it runs: by its own providers `env` and `directory`.

        These take a value as it is, so here it must be what `read` makes of it; and `quoted` within a JAAS line, where some
        characters end the text. Raises InvalidConnection.
        """
        raw = self._raw()
        if raw != raw.strip():
            raise InvalidConnection(f"{self.name} ends or begins with a blank or a line end: write it with printf %s")
        if quoted and re.search(r'["\\\x00-\x1f]', raw):
            raise InvalidConnection(
                f'{self.name} has a ", a backslash or a control character, which a JAAS line cannot hold'
            )
        if self.variable:
            return f"${{env:{self.variable}}}"
        path = Path(self.file)
        if re.search(r"[:}]", self.file):
            raise InvalidConnection(f"{self.name} is in a path with a colon or a brace, which Kafka cannot be told")
        return f"${{directory:{path.parent}:{path.name}}}"

    @property
    def name(self) -> str:
        return self.variable or self.file

    def _raw(self) -> str:
        if self.variable:
            try:
                return os.environ[self.variable]
            except KeyError:
                raise InvalidConnection(
                    f"{self.variable} is not set in the environment of this process: every machine of the job needs it"
                ) from None
        try:
            return Path(self.file).read_text()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise InvalidConnection(f"the secret's file {self.file} cannot be read: {why}") from error
