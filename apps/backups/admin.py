"""The admin of backups: facts. Restoring and deleting one are pages of the jobs, reached by their URL names."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from apps.audit.trail import record_action
from apps.backups.catalogue import rescan
from apps.backups.deletion import lock_words
from apps.backups.models import Backup, BackupStatus, DeletedBackup, Leftover, Part
from apps.backups.origin import origin_of
from apps.backups.parts_page import send_manifest, stream_part
from apps.backups.plan import PlanBlocked, check_versions
from apps.backups.policies import Hold
from apps.backups.recipe import recipe
from apps.clusters.models import ClusterObservation
from apps.core.admin_cells import BAD, NOTHING, OFF, OK, ago, exact, number, state_cell, time_cell
from apps.core.admin_kit import FactAdmin, demand, may, person
from apps.core.errors import BackupmgrError
from apps.core.permissions import SCOPE_PERMISSIONS, Scope
from apps.core.text import format_duration, format_size, plural
from apps.storage.models import StorageConfig

_STATES = {
    BackupStatus.COMPLETED: ("Complete", OK),
    BackupStatus.DAMAGED: ("Damaged", BAD),
    BackupStatus.MISSING: ("Missing", BAD),
    BackupStatus.DELETING: ("Being deleted", OFF),
}
LET_GO = "let-go"
#: More names than this are no menu any more: there is the search.
MENU_NAMES = 100
#: A rescan of a large storage may find more problems than a page should show.
SHOWN_PROBLEMS = 10
#: A backup that is verified every night should not fill the page with it.
SHOWN_VERIFICATIONS = 10
SHOWN_CLUSTERS = 10


def backup_state(backup: Backup) -> SafeString:
    word, tone = _STATES[BackupStatus(backup.status)]
    if backup.is_expired and backup.status == BackupStatus.COMPLETED:
        return state_cell("Let go by retention", OFF, title=f"{backup.expire_reason}; it can still be taken back")
    return state_cell(word, tone, title=backup.status_reason)


def proof(backup: Backup) -> SafeString:
    """What is known of it beyond having been written: the strongest evidence, with its age."""
    if backup.restored_at:
        return state_cell(f"Proven {ago(backup.restored_at)}", OK, title="Restored, and compared with the manifest")
    if backup.opened_at:
        return state_cell(
            f"Opened {ago(backup.opened_at)}", OK, title="Every part was opened in Qdrant's engine, and counted"
        )
    if backup.checked_at:
        return state_cell(
            f"Checked {ago(backup.checked_at)} (hashes only)", OK, title="The SHA-256 of every part was compared"
        )
    return state_cell("Not tested yet", "off")


class CollectionFilter(admin.SimpleListFilter):
    """Collections that have backups, as long as they make a menu; any other by its name in the address."""

    title = "collection"
    parameter_name = "collection"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        found = Backup.objects.order_by("collection_name").values_list("collection_name", flat=True).distinct()
        names = list(found[:MENU_NAMES])
        asked = request.GET.get(self.parameter_name)
        if asked and asked not in names:
            names.insert(0, asked)
        return [(name, name) for name in names]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.filter(collection_name=self.value()) if self.value() else queryset


class StateFilter(admin.SimpleListFilter):
    """The states, in the words of the list."""

    title = "status"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [*((status.value, word) for status, (word, _) in _STATES.items()), (LET_GO, "Let go by retention")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if self.value() == LET_GO:
            return queryset.filter(expired_at__isnull=False).exclude(status=BackupStatus.DELETING)
        if self.value() in BackupStatus.values:
            return queryset.filter(status=self.value())
        # What retention let go is looked for only by whoever wants it back.
        return queryset.filter(Q(expired_at=None) | Q(status=BackupStatus.DELETING))


class AgeFilter(admin.SimpleListFilter):
    title = "age"
    parameter_name = "age"
    _DAYS = {"1": "up to 1 day", "7": "up to 7 days", "30": "up to 30 days", "over-30": "over 30 days",
             "over-90": "over 90 days"}  # fmt: skip

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(self._DAYS.items())

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        chosen = self.value()
        if chosen not in self._DAYS:
            return queryset
        edge = timezone.now() - timedelta(days=int(chosen.removeprefix("over-")))
        return (
            queryset.filter(created_at__lt=edge)
            if chosen.startswith("over-")
            else queryset.filter(created_at__gte=edge)
        )


class EvidenceFilter(admin.SimpleListFilter):
    """What is known of a backup beyond having been written."""

    title = "evidence"
    parameter_name = "evidence"
    _WAYS = {
        "proven": ("Proven by a restore", Q(restored_at__isnull=False)),
        "tested": ("Tested in some way", Q(checked_at__isnull=False) | Q(restored_at__isnull=False)),
        "untested": ("Not tested yet", Q(checked_at=None, restored_at=None)),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(value, words) for value, (words, _) in self._WAYS.items()]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        chosen = self.value()
        return queryset.filter(self._WAYS[chosen][1]) if chosen in self._WAYS else queryset


@admin.register(Backup)
class BackupAdmin(FactAdmin):
    list_display = ["collection", "state", "made", "size", "points", "place", "evidence"]
    list_display_links = ["collection"]
    list_filter = [StateFilter, EvidenceFilter, AgeFilter, CollectionFilter, "cluster", "storage"]
    list_select_related = ["storage"]
    search_fields = ["collection_name", "snapshot_name", "cluster_name"]
    search_help_text = "Collection, backup name or cluster"
    ordering = ["-created_at", "-id"]
    sortable_by: list[str] = []
    empty_title = "No backup yet"
    empty_text = "Back up a collection, or rescan a storage that already holds backups."

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).defer("manifest")

    def object_queryset(self, request: HttpRequest) -> Any:
        return Backup.objects.select_related("storage", "cluster", "policy")

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """A deleted one is not there any more; what is on record of it is."""
        found = self.find(request, object_id)
        if found is not None:
            return self.detail_view(request, found)
        record = _record_of(object_id)
        where = reverse("admin:backups_deletedbackup_change", args=[record.pk]) if record is not None else ""
        return self.gone(request, ways=[("What is on record of it", where)] if where else None)

    def own_urls(self) -> list[tuple[str, str, Callable[..., HttpResponseBase]]]:
        return [
            ("rescan/<uuid:storage_id>/", "backups_backup_rescan", self.rescan_view),
            ("<uuid:backup_id>/parts/<int:shard_id>/", "backups_backup_part", self.part_view),
            ("<uuid:backup_id>/manifest/", "backups_backup_manifest", self.manifest_view),
        ]

    # --- columns -------------------------------------------------------------------------------------------
    @admin.display(description="Collection")
    def collection(self, backup: Backup) -> SafeString:
        shard = f" · shard {backup.shard_id}" if backup.shard_id is not None else ""
        return format_html('{}<span class="bm-sub">{}{}</span>', backup.collection_name, backup.cluster_name, shard)

    @admin.display(description="Status")
    def state(self, backup: Backup) -> SafeString:
        return backup_state(backup)

    @admin.display(description="Made")
    def made(self, backup: Backup) -> SafeString:
        return time_cell(backup.created_at)

    @admin.display(description="Size")
    def size(self, backup: Backup) -> str:
        return format_size(backup.size_bytes)

    @admin.display(description="Points")
    def points(self, backup: Backup) -> SafeString:
        return format_html(
            '{}<span class="bm-sub">{}</span>', number(backup.points_count), plural(backup.shard_count, "shard")
        )

    @admin.display(description="Storage")
    def place(self, backup: Backup) -> str:
        return backup.storage.name

    @admin.display(description="Evidence")
    def evidence(self, backup: Backup) -> SafeString:
        return proof(backup)

    # --- pages ---------------------------------------------------------------------------------------------
    def detail_view(self, request: HttpRequest, obj: Backup) -> HttpResponse:
        seconds = (obj.created_at - obj.started_at).total_seconds()
        return self.page(
            request,
            "admin/backups/detail.html",
            title=f"{obj.collection_name}, {ago(obj.created_at)}",
            backup=obj,
            state=backup_state(obj),
            proof=proof(obj),
            fits=fits(obj),
            took=format_duration(seconds) if seconds >= 0 else NOTHING,
            verifications=obj.verifications.order_by("-created_at", "-id")[:SHOWN_VERIFICATIONS],
            parts=part_rows(obj),
            origin=origin_of(obj),
            recipe=recipe(obj),
            kept=kept_because(obj, timezone.now()),
            holds=Hold.objects.active(timezone.now()).filter(backup=obj),
            may_hold=request.user.has_perm("backups.add_hold") and obj.status != BackupStatus.DELETING,
            collection_address=_collection_address(obj),
            jobs=obj.jobs.order_by("-created_at", "-id")[:20],
            manifest=json.dumps(obj.manifest, indent=2, ensure_ascii=False, sort_keys=False),
            may_restore=may(request, Scope.RESTORE) and obj.status == BackupStatus.COMPLETED,
            may_verify=may(request, Scope.OPERATE) and obj.status != BackupStatus.DELETING,
            may_delete=request.user.has_perm("backups.delete_backup") and obj.status != BackupStatus.DELETING,
            tombstone=Leftover.objects.filter(backup=obj).first(),
        )

    def part_view(self, request: HttpRequest, backup_id: Any, shard_id: int) -> HttpResponseBase:
        """Send a part: it holds the data itself, so it is for who may restore."""
        demand(request, SCOPE_PERMISSIONS[Scope.RESTORE])
        part = Part.objects.select_related("backup__storage").filter(backup=backup_id, shard_id=shard_id).first()
        if part is None:
            return self.gone(request, "part")
        return self._sent(request, part.backup, f"shard {shard_id}", lambda: stream_part(part))

    def manifest_view(self, request: HttpRequest, backup_id: Any) -> HttpResponseBase:
        backup = self.find(request, backup_id)
        if not isinstance(backup, Backup):
            return self.gone(request)
        return self._sent(request, backup, "the manifest", lambda: send_manifest(backup))

    def _sent(
        self, request: HttpRequest, backup: Backup, what: str, send: Callable[[], HttpResponseBase]
    ) -> HttpResponseBase:
        try:
            answer = send()
        except BackupmgrError as error:
            messages.error(request, f"Not sent: {error}")
            return HttpResponseRedirect(self.object_url(backup))
        record_action(
            "backup.download", f"Downloaded {what} of the backup {backup}.", about=backup, user=person(request)
        )
        return answer

    def rescan_view(self, request: HttpRequest, storage_id: str) -> HttpResponse:
        """Make the catalogue say what the storage holds, and tell what came of it."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        demand(request, "storage.change_storageconfig")
        storage = StorageConfig.objects.filter(pk=storage_id).first()
        if storage is None:
            messages.warning(request, "This storage does not exist: it may have been deleted meanwhile.")
            return HttpResponseRedirect(reverse("admin:storage_storageconfig_changelist"))
        try:
            result = rescan(storage, timezone.now())
        except BackupmgrError as error:
            messages.error(request, f"{storage.name} could not be scanned: {error}")
        else:
            messages.success(
                request,
                f"{storage.name} holds {plural(result.found, 'backup')}: {result.added} new in the catalogue, "
                f"{result.damaged} damaged, {result.missing} missing.",
            )
            for problem in result.problems[:SHOWN_PROBLEMS]:
                messages.warning(request, problem)
            if len(result.problems) > SHOWN_PROBLEMS:
                messages.warning(request, f"And {len(result.problems) - SHOWN_PROBLEMS} more.")
        return HttpResponseRedirect(reverse("admin:storage_storageconfig_change", args=[storage.pk]))


