"""All addresses: the admin at the root of /admin/, the API at /api/v1/, health beside them."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from apps.api.sign_in import sign_in

# Faults that Django meets before a view does: the API's envelope below /api/, a page elsewhere.
handler400 = "apps.api.exceptions.handle_400"
handler403 = "apps.api.exceptions.handle_403"
handler404 = "apps.api.exceptions.handle_404"
handler500 = "apps.api.exceptions.handle_500"

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/login/", sign_in),  # before the admin's own, at its address
    path("admin/", admin.site.urls),
    path("", include("apps.api.urls")),
]
