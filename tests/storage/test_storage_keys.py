from __future__ import annotations

import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from apps.storage.crc32 import combine_crc32, encode_crc32
from apps.storage.keys import BadKey, backup_folder, check_key, escape, part_key

# Everything that has a UTF-8 form.
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)


@given(names, names)
@example("a.b", "a~2Eb")
@example(".", "~2E")
@example("x" * 300, "x" * 301)
def test_different_names_become_different_segments(one: str, other: str) -> None:
    assert (escape(one) == escape(other)) == (one == other)


@given(names)
@example("..")
@example("../../etc/passwd")
@example("/")
@example("a\x00b")
@example("é" * 200)
def test_a_segment_is_short_plain_and_climbs_nowhere(name: str) -> None:
    segment = escape(name)

    assert 0 < len(segment) <= 200
    assert segment.isascii() and "/" not in segment and not segment.startswith(".")
    assert check_key(part_key(backup_folder(name, name, "run"), 3)).count("/") == 3


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\\b", "a\x00b", "a\nb"])
def test_a_key_that_climbs_or_hides_something_is_refused(key: str) -> None:
    with pytest.raises(BadKey):
        check_key(key)


@given(st.lists(st.binary(max_size=500), max_size=6))
def test_the_crc_of_the_whole_follows_from_those_of_the_parts(parts: list[bytes]) -> None:
    total = 0
    for part in parts:
        total = combine_crc32(total, zlib.crc32(part), len(part))

    assert total == zlib.crc32(b"".join(parts))


def test_a_crc_is_encoded_as_s3_wants_it() -> None:
    assert encode_crc32(zlib.crc32(b"123456789")) == "y/Q5Jg=="