def _record_of(backup_id: str) -> DeletedBackup | None:
    try:
        return DeletedBackup.objects.filter(backup_id=backup_id).order_by("-created_at").first()
    except (ValueError, ValidationError):
        return None


def fits(backup: Backup) -> list[str]:
    """For each cluster that has told its version: whether Qdrant there takes this backup, and why not."""
    said = []
    seen = ClusterObservation.objects.exclude(version="").select_related("cluster").order_by("cluster__name")
    for row in seen[:SHOWN_CLUSTERS]:
        try:
            doubts = check_versions(backup.qdrant_version, row.version)
        except PlanBlocked as error:
            said.append(f"{row.cluster.name}: no. {error}")
        else:
            said.append(f"{row.cluster.name} ({row.version}): {' '.join(doubts) or 'fits'}")
    return said


def part_rows(backup: Backup) -> list[tuple[Part, str]]:
    """The parts, each with the points that its shard held: a number, or its bounds when somebody wrote meanwhile."""
    bounds = {
        shard.get("shard_id"): (shard.get("points_min"), shard.get("points_max"), shard.get("shard_key"))
        for shard in backup.manifest.get("shards") or []
        if isinstance(shard, dict)
    }
    rows = []
    for part in backup.parts.order_by("shard_id"):
        low, high, key = bounds.get(part.shard_id, (part.points_count, part.points_count, None))
        words = number(high) if low == high else f"{number(low)} to {number(high)}"
        rows.append((part, f"{words}, key {key}" if key is not None else words))
    return rows


