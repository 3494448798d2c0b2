"""Outbound: one policy for every address that somebody gives us and that we, or a node for us, then connect to.

`Policy` is pure: rules in, a refusal or nothing out. `current_policy` reads them from the settings. Two moments count:

- `check_url`: the address as it was written, and every IP address its name stands for now. This is all that can be
  done where somebody else connects (a Qdrant node that recovers from a `location`): the node resolves the name once
  more, and follows redirects by itself.
- `Guard`: the IP address that one of our own connections has really reached, before a byte is sent. A
  name that stands for something else a moment later (DNS rebinding) or a redirect does not get past this one.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any
from urllib.parse import SplitResult, urlsplit

from django.conf import settings

from apps.core.errors import Unprocessable

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Iterable[str]]

#: Nothing that holds data lives there: this host's own "any" address, link-local and with it the metadata services of
#: clouds (which hand credentials to whoever asks), multicast, reserved. Only an allowed network inside one opens it.
DENIED_NETWORKS: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "100.100.100.200/32",  # metadata of Alibaba Cloud
        "168.63.129.16/32",  # Azure's platform service
        "169.254.0.0/16",
        "192.0.0.0/24",  # 192.0.0.192: metadata of Oracle Cloud
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/128",
        "fd00:ec2::/32",  # metadata and other services of AWS
        "fd20:ce::254/128",  # metadata of Google Cloud
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    )
)
#: Names of metadata services that only their own network resolves.
DENIED_HOSTS = ("metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal")

_NAT64 = ip_network("64:ff9b::/96")
_IPV4_COMPATIBLE = ip_network("::/96")
_HOST_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
# What inet_aton and the URL standard take for an IPv4 address: the last label is a number, decimal or hexadecimal.
_NUMERIC = re.compile(r"(^|\.)(\d+|0x[0-9a-f]*)$")
_MAX_HOST = 253


class AddressRefused(Unprocessable):
    """The address is none, or the policy does not let us connect to it."""


@dataclass(frozen=True)
class Rules:
    """Host names (globs) and networks, as one setting lists them."""

    hosts: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()

    @classmethod
    def of(cls, entries: Iterable[str]) -> Rules:
        """Read a list of networks ("10.0.0.0/8"), IP addresses and host names ("*.example.com").

        Raises: ValueError that names the entry.
        """
        hosts, networks = [], []
        for entry in (entry.strip().lower() for entry in entries if entry.strip()):
            try:
                networks.append(ip_network(entry.strip("[]"), strict=False))
                continue
            except ValueError:
                pass
            if not re.fullmatch(r"[a-z0-9_.*?-]+", entry) or _NUMERIC.search(entry):
                raise ValueError(f"{entry!r} is neither a network (10.0.0.0/8) nor a host name (*.example.com).")
            hosts.append(entry.removesuffix("."))
        return cls(tuple(hosts), tuple(networks))

    def __bool__(self) -> bool:
        return bool(self.hosts or self.networks)

    def name(self, host: str) -> bool:
        """Tell whether a host name is listed."""
        return any(fnmatchcase(host, pattern) for pattern in self.hosts)

    def hold(self, address: Address) -> bool:
        """Tell whether an IP address is listed."""
        return any(address in network for network in self.networks)


@dataclass(frozen=True)
class Policy:
    """Where a connection may lead. What is denied stays denied; when anything is allowed, then nothing else is."""

    allow: Rules = Rules()
    deny: Rules = Rules()

    def check_host(self, host: str) -> None:
        """Check a host (from `host_of`) as far as that goes without looking it up. Raises: AddressRefused."""
        literal = as_address(host)
        if literal is not None:
            self.check_address(host, literal)
        elif host in DENIED_HOSTS or self.deny.name(host):
            raise AddressRefused(f"Connections to {host} are not allowed here (BACKUPMGR_OUTBOUND_DENY).")
        elif self.allow and not self.allow.networks and not self.allow.name(host):
            raise _not_listed(host)

    def check_address(self, host: str, address: Address) -> None:
        """Check an IP address that `host` stands for (or is). Raises: AddressRefused."""
        for meant in _meanings(address):
            where = str(meant) if str(meant) == host else f"{host} ({meant})"
            if self.deny.hold(meant):
                raise AddressRefused(f"Connections to {where} are not allowed here (BACKUPMGR_OUTBOUND_DENY).")
            if _is_denied_by_nature(meant) and not self._opens(meant):
                raise AddressRefused(
                    f"{where} is a link-local, metadata, multicast or reserved address: nothing is fetched from there."
                )
            if self.allow and not self.allow.name(host) and not self.allow.hold(meant):
                raise _not_listed(where)

    def _opens(self, address: Address) -> bool:
        """Tell whether a network that lies within what is denied by nature was allowed on purpose."""
        return any(
            address in network and any(_within(network, denied) for denied in DENIED_NETWORKS)
            for network in self.allow.networks
        )

    def check_url(self, url: str, schemes: Iterable[str] = ("http", "https"), resolve: Resolve | None = None) -> None:
        """Check an address: its form, its host, and every IP address that its host stands for.

        A name that cannot be looked up is refused, unless it is allowed by name: somebody else might find it, and what
        it would find there nobody has checked. Raises: AddressRefused.
        """
        parts = split_url(url, schemes)
        host = host_of(parts)
        self.check_host(host)
        if as_address(host) is not None:
            return
        try:
            found = [ip_address(text) for text in (resolve or look_up)(host, _port(parts))]
        except (OSError, ValueError):
            found = []
        if not found and not self.allow.name(host):
            raise AddressRefused(
                f"The host {host} cannot be looked up from here: check its name, or add it to BACKUPMGR_OUTBOUND_ALLOW."
            )
        for address in found:
            self.check_address(host, address)


@dataclass(frozen=True)
class Guard:
    """Checks where a connection of ours has led. `host` is the one that was configured."""

    policy: Policy
    host: str

    def check(self, host: str, connection: socket.socket) -> None:
        """Check the peer of a connection to `host`; close it when it may not be. Raises: AddressRefused, OSError."""
        name = host.strip("[]").lower().removesuffix(".")
        # A bucket as a virtual host: <bucket>.<endpoint> is the endpoint.
        configured = self.host if name == self.host or name.endswith(f".{self.host}") else name
        try:
            self.policy.check_host(configured)
            self.policy.check_address(configured, ip_address(connection.getpeername()[0].partition("%")[0]))
        except BaseException:
            connection.close()
            raise

    def pools(self, pools: dict[str, Any]) -> dict[str, Any]:
        """Return urllib3 connection pool classes, by scheme, whose connections are checked once they stand.

        Connections through a proxy are not: where they lead is the proxy's to decide.
        """
        return {scheme: self._guarded(pool) for scheme, pool in pools.items()}

    def _guarded(self, pool: Any) -> Any:
        guard = self

        class GuardedConnection(pool.ConnectionCls):
            def _new_conn(self) -> socket.socket:
                connection: socket.socket = super()._new_conn()
                if self.proxy is None:
                    guard.check(self.host, connection)
                return connection

        return type(f"Guarded{pool.__name__}", (pool,), {"ConnectionCls": GuardedConnection})


def current_policy() -> Policy:
    """Return the policy of the settings."""
    return _policy(tuple(settings.BACKUPMGR_OUTBOUND_ALLOW), tuple(settings.BACKUPMGR_OUTBOUND_DENY))


@lru_cache(maxsize=8)
def _policy(allow: tuple[str, ...], deny: tuple[str, ...]) -> Policy:
    return Policy(Rules.of(allow), Rules.of(deny))


def current_guard(url: str) -> Guard:
    """Return the guard of connections to `url`, under the policy of the settings. Raises: AddressRefused."""
    host = host_of(split_url(url))
    policy = current_policy()
    policy.check_host(host)
    return Guard(policy, host)


def split_url(url: str, schemes: Iterable[str] = ("http", "https")) -> SplitResult:
    """Take an address apart, once every reader would do that in the same way. Raises: AddressRefused."""
    if any(ord(character) <= 32 or ord(character) == 127 or character == "\\" for character in url):
        raise AddressRefused("An address has no spaces, backslashes and control characters (write %20).")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise AddressRefused("This is no valid address.") from None
    if parts.scheme not in schemes:
        raise AddressRefused(f"An address must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}.")
    if "@" in parts.netloc:
        raise AddressRefused("Leave user name and password out of the address.")
    if port == 0:
        raise AddressRefused("A port is a number from 1 to 65535.")
    return parts


def host_of(parts: SplitResult) -> str:
    """Return the host in lower case and without a dot at its end. Raises: AddressRefused.

    Refused is what some read as an IP address and others as a name: 0x7f.1, 2130706433, 0177.0.0.1, １２７.0.0.1.
    """
    host = (parts.hostname or "").removesuffix(".")
    if not host:
        raise AddressRefused("The address names no host.")
    if not host.isascii():
        raise AddressRefused("Write the host in its ASCII form (xn--…).")
    if as_address(host) is not None:
        return host
    if _NUMERIC.search(host):
        raise AddressRefused("Write an IP address as four decimal numbers without leading zeros, or as IPv6 in [ ].")
    if len(host) > _MAX_HOST or not _HOST_NAME.fullmatch(host):
        raise AddressRefused("The address names a host that cannot be one.")
    return host


def as_address(host: str) -> Address | None:
    """Return the IP address that `host` is, None when it is a name (or a notation that nobody needs)."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return None if isinstance(address, IPv6Address) and address.scope_id else address


