"""From the texts that users write to values: each function gives the value or refuses it.

A refusal says what is wrong and what to write instead; pydantic carries it to the field's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
)
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pydantic_core import PydanticCustomError

from havip.core.config import Backend

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface

_INTERFACE_NAME = re.compile(r"[^\s/]{1,15}")
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_SERVICE = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_SELECTOR_LIMIT = 500
_STATUS_RANGE = re.compile(r"([1-5]\d\d)(?:-([1-5]\d\d))?")
_ENDPOINT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):(\d{1,5})", re.ASCII)
_THIS_NETWORK = IPv4Network("0.0.0.0/8")
_RESERVED = IPv4Network("240.0.0.0/4")
_MAPPED = IPv6Network("::ffff:0:0/96")
_BROADCAST = IPv4Address("255.255.255.255")
_BACKEND = re.compile(r"(?:([A-Za-z0-9][A-Za-z0-9_.-]{0,62})\s+)?(\S+)")
_BACKENDS = 64
_DIRECTORY = re.compile(r"(/[A-Za-z0-9_.-]+)+")
AUTO = "auto"
_WRITE_API_SERVER = "write it like https://127.0.0.1:6443"


class Endpoint(NamedTuple):
    """Where the daemon listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def overlaps(self, other: Endpoint) -> bool:
        """Whether only one of both can be had: the unspecified address stands for every other."""
        mine, theirs = ip_address(self.host), ip_address(other.host)
        return (self.port, mine.version) == (other.port, theirs.version) and (
            mine == theirs or mine.is_unspecified or theirs.is_unspecified
        )


def refusal(problem: str, remedy: str, value: object = None) -> PydanticCustomError:
    """What a validator raises. `value` is the part that is wrong, where it is not the whole."""
    if isinstance(value, str):
        # Environment, YAML and JSON can hold halves of surrogate pairs; pydantic cannot.
        value = value.encode("utf-8", "backslashreplace").decode("utf-8")
    context = {"problem": problem, "remedy": remedy, "value": value}
    return PydanticCustomError("refused", "{problem}", context)


def items(raw: object) -> list[str]:
    """The texts of a comma-separated text or of a list; empty ones are left out."""
    if isinstance(raw, str):
        parts: list[object] = list(raw.split(","))
    elif isinstance(raw, list | tuple):
        parts = list(raw)
    else:
        raise refusal("is not text", "write it in quotes, comma-separated for several")
    return [text for part in parts if (text := str(part).strip())]


def vips(raw: object) -> tuple[Interface, ...]:
    """One or more VIPs with prefix length, in the order given."""
    found = tuple(_vip(text) for text in items(raw))
    addresses = [vip.ip for vip in found]
    for vip in found:
        if addresses.count(vip.ip) > 1:
            raise refusal("is given twice", "name each VIP once", str(vip))
    for family in (4, 6):
        count = sum(1 for address in addresses if address.version == family)
        if count > 20:
            raise refusal(
                f"{count} IPv{family} addresses, and an advert holds 20",
                "spread them over several entries of virtualRouters",
                f"{count} addresses",
            )
    return found


def _vip(text: str) -> Interface:
    address_text, slash, prefix = text.partition("/")
    address = _address(address_text, text)
    bits = address.max_prefixlen
    if not slash or not prefix.isdecimal() or not 0 < int(prefix) <= bits:
        raise refusal(
            f"has no prefix length from 1 to {bits}",
            f"write it like {address}/{24 if bits == 32 else 64}",
            text,
        )
    for is_kind, kind in (
        (address.is_unspecified, "the unspecified address"),
        (address in _THIS_NETWORK, f"in {_THIS_NETWORK} (RFC 1122 §3.2.1.3)"),
        (address in _RESERVED and address != _BROADCAST, f"in {_RESERVED} (RFC 1112 §4)"),
        (address in _MAPPED, "an IPv4 address mapped into IPv6 (RFC 4291 §2.5.5.2)"),
        (address.is_loopback, "a loopback address"),
        (address.is_multicast, "a multicast address"),
        (address == _BROADCAST, "the broadcast address"),
    ):
        if is_kind:
            raise refusal(f"is {kind}, which no node can hold", "choose a unicast address", text)
    vip = ip_interface(f"{address}/{int(prefix)}")
    if problem := reserved_in(vip):
        raise refusal(problem, "choose another address of that network", text)
    return vip


def reserved_in(vip: Interface) -> str:
    """Why the address cannot be a host's in its network, or an empty text.

    IPv6 has no broadcast; its lowest address is every router's (RFC 4291 §2.6.1).
    """
    network = vip.network
    if network.prefixlen >= network.max_prefixlen - 1:
        return ""
    if vip.ip == network.network_address:
        name = "the network address" if vip.version == 4 else "the subnet-router anycast address"
        return f"is {name} of {network}"
    if vip.version == 4 and vip.ip == network.broadcast_address:
        return f"is the broadcast address of {network}"
    return ""


