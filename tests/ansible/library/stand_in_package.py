#!/usr/bin/python
"""Stands in for the host's package manager: installs HAProxy as Debian does, which starts it."""

import subprocess
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

PROGRAM = Path("/usr/local/sbin/haproxy")
UNIT = Path("/etc/systemd/system/haproxy.service")


def main() -> None:
    spec = {"name": {"choices": ["haproxy"]}, "state": {"choices": ["present"]}}
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    is_new = not PROGRAM.exists()
    if is_new and not module.check_mode:
        PROGRAM.symlink_to("/usr/sbin/haproxy")
        UNIT.write_text("[Service]\nExecStart=sleep infinity\n")
        for verb in ("enable", "start"):
            subprocess.run(("systemctl", verb, UNIT.name), check=True)
    module.exit_json(changed=is_new)


if __name__ == "__main__":
    main()
