"""Names of the permissions and of the groups that carry them: nobody else spells them out.

Scopes (of an API token) and groups (of a person) are the same ladder: each rung includes the ones below.
"""

from __future__ import annotations

from enum import IntEnum


class Scope(IntEnum):
    """What a caller may do; a higher one includes the lower ones."""

    READ = 1  # look at everything but secrets
    OPERATE = 2  # start, cancel and retry backups; make and delete snapshots on nodes
    RESTORE = 3  # start restores, recover collections
    ADMINISTER = 4  # clusters, storages, tokens, deletion of backups

    @property
    def label(self) -> str:
        return self.name.lower()


SCOPE_CHOICES = [(scope.label, scope.label) for scope in Scope]

GROUP_VIEWER = "viewer"
GROUP_OPERATOR = "operator"
GROUP_ADMINISTRATOR = "administrator"

#: The highest scope that membership in a group gives.
GROUP_SCOPES: dict[str, Scope] = {
    GROUP_VIEWER: Scope.READ,
    GROUP_OPERATOR: Scope.RESTORE,
    GROUP_ADMINISTRATOR: Scope.ADMINISTER,
}

#: Django model permissions (`app_label.codename`) per group; made after every migrate (apps/api/groups.py).
_VIEW = [
    "clusters.view_cluster",
    "clusters.view_observedcollection",
    "storage.view_storageconfig",
    "backups.view_backup",
    "backups.view_part",
    "backups.view_orphan",
    "backups.view_leftover",
    "backups.view_deletedbackup",
    "backups.view_keptcollection",
    "jobs.view_job",
    "jobs.view_jobevent",
    "schedules.view_schedule",
    "schedules.view_schedulerun",
    "schedules.view_retentionrun",
    "alerts.view_incident",
    "backups.view_retentionpolicy",
    "backups.view_hold",
]
#: One's own tokens; everybody's for those who administer (apps/api/admin.py).
_OWN_TOKENS = ["api.view_apitoken", "api.add_apitoken", "api.change_apitoken"]
_OPERATE = ["jobs.operate_job", "jobs.restore_job", "schedules.run_schedule", "backups.add_hold"]
_ADMINISTER = [
    "clusters.add_cluster",
    "clusters.change_cluster",
    "clusters.delete_cluster",
    "storage.add_storageconfig",
    "storage.change_storageconfig",
    "storage.delete_storageconfig",
    "backups.delete_backup",
    "audit.view_auditentry",
    "alerts.view_channel",
    "alerts.add_channel",
    "alerts.change_channel",
    "alerts.delete_channel",
    "alerts.view_delivery",
    "schedules.add_schedule",
    "schedules.change_schedule",
    "schedules.delete_schedule",
    "schedules.change_retentionrun",
    "backups.add_retentionpolicy",
    "backups.change_retentionpolicy",
    "backups.delete_retentionpolicy",
    # Deletes backups in the end, so it is with those who may: an operator can be given it alone.
    "backups.confirm_retention",
    "backups.change_hold",
]
GROUP_PERMISSIONS: dict[str, list[str]] = {
    GROUP_VIEWER: _VIEW + _OWN_TOKENS,
    GROUP_OPERATOR: _VIEW + _OWN_TOKENS + _OPERATE,
    GROUP_ADMINISTRATOR: _VIEW + _OWN_TOKENS + _OPERATE + _ADMINISTER,
}

#: The Django permission that stands for each scope when the caller is a signed-in person.
SCOPE_PERMISSIONS: dict[Scope, str] = {
    Scope.READ: "jobs.view_job",
    Scope.OPERATE: "jobs.operate_job",
    Scope.RESTORE: "jobs.restore_job",
    Scope.ADMINISTER: "storage.change_storageconfig",
}
