"""Expressions over moments that every database evaluates by itself."""

from __future__ import annotations

from typing import Any

from django.db.models import FloatField, Func


class EpochSeconds(Func):
    """A moment as seconds since 1970, in UTC.

    Differences of moments are another thing on SQLite: there Django calls a Python function for each row.
    """

    arity = 1
    output_field = FloatField()
    template = "((julianday(%(expressions)s) - 2440587.5) * 86400.0)"

    def as_postgresql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        return self.as_sql(compiler, connection, template="extract(epoch from %(expressions)s)::float8", **extra)
