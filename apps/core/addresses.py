"""Where a request comes from, seen through the proxies that are trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any


def source_address(meta: Mapping[str, Any], trusted_proxies: Iterable[str]) -> str:
    """Return the IP address a request comes from, given its WSGI environment.

    X-Forwarded-For counts only behind the trusted proxies (addresses, networks): it is read from its end, as far as
    trusted proxies wrote it.
    """
    trusted = [ip_network(proxy) for proxy in trusted_proxies]
    hops = [str(meta.get("REMOTE_ADDR", ""))]
    hops += [hop.strip() for hop in reversed(str(meta.get("HTTP_X_FORWARDED_FOR", "")).split(","))]
    found = hops[0]
    for hop in hops:
        try:
            address = ip_address(hop)
        except ValueError:  # what stands there was made up, or nothing does
            break
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        found = str(address)
        if not any(address in network for network in trusted):
            break
    return found
