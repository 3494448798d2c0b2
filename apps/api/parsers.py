"""JSON bodies, read with limits: size, depth, and nothing in them that could not be stored or sent back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import IO, Any

from django.conf import settings
from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

from apps.api.exceptions import PayloadTooLarge

#: Deeper nesting than this cannot be meant, and the recursion of JSON libraries ends at about a thousand.
MAX_DEPTH = 64


class LimitedJsonParser(JSONParser):
    """JSON of at most DATA_UPLOAD_MAX_MEMORY_SIZE bytes.

    DRF reads the stream past Django's own limit, hence the check here.
    """

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE or 1024 * 1024
        body = stream.read(limit + 1)
        if len(body) > limit:
            raise PayloadTooLarge
        encoding = (parser_context or {}).get("encoding") or settings.DEFAULT_CHARSET
        try:
            data = json.loads(body.decode(encoding), parse_constant=_refuse_constant)
        except RecursionError:
            raise ParseError("The body is nested too deeply.") from None
        except (ValueError, LookupError) as error:  # includes UnicodeDecodeError
            raise ParseError(f"The body is not JSON: {error}.") from None
        _check(data)
        return data


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _check(data: Any) -> None:
    """Refuse what json accepts and a database or an encoder further on does not. Raises: ParseError."""
    level = [data]
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.keys())
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, str):
                if "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
                    raise ParseError("The body holds a text with a NUL or half a surrogate pair.")
            elif isinstance(value, float) and not math.isfinite(value):
                raise ParseError("The body holds a number that is too large.")
        if not below:
            return
        level = below
    raise ParseError("The body is nested too deeply.")
