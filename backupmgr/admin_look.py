"""How the admin looks and what its menu holds: the UNFOLD setting."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse_lazy


def _item(title: str, icon: str, address: str, permission: str | None = None) -> dict[str, Any]:
    item: dict[str, Any] = {"title": title, "icon": icon, "link": reverse_lazy(address)}
    if permission:
        item["permission"] = lambda request: request.user.has_perm(permission)
    return item


def _icon(request: HttpRequest) -> str:
    return static("backupmgr/icon.svg")


def _styles(request: HttpRequest) -> str:
    return static("backupmgr/admin.css")


UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "backupmgr",
    "SITE_HEADER": "backupmgr",
    "SITE_SUBHEADER": "Qdrant backups, with evidence",
    "SITE_URL": None,
    "SITE_ICON": _icon,
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": _icon}],
    "SHOW_HISTORY": True,
    "SHOW_VIEW_ON_SITE": False,
    "LOGIN": {"form": "apps.api.sign_in.SignInForm"},
    "DASHBOARD_CALLBACK": "apps.jobs.admin.dashboard.dashboard",
    "STYLES": [_styles],
    # Teal. 600 and 700 carry white text, 400 and 500 are text on dark: each was chosen for a contrast of 4.5 or more.
    "COLORS": {
        "primary": {
            "50": "oklch(98.4% .014 180.72)",
            "100": "oklch(95.3% .051 180.801)",
            "200": "oklch(91% .096 180.426)",
            "300": "oklch(85.5% .138 181.071)",
            "400": "oklch(77.7% .152 181.912)",
            "500": "oklch(70.4% .14 182.503)",
            "600": "oklch(52.5% .1 184.2)",
            "700": "oklch(48% .09 186.391)",
            "800": "oklch(43.7% .078 188.216)",
            "900": "oklch(38.6% .063 188.416)",
            "950": "oklch(27.7% .046 192.524)",
        },
    },
    "SIDEBAR": {
        "show_search": False,
        "command_search": False,
        "show_all_applications": False,
        "navigation": [
            {
                "title": "",
                "items": [_item("Overview", "dashboard", "admin:index")],
            },
            {
                "title": "Work",
                "separator": True,
                "items": [
                    _item("Jobs", "play_circle", "admin:jobs_job_changelist", "jobs.view_job"),
                    _item("Backups", "inventory_2", "admin:backups_backup_changelist", "backups.view_backup"),
                ],
            },
            {
                "title": "From and to",
                "separator": True,
                "items": [
                    _item("Clusters", "hub", "admin:clusters_cluster_changelist", "clusters.view_cluster"),
                    _item(
                        "Storages", "database", "admin:storage_storageconfig_changelist", "storage.view_storageconfig"
                    ),
                ],
            },
            {
                "title": "People",
                "separator": True,
                "items": [
                    _item("Users", "person", "admin:auth_user_changelist", "auth.view_user"),
                    _item("Groups", "group", "admin:auth_group_changelist", "auth.view_group"),
                    _item("API tokens", "key", "admin:api_apitoken_changelist", "api.view_apitoken"),
                ],
            },
        ],
    },
}
