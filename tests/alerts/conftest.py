"""Channels that lead to a receiver on this host, and findings without a world behind them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from apps.alerts.findings import Finding
from apps.alerts.models import Channel, Rule, Severity
from apps.alerts.services import save_channel

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


@pytest.fixture
def channel(db: None, httpserver: Any) -> Callable[..., Channel]:
    """Make a webhook channel at the receiver `httpserver`, unless said otherwise."""

    def make(name: str = "ops", **fields: Any) -> Channel:
        data = {"name": name, "kind": "webhook", "address": httpserver.url_for(f"/{name}")} | fields
        return save_channel(channel=None, data=data)

    return make


def finding(name: str = "products", **fields: Any) -> Finding:
    values: dict[str, Any] = {
        "rule": Rule.FAILING,
        "target_key": f"berlin/{name}",
        "severity": Severity.CRITICAL,
        "summary": f"{name} on berlin: the node refused.",
        "cluster": "berlin",
        "collection": name,
    }
    return Finding(**(values | fields))
