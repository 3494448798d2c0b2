"""One point as one hash, whoever read it."""

from __future__ import annotations

import struct

from apps.backups.engine.points import digest

PAYLOAD = {"city": "Łódź", "n": 1, "nested": {"b": [1, 2.5, None], "a": True}}


def as_engine(values: list[float]) -> list[float]:
    """The float32 that is kept, as a Python float."""
    return [struct.unpack("<f", struct.pack("<f", value))[0] for value in values]


def test_a_node_and_the_engine_say_the_same_in_other_words() -> None:
    node = digest(
        7,
        PAYLOAD,
        {"text": [0.11577735, -0.2714], "words": {"indices": [9, 3], "values": [0.5, 0.1]}, "m": [[0.1], [2]]},
    )
    engine = digest(
        7,
        dict(reversed(PAYLOAD.items())),
        {
            "m": [as_engine([0.1]), [2.0]],
            "words": {"indices": [3, 9], "values": as_engine([0.1, 0.5])},
            "text": as_engine([0.11577735, -0.2714]),
        },
    )

    assert node == engine


def test_nothing_is_nothing_in_every_form() -> None:
    assert digest("a", None, None) == digest("a", {}, {}) == digest("a", {}, [])
    assert digest("a", {}, [1.0]) == digest("a", {}, {"": [1.0]})


def test_every_difference_shows() -> None:
    base = digest(1, PAYLOAD, {"v": [1.0, 2.0]})
    others = [
        digest(2, PAYLOAD, {"v": [1.0, 2.0]}),
        digest(1, PAYLOAD | {"n": 2}, {"v": [1.0, 2.0]}),
        digest(1, PAYLOAD | {"n": 1.0}, {"v": [1.0, 2.0]}),
        digest(1, PAYLOAD | {"new": None}, {"v": [1.0, 2.0]}),
        digest(1, PAYLOAD, {"v": [1.0, 2.0000002]}),
        digest(1, PAYLOAD, {"v": [2.0, 1.0]}),
        digest(1, PAYLOAD, {"w": [1.0, 2.0]}),
        digest(1, PAYLOAD, {"v": [[1.0, 2.0]]}),
        digest(1, PAYLOAD, {"v": [[1.0], [2.0]]}),
        digest(1, PAYLOAD, {"v": {"indices": [0, 1], "values": [1.0, 2.0]}}),
        digest(1, PAYLOAD, None),
    ]

    assert len({base, *others}) == len(others) + 1
