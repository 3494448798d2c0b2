"""Aliases: second names of collections, changed by lists of actions."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from .errors import already_exists, bad_format, bad_request, no_collection, not_found


def changed_aliases(
    aliases: Mapping[str, str], collections: Container[str], actions: list[dict[str, Any]]
) -> dict[str, str]:
    """Return the aliases after create, delete and rename actions. Raises: QdrantError; nothing is changed then."""
    changed = dict(aliases)
    for action in actions:
        _change(changed, collections, action)
    return changed


def _change(aliases: dict[str, str], collections: Container[str], action: dict[str, Any]) -> None:
    try:
        [(kind, names)] = action.items()
        if kind == "create_alias":
            alias, target = names["alias_name"], names["collection_name"]
            if target not in collections:
                raise no_collection(target)
            if alias in collections:
                raise already_exists(alias)
            aliases[alias] = target
        elif kind == "delete_alias":
            aliases.pop(names["alias_name"], None)
        elif kind == "rename_alias":
            old, new = names["old_alias_name"], names["new_alias_name"]
            if old not in aliases:
                raise not_found(f"Alias {old} does not exists!")
            if new in collections:
                raise already_exists(new)
            aliases[new] = aliases.pop(old)
        else:
            raise bad_request(f"unknown alias action {kind}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise bad_format("data did not match any variant of untagged enum AliasOperations") from error
