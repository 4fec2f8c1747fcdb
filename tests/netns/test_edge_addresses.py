"""VIPs on a real interface: how they are marked, how they go, and what was there before."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
    ip_interface,
)

import pytest
from edge_pair import A4, B4, PATIENCE_S, VIP4, VIP6, Netns, pair, read_until, router, set_sysctl

from havip.act import addresses as addresses_module
from havip.act import connections
from havip.act.addresses import Addresses, Conflict
from havip.act.lock import Lock, LockHeldError
from havip.act.redirect import Redirection
from havip.core.actions import (
    InstallAddress,
    RemoveAddress,
    ResetConnections,
    ResetFormerConnections,
)
from havip.core.config import RouterConfig
from havip.core.events import ActionFailed
from havip.core.redirect import Redirect
from havip.sense.capabilities import missing_capabilities
from havip.sense.host import read_host

VIP4_32, VIP6_128 = IPv4Interface(VIP4), IPv6Interface(VIP6)
NO_SUCH = RemoveAddress(interface="e0", address=IPv4Interface("10.9.0.9/32"))


@pytest.fixture
def hosts() -> Iterator[tuple[Netns, Netns]]:
    with pair() as made:
        yield made


@contextmanager
def addresses_of(host: Netns) -> Iterator[Addresses]:
    with closing(host.run(Addresses)) as addresses:
        yield addresses


def install(
    address: IPv4Interface | IPv6Interface = VIP4_32,
    *,
    interface: str = "e0",
    valid_s: int = 60,
    has_connected_route: bool = False,
) -> InstallAddress:
    return InstallAddress(
        interface=interface,
        address=address,
        valid_s=valid_s,
        has_connected_route=has_connected_route,
    )


def settle(
    addresses: Addresses, vip: IPv4Interface | IPv6Interface = VIP4_32
) -> list[ActionFailed]:
    """Failures of all that was asked for; the last request, for this VIP, is one that must fail."""
    addresses.install(install(vip, interface="nowhere"))
    failures = read_until(
        addresses,
        [addresses.fileno()],
        lambda events: any(each.interface == "nowhere" for each in events),
    )
    return failures[:-1]


@pytest.mark.parametrize("vip", [VIP4_32, VIP6_128], ids=["IPv4", "IPv6"])
def test_an_installed_vip_cannot_be_taken_for_a_node_address(
    hosts: tuple[Netns, Netns], vip: IPv4Interface | IPv6Interface
) -> None:
    a, _ = hosts
    routes = a.ip("route show table all"), a.ip("-6 route show table main")
    with addresses_of(a) as addresses:
        assert addresses.install(install(vip, valid_s=30)) is None
        assert settle(addresses) == []
        shown = a.addresses()[str(vip.ip)]
        assert shown["prefixlen"] == vip.max_prefixlen
        assert shown["preferred_life_time"] == 0
        assert 0 < shown["valid_life_time"] <= 30
        assert shown["deprecated"]
        assert shown["noprefixroute"]
        assert shown["scope"] == "global"
        assert shown.get("nodad", False) is (vip.version == 6)
        assert not shown.get("tentative")
        described = a.run(read_host).interface("e0")
        assert described is not None
        assert [each.interface for each in described.addresses if each.is_ours] == [vip]
        addresses.remove(RemoveAddress(interface="e0", address=vip))
        assert settle(addresses) == []
        assert str(vip.ip) not in a.addresses()
    assert routes == (a.ip("route show table all"), a.ip("-6 route show table main"))


def test_a_renewal_begins_the_lifetime_anew(hosts: tuple[Netns, Netns]) -> None:
    a, _ = hosts
    with addresses_of(a) as addresses:
        for valid_s in (20, 60):
            addresses.install(install(valid_s=valid_s))
            assert settle(addresses) == []
            assert valid_s - 15 < a.addresses()[str(VIP4)]["valid_life_time"] <= valid_s


@pytest.mark.parametrize(
    ("vip", "network"),
    [
        (IPv4Interface("10.70.0.9/24"), "10.70.0.0/24"),
        (IPv6Interface("fd70::9/64"), "fd70::/64"),
    ],
    ids=["IPv4", "IPv6"],
)
def test_a_vip_outside_every_subnet_brings_its_route(
    hosts: tuple[Netns, Netns], vip: IPv4Interface | IPv6Interface, network: str
) -> None:
    a, _ = hosts
    with addresses_of(a) as addresses:
        addresses.install(install(vip, has_connected_route=True))
        assert settle(addresses) == []
        assert network in a.ip(f"-{vip.version} route show dev e0")
        addresses.remove(RemoveAddress(interface="e0", address=vip))
        assert settle(addresses) == []
        left = a.ip(f"-{vip.version} route show {network} dev e0")
        # Linux leaves the route of an IPv6 address with a lifetime to end with that.
        assert left == "" if vip.version == 4 else "expires" in left


def test_failures_are_told_and_absence_is_none(hosts: tuple[Netns, Netns]) -> None:
    a, _ = hosts
    with addresses_of(a) as addresses:
        assert addresses.read_all() == []
        addresses.remove(NO_SUCH)
        addresses.remove(RemoveAddress(interface="nowhere", address=VIP4_32))
        assert settle(addresses) == []
        set_sysctl(a, "net/ipv6/conf/e0/disable_ipv6", "1")
        addresses.install(install(VIP6_128))
        (failed,) = settle(addresses)
        assert failed == ActionFailed(
            action="InstallAddress",
            interface="e0",
            subject="fd09::100/128",
            errno=errno.EACCES,
            message=os.strerror(errno.EACCES),
        )


def test_a_request_that_waited_too_long_is_not_carried_out(
    hosts: tuple[Netns, Netns], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after SIGSTOP and SIGCONT: whoever asked may have decided otherwise meanwhile."""
    a, _ = hosts
    with addresses_of(a) as addresses:
        addresses.install(install(VIP6_128))
        settle(addresses)
        monkeypatch.setattr(addresses_module, "MAX_WAIT_S", -1.0)
        addresses.install(install(VIP4_32))
        # To remove is never wrong.
        addresses.remove(RemoveAddress(interface="e0", address=VIP6_128))
        (failed,) = settle(addresses)
        assert (failed.subject, failed.errno) == (f"{VIP4}/32", errno.ETIME)
        assert not {str(VIP4), str(VIP6)} & a.addresses().keys()


