"""The form of a cluster."""

from __future__ import annotations

from apps.clusters.models import Cluster
from apps.clusters.qdrant import Endpoint
from apps.core.admin_forms import ConnectionForm, clear_field, secret_field


class ClusterForm(ConnectionForm):
    secrets = ("api_key",)

    api_key = secret_field("API key")
    clear_api_key = clear_field("Clear the API key")

    class Meta:
        model = Cluster
        fields = ["name", "url", "api_key", "is_default", "verify_tls", "ca"]

    def clean_name(self) -> str:
        return str(self.cleaned_data["name"]).strip()

    def clean_url(self) -> str:
        return str(self.cleaned_data["url"]).strip().rstrip("/")

    def clean_ca(self) -> str:
        ca = str(self.cleaned_data.get("ca") or "").strip()
        if ca:
            try:
                Endpoint(url="", ca=ca).ssl_context()
            except ValueError as error:
                self.add_error("ca", str(error))
        return ca
