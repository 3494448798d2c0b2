"""docs/api.md, made of the schema and the scopes: every operation with its permission, an example and its errors."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

from drf_spectacular.generators import SchemaGenerator

from apps.api.schema import ALWAYS, ERRORS
from apps.core.permissions import GROUP_SCOPES, SCOPE_PERMISSIONS, Scope

_HEAD = """\
<!-- Made by `manage.py write_api_docs` from the schema: edit the code, not this page. -->

# REST API

Every operation, who may call it, an example, and the errors that can come. The whole description, with every field,
is the schema: `/api/v1/schema` (OpenAPI 3), shown by `/api/v1/docs` and `/api/v1/redoc`. Two programs to copy from:
[backup_restore.py](examples/backup_restore.py) and [backup_restore.sh](examples/backup_restore.sh).

The examples assume:

```sh
API=http://127.0.0.1:8000/api/v1
call() { curl -sS -H "api-key: $TOKEN" -H 'content-type: application/json' "$@"; }
```

Success is `{"status": "ok", "time": <seconds>, "result": …}`; `GET /jobs` alone has no envelope. An error is
`{"status": {"error": "<one sentence>"}, "time": <seconds>}`. Downloads and `/metrics` are what they are; their errors
are JSON.
"""
_VALUES = {
    "id": "6f1c2f6e-8c1d-4b6e-9d7a-3e5a4c2b1d33",
    "name": "films",
    "snapshotName": "films.snapshot",
    "shardId": "0",
    "tag": "gold",
}


def render() -> str:
    """Return the page."""
    schema = SchemaGenerator().get_schema(request=None, public=True)
    lines = [_HEAD, "## Permissions", ""]
    lines += ["| scope of a token | permission of its owner | groups that have it |", "|---|---|---|"]
    for scope in Scope:
        groups = ", ".join(name for name, highest in GROUP_SCOPES.items() if highest >= scope)
        lines.append(f"| {scope.label} | `{SCOPE_PERMISSIONS[scope]}` | {groups} |")
    lines += [
        "",
        "Each scope includes those above it. A token can never do more than its owner. `restore` is also needed to",
        "create, and to retry, a job that restores.",
        "",
        "## Errors",
        "",
        f"All operations can answer {_codes(ALWAYS)}; the tables name what comes on top.",
        "",
        "| code | meaning |",
        "|---|---|",
        *(f"| {code} | {words} |" for code, words in ERRORS.items()),
    ]
    tag = None
    for path, method, operation in _operations(schema):
        if operation["tags"][0] != tag:
            tag = operation["tags"][0]
            lines += ["", f"## {tag.capitalize()}", ""]
            lines += ["| operation | permission | example | further errors |", "|---|---|---|---|"]
        more = [code for code in operation["responses"] if code in ERRORS and code not in ALWAYS]
        lines.append(
            f"| **{operation['operationId']}**<br>`{method.upper()} {path}`<br>{operation['summary']} "
            f"| {operation['x-scope']} | {_example(path, method, operation)} | {_codes(more) or '–'} |"
        )
    return "\n".join(lines) + "\n"


def _operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield path, method and operation; those of a tag together, tags in the order in which they first come."""
    found = [(path, method, operation) for path, item in schema["paths"].items() for method, operation in item.items()]
    tags = list(dict.fromkeys(operation["tags"][0] for _, _, operation in found))
    yield from sorted(found, key=lambda each: tags.index(each[2]["tags"][0]))


def _example(path: str, method: str, operation: dict[str, Any]) -> str:
    """Return a call that can be pasted into a shell; a pipe would end the table's cell."""
    words = ["call"]
    if method != "get":
        words += ["-X", method.upper()]
    if "octet-stream" in str(operation["responses"].get("200", "")):
        words.append("-OJ")
    words.append(f'"$API{path.format(**_VALUES)}"')
    bodies = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("examples", {})
    for example in list(bodies.values())[:1]:
        words += ["-d", shlex.quote(json.dumps(example["value"], ensure_ascii=False))]
    return f"`{' '.join(words)}`".replace("|", "\\|")


def _codes(codes: Any) -> str:
    return ", ".join(codes)
