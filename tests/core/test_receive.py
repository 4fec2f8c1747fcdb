"""Which packets count: every check of RFC 9568 §7.1 and RFC 3768 §7.1 that needs configuration.

What can be said of the bytes alone (truncated, checksum, ...) has its table in tests/wire.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from driver import V4, V6, Driver, advert_from, router, vip
from hypothesis import given
from hypothesis import strategies as st

from havip.core.actions import Counter, SendVrrp, Topic
from havip.core.config import HmacConfig, HmacMode, Secret
from havip.core.events import VrrpReceived
from havip.core.receive import Foreign, Heard, receive
from havip.core.rotation import Rotation
from havip.core.signing import Signing
from havip.wire.auth import SigningKey, Stamp
from havip.wire.drop import Drop
from havip.wire.vrrp import AuthType

NOW = 1000.0
KEY = SigningKey(key_id=1, secret=b"k" * 32)
WRONG_KEY = SigningKey(key_id=1, secret=b"w" * 32)
OTHER_KEY = SigningKey(key_id=9, secret=b"k" * 32)
STAMP = Stamp(1_700_000_000, 0, 0)
STRANGER = ip_address("192.0.2.77")
OTHER_VIP = ip_address("192.0.2.200")

V2 = router(version=2, advert_interval_s=1.0)
V2_PASS = replace(V2, password=Secret(b"s3cret"))
V3 = router()
V3_IPV6 = router(V6)
V3_HMAC = router(hmac=HmacConfig(keys={1: Secret(KEY.secret)}, active_key=1))
V3_TWO = replace(V3, legs=(V4.leg(vips=2),))
V2_TWO = replace(V2, legs=(V4.leg(vips=2),))
UNICAST = replace(V3, legs=(V4.leg(peers=(V4.lower, V4.higher)),))
DUAL = replace(V3, legs=(V4.leg(), V6.leg()))


def check(event: VrrpReceived, config) -> Heard | Foreign | Drop:
    own = frozenset({V4.me, V6.me})
    signing = None
    if config.hmac is not None:
        signing = Signing(config.hmac, advert_interval_s=0.1, rotation_delay_s=0.0)
    passwords = Rotation(sends=config.password, delay_s=0.0)
    return receive(NOW, event, config, own, signing=signing, passwords=passwords)


def heard(config, source=V4.higher, **changes) -> Heard | Foreign | Drop:
    return check(advert_from(source, 100, config, **changes), config)


@pytest.mark.parametrize(
    ("config", "source", "changes"),
    [
        pytest.param(V2, V4.higher, {}, id="3768"),
        pytest.param(V2_PASS, V4.higher, {}, id="3768 with PASS (RFC 2338)"),
        pytest.param(V3, V4.higher, {}, id="9568 IPv4"),
        pytest.param(V3_IPV6, V6.higher, {}, id="9568 IPv6"),
        pytest.param(V3, V4.higher, {"interval_s": 40.95}, id="9568 §7.1 another interval"),
        pytest.param(UNICAST, V4.higher, {}, id="unicast"),
        pytest.param(UNICAST, V4.higher, {"hop_limit": 61}, id="unicast over routers"),
        pytest.param(V3_HMAC, V4.higher, {"key": KEY, "stamp": STAMP}, id="signed"),
        pytest.param(V3, V4.higher, {"key": KEY, "stamp": STAMP}, id="signed, but not configured"),
        pytest.param(DUAL, V6.higher, {}, id="the second leg"),
    ],
)
def test_what_counts(config, source, changes):
    result = heard(config, source, **changes)
    assert isinstance(result, Heard)
    assert result.source == source
    assert result.leg.family == source.version
    assert result.advert.priority == 100
    assert not result.has_other_addresses


@pytest.mark.parametrize(
    ("config", "source", "changes", "expected"),
    [
        pytest.param(V3, V4.higher, {"hop_limit": 254}, Drop.TTL, id="9568 §7.1 TTL"),
        pytest.param(V2, V4.higher, {"hop_limit": 254}, Drop.TTL, id="3768 §7.1 TTL"),
        pytest.param(V3_IPV6, V6.higher, {"hop_limit": 64}, Drop.TTL, id="9568 §7.1 hop limit"),
        pytest.param(V3, V4.me, {}, Drop.OWN, id="own echo"),
        pytest.param(
            UNICAST, V4.higher, {"destination": V4.multicast}, Drop.DESTINATION,
            id="multicast to a unicast router",
        ),
        pytest.param(
            V3, V4.higher, {"destination": V4.me}, Drop.DESTINATION,
            id="unicast to a multicast router",
        ),
        pytest.param(UNICAST, STRANGER, {}, Drop.UNKNOWN_PEER, id="not among the peers"),
        pytest.param(V3, V4.higher, {"version": 2, "interval_s": 1.0}, Drop.VERSION,
                     id="9568 §7.1 version"),
        pytest.param(V2, V4.higher, {"version": 3}, Drop.VERSION, id="3768 §7.1 version"),
        pytest.param(V3, V4.higher, {"virtual_router_id": 11}, Drop.VRID, id="§7.1 VRID"),
        pytest.param(V2, V4.higher, {"interval_s": 2.0}, Drop.INTERVAL, id="3768 §7.1 interval"),
        pytest.param(V2, V4.higher, {"auth_type": AuthType.PASS, "password": b"x"},
                     Drop.AUTH_TYPE, id="3768 §7.1 auth type, none wanted"),
        pytest.param(V2_PASS, V4.higher, {"auth_type": AuthType.NONE, "password": b""},
                     Drop.AUTH_TYPE, id="3768 §7.1 auth type, PASS wanted"),
        pytest.param(V2_PASS, V4.higher, {"auth_type": 2}, Drop.AUTH_TYPE,
                     id="3768 §7.1 auth type unknown"),
        pytest.param(V2_PASS, V4.higher, {"password": b"other"}, Drop.AUTH_PASSWORD,
                     id="3768 §7.1 password"),
        pytest.param(V3_HMAC, V4.higher, {}, Drop.AUTH_MISSING, id="hmac unsigned"),
        pytest.param(V3_HMAC, V4.higher, {"key": WRONG_KEY, "stamp": STAMP}, Drop.AUTH_TAG,
                     id="hmac wrong key"),
        pytest.param(V3_HMAC, V4.higher, {"key": OTHER_KEY, "stamp": STAMP}, Drop.AUTH_KEY,
                     id="hmac unknown key id"),
        pytest.param(V2_TWO, V4.higher, {"addresses": (V4.vip.address,)}, Drop.ADDRESS_LIST,
                     id="3768 §7.1 another address list"),
    ],
)  # fmt: skip
def test_what_is_dropped(config, source, changes, expected):
    assert heard(config, source, **changes) is expected


def test_a_family_that_is_not_configured_is_dropped():
    event = advert_from(V6.higher, 100, V3_IPV6)
    assert check(event, V3) is Drop.FAMILY


def test_a_family_is_judged_by_its_own_leg():
    mixed = replace(DUAL, legs=(V4.leg(peers=(V4.higher,)), V6.leg()))
    assert isinstance(heard(mixed, V6.higher), Heard)
    assert heard(mixed, V4.higher, destination=V4.multicast) is Drop.DESTINATION


@pytest.mark.parametrize(
    "addresses",
    [
        pytest.param((V4.vip.address,), id="one fewer"),
        pytest.param((V4.vip.address, V4.second.address, OTHER_VIP), id="one more"),
        pytest.param((V4.vip.address, OTHER_VIP), id="another one"),
    ],
)
def test_version_3_accepts_lists_that_overlap(addresses):
    """§7.1: log it. Dropping it would make two holders while a VIP is added node by node."""
    result = heard(V3_TWO, addresses=addresses)
    assert isinstance(result, Heard)
    assert result.has_other_addresses


def test_the_order_of_the_list_is_nothing():
    result = heard(V3_TWO, addresses=(V4.second.address, V4.vip.address))
    assert isinstance(result, Heard)
    assert not result.has_other_addresses


@pytest.mark.parametrize(
    ("config", "source", "other"),
    [
        pytest.param(V2, V4.higher, OTHER_VIP, id="3768"),
        pytest.param(V3, V4.higher, OTHER_VIP, id="9568 IPv4"),
        pytest.param(V3_IPV6, V6.higher, vip("2001:db8::200/128").address, id="9568 IPv6"),
    ],
)
def test_other_addresses_are_another_router(config, source, other):
    result = heard(config, source, addresses=(other,))
    assert isinstance(result, Foreign)
    assert result.source == source
    assert result.advert.addresses == (other,)


@pytest.mark.parametrize("config", [V2, V3])
def test_an_address_owner_may_have_more_addresses(config):
    """RFC 3768 §7.1: unless the packet was generated by the address owner."""
    addresses = (*(vip.address for vip in config.legs[0].vips), OTHER_VIP)
    assert isinstance(
        check(advert_from(V4.higher, 255, config, addresses=addresses), config), Heard
    )


@pytest.mark.parametrize("config", [V2, V3])
def test_an_owner_of_other_addresses_is_another_router(config):
    event = advert_from(V4.higher, 255, config, addresses=(OTHER_VIP,))
    assert isinstance(check(event, config), Foreign)


@given(payload=st.binary(max_size=80), hop_limit=st.sampled_from([1, 255]))
def test_no_bytes_raise(payload, hop_limit):
    for config in (V2_PASS, V3, V3_HMAC, V3_IPV6, UNICAST):
        net = V6 if config is V3_IPV6 else V4
        event = VrrpReceived(
            interface="eth0",
            source=net.higher,
            destination=net.multicast,
            hop_limit=hop_limit,
            payload=payload,
        )
        assert isinstance(check(event, config), Heard | Foreign | Drop)


@given(data=st.data())
def test_no_damage_of_a_signed_advert_is_believed(data):
    event = advert_from(V4.higher, 100, V3_HMAC, key=KEY, stamp=STAMP)
    at = data.draw(st.integers(0, len(event.payload) - 1))
    damaged = bytearray(event.payload)
    damaged[at] ^= data.draw(st.integers(1, 255))
    result = check(replace(event, payload=bytes(damaged)), V3_HMAC)
    assert isinstance(result, Drop)


# In the router -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        pytest.param(advert_from(V4.higher, 200, V3, hop_limit=254), "ttl", id="TTL"),
        pytest.param(advert_from(V4.higher, 200, V3, virtual_router_id=11), "vrid", id="VRID"),
        pytest.param(
            replace(advert_from(V4.higher, 200, V3), payload=b""), "truncated", id="empty"
        ),
        pytest.param(
            replace(advert_from(V4.higher, 200, V3), payload=b"\x31"), "truncated", id="one byte"
        ),
        pytest.param(
            replace(advert_from(V4.higher, 200, V3), interface="eth9"), "vrid", id="elsewhere"
        ),
    ],
)
def test_a_drop_is_counted_and_moves_nothing(event, reason):
    d = Driver().become_active()
    d.tell(event)
    assert d.count(Counter.ADVERTS_DROPPED, reason) == 1
    assert d.count(Counter.ADVERTS_DROPPED) == 1
    assert not d.count(Counter.ADVERTS_RECEIVED)
    assert not d.moves
    assert not d.timed(SendVrrp)


def test_a_flood_of_drops_costs_no_false_move():
    holder = Driver().become_active()
    backup = Driver()
    backup.start()
    garbage = VrrpReceived(
        interface="eth0",
        source=STRANGER,
        destination=V4.multicast,
        hop_limit=255,
        payload=bytes.fromhex("310ac8010064ffff") + b"\xc0\0\2\x64",
    )
    for _ in range(20):
        for d in (holder, backup):
            for _ in range(100):
                d.tell(garbage)
            if d is backup:
                d.hear(150)
            d.run_for(0.05)
    assert not holder.moves
    assert len(backup.moves) == 1
    assert holder.count(Counter.ADVERTS_DROPPED, "checksum") == 2000


def test_a_list_that_overlaps_is_an_alarm_and_one_holder():
    d = Driver((V3_TWO,))
    d.start()
    for _ in range(40):
        d.hear(150, addresses=(V4.vip.address,))
        d.run_for(0.05)
    assert not d.adverts
    alarms = [report for _, report in d.reports(Topic.ALARM)]
    assert alarms[0].fields["addresses"] == str(V4.vip.address)
    assert alarms[0].fields["peer"] == str(V4.higher)
    assert len(alarms) <= 5, "told with restraint"


@pytest.mark.parametrize("mode", list(HmacMode))
def test_a_wrong_signature_moves_nothing_in_any_mode(mode):
    config = replace(V3_HMAC, hmac=replace(V3_HMAC.hmac, mode=mode))
    d = Driver((config,)).become_active()
    d.hear(200, key=WRONG_KEY, stamp=STAMP)
    assert d.count(Counter.ADVERTS_DROPPED, "auth_tag") == 1
    assert not d.moves
