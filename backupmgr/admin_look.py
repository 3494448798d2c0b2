"""How the admin looks and what its menu holds: the UNFOLD setting."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse_lazy

_SEE_COLLECTIONS = "clusters.view_observedcollection"


def _item(title: str, icon: str, address: str, permission: str | None = None) -> dict[str, Any]:
    item: dict[str, Any] = {"title": title, "icon": icon, "link": reverse_lazy(address)}
    if permission:
        item["permission"] = lambda request: request.user.has_perm(permission)
    return item


def _on_clusters(request: HttpRequest) -> bool:
    return "/clusters/cluster/" in request.path or "/observedcollection/cluster/" in request.path


def _on_collections(request: HttpRequest) -> bool:
    elsewhere = ("/observedcollection/cluster/", "/observedcollection/coverage/")
    return "/observedcollection/" in request.path and not any(path in request.path for path in elsewhere)


def _on_schedules(request: HttpRequest) -> bool:
    return "/schedules/schedule/" in request.path and "/schedules/schedule/month/" not in request.path


def _icon(request: HttpRequest) -> str:
    return static("backupmgr/icon.svg")


def _favicon(request: HttpRequest) -> str:
    from apps.protection.admin.frame import favicon  # settings are read before there are models

    return favicon(request)


def _base_style(request: HttpRequest) -> str:
    return static("backupmgr/base.css")


def _pages_style(request: HttpRequest) -> str:
    return static("backupmgr/pages.css")


UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "backupmgr",
    "SITE_HEADER": "backupmgr",
    "SITE_SUBHEADER": "Qdrant backups",
    "SITE_URL": None,
    "SITE_ICON": _icon,
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": _favicon}],
    "SHOW_HISTORY": True,
    "SHOW_VIEW_ON_SITE": False,
    "LOGIN": {"form": "apps.api.sign_in.SignInForm"},
    "DASHBOARD_CALLBACK": "apps.protection.admin.dashboard.dashboard",
    "STYLES": [_base_style, _pages_style],
    "GLOBAL_CALLBACK": "apps.protection.admin.frame.frame",
    "SIDEBAR": {
        "show_search": False,
        "command_search": False,
        "show_all_applications": False,
        "navigation": [
            {
                "title": "",
                "items": [
                    _item("Overview", "dashboard", "admin:index") | {"shows": "standing"},
                    _item("Collections", "shield", "admin:clusters_observedcollection_changelist", _SEE_COLLECTIONS)
                    | {"active": _on_collections},
                    _item("Coverage", "checklist", "admin:protection_coverage", _SEE_COLLECTIONS),
                ],
            },
            {
                "title": "Work",
                "separator": True,
                "items": [
                    _item("Jobs", "play_circle", "admin:jobs_job_changelist", "jobs.view_job"),
                    _item("Backups", "inventory_2", "admin:backups_backup_changelist", "backups.view_backup"),
                    _item(
                        "Kept collections",
                        "swap_horiz",
                        "admin:backups_keptcollection_changelist",
                        "backups.view_keptcollection",
                    ),
                    _item("Orphans", "help_center", "admin:backups_orphan_changelist", "backups.view_orphan"),
                    _item(
                        "Deleted backups",
                        "folder_off",
                        "admin:backups_deletedbackup_changelist",
                        "backups.view_deletedbackup",
                    ),
                ],
            },
            {
                "title": "By itself",
                "separator": True,
                "items": [
                    _item("Schedules", "schedule", "admin:schedules_schedule_changelist", "schedules.view_schedule")
                    | {"active": _on_schedules},
                    _item("Calendar", "calendar_month", "admin:schedules_month", "schedules.view_schedule"),
                    _item(
                        "Runs", "event_repeat", "admin:schedules_schedulerun_changelist", "schedules.view_schedulerun"
                    ),
                    _item(
                        "Policies",
                        "auto_delete",
                        "admin:backups_retentionpolicy_changelist",
                        "backups.view_retentionpolicy",
                    ),
                    _item(
                        "Retention",
                        "delete_history",
                        "admin:schedules_retentionrun_changelist",
                        "schedules.view_retentionrun",
                    ),
                    _item("Holds", "keep", "admin:backups_hold_changelist", "backups.view_hold"),
                    _item("Incidents", "warning", "admin:alerts_incident_changelist", "alerts.view_incident"),
                    _item("Channels", "campaign", "admin:alerts_channel_changelist", "alerts.view_channel"),
                ],
            },
            {
                "title": "From and to",
                "separator": True,
                "items": [
                    _item("Clusters", "hub", "admin:clusters_cluster_changelist", "clusters.view_cluster")
                    | {"active": _on_clusters},
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
                    _item("Audit trail", "history", "admin:audit_auditentry_changelist", "audit.view_auditentry"),
                ],
            },
        ],
    },
}