def kept_because(backup: Backup, now: datetime) -> list[str]:
    """Why it is still there, and what may end that; the strongest reason first."""
    said = []
    for hold in Hold.objects.active(now).filter(backup=backup).select_related("created_by"):
        owner = f" by {hold.created_by.get_username()}" if hold.created_by else ""
        said.append(f"Held{owner}{f' until {exact(hold.until)}' if hold.until else ''}: {hold.reason}")
    if backup.locked_until and backup.locked_until > now:
        said.append(f"Its storage keeps it {lock_words(backup.locked_until)}.")
    if backup.delete_at:
        said.append(f"Retention let it go ({backup.expire_reason}); it is deleted after {exact(backup.delete_at)}.")
    elif backup.policy is not None:
        said.append(f"By the policy {backup.policy}.")
    elif backup.keep_until:
        said.append(f"Until {exact(backup.keep_until)}.")
    if not said:
        said.append("No rule removes it: it stays until somebody deletes it.")
    return said


def _collection_address(backup: Backup) -> str:
    """The page of its collection; empty when its cluster is not registered here."""
    if backup.cluster_id is None:
        return ""
    query = urlencode({"cluster": str(backup.cluster_id), "name": backup.collection_name})
    return f"{reverse('admin:clusters_collection')}?{query}"
