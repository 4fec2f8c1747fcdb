#!/usr/bin/python
"""Who has an address? Asked of the kernel, which asks the network by ARP or neighbour discovery."""

from __future__ import annotations

import errno
import ipaddress
import json
import socket
import time

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: havip_neighbour
short_description: Ask the network who has an IP address
description:
  - Makes the kernel look for the address, and reads what it found in its table of neighbours.
  - Needs no privilege, no program but C(ip), and no answer to a ping. Changes nothing.
options:
  address:
    description: An IPv4 or IPv6 address in a subnet of this host.
    type: str
    required: true
  interface:
    description: Ask on this interface. Empty means where the host's routes lead.
    type: str
    default: ""
  timeout:
    description: Seconds to wait for an answer.
    type: float
    default: 3.0
  here_only:
    description: Look at this host alone, and ask nobody else.
    type: bool
    default: false
author:
  - havip (@havip)
"""

EXAMPLES = r"""
- name: Ask for the VIP
  havip_neighbour:
    address: 192.168.1.100
  register: asked
"""

RETURN = r"""
found:
  description: Whether a host has it, this one or another.
  type: bool
  returned: always
is_here:
  description: Whether this host has it.
  type: bool
  returned: always
mac:
  description: Hardware address of the other host, or an empty text.
  type: str
  returned: always
"""

DISCARD = 9
KNOWN = {"REACHABLE", "STALE", "DELAY", "PROBE", "PERMANENT"}
PAUSE_S = 0.1


def is_here(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether this host has the address: to no other can a socket be bound."""
    with _socket(address) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            return False
    return True


def ask(address: ipaddress.IPv4Address | ipaddress.IPv6Address, interface: str) -> None:
    """One datagram to a port where nobody listens; the kernel must find the neighbour first."""
    with _socket(address) as sender:
        if interface:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        sender.sendto(b"", (str(address), DISCARD))


def neighbour(
    module: AnsibleModule, address: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> tuple[set[str], str]:
    """States and hardware address in the kernel's table."""
    _, told, _ = module.run_command(
        ["ip", "-json", f"-{address.version}", "neighbour", "show", "to", str(address)],
        check_rc=True,
    )
    for entry in json.loads(told or "[]"):
        return set(entry.get("state", [])), entry.get("lladdr", "")
    return set(), ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str", "required": True},
            "interface": {"type": "str", "default": ""},
            "timeout": {"type": "float", "default": 3.0},
            "here_only": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        address = ipaddress.ip_address(module.params["address"])
    except ValueError as error:
        module.fail_json(msg=f"address: {error}; write it like 192.0.2.10")
    nobody = {"changed": False, "found": False, "is_here": False, "mac": ""}
    try:
        if is_here(address):
            module.exit_json(**nobody | {"found": True, "is_here": True})
        if module.params["here_only"]:
            module.exit_json(**nobody)
        # What was true long ago is no answer.
        module.run_command(["ip", f"-{address.version}", "neighbour", "flush", "to", str(address)])
        until = time.monotonic() + module.params["timeout"]
        ask(address, module.params["interface"])
        while time.monotonic() < until:
            states, mac = neighbour(module, address)
            if mac and states & KNOWN:
                module.exit_json(**nobody | {"found": True, "mac": mac})
            if "FAILED" in states:
                break
            time.sleep(PAUSE_S)
    except OSError as error:
        module.fail_json(
            msg=f"{address} cannot be asked for: {error}; is it in a subnet of this host?"
        )
    module.exit_json(**nobody)


def _socket(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> socket.socket:
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    return socket.socket(family, socket.SOCK_DGRAM)


if __name__ == "__main__":
    main()
