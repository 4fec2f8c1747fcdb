"""Election by a Lease under faults in any order, of nodes, network, clocks and the API server.

Machines that a hypervisor stops with their clock are left out: what they may do is known, bounded
and tested by itself.
"""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from test_faults import EXAMPLES

from havip.core.announce import REFRESH_S
from havip.core.config import LeaseConfig
from havip.core.events import ProbeResult
from havip.core.lease import JITTER
from havip.core.tenant import SKEW_S, TAKE_OVER_S
from havip.sim import plan
from havip.sim.api_server import Weather
from havip.sim.lab import BOOT_SPREAD_S, Lab, promised_by_lease
from havip.sim.machine import Machine

NODES = 4
KEY = ("kube-system", "havip-10")
WHO = st.integers(0, NODES - 1)
SLOW = LeaseConfig(namespace=KEY[0], name=KEY[1])
FAST = replace(SLOW, duration_s=5, renew_deadline_s=3.0, retry_period_s=1.0)
WEATHERS = [
    Weather(),
    Weather(watched=False),
    Weather(loss=0.2),
    Weather(conflicts=0.2),
    Weather(latency_s=0.3, jitter_s=0.4),
    Weather(stall=0.2),
]


class LeaseFaults(RuleBasedStateMachine):
    """A lab of four nodes and an API server."""

    lab: Lab
    is_cut: bool

    @initialize(
        seed=st.integers(0, 2**32),
        lease=st.sampled_from([SLOW, FAST]),
        has_checks=st.booleans(),
        is_cut=st.booleans(),
    )
    def build(self, seed: int, lease: LeaseConfig, has_checks: bool, is_cut: bool) -> None:
        self.is_cut = is_cut
        promised = promised_by_lease(lease)
        bounds = replace(
            promised,
            # A leaver that neither hears its successor nor reaches the API server waits this long.
            two_holders_s=(1 + JITTER) * lease.retry_period_s + SKEW_S + TAKE_OVER_S + 0.1
            if is_cut
            else promised.two_holders_s,
            # A leaver that is frozen after its release.
            beside_stale_s=max(promised.stale_s, 4.0 if is_cut else 0.0),
            no_holder_s=math.inf,
            cut_off_s=math.inf if is_cut else REFRESH_S + 0.1,
        )
        self.lab = Lab(
            nodes=NODES,
            seed=seed,
            clients=2,
            bounds=bounds,
            router={"lease": lease},
            checks=(plan.SERVICE,) if has_checks else (),
        )
        self.lab.run_for(BOOT_SPREAD_S)

    def machine(self, who: int) -> Machine:
        return self.lab.machines[who]

    @rule(duration_s=st.sampled_from([0.001, 0.01, 0.1, 0.5, 1.0, 3.0, 6.0, 16.0]))
    def wait(self, duration_s: float) -> None:
        self.lab.run_for(duration_s)

    @rule(who=WHO)
    def power(self, who: int) -> None:
        machine = self.machine(who)
        if machine.host.is_powered:
            machine.power_off()
        else:
            machine.power_on()

    @rule(who=WHO)
    def freeze_or_thaw(self, who: int) -> None:
        process = self.machine(who).process
        if process is not None and process.is_frozen:
            self.machine(who).thaw()
        else:
            self.machine(who).freeze()

    @rule(who=WHO, gently=st.booleans())
    def end_or_start(self, who: int, gently: bool) -> None:
        machine = self.machine(who)
        if machine.process is None:
            if machine.host.is_powered:
                machine.start()
        elif gently:
            machine.stop()
        else:
            machine.kill()

    @rule(who=WHO)
    def plug(self, who: int) -> None:
        self.machine(who).set_link(is_up=not self.machine(who).host.is_up)

    @rule(who=WHO, step_s=st.floats(-1e6, 1e6))
    def set_clock(self, who: int, step_s: float) -> None:
        self.machine(who).set_clock(step_s)

    @rule(who=WHO)
    def delete_address(self, who: int) -> None:
        self.machine(who).delete_address(self.lab.vip_interfaces[0])

    @rule(who=WHO, result=st.sampled_from([ProbeResult.PASSED, ProbeResult.REFUSED]))
    def serve(self, who: int, result: ProbeResult) -> None:
        self.machine(who).set_service(result)

    @precondition(lambda self: self.is_cut)
    @rule(sender=WHO, receiver=WHO)
    def deafen(self, sender: int, receiver: int) -> None:
        self.lab.network.cut(self.machine(sender).name, self.machine(receiver).name)

    @rule()
    def stop_or_start_api_server(self) -> None:
        self.lab.api_server.is_up = not self.lab.api_server.is_up

    @rule(who=WHO)
    def cut_off_or_let_in(self, who: int) -> None:
        self.lab.api_server.cut_off ^= {self.machine(who).name}

    @rule(weather=st.sampled_from(WEATHERS))
    def change_weather(self, weather: Weather) -> None:
        self.lab.api_server.weather = weather

    @rule()
    def delete_lease(self) -> None:
        if KEY in self.lab.api_server.leases:
            self.lab.api_server.delete(KEY)

    def teardown(self) -> None:
        if not hasattr(self, "lab"):
            return
        self.lab.heal()
        server = self.lab.api_server
        server.weather, server.is_up = Weather(), True
        server.cut_off.clear()
        for machine in self.lab.machines:
            if not machine.host.is_powered:
                machine.power_on()
            machine.thaw()
            machine.set_link(is_up=True)
            machine.set_service(ProbeResult.PASSED)
        self.lab.run_for(25.0)
        for machine in self.lab.machines:
            if machine.process is None:
                machine.start()
        self.lab.run_for(30.0)
        assert len(self.lab.holders) == 1, self.lab.story()
        assert not any(client.cut_since for client in self.lab.clients), self.lab.story()


LeaseFaults.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

TestLeaseFaults = LeaseFaults.TestCase
