"""A unit for systemd that runs HAProxy beside havip, with a configuration that havip writes.

It belongs to havip's unit: one that is restarted restarts the other, since a HAProxy that was
started with another configuration keeps the node from holding. At the end havip goes first, and
HAProxy serves on while the VIP is handed over.
"""

from __future__ import annotations

from collections.abc import Iterator

from havip.commands.manifest.access import judge_access
from havip.commands.manifest.document import Document
from havip.commands.manifest.hardening import HARDENING
from havip.commands.manifest.places import with_own_api_server
from havip.commands.manifest.plan import (
    Plan,
    load_balancer_of,
    no_service_account,
    refuse,
    without_overrides,
)
from havip.commands.manifest.text import comment
from havip.commands.manifest.unit import environment, haproxy_directory, quoted
from havip.core.haproxy import GRACE_S, HARD_STOP_S, files_of
from havip.settings.errors import Problem

_UNPRIVILEGED_PORT = 1024

_UNIT = """\
[Unit]
Description=HAProxy of the virtual IP {vips}
Wants=network-online.target
After=network-online.target
PartOf={name}.service
Before={name}.service
StartLimitIntervalSec=0

[Service]
Type=exec
{environment}
# As root, for it reads and writes what HAProxy must not; HAProxy validates it as its own user. What
# is wrong stands in this unit's log.
ExecStartPre=+{program} load-balancer --haproxy {haproxy}
ExecStart={haproxy} -W -db -f {directory}/haproxy.cfg
Restart=always
RestartSec=1
# It serves on while havip hands the VIP over.
KillSignal=SIGUSR1
KillMode=mixed
TimeoutStopSec={stop_s}
LimitNOFILE={files}
LimitCORE=0
OOMScoreAdjust=-900

# Of Debian's package; havip's unit is in the same group.
User=haproxy
Group=haproxy
RuntimeDirectory={runtime}
# The file there is havip's to write, and stays for it when HAProxy is restarted.
RuntimeDirectoryMode=0770
RuntimeDirectoryPreserve=yes
UMask=0007
CapabilityBoundingSet={capabilities}
AmbientCapabilities={capabilities}
{hardening}SystemCallFilter=setrlimit prlimit64
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictRealtime=yes
ProtectHome=yes

[Install]
WantedBy=multi-user.target
"""


def haproxy_unit(plan: Plan, program: str, haproxy: str) -> Document:
    """The unit file.

    Args:
        program: path of `havip` on the hosts.
        haproxy: path of HAProxy there.

    Raises:
        ConfigError: there is no load balancer, or the settings need what a host does not have.
    """
    plan = with_own_api_server(without_overrides(plan))
    refuse([*no_service_account(plan), *load_balancer_of(plan), *_no_balancer(plan)])
    warnings = judge_access(plan)
    name = f"{plan.name}-haproxy"
    file = f"/etc/systemd/system/{name}.service"
    steps = (
        f"HAProxy 2.6 or later: {haproxy}, without its own haproxy.service",
        f"this file: {file}",
        f"{plan.name}.service: havip manifest systemd, with the same settings",
        f"then: systemctl daemon-reload && systemctl enable --now {name} {plan.name}",
    )
    head = (
        "Made by `havip manifest systemd-haproxy`; to change it, make it anew.",
        "On each node, in this order:",
        *(f"  {step}" for step in steps),
    )
    settings = plan.settings
    vips = (str(vip.ip) for router in plan.routers for vip in router.vip_address_cidr or ())
    is_privileged = settings.load_balancer_port < _UNPRIVILEGED_PORT
    directory = haproxy_directory(plan)
    text = _UNIT.format(
        name=plan.name,
        vips=" ".join(vips),
        program=quoted(program),
        haproxy=quoted(haproxy),
        environment=environment(plan),
        directory=directory,
        runtime=directory.removeprefix("/run/"),
        stop_s=GRACE_S + HARD_STOP_S + 2,
        files=files_of(settings.load_balancer_max_connections),
        hardening=HARDENING,
        capabilities="CAP_NET_BIND_SERVICE" if is_privileged else "",
    )
    return Document(text=comment(head) + text, steps=steps, warnings=warnings, mode=0o644)


def _no_balancer(plan: Plan) -> Iterator[Problem]:
    if not plan.settings.load_balancer:
        yield Problem(
            field="loadBalancer",
            value=False,
            problem="there is no HAProxy to run",
            remedy="set loadBalancer: true",
        )
