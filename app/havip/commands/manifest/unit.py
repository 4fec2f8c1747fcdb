"""A unit for systemd, which starts havip before the kubelet and may do little beside."""

from __future__ import annotations

from dataclasses import replace

from havip.commands.manifest.access import judge_access
from havip.commands.manifest.document import Document, key_steps
from havip.commands.manifest.hardening import HARDENING
from havip.commands.manifest.places import with_own_api_server
from havip.commands.manifest.plan import (
    NAME,
    Plan,
    load_balancer_of,
    no_service_account,
    refuse,
    texts,
    without_overrides,
)
from havip.commands.manifest.text import comment
from havip.sense.threads import LOOP_PRIORITY
from havip.settings.sources import CONFIG_VARIABLE
from havip.settings.values import Endpoint

_PORT_OF_VRID = 9700
"""Of a unit beside the usual one: no VRID leads from here to the usual port."""
_HOMES = ("/home/", "/root/", "/run/user/")
_WATCHDOG_S = 10
"""By then the address has long left the node by itself."""

_UNIT = """\
[Unit]
Description=havip, the virtual IP {vips}
Wants=network-online.target
After=network-online.target{after}
# What is behind the VIP, or needs it, comes later.
Before=kubelet.service k3s.service k3s-agent.service rke2-server.service rke2-agent.service
# An interface that is late is no reason to give up.
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={program} run
ExecReload=/bin/kill -HUP $MAINPID
{environment}
Restart=always
RestartSec=2
# A leaver waits for its successor.
TimeoutStopSec={grace_s}
# The kernel takes the VIP from a hung daemon after 3 s; this starts a new one. A stopped process
# takes no other signal.
WatchdogSec={watchdog_s}
WatchdogSignal=SIGKILL
OOMScoreAdjust=-900
MemoryMax=128M
# Adverts must not wait behind other work; with this, that needs no capability.
LimitRTPRIO={rtprio}
LimitCORE=0
UMask=0077

# Root, since the files of keys are root's; and of root nothing but these.
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW
AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW
{hardening}SystemCallFilter=sched_setscheduler
RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_PACKET AF_UNIX
MemoryDenyWriteExecute=yes
KeyringMode=private
PrivateMounts=yes
StateDirectory=havip
{balancer}ProtectHome={protect_home}

[Install]
WantedBy=multi-user.target
"""

_AFTER_HAPROXY = """ {name}-haproxy.service
Wants={name}-haproxy.service"""
_WITH_HAPROXY = """\
# HAProxy's configuration and socket are its group's.
SupplementaryGroups=haproxy
ReadWritePaths=-{directory}
"""


def unit(plan: Plan, program: str) -> Document:
    """The unit file.

    Args:
        program: path of `havip` on the hosts.

    Raises:
        ConfigError: the settings need something that a host does not have.
    """
    plan = with_own_api_server(without_overrides(plan))
    refuse([*no_service_account(plan), *load_balancer_of(plan)])
    warnings = judge_access(plan)
    has_balancer = plan.settings.load_balancer
    file = f"/etc/systemd/system/{plan.name}.service"
    steps = (
        f"havip: {program}",
        *key_steps(plan),
        f"this file: {file}",
        f"then: systemctl daemon-reload && systemctl enable --now {plan.name}",
    )
    head = (
        "Made by `havip manifest systemd`; to change it, make it anew.",
        "On each node, in this order:",
        *(f"  {step}" for step in steps),
    )
    vips = (str(vip.ip) for router in plan.routers for vip in router.vip_address_cidr or ())
    files = (program, plan.host_config, *plan.secret_files, *plan.other_files.values())
    text = _UNIT.format(
        vips=" ".join(vips),
        program=quoted(program),
        environment=environment(plan),
        grace_s=plan.grace_period_s,
        watchdog_s=_WATCHDOG_S,
        rtprio=LOOP_PRIORITY,
        hardening=HARDENING,
        after=_AFTER_HAPROXY.format(name=plan.name) if has_balancer else "",
        balancer=_WITH_HAPROXY.format(directory=haproxy_directory(plan)) if has_balancer else "",
        # The program, or a kubeconfig, may lie there.
        protect_home="read-only" if any(map(_is_at_home, files)) else "yes",
    )
    return Document(text=comment(head) + text, steps=steps, warnings=warnings, mode=0o644)


def haproxy_directory(plan: Plan) -> str:
    """Shared by the two units, and by no others: each HAProxy is one havip's."""
    return f"/run/{plan.name}-haproxy"


def environment(plan: Plan) -> str:
    """The settings and where their file is, but for a list of backends that stands in it.

    A variable would beat the file, whose changes the daemon is to follow. And `havip status`, which
    does not know the unit's variables, asks at the usual place: the usual unit is there, whatever
    its VRID, and no other one.
    """
    given = dict(plan.given)
    if "listen" not in plan.loaded.where:
        del given["listen"]
        if plan.name != NAME:
            lowest = min(router.virtual_router_id for router in plan.routers)
            given["listen"] = Endpoint("127.0.0.1", _PORT_OF_VRID + lowest)
    directory = haproxy_directory(plan)
    if plan.settings.load_balancer and directory != plan.settings.load_balancer_directory:
        given["load_balancer_directory"] = directory
    if plan.backends_are_in_file:
        del given["load_balancer_backends"]
    variables = texts(replace(plan, given=given))
    if plan.host_config:
        variables[CONFIG_VARIABLE] = plan.host_config
    return "\n".join(f"Environment={quoted(f'{name}={text}')}" for name, text in variables.items())


def _is_at_home(path: str) -> bool:
    return path.startswith(_HOMES)


def quoted(text: str) -> str:
    """As systemd reads one word (systemd.syntax(7)); % begins a specifier."""
    if text.isascii() and all(c.isalnum() or c in "_-./:=,@+" for c in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
