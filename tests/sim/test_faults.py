"""Faults in any order and at any moment: the judge sees every step of what hypothesis invents."""

from __future__ import annotations

import os
from dataclasses import replace

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from havip.core.announce import REFRESH_S
from havip.core.config import HmacConfig, ReplayMode, Secret
from havip.core.events import ProbeResult
from havip.sim import plan
from havip.sim.lab import BOOT_SPREAD_S, Lab, promised
from havip.sim.machine import Machine

EXAMPLES = int(os.environ.get("HAVIP_SIM_SEEDS", "6")) * 5
NODES = 4
WHO = st.integers(0, NODES - 1)
HMAC = HmacConfig(keys={1: Secret(b"k" * 32)}, active_key=1)
HMAC_TIME = replace(HMAC, replay=ReplayMode.TIME)
PRIORITIES = [100, 110, 120, 130]
SEGMENTS: list[dict[str, object]] = [
    {},
    {"is_unicast": True},
    {"families": (4, 6)},
    {"priority": PRIORITIES},
    {"priority": PRIORITIES, "router": {"no_preempt": True}},
    {"router": {"fast_detect": False}},
    {"checks": (plan.SERVICE,)},
]
SIGNED: list[dict[str, object]] = [
    {"router": {"hmac": HMAC}},
    {"priority": PRIORITIES, "router": {"hmac": HMAC, "preempt_delay_s": 1.0}},
    {"priority": PRIORITIES, "families": (4, 6), "router": {"hmac": HMAC, "preempt_delay_s": 0.0}},
    {"router": {"hmac": HMAC_TIME}},
    {"priority": PRIORITIES, "router": {"hmac": HMAC_TIME, "preempt_delay_s": 0.0}},
]


