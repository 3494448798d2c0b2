"""The pages of deleted backups: which, when, and why. Facts, kept for as long as the settings say."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from apps.backups.models import DeletedBackup
from apps.backups.policies import RetentionPolicy
from apps.core.admin_cells import number, time_cell
from apps.core.admin_kit import FactAdmin
from apps.core.text import format_size
from apps.schedules.models import RetentionRun


class WayFilter(admin.SimpleListFilter):
    """Whether a rule or a person was behind it."""

    title = "way"
    parameter_name = "way"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("retention", "Let go by retention"), ("person", "Deleted by somebody")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if self.value() in ("retention", "person"):
            return queryset.filter(let_go_at__isnull=self.value() == "person")
        return queryset


@admin.register(DeletedBackup)
class DeletedBackupAdmin(FactAdmin):
    list_display = ["collection", "deleted", "taken", "size", "place", "policy", "why"]
    list_display_links = ["collection"]
    list_filter = [WayFilter, "cluster_name", "storage_name", "policy_name"]
    search_fields = ["collection_name", "snapshot_name", "deleted_by"]
    search_help_text = "Collection, backup name or person"
    ordering = ["-created_at", "-id"]
    sortable_by: list[str] = []
    empty_title = "No backup has been deleted"
    empty_text = "What is deleted, by hand or by a policy, stands here afterwards: which backup, when and why."

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).defer("policy_rules")

    def object_queryset(self, request: HttpRequest) -> Any:
        return DeletedBackup.objects.all()

    @admin.display(description="Collection")
    def collection(self, record: DeletedBackup) -> SafeString:
        shard = f" · shard {record.shard_id}" if record.shard_id is not None else ""
        return format_html('{}<span class="bm-sub">{}{}</span>', record.collection_name, record.cluster_name, shard)

    @admin.display(description="Deleted")
    def deleted(self, record: DeletedBackup) -> SafeString:
        return time_cell(record.erased_at)

    @admin.display(description="Taken")
    def taken(self, record: DeletedBackup) -> SafeString:
        return time_cell(record.taken_at)

    @admin.display(description="Size")
    def size(self, record: DeletedBackup) -> str:
        return format_size(record.size_bytes)

    @admin.display(description="Storage")
    def place(self, record: DeletedBackup) -> str:
        return record.storage_name

    @admin.display(description="Policy")
    def policy(self, record: DeletedBackup) -> str:
        return record.policy_name or "–"

    @admin.display(description="Why")
    def why(self, record: DeletedBackup) -> str:
        return record.reason[:120]

    def detail_view(self, request: HttpRequest, obj: DeletedBackup) -> HttpResponse:
        run, policy = obj.retention_run_id, obj.policy_id
        return self.page(
            request,
            "admin/schedules/deleted_backup.html",
            title=f"Deleted backup of {obj.collection_name}",
            record=obj,
            points=number(obj.points_count),
            rules=[(name.replace("_", " "), value) for name, value in obj.policy_rules.items() if value not in (0, "")],
            run_there=run is not None and RetentionRun.objects.filter(pk=run).exists(),
            policy_there=policy is not None and RetentionPolicy.objects.filter(pk=policy).exists(),
            days=settings.BACKUPMGR_DELETED_DAYS,
        )
