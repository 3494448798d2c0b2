"""The admin of storages: where backups go. Testing one writes, reads back and removes a probe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db.models import Count, Q, Sum
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import reverse
from django.utils.safestring import SafeString

from apps.core.admin_cells import BAD, OK, WAIT, number, state_cell
from apps.core.admin_kit import ConsoleAdmin, demand
from apps.core.errors import BackupmgrError
from apps.core.text import format_size, plural
from apps.storage.forms import StorageForm
from apps.storage.models import StorageConfig
from apps.storage.services import FIELDS, create_storage, delete_storage, probe_store, update_storage

CHANGE = "storage.change_storageconfig"


@admin.register(StorageConfig)
class StorageConfigAdmin(ConsoleAdmin):
    form = StorageForm
    list_display = ["name", "kind", "where", "default", "state", "backups_held", "bytes_held"]
    list_select_related = ["observation"]
    list_display_links = ["name"]
    search_fields = ["name", "path", "s3_bucket", "s3_endpoint"]
    ordering = ["name"]
    empty_title = "No storage yet"
    empty_text = "A storage is where backups go: a folder of this host, or a bucket of S3 and what speaks S3."
    change_form_template = "admin/storage/storageconfig/change_form.html"

    class Media:
        js = ["backupmgr/storage_form.js"]

    def get_queryset(self, request: HttpRequest) -> Any:
        present = Q(backups__status="completed")
        return (
            super()
            .get_queryset(request)
            .annotate(held=Count("backups", filter=present), held_bytes=Sum("backups__size_bytes", filter=present))
        )

    def get_fieldsets(self, request: HttpRequest, obj: StorageConfig | None = None) -> Any:
        looks_only = obj is not None and not self.has_change_permission(request, obj)
        keys = ["access", "secret"] if looks_only else ["s3_access_key", "s3_secret_key"]
        s3_fields = ["s3_endpoint", "s3_bucket", "s3_region", *keys, "s3_prefix", "s3_addressing_style"]
        parts: dict[str, tuple[str, dict[str, Any]]] = {
            "local": ("Folder", {"fields": ["path"], "classes": ["bm-type-local"]}),
            "s3": ("Bucket", {"fields": [*s3_fields, "verify_tls", "ca"], "classes": ["bm-type-s3"]}),
        }
        # Who edits may change the type: a script then shows the fields of the chosen one.
        shown = [parts[obj.type]] if obj is not None and looks_only else list(parts.values())
        return [(None, {"fields": ["name", "type", "is_default", "max_jobs"]}), *shown]

    def get_readonly_fields(self, request: HttpRequest, obj: StorageConfig | None = None) -> Any:
        return [] if obj is None or self.has_change_permission(request, obj) else ["secret", "access"]

    def own_urls(self) -> list[tuple[str, str, Callable[..., HttpResponse]]]:
        return [("<uuid:object_id>/test/", "storage_storageconfig_test", self.test_view)]

    # --- columns -------------------------------------------------------------------------------------------
    @admin.display(description="Type", ordering="type")
    def kind(self, storage: StorageConfig) -> str:
        return storage.get_type_display()

    @admin.display(description="Where")
    def where(self, storage: StorageConfig) -> str:
        return storage.location

    @admin.display(description="Default", ordering="is_default")
    def default(self, storage: StorageConfig) -> str | SafeString:
        return state_cell("Default", OK) if storage.is_default else ""

    @admin.display(description="Status")
    def state(self, storage: StorageConfig) -> SafeString:
        """What came of the last look at it, when there was one."""
        look = getattr(storage, "observation", None)
        if look is None or look.tried_at is None:
            return state_cell("Not checked yet", WAIT)
        return state_cell("Does not answer", BAD, title=look.problem) if look.problem else state_cell("Answers", OK)

    @admin.display(description="Backups", ordering="held")
    def backups_held(self, storage: Any) -> str:
        return number(storage.held)

    @admin.display(description="Size of backups", ordering="held_bytes")
    def bytes_held(self, storage: Any) -> str:
        return format_size(storage.held_bytes or 0)

    @admin.display(description="Secret key")
    def secret(self, storage: StorageConfig) -> str:
        return "set" if storage.s3_secret_key else "not set"

    @admin.display(description="Access key")
    def access(self, storage: StorageConfig) -> str:
        return storage.masked_access_key or "not set"

    # --- pages ---------------------------------------------------------------------------------------------
    def save_model(self, request: HttpRequest, obj: StorageConfig, form: Any, change: bool) -> None:
        """Save by the service, which makes the folder of a folder storage and hands the default over."""
        data = {name: form.cleaned_data[name] for name in FIELDS if name in form.cleaned_data} | form.entered
        user = request.user.get_username()
        saved = update_storage(storage=obj, data=data, user=user) if change else create_storage(data=data, user=user)
        obj.__dict__.update(saved.__dict__)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        context = {"may_change": request.user.has_perm(CHANGE)}
        try:
            return super().changeform_view(request, object_id, form_url, context | (extra_context or {}))
        except BackupmgrError as error:  # what the form could not know: a folder that cannot be made, another saver
            messages.error(request, f"Not saved: {error}")
            return HttpResponseRedirect(request.get_full_path())

    def _saved(self, request: HttpRequest, obj: Any) -> HttpResponse:
        answer = super()._saved(request, obj)
        if obj.backups.exists() or obj.jobs.exists() or StorageConfig.objects.count() > 1:
            return answer
        return HttpResponseRedirect(reverse("admin:protection_first_steps"))  # while nothing has been backed up yet

    def test_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Write, read back and remove a probe, and say what came of it."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        demand(request, CHANGE)
        storage = self.find(request, object_id)
        if not isinstance(storage, StorageConfig):
            return self.gone(request)
        result = probe_store(storage)
        (messages.success if result.success else messages.error)(request, f"{storage.name}: {result.message}")
        if request.GET.get("next") == "first-steps":
            return HttpResponseRedirect(reverse("admin:protection_first_steps"))
        return HttpResponseRedirect(self.object_url(storage))

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        storage = self.find(request, object_id)
        if not isinstance(storage, StorageConfig):
            return self.gone(request)
        demand(request, "storage.delete_storageconfig")
        if request.method == "POST":
            try:
                delete_storage(storage=storage)
            except BackupmgrError as error:
                messages.error(request, str(error))
                return HttpResponseRedirect(self.object_url(storage))
            messages.success(request, f"Removed the storage {storage.name}. What it holds was not touched.")
            return HttpResponseRedirect(self.list_url)
        held = storage.backups.count()
        return self.confirm(
            request,
            title=f"Remove {storage.name}?",
            crumbs=[*self.crumbs(), (storage.name, self.object_url(storage))],
            sentences=[
                f"This removes the storage {storage.name} ({storage.location}) from this list.",
                "Nothing in it is deleted.",
                "It can be added again later: a rescan finds the backups that it holds.",
            ],
            warnings=[f"{plural(held, 'backup')} of it are in the catalogue: a storage in use is not removed."]
            if held
            else [],
            verb="Remove storage",
            danger=True,
            keep="Keep it",
            back=self.object_url(storage),
        )