def peers(raw: object) -> tuple[Address, ...] | str:
    """Unicast peers; empty means multicast, `auto` that they are discovered."""
    texts = items(raw)
    if texts == [AUTO]:
        return AUTO
    if AUTO in texts:
        raise refusal("is auto and more", "write auto alone, or list the peers' addresses", AUTO)
    found = tuple(_address(text, text) for text in texts)
    for peer in found:
        is_nobodys = peer == _BROADCAST or peer in _MAPPED
        if peer.is_unspecified or peer.is_multicast or peer.is_loopback or is_nobodys:
            kind = "this host itself" if peer.is_loopback else "no unicast address"
            raise refusal(f"is {kind}", "list the other nodes' own addresses", str(peer))
        if found.count(peer) > 1:
            raise refusal("is given twice", "name each peer once", str(peer))
    return found


def _address(text: str, shown: str) -> Address:
    try:
        address = ip_address(text)
    except ValueError:
        raise refusal("is not an IP address", "write it like 192.0.2.10", shown) from None
    if isinstance(address, IPv6Address) and address.scope_id:
        raise refusal("carries a zone", f"write {str(address).partition('%')[0]}", shown)
    return address


def node_overrides(raw: object) -> dict[str, dict[str, Any]]:
    """Settings by node; the settings themselves are looked at elsewhere."""
    if not isinstance(raw, Mapping):
        raise refusal(
            "is no mapping of node names to settings", "write it like {node-a: {vrrpPriority: 150}}"
        )
    found = {}
    for node, given in raw.items():
        if given is not None and not isinstance(given, Mapping):
            raise refusal(
                "is given no mapping of settings", "write it like {vrrpPriority: 150}", str(node)
            )
        found[str(node)] = {str(key): value for key, value in (given or {}).items()}
    return found


def interface_name(raw: str) -> str:
    if not _INTERFACE_NAME.fullmatch(raw):
        raise refusal(
            "cannot be the name of an interface",
            "name one interface, such as eth0, or leave it empty to find it by the VIP's subnet",
        )
    return raw


def namespace(raw: str) -> str:
    """A Kubernetes namespace's name (RFC 1123 label)."""
    if not _NAMESPACE.fullmatch(raw):
        raise refusal(
            "cannot be the name of a namespace",
            "use at most 63 lower-case letters, digits and hyphens, such as kube-system",
        )
    return raw


def object_name(raw: str) -> str:
    """The name of a Kubernetes object (RFC 1123 subdomain)."""
    if len(raw) > 253 or not _OBJECT_NAME.fullmatch(raw):
        raise refusal(
            "cannot be the name of an object in Kubernetes",
            "use lower-case letters, digits, hyphens and dots, such as havip-10",
        )
    return raw


def service(raw: str) -> str:
    """The name of a Kubernetes Service (RFC 1035 label)."""
    if not _SERVICE.fullmatch(raw):
        raise refusal(
            "cannot be the name of a Service",
            "use at most 63 lower-case letters, digits and hyphens, a letter first",
        )
    return raw


def selector(raw: str) -> str:
    """Labels of nodes, as kubectl takes them; the API server reads them."""
    if len(raw) > _SELECTOR_LIMIT or not raw.isascii():
        raise refusal(
            f"is no selector of at most {_SELECTOR_LIMIT} ASCII characters",
            "write it like node-role.kubernetes.io/control-plane or vip=yes,zone!=b",
        )
    return raw


def endpoint(raw: object) -> Endpoint:
    """An IP address and a port, an IPv6 address in brackets."""
    if isinstance(raw, Endpoint):
        return raw
    match = _ENDPOINT.fullmatch(raw) if isinstance(raw, str) else None
    try:
        address = ip_address((match[1] or match[2]) if match else "")
    except ValueError:
        address = None
    if not match or not address or not 1 <= int(match[3]) <= 65535:
        raise refusal(
            "is no IP address with a port from 1 to 65535",
            "write it like 127.0.0.1:9650 or [::1]:9650",
        )
    return Endpoint(str(address), int(match[3]))


def backends(raw: object) -> tuple[Backend, ...] | str:
    """API servers behind the balancer; `auto`: they are discovered."""
    texts = items(raw)
    if texts == [AUTO]:
        return AUTO
    found = tuple(map(_backend, texts))
    for backend in found:
        if sum(each.name == backend.name for each in found) > 1:
            raise refusal("is given twice", "give each backend its own name", backend.name)
        if sum(each.endpoint == backend.endpoint for each in found) > 1:
            raise refusal("is given twice", "name each API server once", backend.endpoint)
    if not found:
        raise refusal("names no backend", "write auto, or a list like cp-1 192.0.2.11:6443")
    if len(found) > _BACKENDS:
        raise refusal(
            f"has more than {_BACKENDS} entries, each of which each node would probe",
            "list fewer",
            f"{len(found)} backends",
        )
    return found


