"""The sample collection: a shop's catalogue with vectors and payloads of every kind, the same at every run."""

from __future__ import annotations

import uuid
from array import array
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

TEXT_SIZE = 64
IMAGE_SIZE = 32
_WORDS = 5000

CONFIG: dict[str, Any] = {
    "vectors": {
        "text": {"size": TEXT_SIZE, "distance": "Cosine"},
        "image": {"size": IMAGE_SIZE, "distance": "Dot"},
    },
    "sparse_vectors": {"words": {}},
    "shard_number": 2,
    "on_disk_payload": True,
}

#: Of a cluster: more shards, and two replicas of each.
CLUSTER_CONFIG: dict[str, Any] = {**CONFIG, "shard_number": 3, "replication_factor": 2}

INDEXES: dict[str, Any] = {
    "category": "keyword",
    "stock": "integer",
    "price": "float",
    "on_sale": "bool",
    "added_at": "datetime",
    "warehouse": "geo",
    "maker.country": "keyword",
    "title": {"type": "text", "tokenizer": "word", "lowercase": True},
}

_CATEGORIES = ("books", "garden", "kitchen", "music", "toys", "écriture", "подорожі", "旅行")
_COUNTRIES = ("DE", "JP", "PL", "UA", "US")
_TITLES = ("Quiet kettle", "Blue bicycle bell", "Чайник «Тиша»", "静かなやかん", "Théière à l’ancienne", "غلاية هادئة")
_TAGS = ("new", "sale", "fragile", "gift", "öko", "🎁")
_NOTES = (None, "", "back in stock\nnext week", 'quotes " and \\ backslashes', "🙂 emoji", "tab\there")
_START = datetime(2024, 1, 1, tzinfo=UTC)


def points(count: int, seed: int = 20) -> Iterator[dict[str, Any]]:
    """Yield `count` points as `PUT /collections/{c}/points` takes them."""
    for number in range(count):
        yield point(number, seed)


def point(number: int, seed: int = 20) -> dict[str, Any]:
    """Return one point. Every tenth has a UUID as its id, every seventh no image, every fifth no words."""
    random = Random(seed * 1_000_003 + number)
    vectors: dict[str, Any] = {"text": _dense(random, TEXT_SIZE)}
    if number % 7:
        vectors["image"] = _dense(random, IMAGE_SIZE)
    if number % 5:
        indices = sorted(random.sample(range(_WORDS), 3 + number % 6))
        vectors["words"] = {"indices": indices, "values": [(1 + byte) / 64 for byte in random.randbytes(len(indices))]}
    return {
        "id": number if number % 10 else str(uuid.UUID(bytes=random.randbytes(16), version=4)),
        "vector": vectors,
        "payload": _payload(number, random) if number % 97 else {},
    }


def _dense(random: Random, size: int) -> list[float]:
    whole = array("H")
    whole.frombytes(random.randbytes(2 * size))
    return [(value % 20001 - 10000) / 10000 for value in whole]


def _payload(number: int, random: Random) -> dict[str, Any]:
    pick = random.randbytes(12)
    payload: dict[str, Any] = {
        "title": f"{_TITLES[pick[0] % len(_TITLES)]} {number}",
        "category": _CATEGORIES[pick[1] % len(_CATEGORIES)],
        "stock": pick[2] - 16,
        "sold_ever": 2**53 + number,
        "price": (100 + pick[3] * 256 + pick[4]) / 100,
        "weight": 1e-7 * (1 + pick[5]),
        "on_sale": pick[6] % 3 == 0,
        "added_at": (_START + timedelta(minutes=11 * number, microseconds=pick[7] * 1000)).isoformat(),
        "warehouse": {"lon": (pick[8] - 128) * 1.25, "lat": (pick[9] - 128) / 2},
        "maker": {
            "name": f"Maker {pick[10]}",
            "country": _COUNTRIES[pick[10] % len(_COUNTRIES)],
            "address": {"street": "Київська", "house": pick[10], "flat": None},
        },
        "tags": [_TAGS[(pick[11] + step) % len(_TAGS)] for step in range(pick[11] % 4)],
        "note": _NOTES[pick[0] % len(_NOTES)],
    }
    if number % 3 == 0:
        payload["reviews"] = [{"stars": 1 + byte % 5, "by": f"user-{byte}"} for byte in pick[: 1 + pick[2] % 3]]
        payload["mixed"] = [1, 2.5, "three", None, True, [4, [5]], {}]
    return payload
