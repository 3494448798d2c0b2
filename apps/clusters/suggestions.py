"""Guesses at the REST addresses of peers of which only the address between peers is known. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

_REST_PORT = 6333


def suggest_addresses(peers: Mapping[int, str], addresses: Mapping[int, str], first_url: str) -> dict[int, str]:
    """Return, for every peer without address, a REST address that it may have.

    `peers` holds the addresses between peers, `addresses` the REST addresses that are known. Scheme and port are those
    of the known nodes; where several nodes share a host (and so differ in their ports), the distance between the two
    ports of a node. A peer whose address cannot be read gets no suggestion.
    """
    scheme = urlsplit(first_url).scheme
    distances = {
        distance
        for peer, url in addresses.items()
        if (distance := _distance(peers.get(peer, ""), url, first_url)) is not None
    }
    suggested = {}
    for peer, uri in peers.items():
        host, port = _host_and_port(uri)
        if peer in addresses or not host:
            continue
        if port is not None and len(distances) == 1:
            rest_port = port - next(iter(distances))
        else:
            rest_port = _port(first_url) or _REST_PORT
        if 0 < rest_port < 65536:
            suggested[peer] = f"{scheme}://{host}:{rest_port}"
    return suggested


def _distance(uri: str, url: str, first_url: str) -> int | None:
    """Return by how much a node's port between peers lies above its REST port; None when it cannot be told."""
    port, rest_port = _host_and_port(uri)[1], _port(url)
    if port is None or rest_port is None or urlsplit(url).scheme != urlsplit(first_url).scheme:
        return None
    return port - rest_port


def _port(url: str) -> int | None:
    try:
        parts = urlsplit(url)
        return parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None


def _host_and_port(uri: str) -> tuple[str, int | None]:
    """Return host (bracketed if IPv6) and port of an address between peers; '' for one that cannot be read."""
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "", None
    return (f"[{host}]" if ":" in host else host), port
