"""One point as one hash: the same for what the engine reads from a part and for what a node answers.

Free of Django, of the engine and of the client: both sides of a comparison come through here.

Vectors are compared as the 32-bit floats that Qdrant keeps: a node writes them as the shortest decimal, the engine
hands them over as Python floats; both are the same four bytes. Sparse vectors have no order, and payloads none of
their keys.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

#: The name of the vector of a collection that has only one, and gave it none.
UNNAMED = ""


def digest(point_id: int | str, payload: dict[str, Any] | None, vectors: Any) -> str:
    """Return the SHA-256 of a point in hex.

    `vectors` is what Qdrant answers: a list, a list of lists (multivector), or an object of them by name; a sparse
    vector is {"indices", "values"}. None and an empty object both mean: none.
    """
    total = hashlib.sha256(str(point_id).encode())
    total.update(b"\0")
    total.update(json.dumps(payload or {}, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode())
    for name, vector in sorted(named(vectors).items()):
        total.update(b"\0" + name.encode() + b"\0")
        total.update(_packed(vector))
    return total.hexdigest()


def named(vectors: Any) -> dict[str, Any]:
    """Return the vectors by name, the only one of a collection without names under UNNAMED."""
    if not vectors:
        return {}
    return vectors if isinstance(vectors, dict) else {UNNAMED: vectors}


def size_of(vector: Any) -> int | None:
    """Return the number of dimensions of a dense vector or of a multivector's rows; None for a sparse one."""
    if isinstance(vector, dict):
        return None
    return len(vector[0]) if vector and isinstance(vector[0], list) else len(vector)


def _packed(vector: Any) -> bytes:
    if isinstance(vector, dict):
        pairs = sorted(zip(vector["indices"], vector["values"], strict=True))
        return b"sparse" + b"".join(struct.pack("<If", index, value) for index, value in pairs)
    if vector and isinstance(vector[0], list):
        return b"multi" + b"".join(struct.pack(f"<I{len(row)}f", len(row), *row) for row in vector)
    return b"dense" + struct.pack(f"<{len(vector)}f", *vector)