def test_the_queue_is_bounded(hosts: tuple[Netns, Netns], monkeypatch: pytest.MonkeyPatch) -> None:
    a, _ = hosts
    with addresses_of(a) as addresses:
        monkeypatch.setattr(addresses_module, "MAX_QUEUED", 0)
        failed = addresses.install(install())
        assert failed is not None
        assert failed.errno == errno.ENOBUFS


def test_requests_are_carried_out_in_order_and_before_the_end(
    hosts: tuple[Netns, Netns],
) -> None:
    a, _ = hosts
    with addresses_of(a) as addresses:
        for _ in range(50):
            addresses.install(install())
            addresses.remove(RemoveAddress(interface="e0", address=VIP4_32))
        addresses.install(install(VIP6_128))
    assert str(VIP4) not in a.addresses()
    assert str(VIP6) in a.addresses()


def test_a_long_reset_delays_nothing_but_its_own_address(
    hosts: tuple[Netns, Netns], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = hosts
    begun, may_end = threading.Event(), threading.Event()

    def reset(_: IPv4Address | IPv6Address) -> None:
        begun.set()
        assert may_end.wait(PATIENCE_S)
        assert str(VIP4) in a.addresses(), "the reset comes before the removal"

    monkeypatch.setattr(connections, "reset", reset)
    monkeypatch.setattr(addresses_module, "MAX_WAIT_S", PATIENCE_S)
    with addresses_of(a) as addresses:
        addresses.install(install())
        addresses.install(install(VIP6_128))
        assert settle(addresses) == []
        addresses.reset_connections(ResetConnections(address=VIP4))
        addresses.remove(RemoveAddress(interface="e0", address=VIP4_32))
        assert begun.wait(PATIENCE_S)
        # Other VIPs are renewed and removed meanwhile.
        addresses.install(install(VIP6_128, valid_s=1000))
        assert settle(addresses, VIP6_128) == []
        assert a.addresses()[str(VIP6)]["valid_life_time"] > 900
        assert str(VIP4) in a.addresses()
        # What is asked for the same VIP keeps its order: put back, it stays.
        addresses.install(install(valid_s=1000))
        addresses.reset_connections(ResetConnections(address=VIP4))
        addresses.remove(RemoveAddress(interface="e0", address=VIP4_32))
        addresses.install(install(valid_s=1000))
        may_end.set()
        assert settle(addresses) == []
    assert a.addresses()[str(VIP4)]["valid_life_time"] > 900


def test_an_address_that_has_come_does_not_wait_for_a_reset(
    hosts: tuple[Netns, Netns], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = hosts
    begun, may_end = threading.Event(), threading.Event()

    def reset(_: IPv4Address | IPv6Address) -> None:
        begun.set()
        assert may_end.wait(PATIENCE_S)

    monkeypatch.setattr(connections, "reset_former", reset)
    with addresses_of(a) as addresses:
        addresses.install(install())
        addresses.reset_former_connections(ResetFormerConnections(address=VIP4))
        assert begun.wait(PATIENCE_S)
        addresses.install(install(valid_s=1000))
        assert settle(addresses) == []
        assert a.addresses()[str(VIP4)]["valid_life_time"] > 900
        may_end.set()


def test_the_end_waits_for_a_reset(
    hosts: tuple[Netns, Netns], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = hosts
    closing_began = threading.Event()
    monkeypatch.setattr(connections, "reset", lambda _: closing_began.wait(PATIENCE_S))
    addresses = a.run(Addresses)
    addresses.install(install())
    addresses.reset_connections(ResetConnections(address=VIP4))
    addresses.remove(RemoveAddress(interface="e0", address=VIP4_32))
    threading.Timer(0.1, closing_began.set).start()
    addresses.close(PATIENCE_S)
    assert str(VIP4) not in a.addresses()


def _unsupported(_address: object) -> None:
    """A kernel without CONFIG_INET_DIAG_DESTROY."""
    raise OSError(errno.EOPNOTSUPP, "")


def test_where_the_kernel_resets_nothing_the_balancer_does_before_the_address_goes(
    hosts: tuple[Netns, Netns], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = hosts
    seen: list[bool] = []

    monkeypatch.setattr(connections, "reset", _unsupported)
    addresses = a.run(lambda: Addresses(lambda: seen.append(str(VIP4) in a.addresses())))
    for _ in range(2):
        addresses.install(install())
        settle(addresses)
        addresses.reset_connections(ResetConnections(address=VIP4))
        addresses.remove(RemoveAddress(interface="e0", address=VIP4_32))
        settle(addresses)
    addresses.close(PATIENCE_S)
    assert seen == [True, True]
    assert str(VIP4) not in a.addresses()


def test_where_the_kernel_resets_nothing_it_is_told_once_and_the_balancer_goes_on(
    hosts: tuple[Netns, Netns], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = hosts
    closed: list[str] = []

    monkeypatch.setattr(connections, "reset_former", _unsupported)
    addresses = a.run(lambda: Addresses(lambda: closed.append("closed")))
    for _ in range(2):
        addresses.reset_former_connections(ResetFormerConnections(address=VIP4))
    (failure,) = read_until(addresses, [addresses.fileno()], bool)
    addresses.close(PATIENCE_S)
    assert (failure.action, failure.errno) == ("ResetFormerConnections", errno.EOPNOTSUPP)
    assert closed == [], "its clients are the new holder's"


def clean(host: Netns, config: RouterConfig) -> list[Conflict]:
    def inside() -> list[Conflict]:
        with closing(Addresses()) as addresses:
            return addresses.clean_leftovers(read_host(), [config])

    return host.run(inside)


@pytest.mark.parametrize(
    ("vip", "options"),
    [
        pytest.param(f"{VIP4}/32", "valid_lft 60 preferred_lft 0 noprefixroute", id="ours"),
        pytest.param(f"{VIP6}/128", "valid_lft 60 preferred_lft 0 nodad noprefixroute", id="IPv6"),
    ],
)
def test_leftovers_of_an_earlier_life_go(
    hosts: tuple[Netns, Netns], vip: str, options: str
) -> None:
    a, _ = hosts
    own = a.addresses().keys()
    a.ip(f"address add {vip} dev e0 {options}")
    assert clean(a, router()) == []
    assert a.addresses().keys() == own


def test_a_leftover_with_our_mark_goes_and_the_rest_stays(hosts: tuple[Netns, Netns]) -> None:
    a, _ = hosts
    a.ip("address add 10.9.0.101/32 dev e0 valid_lft 60 preferred_lft 0 noprefixroute")
    a.ip(f"address add {VIP4}/32 dev lo")
    before = a.addresses(), a.addresses("lo")
    with addresses_of(a) as addresses:
        addresses.install(install(VIP4_32))
        addresses.install(install(IPv4Interface(f"{VIP4}/25"), has_connected_route=True))
        addresses.install(install(VIP6_128))
        assert settle(addresses) == []
    assert clean(a, router()) == []
    assert a.addresses().keys() == before[0].keys()
    assert a.addresses("lo") == before[1]


@pytest.mark.parametrize("interface", ["lo", "kube-ipvs0"])
def test_addresses_of_service_proxies_are_never_touched(
    hosts: tuple[Netns, Netns], interface: str
) -> None:
    a, _ = hosts
    if interface != "lo":
        a.ip(f"link add {interface} type bridge")
    a.ip(f"address add {VIP4}/32 dev {interface} valid_lft 60 preferred_lft 0 noprefixroute")
    assert clean(a, router(interface=interface, take_over_address=True)) == []
    assert str(VIP4) in a.addresses(interface)


@pytest.mark.parametrize(
    ("address", "options"),
    [
        pytest.param(f"{VIP4}/24", "", id="permanent"),
        pytest.param(f"{VIP4}/24", "valid_lft 600 preferred_lft 600", id="by DHCP"),
        pytest.param(f"{VIP4}/24", "valid_lft 600 preferred_lft 0", id="by DHCP, deprecated"),
        pytest.param(f"{VIP6}/64", "valid_lft 600 preferred_lft 0 nodad", id="SLAAC, deprecated"),
    ],
)
def test_what_is_not_ours_is_a_conflict_unless_taken_over(
    hosts: tuple[Netns, Netns], address: str, options: str
) -> None:
    a, _ = hosts
    vip = address.partition("/")[0]
    a.ip(f"address add {address} dev e0 {options}")
    (conflict,) = clean(a, router())
    assert (conflict.interface, str(conflict.address)) == ("e0", address)
    assert f"ip address delete {address} dev e0" in conflict.remedy
    assert "vipTakeOver" in conflict.remedy
    assert vip in a.addresses()
    assert clean(a, router(take_over_address=True)) == []
    assert vip not in a.addresses()


@pytest.mark.parametrize("promote", ["0", "1"])
def test_a_leftover_never_takes_the_nodes_own_address_along(
    hosts: tuple[Netns, Netns], promote: str
) -> None:
    """The kernel deletes IPv4 addresses together with the first of their subnet."""
    a, _ = hosts
    set_sysctl(a, "net/ipv4/conf/all/promote_secondaries", "0")
    set_sysctl(a, "net/ipv4/conf/e0/promote_secondaries", promote)
    a.ip(f"address delete {A4}/24 dev e0")
    a.ip(f"address add {VIP4}/24 dev e0")
    a.ip(f"address add {A4}/24 dev e0")
    conflicts = clean(a, router(take_over_address=True))
    assert str(A4) in a.addresses()
    if promote == "1":
        assert conflicts == []
        assert str(VIP4) not in a.addresses()
    else:
        (conflict,) = conflicts
        assert f"{A4}/24" in conflict.problem
        assert conflict.remedy == "sysctl -w net.ipv4.conf.e0.promote_secondaries=1"


def test_a_missing_interface_has_no_leftovers(hosts: tuple[Netns, Netns]) -> None:
    a, _ = hosts
    assert clean(a, router(interface="e9")) == []


def listen(host: Netns, address: str, family: socket.AddressFamily) -> socket.socket:
    def inside() -> socket.socket:
        sock = socket.socket(family, socket.SOCK_STREAM)
        if address == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((address, 8080))
        sock.listen()
        sock.settimeout(10)
        return sock

    return host.run(inside)


def connect(host: Netns, target: str, source: str = "", port: int = 8080) -> socket.socket:
    return host.run(
        lambda: socket.create_connection(
            (target, port), timeout=10, source_address=(source, 0) if source else None
        )
    )


def is_reset(sock: socket.socket) -> bool:
    """Whether an idle connection ends with an error by itself, within the socket's timeout."""
    try:
        sock.recv(1)
    except (ConnectionResetError, ConnectionAbortedError):
        return True
    except TimeoutError:
        return False
    return False


@pytest.mark.parametrize(
    ("vip", "listens_on", "family"),
    [
        pytest.param(VIP4, str(VIP4), socket.AF_INET, id="IPv4"),
        pytest.param(VIP4, "::", socket.AF_INET6, id="IPv4 mapped into IPv6"),
        pytest.param(VIP6, "::", socket.AF_INET6, id="IPv6"),
    ],
)
def test_connections_of_the_vip_are_reset_on_both_ends(
    hosts: tuple[Netns, Netns],
    vip: IPv4Address | IPv6Address,
    listens_on: str,
    family: socket.AddressFamily,
) -> None:
    a, b = hosts
    with addresses_of(b) as addresses, ExitStack() as opened:
        addresses.install(install(ip_interface(vip)))
        assert settle(addresses, ip_interface(vip)) == []
        listener = opened.enter_context(listen(b, listens_on, family))
        pairs = []
        for _ in range(3):
            client = opened.enter_context(connect(a, str(vip)))
            pairs.append((client, opened.enter_context(listener.accept()[0])))
        addresses.reset_connections(ResetConnections(address=vip))
        addresses.remove(RemoveAddress(interface="e0", address=ip_interface(vip)))
        assert settle(addresses, ip_interface(vip)) == []
        for client, server in pairs:
            server.settimeout(10)
            assert is_reset(client)
            assert is_reset(server)
        # The service still listens, on the address when it comes back.
        addresses.install(install(ip_interface(vip)))
        assert settle(addresses, ip_interface(vip)) == []
        with connect(a, str(vip)), listener.accept()[0]:
            pass


def test_other_connections_live_on(hosts: tuple[Netns, Netns]) -> None:
    a, b = hosts
    with addresses_of(b) as addresses, ExitStack() as opened:
        addresses.install(install())
        settle(addresses)
        listener = opened.enter_context(listen(b, "::", socket.AF_INET6))
        bystander = opened.enter_context(connect(a, str(B4)))
        server = opened.enter_context(listener.accept()[0])
        addresses.reset_connections(ResetConnections(address=VIP4))
        assert settle(addresses) == []
        server.sendall(b"alive")
        assert bystander.recv(5) == b"alive"


def test_connections_of_this_node_to_the_vip_are_reset(hosts: tuple[Netns, Netns]) -> None:
    """Kubelet and pods of the host network reach the VIP too, wherever it is."""
    a, b = hosts
    with addresses_of(b) as addresses, ExitStack() as opened:
        a.ip(f"address add {VIP4}/32 dev e0")
        listener = opened.enter_context(listen(a, str(VIP4), socket.AF_INET))
        client = opened.enter_context(connect(b, str(VIP4)))
        opened.enter_context(listener.accept()[0])
        addresses.reset_connections(ResetConnections(address=VIP4))
        assert settle(addresses) == []
        assert is_reset(client)


@pytest.mark.parametrize(
    ("vip", "family"),
    [
        pytest.param(VIP4, socket.AF_INET, id="IPv4"),
        pytest.param(VIP4, socket.AF_INET6, id="IPv4 mapped into IPv6"),
        pytest.param(VIP6, socket.AF_INET6, id="IPv6"),
    ],
)
def test_where_the_vip_comes_only_what_leads_to_the_former_holder_is_reset(
    hosts: tuple[Netns, Netns], vip: IPv4Address | IPv6Address, family: socket.AddressFamily
) -> None:
    """The former holder has lost its power, and says nothing."""
    a, b = hosts
    own = B4 if vip.version == 4 else IPv6Address("fd09::2")
    redirect = Redirect(table="havip-test", vips=(vip,), port=81, to_port=8080)
    with addresses_of(b) as addresses, ExitStack() as opened:
        a.ip(f"address add {ip_interface(vip)} dev e0 {'nodad' if vip.version == 6 else ''}")
        there = opened.enter_context(listen(a, "::", socket.AF_INET6))
        mapped = f"::ffff:{vip}" if vip.version == 4 and family == socket.AF_INET6 else str(vip)
        former = [opened.enter_context(connect(b, mapped)) for _ in range(2)]
        apart = opened.enter_context(connect(b, str(A4)))
        ends = [opened.enter_context(there.accept()[0]) for _ in (*former, apart)]

        addresses.install(install(ip_interface(vip)))
        assert settle(addresses, ip_interface(vip)) == []
        here = opened.enter_context(listen(b, "::", socket.AF_INET6))
        opened.enter_context(closing(b.run(Redirection))).use(redirect)
        later = {
            "unbound": connect(b, mapped),
            "bound to the node's own address": connect(b, str(vip), str(own)),
            "led to another port": connect(b, str(vip), str(own), port=81),
            "not accepted yet": connect(b, str(vip), str(own)),
        }
        accepted = [opened.enter_context(here.accept()[0]) for _ in range(3)]
        addresses.reset_former_connections(ResetFormerConnections(address=vip))
        assert [is_reset(each) for each in former] == [True, True]
        assert settle(addresses, ip_interface(vip)) == []
        accepted.append(opened.enter_context(here.accept()[0]))
        for each in (*accepted, *ends[2:]):
            each.sendall(b"alive")
        for name, each in {**later, "of another address": apart}.items():
            opened.enter_context(each)
            assert each.recv(5) == b"alive", name


def test_many_vips_are_led_to_another_port_in_one_step(hosts: tuple[Netns, Netns]) -> None:
    """As many rules are more than a socket's buffer holds by default."""
    a, _ = hosts
    vips = tuple(IPv4Address("10.9.1.0") + each for each in range(500))
    redirect = Redirect(table="havip-test", vips=vips, port=81, to_port=8080)
    with closing(a.run(Redirection)) as redirection:
        for there in (redirect, replace(redirect, vips=vips[1:])):
            redirection.use(there)
            listed = subprocess.run(
                ("ip", "netns", "exec", a.name, "nft", "list", "table", "inet", "havip-test"),
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            assert listed.count(" dnat ") == 2 * len(there.vips)


def test_the_lock_names_its_holder_and_ends_with_it(hosts: tuple[Netns, Netns]) -> None:
    a, b = hosts
    code = (
        "import sys; from havip.act.lock import Lock; lock = Lock('e0', 10);"
        "print('held', flush=True); sys.stdin.read()"
    )
    command = ("ip", "netns", "exec", a.name, sys.executable, "-c", code)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            for _ in range(3):
                with pytest.raises(LockHeldError) as refused:
                    a.run(lambda: Lock("e0", 10))
                assert refused.value.pid == holder.pid
                assert str(holder.pid) in str(refused.value)
            # A VIP, another VRID, interface or network namespace is another lock.
            others = ((a, "e0", 11), (a, "e1", 10), (b, "e0", 10), (a, "e0", VIP4))
            for host, interface, subject in others:
                host.run(lambda i=interface, s=subject: Lock(i, s)).close()
        finally:
            holder.kill()
        holder.wait()
    a.run(lambda: Lock("e0", 10)).close()
    a.run(lambda: Lock("e0", 10)).close()


def test_missing_capabilities_are_named() -> None:
    assert missing_capabilities() == ()
    code = (
        "from havip.sense.capabilities import missing_capabilities;"
        "import json; print(json.dumps(missing_capabilities()))"
    )
    for dropped, missing in (
        ("-net_raw", ["CAP_NET_RAW"]),
        ("-net_admin", ["CAP_NET_ADMIN"]),
        ("-all", ["CAP_NET_ADMIN", "CAP_NET_RAW"]),
    ):
        told = subprocess.run(
            ("setpriv", f"--bounding-set={dropped}", "--", sys.executable, "-c", code),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert json.loads(told) == missing
