"""References: where a secret comes from. A document never holds one."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from apps.core.errors import InvalidRequest

#: Stands for the secret that this installation holds: an export writes it, and an import leaves the secret alone.
STORED = "stored"
_ENV = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]{0,199})")
_MAX_BYTES = 64 * 1024
_WORDS = f"Give env:NAME, file:/path, or {STORED} for the one that is there: secrets do not belong into this document."


class ReferenceInvalid(ValueError):
    """What stands there is no reference."""


class SecretMissing(InvalidRequest):
    """A reference leads nowhere."""


@dataclass(frozen=True)
class Reference:
    """Where a secret is: `kind` is env, file, stored, or nothing (there shall be none)."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind

    def resolve(self) -> str:
        """Return the secret of an env or file reference. Raises: SecretMissing, which never shows it."""
        if self.kind == "env":
            value = os.environ.get(self.name, "")
            if not value:
                raise SecretMissing(f"The environment variable {self.name} is not set.")
            return value
        try:
            data = Path(self.name).read_bytes()[: _MAX_BYTES + 1]
            value = data.decode().rstrip("\r\n")
        except OSError as error:
            raise SecretMissing(f"The file {self.name} cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise SecretMissing(f"The file {self.name} holds no text.") from error
        if len(data) > _MAX_BYTES or not value or "\x00" in value:
            raise SecretMissing(f"The file {self.name} is empty, or holds no secret.")
        return value


def parse_reference(text: str | None) -> Reference:
    """Read a reference; None: there shall be no secret. Raises: ReferenceInvalid, which never repeats the text."""
    if text is None:
        return Reference("nothing")
    if text == STORED:
        return Reference(STORED)
    if found := _ENV.fullmatch(text):
        return Reference("env", found[1])
    if text.startswith("file:"):
        path = text.removeprefix("file:")
        if not path.startswith("/") or "\x00" in path or len(path) > 1000:
            raise ReferenceInvalid("Give the whole path of the file: file:/run/secrets/key.")
        return Reference("file", path)
    raise ReferenceInvalid(_WORDS)