def _backend(text: str) -> Backend:
    match = _BACKEND.fullmatch(text)
    try:
        place = endpoint(match[2]) if match else None
    except PydanticCustomError:
        place = None
    if match is None or place is None:
        raise refusal(
            "is no backend: a name of letters, digits, dots, hyphens and underscores, then an IP "
            "address with a port from 1 to 65535",
            "write it like cp-1 192.0.2.11:6443 or cp-1 [2001:db8::11]:6443",
            text,
        )
    address = ip_address(place.host)
    is_nobodys = address == _BROADCAST or address in _MAPPED
    if address.is_unspecified or address.is_multicast or is_nobodys:
        raise refusal(
            "is at no unicast address", "write the API server's own address, with its port", text
        )
    if address.version == 6 and address.is_link_local:
        raise refusal(
            "is at a link-local address, which leads nowhere without an interface",
            "write another address of the API server, with its port",
            text,
        )
    if match[1]:
        return Backend(match[1], address, place.port)
    return Backend.at(address, place.port)


def directory(raw: str) -> str:
    """One that HAProxy's configuration can name."""
    if not _DIRECTORY.fullmatch(raw):
        raise refusal(
            "is no absolute path of letters, digits, dots, hyphens and underscores",
            "write it like /run/havip-haproxy",
        )
    return raw


def host_name(raw: str) -> str:
    """A DNS name, as HTTP and certificates have it."""
    if len(raw) > 253 or not _HOST_NAME.fullmatch(raw):
        raise refusal("is no host name", "write it like kubernetes or api.example.org")
    return raw


def status_ranges(raw: object) -> tuple[tuple[int, int], ...]:
    """HTTP status codes that pass, as ranges with both ends included."""
    found = []
    for text in items(str(raw) if isinstance(raw, int) else raw):
        match = _STATUS_RANGE.fullmatch(text)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 100 <= low <= high:
            raise refusal(
                "is no HTTP status code or range of them", "write it like 200-299 or 200,301", text
            )
        found.append((low, high))
    if not found:
        raise refusal("names no status", "write it like 200-299 or 200,301")
    return tuple(found)


def api_servers(raw: object) -> tuple[str, ...]:
    """`auto`, or the URLs of API servers, in the order given."""
    texts = items(raw)
    if texts == [AUTO]:
        return (AUTO,)
    found = tuple(map(api_server, texts))
    for server in found:
        if found.count(server) > 1:
            raise refusal("is given twice", "name each server once", server)
    if not found:
        raise refusal("names no server", _WRITE_API_SERVER)
    return found


def api_server(text: str) -> str:
    """The URL of an API server as `https://host:port`."""
    try:
        url = urlsplit(check_url(text, ("https",)))
    except PydanticCustomError as error:
        context = error.context or {}
        shown = context["value"] or text
        raise refusal(context["problem"], _WRITE_API_SERVER, shown) from None
    if url.path not in ("", "/") or url.query or url.fragment:
        raise refusal("has more than host and port", _WRITE_API_SERVER, text)
    return f"https://{url.netloc}" + ("" if url.port else ":443")


def check_url(raw: str, schemes: tuple[str, ...]) -> str:
    """A URL to probe, as given.

    A password in the URL would be shown wherever the URL is, so it is refused.
    """
    example = "https://127.0.0.1:6443/readyz" if "tcp" not in schemes else "http://127.0.0.1:8080/"
    remedy = f"write it like {example}"
    if any(c.isspace() or not c.isprintable() for c in raw):
        raise refusal("contains a space or a control character", remedy)
    # Before anything else, since every refusal after this one shows the value.
    if "@" in re.split(r"[/?#]", raw.partition("//")[2] or raw, maxsplit=1)[0]:
        raise refusal("carries a user or a password", "leave them out", "***")
    try:
        url = urlsplit(raw)
        host = url.hostname
    except ValueError:
        raise refusal("is no URL", remedy) from None
    try:
        port = url.port
    except ValueError:
        raise refusal("has no port from 1 to 65535", remedy) from None
    if url.scheme not in schemes:
        raise refusal(f"has none of the schemes {', '.join(schemes)}", remedy)
    if not host or not _is_host(host):
        raise refusal("has no host", remedy)
    if url.scheme == "tcp" and (port is None or url.path or url.query or url.fragment):
        raise refusal("is not tcp://host:port", "write it like tcp://127.0.0.1:8080")
    if port == 0:
        raise refusal("has no port from 1 to 65535", remedy)
    return raw


def _is_host(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return len(host) <= 253 and bool(_HOST_NAME.fullmatch(host))
    return True