class Faults(RuleBasedStateMachine):
    """A lab of four nodes to which anything may happen."""

    segments = SEGMENTS
    lab: Lab
    everybody_lives: bool

    @initialize(seed=st.integers(0, 2**32), data=st.data(), everybody_lives=st.booleans())
    def build(self, seed: int, data: st.DataObject, everybody_lives: bool) -> None:
        segment = data.draw(st.sampled_from(self.segments))
        # After a heal it is the loser, or a Backup that noticed that nobody held, who tells the
        # winner that there are clients to be won back. Where the last daemon of a side was ended,
        # frozen or unplugged, nobody there can, and nothing shows the holder of the other side
        # that it was apart from anybody: those clients wait for its next refresh.
        self.everybody_lives = everybody_lives
        bounds = promised(3, 0.1)
        if not everybody_lives:
            bounds = replace(bounds, cut_off_s=REFRESH_S + 0.1)
        self.lab = Lab(nodes=NODES, seed=seed, clients=2, bounds=bounds, **segment)  # type: ignore[arg-type]
        self.lab.run_for(BOOT_SPREAD_S)

    def machine(self, who: int) -> Machine:
        return self.lab.machines[who]

    @rule(duration_s=st.sampled_from([0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 1.0, 3.0]))
    def wait(self, duration_s: float) -> None:
        self.lab.run_for(duration_s)

    @precondition(lambda self: not self.everybody_lives)
    @rule(who=WHO)
    def power(self, who: int) -> None:
        machine = self.machine(who)
        if machine.host.is_powered:
            machine.power_off()
        else:
            machine.power_on()

    @precondition(lambda self: not self.everybody_lives)
    @rule(who=WHO)
    def freeze_or_thaw(self, who: int) -> None:
        process = self.machine(who).process
        if process is not None and process.is_frozen:
            self.machine(who).thaw()
        else:
            self.machine(who).freeze()

    @precondition(lambda self: not self.everybody_lives)
    @rule(who=WHO)
    def pause_or_resume(self, who: int) -> None:
        machine = self.machine(who)
        if machine.host.is_paused:
            machine.resume(keeps_packets=self.lab.rng.random() < 0.5)
        elif machine.host.is_powered:
            machine.pause()

    @precondition(lambda self: not self.everybody_lives)
    @rule(who=WHO, gently=st.booleans())
    def end_or_start(self, who: int, gently: bool) -> None:
        machine = self.machine(who)
        if machine.process is None:
            if machine.host.is_powered and not machine.host.is_paused:
                machine.start()
        elif gently:
            machine.stop()
        else:
            machine.kill()

    @precondition(lambda self: not self.everybody_lives)
    @rule(who=WHO)
    def plug(self, who: int) -> None:
        self.machine(who).set_link(is_up=not self.machine(who).host.is_up)

    @rule(sides=st.lists(st.booleans(), min_size=NODES, max_size=NODES))
    def split(self, sides: list[bool]) -> None:
        left = [m for m, side in zip(self.lab.machines, sides, strict=True) if side]
        right = [m for m, side in zip(self.lab.machines, sides, strict=True) if not side]
        self.lab.partition([*left, self.lab.clients[0]], [*right, self.lab.clients[1]])

    @rule(sender=WHO, receiver=WHO)
    def deafen(self, sender: int, receiver: int) -> None:
        self.lab.network.cut(self.machine(sender).name, self.machine(receiver).name)

    @rule()
    def heal(self) -> None:
        self.lab.heal()

    @rule(who=WHO)
    def delete(self, who: int) -> None:
        for vip in self.lab.vip_interfaces:
            self.machine(who).delete_address(vip)

    @precondition(lambda self: not self.everybody_lives)
    @rule(who=WHO, result=st.sampled_from([ProbeResult.PASSED, ProbeResult.REFUSED]))
    def serve(self, who: int, result: ProbeResult) -> None:
        self.machine(who).set_service(result)

    @rule(who=WHO, step_s=st.floats(-1e6, 1e6))
    def set_clock(self, who: int, step_s: float) -> None:
        self.machine(who).set_clock(step_s)

    def teardown(self) -> None:
        if not hasattr(self, "lab"):
            return
        self.lab.heal()
        for machine in self.lab.machines:
            if not machine.host.is_powered:
                machine.power_on()
            if machine.host.is_paused:
                machine.resume()
            machine.thaw()
            machine.set_link(is_up=True)
            machine.set_service(ProbeResult.PASSED)
        self.lab.run_for(3.0)
        for machine in self.lab.machines:
            if machine.process is None:
                machine.start()
        self.lab.run_for(20.0)
        assert len(self.lab.holders) == 1, self.lab.story()
        assert not any(client.cut_since for client in self.lab.clients), self.lab.story()


class FaultsUnderHmac(Faults):
    """Clocks that are wrong and set right while anything else happens."""

    segments = SIGNED

    @rule(who=WHO, step_s=st.sampled_from([-3600.0, 3600.0, -4.0, 4.0]))
    def step_clock(self, who: int, step_s: float) -> None:
        self.machine(who).set_clock(step_s)

    @precondition(lambda self: not self.everybody_lives)
    @rule(who=WHO, off_s=st.sampled_from([-3600.0, 3600.0, 4.0]), is_mended=st.booleans())
    def reboot_with_a_wrong_clock(self, who: int, off_s: float, is_mended: bool) -> None:
        """NTP mends it, and then the daemon crashes; or it does not."""
        machine = self.machine(who)
        if not machine.host.is_powered or machine.host.is_paused:
            return
        machine.kill()
        machine.utc_offset_s += off_s
        machine.start()
        self.lab.run_for(self.lab.rng.uniform(0.5, 8.0))
        if is_mended:
            machine.set_clock(-off_s)
            self.lab.run_for(self.lab.rng.uniform(0.1, 1.0))
            machine.kill()
            self.lab.run_for(self.lab.rng.uniform(0.5, 4.0))
            machine.start()


for machine_class in (Faults, FaultsUnderHmac):
    machine_class.TestCase.settings = settings(
        max_examples=EXAMPLES,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        # A story says more than a shorter script, and shrinking takes minutes.
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )

TestFaults = Faults.TestCase
TestFaultsUnderHmac = FaultsUnderHmac.TestCase
