"""Whatever happens, in whatever order: nothing raises, and the invariants hold.

A sequence that fails is printed as the program that replays it.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface

from driver import (
    ETH,
    MAC,
    UTC,
    V4,
    V6,
    Driver,
    advert_from,
    announcement,
    answer,
    check,
    decode,
    mac_of,
    router,
    touches_the_world,
    vip,
)
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from havip.core.actions import Action, Finished, InstallAddress, RemoveAddress, Report, SendVrrp
from havip.core.config import AllUnhealthy, HmacConfig, HmacMode, ReplayMode, RouterConfig, Secret
from havip.core.events import (
    AddressAdded,
    ClockStepped,
    FrameReceived,
    GatewaysChanged,
    ProbeFinished,
    ProbeResult,
    Removal,
    StopRequested,
    VrrpReceived,
)
from havip.core.reasons import State
from havip.core.timers import RENEW_S, leave_bound_s
from havip.wire.auth import SigningKey, Stamp

NETS = (V4, V6)
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
"""Without `explain`, which traces every line and takes minutes."""
KEY = SigningKey(key_id=1, secret=b"k" * 32)
HMAC = HmacConfig(keys={1: Secret(KEY.secret)}, active_key=1)
LEGS = {
    "IPv4": (V4.leg(),),
    "IPv6": (V6.leg(),),
    "both": (V4.leg(vips=2), V6.leg()),
    "unicast": (V4.leg(peers=(V4.lower, V4.higher)),),
}
OWN = {V4: ["192.0.2.10/24", "192.0.2.11/24", "192.0.2.10/32"], V6: ["fe80::10/64", "fe80::11/64"]}
SECOND_ROUTER = replace(
    router(),
    name="eth0/20",
    virtual_router_id=20,
    legs=(replace(V4.leg(), vips=(vip("192.0.2.120/32"),)),),
)

durations = st.sampled_from([0.0, 0.001, 0.008, 0.02, 0.05, 0.1, 0.2, 0.36, 0.7, 1.0, 3.0])
priorities = st.sampled_from([0, 1, 50, 99, 100, 101, 200, 255])
nets = st.sampled_from(NETS)
which = st.sampled_from(["lower", "higher"])


@st.composite
def routers(draw: st.DrawFn) -> tuple[RouterConfig, ...]:
    kind = draw(st.sampled_from(list(LEGS)))
    version = draw(st.sampled_from([2, 3])) if kind in ("IPv4", "unicast") else 3
    first = replace(
        router(),
        version=version,
        advert_interval_s=1.0 if version == 2 else draw(st.sampled_from([0.01, 0.1, 1.0])),
        legs=LEGS[kind],
        priority=draw(st.sampled_from([1, 100, 254])),
        no_preempt=draw(st.booleans()),
        preempt_delay_s=draw(st.sampled_from([0.0, 1.0])),
        fast_detect=draw(st.booleans()),
        take_over_address=draw(st.booleans()),
        password=Secret(b"secret") if version == 2 and draw(st.booleans()) else None,
        hmac=draw(st.sampled_from([None, *(replace(HMAC, mode=m, replay=r)
                                           for m in HmacMode for r in ReplayMode)])),
    )  # fmt: skip
    return (first, SECOND_ROUTER) if draw(st.booleans()) else (first,)


class AnySequence(RuleBasedStateMachine):
    """One node, and everything that the world can do to it."""

    @initialize(
        configs=routers(),
        has_check=st.booleans(),
        policy=st.sampled_from(list(AllUnhealthy)),
        chance=st.sampled_from([0.0, 0.5, 0.999]),
        kernel_s=st.sampled_from([0.0, 0.004]),
    )
    def begin(self, configs, has_check, policy, chance, kernel_s) -> None:
        self.kept: dict[object, float] = {}
        self.was_active_at = -1e9
        self.seen = 0
        self.is_late = False
        self.is_over = False
        self.was_down: set[int] = set()
        self.d = Driver(
            configs,
            checks=(check(),) if has_check else (),
            all_unhealthy=policy,
            random=chance,
            kernel_s=kernel_s,
        )
        self.d.start()

    # What can happen ---------------------------------------------------------------------

    @rule(seconds=durations)
    def wait(self, seconds) -> None:
        before = len(self.d.done)
        self.d.run_for(seconds)
        self.is_late = False
        said = list(touches_the_world([action for _, action in self.d.done[before:]]))
        quickest_s = min(config.advert_interval_s for config in self.d.routers)
        assert len(said) < 120 + 10 * (seconds / quickest_s + 20 * seconds), "a storm"

    @rule(seconds=durations)
    def freeze(self, seconds) -> None:
        self.d.freeze_for(seconds)
        self.is_late = True

    @rule(
        priority=priorities,
        net=nets,
        source=which,
        signed=st.booleans(),
        addresses=st.sampled_from(["same", "first", "other"]),
    )
    def hear(self, priority, net, source, signed, addresses) -> None:
        config = self.d.routers[0]
        leg = next((leg for leg in config.legs if leg.family == net.me.version), None)
        if leg is None:
            return
        listed = {
            "same": None,
            "first": (leg.vips[0].address,),
            "other": (net.gateway,),
        }[addresses]
        stamp = Stamp.from_utc(UTC + self.d.now - 1000.0, 0)
        self.d.tell(
            advert_from(
                getattr(net, source),
                priority,
                config,
                addresses=listed,
                key=KEY if signed else None,
                stamp=stamp if signed else None,
            )
        )

    @rule(payload=st.binary(max_size=64), net=nets, hop_limit=st.sampled_from([1, 255]))
    def hear_garbage(self, payload, net, hop_limit) -> None:
        self.d.tell(
            VrrpReceived(
                interface=ETH,
                source=net.higher,
                destination=net.multicast,
                hop_limit=hop_limit,
                payload=payload,
            )
        )

    @rule(data=st.binary(max_size=90))
    def hear_garbage_frame(self, data) -> None:
        self.d.tell(FrameReceived(interface=ETH, frame=data))

    @rule(net=nets, mac=st.sampled_from([MAC, mac_of(V4.lower), bytes(6)]), second=st.booleans())
    def hear_announcement(self, net, mac, second) -> None:
        self.d.tell(announcement(mac, (net.second if second else net.vip).address))

    @rule(net=nets, source=st.sampled_from(["lower", "higher", "gateway"]))
    def hear_answer(self, net, source) -> None:
        address = getattr(net, source)
        self.d.tell(answer(mac_of(address), address))

    @rule(is_up=st.booleans(), mac=st.sampled_from([MAC, b"\x02othr"]))
    def change_link(self, is_up, mac) -> None:
        self.d.link(is_up=is_up, mac=mac.ljust(6, b"0"))

    @rule(net=nets, at=st.integers(0, 2), is_there=st.booleans())
    def change_own_address(self, net, at, is_there) -> None:
        address = OWN[net][at % len(OWN[net])]
        if is_there:
            self.d.own_address(net, address)
        else:
            self.d.lose_address(address)

    @rule(net=nets, gateways=st.booleans())
    def change_gateways(self, net, gateways) -> None:
        self.d.tell(GatewaysChanged(interface=ETH, gateways=(net.gateway,) * gateways))

    @precondition(lambda self: self.d.on_interface)
    @rule(by=st.sampled_from([Removal.FOREIGN, Removal.EXPIRED]), at=st.integers(0, 2))
    def lose_vip(self, by, at) -> None:
        there = sorted(self.d.on_interface, key=str)
        lost = there[at % len(there)]
        if by is Removal.EXPIRED:
            self.kept.pop(lost, None)
        self.d.lose_address(lost, by)

    @rule(prefix=st.sampled_from([24, 32]), is_there=st.booleans())
    def occupy(self, prefix, is_there) -> None:
        address = ip_interface(f"{V4.vip.address}/{prefix}")
        if is_there:
            self.d.on_interface.add(address)
            self.d.tell(AddressAdded(interface=ETH, address=address, is_ours=False))
        else:
            self.d.lose_address(address)

    @rule()
    def fail_install(self) -> None:
        self.d.fail_install(self.d.routers[0].legs[0].vips[0])

    @rule(result=st.sampled_from([ProbeResult.PASSED, ProbeResult.REFUSED, None]))
    def judge(self, result) -> None:
        self.d.results["service"] = result
        if result is not None:
            self.d.tell(ProbeFinished(check="service", result=result))

    @rule(seconds=st.sampled_from([-3600.0, -1.0, 1.0, 3600.0]))
    def step_clock(self, seconds) -> None:
        self.d.tell(ClockStepped(utc_offset_s=UTC - 1000.0 + seconds))

    @rule(configs=routers(), in_place=st.booleans())
    def reload(self, configs, in_place) -> None:
        if in_place:
            now = self.d.routers[0]
            configs = (
                replace(configs[0], version=now.version, advert_interval_s=now.advert_interval_s,
                        legs=now.legs, password=now.password),
                *configs[1:],
            )  # fmt: skip
        self.d.reconfigure(*configs)

    @precondition(lambda self: len(self.d.done) > 200)
    @rule()
    def stop(self) -> None:
        self.d.tell(StopRequested())

    # What must hold ----------------------------------------------------------------------

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "d"):
            return
        fresh, self.seen = self.d.done[self.seen :], len(self.d.done)
        for at, action in fresh:
            self._follow(at, action)
        down = {
            view.virtual_router_id
            for view in self.d.node.view(self.d.now).routers
            if view.state == "initialize"
        }
        for _, action in fresh:
            if isinstance(action, SendVrrp) and decode(action).priority > 1:
                advert = decode(action)
                assert advert.virtual_router_id not in down & self.was_down, "not even Backup"
        self.was_down = down
        if self.is_over:
            assert not self.kept
            return
        active = [view for view in self.d.node.view(self.d.now).routers if view.state == "active"]
        if active:
            self.was_active_at = self.d.now
        for view in active:
            for address in view.vips:
                assert ip_interface(address) in self.kept, "Active without its VIP"
        if not self.is_late:
            for address, installed_at in self.kept.items():
                assert self.d.now - installed_at <= RENEW_S + 0.001, f"{address} is not renewed"

    def _follow(self, at: float, action: Action) -> None:
        assert not (self.is_over and list(touches_the_world([action]))), "said after the end"
        match action:
            case InstallAddress():
                self.kept[action.address] = at
            case RemoveAddress():
                self.kept.pop(action.address, None)
            case SendVrrp():
                assert 0 <= decode(action).priority <= 254
            case Report(state=State.ACTIVE):
                # Also when it is over before the next look.
                self.was_active_at = at
            case Finished():
                self.is_over = True

    @invariant()
    def lets_go_in_time(self) -> None:
        """Nothing stays on the interface longer than a planned handover takes."""
        if not hasattr(self, "d") or self.is_late or not self.kept:
            return
        bound_s = max(leave_bound_s(2, 1.0), leave_bound_s(3, 1.0))
        assert self.d.now - self.was_active_at <= bound_s + 3.0


AnySequence.TestCase.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None, phases=PHASES
)
TestAnySequence = AnySequence.TestCase


class SilentBackup(RuleBasedStateMachine):
    """A Backup that hears its holder in time says nothing, whatever else it hears."""

    @initialize(config=routers(), chance=st.sampled_from([0.0, 0.999]))
    def begin(self, config, chance) -> None:
        first = replace(config[0], priority=100, hmac=None, legs=(V4.leg(),), password=None)
        self.d = Driver((first,), random=chance)
        self.d.start()
        self.d.hear(150)

    @rule(share=st.sampled_from([0.1, 0.5, 0.9]))
    def live_on(self, share) -> None:
        interval_s = self.d.routers[0].advert_interval_s
        for _ in range(3):
            self.d.run_for(share * interval_s)
            self.d.hear(150)

    @rule(priority=st.sampled_from([0, 1, 50, 99, 100, 149]))
    def hear_another(self, priority) -> None:
        self.d.hear(priority, V4.lower)

    @rule(payload=st.binary(max_size=40))
    def hear_garbage(self, payload) -> None:
        event = advert_from(V4.higher, 150, self.d.routers[0])
        self.d.tell(replace(event, payload=payload))

    @rule()
    def hear_announcement(self) -> None:
        self.d.announce_from()

    @invariant()
    def says_nothing(self) -> None:
        if hasattr(self, "d"):
            assert not self.d.adverts
            assert not self.d.announcements
            assert not self.d.timed(InstallAddress)


SilentBackup.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, phases=PHASES
)
TestSilentBackup = SilentBackup.TestCase
