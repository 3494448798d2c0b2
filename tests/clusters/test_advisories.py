"""Known troubles of Qdrant's versions: the data file is in order, and the right ones are found."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest

from apps.clusters.advisories import (
    Advisory,
    Effect,
    Operation,
    advisories_for,
    all_advisories,
    parse_version,
)


def found(version: str, operation: str | None = None) -> set[str]:
    return {advisory.id for advisory in advisories_for(version, operation)}


@pytest.mark.parametrize("advisory", all_advisories(), ids=lambda advisory: advisory.id)
def test_every_advisory_is_complete(advisory: Advisory) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", advisory.id)
    assert advisory.operations
    for text in (advisory.consequence, advisory.advice):
        assert re.fullmatch(r"[A-Z].*[^.]\.", text), text
    assert advisory.sources
    for source in advisory.sources:
        parts = urlsplit(source)
        assert (parts.scheme, parts.netloc) == ("https", "github.com")
        assert re.match(
            r"/qdrant/qdrant/(issues/\d+|pull/\d+|releases/tag/v[\d.]+|security/advisories/GHSA-)", parts.path
        )


@pytest.mark.parametrize("advisory", all_advisories(), ids=lambda advisory: advisory.id)
def test_the_fixing_version_is_the_first_one_without_it(advisory: Advisory) -> None:
    if advisory.fixed_in is None:
        assert advisory.affects((99, 0, 0))
    else:
        fixed = parse_version(advisory.fixed_in)
        assert fixed is not None
        assert advisory.affected.endswith(f"<{advisory.fixed_in}")
        assert not advisory.affects(fixed)


def test_ids_are_unique() -> None:
    ids = [advisory.id for advisory in all_advisories()]

    assert len(ids) == len(set(ids))


def test_ranges_hold_at_their_ends() -> None:
    name = "torn-updates-in-snapshot"

    assert name not in found("1.8.4")
    assert name in found("1.9.0")
    assert name in found("1.15.4")
    assert name not in found("1.15.5")
    assert name not in found("1.18.3")


def test_only_what_concerns_the_operation_is_found() -> None:
    assert "custom-sharding-recovers-to-nothing" in found("1.18.3", "recover")
    assert "custom-sharding-recovers-to-nothing" not in found("1.18.3", "backup")
    assert found("1.18.3") == found("1.18.3", "backup") | found("1.18.3", "restore") | found("1.18.3", "recover")


def test_the_worst_comes_first() -> None:
    effects = [advisory.effect for advisory in advisories_for("1.9.1", Operation.BACKUP)]

    assert effects == sorted(effects, key=list(Effect).index)
    assert effects[0] == Effect.DATA


@pytest.mark.parametrize("version", ["", "dev", "next", None])
def test_version_that_cannot_be_read_has_none(version: str | None) -> None:
    assert advisories_for(version) == ()


def test_versions_of_builds_are_read() -> None:
    assert parse_version("1.18.3-dev") == (1, 18, 3)
    assert parse_version("v1.9.0") == (1, 9, 0)
    assert parse_version("1.20") == (1, 20, 0)


def test_sentence_names_the_fix_and_the_source() -> None:
    (advisory,) = [one for one in all_advisories() if one.id == "snapshot-and-optimizer-deadlock"]

    assert advisory.sentence.endswith("(fixed in 1.9.5; Qdrant #4402)")
