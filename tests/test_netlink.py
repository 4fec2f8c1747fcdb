"""What the kernel's messages become; that they are the kernel's is tested in `netns`."""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink import NLM_F_ACK, NLM_F_REPLACE, NLMSG_NOOP, nlmsg
from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
)
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from havip import netlink
from havip.netlink import Address, Change, DefaultRoute, Link, Requests

HEADER = struct.Struct("=IHHII")
UP = 0x10001
ETHERNET = bytes.fromhex("020000000a01")
INFINIBAND = bytes(range(20))
TUNNEL = bytes([10, 9, 0, 1])


def encoded(
    message: Any, kind: int, *, header: dict[str, int] | None = None, **fields: Any
) -> bytes:
    for name, value in fields.items():
        message[name] = value
    message["header"] = {"type": kind, "sequence_number": 7} | (header or {})
    message.encode()
    return bytes(message.data)


def packed(kind: int, body: bytes, length: int | None = None) -> bytes:
    return HEADER.pack(HEADER.size + len(body) if length is None else length, kind, 0, 7, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def address_message(kind: int = RTM_NEWADDR, **header: int) -> bytes:
    return encoded(
        ifaddrmsg(),
        kind,
        header=header,
        family=socket.AF_INET,
        prefixlen=32,
        index=3,
        attrs=[("IFA_LOCAL", "10.9.0.100")],
    )


def route_message(kind: int = RTM_NEWROUTE, *, header: dict[str, int] | None = None, **fields: Any):
    route = {"family": socket.AF_INET, "table": 254, "type": 1} | fields
    route.setdefault("attrs", [("RTA_GATEWAY", "10.9.0.254"), ("RTA_OIF", 3)])
    return encoded(rtmsg(), kind, header=header, **route)


def only(datagram: bytes) -> Change:
    (change,) = netlink.changes(datagram)
    return change


@pytest.mark.parametrize(
    "interface",
    [
        IPv4Interface("10.9.0.100/32"),
        IPv4Interface("10.9.0.1/24"),
        IPv6Interface("fd09::100/128"),
    ],
    ids=str,
)
def test_addresses(interface: IPv4Interface | IPv6Interface) -> None:
    datagram = encoded(
        ifaddrmsg(),
        RTM_NEWADDR,
        family=netlink.FAMILY[interface.version],
        prefixlen=interface.network.prefixlen,
        flags=0x40,
        index=3,
        attrs=[
            ("IFA_ADDRESS", str(interface.ip)),
            ("IFA_FLAGS", 0x80000240),
            ("IFA_CACHEINFO", {"ifa_preferred": 0, "ifa_valid": 2, "tstamp": 77}),
            ("IFA_PROTO", 0x48),
        ],
    )
    assert only(datagram).subject == Address(
        index=3,
        interface=interface,
        flags=0x80000240,
        preferred_s=0,
        valid_s=2,
        changed_cs=77,
        mark=0x48,
    )


def test_an_address_without_more_is_permanent_and_nobodys() -> None:
    assert only(address_message()).subject == Address(
        index=3,
        interface=ip_interface("10.9.0.100/32"),
        flags=0,
        preferred_s=netlink.FOREVER,
        valid_s=netlink.FOREVER,
        changed_cs=0,
        mark=0,
    )


def test_the_far_end_of_a_point_to_point_link_is_not_the_address() -> None:
    datagram = encoded(
        ifaddrmsg(),
        RTM_NEWADDR,
        family=socket.AF_INET,
        prefixlen=32,
        index=3,
        attrs=[("IFA_ADDRESS", "10.9.0.2"), ("IFA_LOCAL", "10.9.0.1")],
    )
    subject = only(datagram).subject
    assert isinstance(subject, Address)
    assert subject.interface == ip_interface("10.9.0.1/32")


@pytest.mark.parametrize("mac", [ETHERNET, INFINIBAND, TUNNEL, b""], ids=len)
@pytest.mark.parametrize(
    ("flags", "operstate", "is_up"),
    [
        pytest.param(UP, 0, True, id="no link detection"),
        pytest.param(UP, 6, True, id="up"),
        pytest.param(0x10000, 6, False, id="administratively down"),
        pytest.param(0x00001, 2, False, id="no carrier"),
        pytest.param(0x00001, 0, False, id="no carrier yet"),
        pytest.param(UP, 3, False, id="what it stands on is down"),
        pytest.param(UP, 5, False, id="waits for 802.1X"),
    ],
)
def test_links(flags: int, operstate: int, is_up: bool, mac: bytes) -> None:
    body = struct.pack("=BxHiII", 0, 1, 3, flags, 0)
    body += attribute(3, b"eth0\0") + attribute(16, bytes([operstate]))
    body += attribute(1, mac) if mac else b""
    expected = Link(
        index=3, name="eth0", mac=mac, is_up=is_up, is_admin_up=bool(flags & 1), is_loopback=False
    )
    assert only(packed(RTM_NEWLINK, body)).subject == expected


def test_what_a_bridge_tells_of_its_ports_is_no_link() -> None:
    attributes = [("IFLA_IFNAME", "eth0")]
    link = encoded(ifinfmsg(), RTM_DELLINK, index=3, attrs=attributes)
    assert only(link).is_removal
    of_bridge = encoded(ifinfmsg(), RTM_DELLINK, family=socket.AF_BRIDGE, index=3, attrs=attributes)
    assert list(netlink.changes(of_bridge)) == []


@pytest.mark.parametrize(
    ("fields", "is_told"),
    [
        pytest.param({}, True, id="default"),
        pytest.param({"dst_len": 24}, False, id="a network"),
        pytest.param({"table": 100}, False, id="another table"),
        pytest.param({"attrs": [("RTA_TABLE", 1000)]}, False, id="another table by attribute"),
        pytest.param({"type": 7}, False, id="unreachable"),
        pytest.param({"family": 28, "attrs": []}, False, id="MPLS"),
    ],
)
def test_only_default_routes_are_told(fields: dict[str, Any], is_told: bool) -> None:
    told = [change.subject for change in netlink.changes(route_message(**fields))]
    gateway = ip_address("10.9.0.254")
    assert told == ([DefaultRoute(version=4, metric=0, hops=((3, gateway),))] if is_told else [])


@pytest.mark.parametrize(
    ("fields", "metric", "hops"),
    [
        pytest.param(
            {"attrs": [("RTA_OIF", 3), ("RTA_PRIORITY", 20)]}, 20, [(3, None)], id="no gateway"
        ),
        pytest.param(
            {"family": 10, "attrs": [("RTA_GATEWAY", "fe80::1"), ("RTA_OIF", 3)]},
            0,
            [(3, "fe80::1")],
            id="IPv6",
        ),
        pytest.param(
            {"attrs": [("RTA_VIA", {"family": 10, "addr": "fe80::1"}), ("RTA_OIF", 3)]},
            0,
            [(3, "fe80::1")],
            id="RFC 5549 IPv4 by an IPv6 gateway",
        ),
        pytest.param(
            {
                "attrs": [
                    (
                        "RTA_MULTIPATH",
                        [
                            {"oif": 3, "attrs": [("RTA_GATEWAY", "10.9.0.254")]},
                            {"oif": 4, "attrs": [("RTA_GATEWAY", "10.8.0.254")]},
                        ],
                    )
                ]
            },
            0,
            [(3, "10.9.0.254"), (4, "10.8.0.254")],
            id="several gateways",
        ),
    ],
)
def test_hops_of_default_routes(
    fields: dict[str, Any], metric: int, hops: list[tuple[int, str | None]]
) -> None:
    subject = only(route_message(**fields)).subject
    assert isinstance(subject, DefaultRoute)
    assert subject.metric == metric
    assert subject.hops == tuple((i, gateway and ip_address(gateway)) for i, gateway in hops)


@pytest.mark.parametrize(
    ("datagram", "is_removal", "is_replacement", "port_id"),
    [
        pytest.param(address_message(pid=42), False, False, 42, id="by a process"),
        pytest.param(address_message(RTM_DELADDR), True, False, 0, id="by the kernel"),
        pytest.param(route_message(RTM_DELROUTE), True, False, 0, id="route removed"),
        pytest.param(
            route_message(header={"flags": NLM_F_REPLACE}), False, True, 0, id="route replaced"
        ),
    ],
)
def test_who_did_what(
    datagram: bytes, is_removal: bool, is_replacement: bool, port_id: int
) -> None:
    change = only(datagram)
    told = (change.is_removal, change.is_replacement, change.port_id)
    assert told == (is_removal, is_replacement, port_id)


def test_one_datagram_holds_several_messages() -> None:
    foreign = packed(RTM_NEWNEIGH, bytes(12))
    datagram = address_message() + foreign + route_message(dst_len=24) + route_message()
    told = [type(change.subject) for change in netlink.changes(datagram)]
    assert told == [Address, DefaultRoute]


KINDS = st.sampled_from([1, 2, 3, RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_NEWROUTE, 9999])
BODIES = st.one_of(
    st.binary(max_size=80),
    # Attributes of plausible types but any content, behind a fixed part of any content.
    st.builds(
        lambda fixed, found: fixed + b"".join(attribute(*each) for each in found),
        st.sampled_from([8, 12, 16]).flatmap(lambda size: st.binary(min_size=size, max_size=size)),
        st.lists(st.tuples(st.integers(0, 40), st.binary(max_size=24)), max_size=5),
    ),
)


@given(kind=KINDS, body=BODIES, family=st.sampled_from([None, 2, 10]), length=st.integers(0, 120))
def test_no_bytes_raise(kind: int, body: bytes, family: int | None, length: int) -> None:
    if family is not None:
        body = bytes([family, *body[1:]])
    # What follows is read as well, or given up.
    for datagram in (packed(kind, body), packed(kind, body, length) + address_message()):
        for change in netlink.changes(datagram):
            repr(change)


def test_a_cut_off_message_ends_the_reading() -> None:
    whole = address_message()
    assert len(list(netlink.changes(whole + whole[:-1]))) == 1
    assert list(netlink.changes(whole[:20])) == []


def test_requests_tell_what_the_kernel_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "_ANSWER_TIMEOUT_S", 0.05)
    unknown = 0x3FFF
    with Requests(socket.NETLINK_ROUTE) as requests:
        assert requests.port_id > 0
        with pytest.raises(OSError, match="not supported") as refused:
            requests.ask(nlmsg(), unknown, NLM_F_ACK)
        assert refused.value.errno == errno.EOPNOTSUPP
        # Nobody answers what asks for no answer.
        with pytest.raises(OSError, match="timed out") as silent:
            requests.ask(nlmsg(), NLMSG_NOOP, 0)
        assert silent.value.errno == errno.ETIMEDOUT
        requests.ask(nlmsg(), NLMSG_NOOP, NLM_F_ACK)
