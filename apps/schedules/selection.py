"""Selection: which collections a schedule means. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase

#: Patterns and tags in one schedule.
MAX_PATTERNS = 100
MAX_PATTERN_LENGTH = 255


@dataclass(frozen=True)
class Selection:
    """Names, sorted. `excluded` would have matched; `unmatched` is everything else."""

    matched: tuple[str, ...]
    excluded: tuple[str, ...]
    unmatched: tuple[str, ...]


def select(
    names: Iterable[str],
    *,
    include: Collection[str],
    exclude: Collection[str] = (),
    tags: Collection[str] = (),
    tags_of: Mapping[str, Collection[str]] | None = None,
) -> Selection:
    """Select by globs (`*`, `?`, `[abc]`; capitals count) and tags: one include matches, one tag if any, no exclude.

    A name that is written out in full matches itself, whatever signs it holds.
    """
    matched, excluded, unmatched = [], [], []
    for name in sorted(set(names)):
        tagged = not tags or any(tag in tags for tag in (tags_of or {}).get(name, ()))
        if not tagged or not _matches(name, include):
            unmatched.append(name)
        elif _matches(name, exclude):
            excluded.append(name)
        else:
            matched.append(name)
    return Selection(tuple(matched), tuple(excluded), tuple(unmatched))


def matching(
    names: Set[str],
    *,
    include: Collection[str],
    exclude: Collection[str] = (),
    tags: Collection[str] = (),
    tags_of: Mapping[str, Collection[str]] | None = None,
) -> tuple[str, ...]:
    """Return what `select` calls matched; quick also for thousands of schedules that each name a few collections."""
    named = names if any(sign in glob for glob in include for sign in "*?[") else names & set(include)
    return select(named, include=include, exclude=exclude, tags=tags, tags_of=tags_of).matched


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)
