"""The groups viewer, operator and administrator, made after every migrate."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import Group, Permission
from django.db.models import Q

from apps.core.permissions import GROUP_PERMISSIONS


def ensure_groups(using: str = "default", **kwargs: Any) -> None:
    """Create the groups and give them what GROUP_PERMISSIONS says; what an operator added to them stays.

    A receiver of post_migrate. Permissions of rooms that are not migrated yet are given on the next run.
    """
    wanted = {name for names in GROUP_PERMISSIONS.values() for name in names}
    condition = Q()
    for name in wanted:
        app_label, _, codename = name.partition(".")
        condition |= Q(content_type__app_label=app_label, codename=codename)
    found = {
        f"{permission.content_type.app_label}.{permission.codename}": permission
        for permission in Permission.objects.using(using).select_related("content_type").filter(condition)
    }
    for group_name, names in GROUP_PERMISSIONS.items():
        group, _ = Group.objects.using(using).get_or_create(name=group_name)
        group.permissions.add(*(found[name] for name in names if name in found))
