"""Texts that occur nowhere else, a way to find them however they are written, and what was answered."""

from __future__ import annotations

import base64
import html
import json
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from django.contrib.sessions.models import Session
from django.db import connection


@dataclass
class Canaries:
    """Secrets by what they are; `[name]` makes one."""

    known: dict[str, str] = field(default_factory=dict)
    #: Secrets that the database may hold in clear: half of a pair that opens nothing without the other.
    known_to_the_database: set[str] = field(default_factory=set)

    def __getitem__(self, name: str) -> str:
        return self.known.setdefault(name, f"Canary{secrets.token_hex(8)}{re.sub('[^a-z]', '', name)}")

    def in_clear(self, content: bytes | str, *, database: bool = False) -> list[str]:
        """Return what was found: names of secrets, in any way of writing them."""
        data = content if isinstance(content, bytes) else content.encode()
        return [
            name
            for name, secret in self.known.items()
            if not (database and name in self.known_to_the_database)
            and any(written in data for written in _ways_to_write(secret))
        ]


def _ways_to_write(secret: str) -> set[bytes]:
    """As it is, in a URL, in JSON, in HTML, in hex, and in base64 wherever in a longer text it begins."""
    plain = secret.encode()
    encoded = {base64.b64encode(b"\0" * shift + plain)[4 if shift else 0 : -4] for shift in range(3)}
    encoded |= {each.replace(b"+", b"-").replace(b"/", b"_") for each in encoded}
    texts = {secret, quote(secret, safe=""), json.dumps(secret)[1:-1], html.escape(secret)}
    return encoded | {text.encode() for text in texts} | {plain.hex().encode()}


@dataclass
class Harvest:
    """Everything that was answered."""

    answers: list[tuple[str, bytes]] = field(default_factory=list)

    def keep(self, where: str, response: Any) -> Any:
        body = b"".join(response.streaming_content) if response.streaming else response.content
        headers = "\n".join(f"{name}: {value}" for name, value in response.headers.items())
        cookies = "\n".join(morsel.OutputString() for morsel in response.cookies.values())
        self.answers.append((f"{where} → {response.status_code}", f"{headers}\n{cookies}\n".encode() + body))
        assert response.status_code != 500, (where, body)
        return response


def wrong_bodies(fields: dict[str, Any], secret_field: str) -> list[dict[str, Any]]:
    """The fields with the secret in every shape that is refused, or with something else that is wrong beside it."""
    secret = fields[secret_field]
    shapes: list[Any] = [[secret], {"a": secret}, f"{secret}\n", f"é{secret}", f" {secret} ", secret * 400]
    shapes.append(f"{secret}\0")
    bodies = [fields | {secret_field: shape} for shape in shapes]
    bodies += [fields | {name: bad} for name in fields if name != secret_field for bad in (None, 1, "", "\0")]
    return [*bodies, fields | {f"{secret_field}s": secret}, {secret_field: secret}]


def database_leaks(canaries: Canaries) -> list[str]:
    """Search every row of every table, what sessions hold, and with SQLite the bytes of its files."""
    found = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            found += [f"table {table}: {name}" for name in canaries.in_clear(str(cursor.fetchall()), database=True)]
    sessions = str([session.get_decoded() for session in Session.objects.all()])
    found += [f"sessions: {name}" for name in canaries.in_clear(sessions)]
    if connection.vendor == "sqlite":
        database = Path(str(connection.settings_dict["NAME"]))
        files = [database, database.with_name(f"{database.name}-wal")]
        assert all(file.stat().st_size for file in files), "where is the database?"
        for file in files:
            found += [f"{file.name}: {name}" for name in canaries.in_clear(file.read_bytes(), database=True)]
    return found