def look_up(host: str, port: int) -> list[str]:
    """Return the IP addresses that a name stands for now; how long that may take, the system's resolver decides.

    Raises: OSError.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label that is too long
        raise OSError("no host name") from error
    return sorted({str(entry[4][0]).partition("%")[0] for entry in found})


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _not_listed(where: str) -> AddressRefused:
    return AddressRefused(f"Connections to {where} are not allowed here: add it to BACKUPMGR_OUTBOUND_ALLOW.")


def _meanings(address: Address) -> list[Address]:
    """Return the IP addresses that packets to `address` may reach: an IPv4 address can hide in an IPv6 one."""
    if isinstance(address, IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in _NAT64 or (address in _IPV4_COMPATIBLE and int(address) > 1):
        return [IPv4Address(int(address) & 0xFFFFFFFF)]
    hidden = [address.sixtofour, *(address.teredo or ())]
    return [address, *(each for each in hidden if each is not None)]


def _is_denied_by_nature(address: Address) -> bool:
    if any(address in network for network in DENIED_NETWORKS):
        return True
    return isinstance(address, IPv6Address) and address.is_reserved and not address.is_loopback


def _within(network: Network, other: Network) -> bool:
    if isinstance(network, IPv4Network):
        return isinstance(other, IPv4Network) and network.subnet_of(other)
    return isinstance(other, IPv6Network) and network.subnet_of(other)
