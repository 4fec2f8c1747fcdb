"""Stands in for keepalived-ingress-vip: a chart of its objects, and an image of keepalived."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

from kube_cluster import Cluster

IMAGE = "docker.io/janeczku/keepalived-ingress-vip:v0.1.6"
FILES = Path(__file__).with_name("keepalived-ingress-vip")
_CHART_YAML = """\
apiVersion: v2
name: keepalived-ingress-vip
description: >-
  Stands in for the chart that havip replaces: objects of the same names, labels and selectors from
  the same values, and keepalived configured as there, but for its health checks.
version: 0.1.6
appVersion: 0.1.6
"""
_START = """#!/bin/sh
# Equal priorities, VRRPv2, an advert a second, PASS: as the former image's template has it.
echo "
global_defs {
  garp_master_delay 5
  garp_master_refresh 60
  garp_lower_prio_repeat 1
}
vrrp_instance CLUSTER_VIP {
  state BACKUP
  interface $VRRP_IFACE
  virtual_router_id $VIRTUAL_ROUTER_ID
  priority 100
  advert_int 1
  preempt_delay 5
  authentication {
    auth_type PASS
    auth_pass $AUTH_PASSWORD
  }
  virtual_ipaddress {
    $VIP_ADDR_CIDR dev $VIP_IFACE
  }
}" >/keepalived.conf
exec /usr/sbin/keepalived --log-console --dont-fork --vrrp --use-file=/keepalived.conf
"""


def write_chart(directory: Path) -> Path:
    """The chart, whose Chart.yaml is nowhere else.

    Rancher offers every directory of a repository that has one.
    """
    chart = directory / FILES.name
    shutil.copytree(FILES, chart, dirs_exist_ok=True)
    (chart / "Chart.yaml").write_text(_CHART_YAML)
    return chart


def load_image(cluster: Cluster) -> None:
    """Make the image from the machine's own keepalived, a shell, an init, and their libraries."""
    archive = cluster.lab.directory / "keepalived.tar"
    with tarfile.open(archive, "w", dereference=True) as tar:
        for target, program in (
            ("usr/sbin/keepalived", "/usr/sbin/keepalived"),
            ("bin/sh", "/bin/dash"),
            # As dumb-init there: a shell that is PID 1 does not hear SIGTERM.
            ("init", "/usr/bin/catatonit"),
        ):
            tar.add(program, target)
            for library in _libraries(program):
                if library.lstrip("/") not in tar.getnames():
                    tar.add(library, library)
        for directory in ("run", "tmp", "etc", "proc", "sys", "dev"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        start = tarfile.TarInfo("start")
        start.mode, start.size = 0o755, len(_START.encode())
        tar.addfile(start, BytesIO(_START.encode()))
    cluster.podman(
        "import", "--quiet", "--change", 'ENTRYPOINT ["/init", "/start"]', str(archive), IMAGE
    )


def _libraries(program: str) -> list[str]:
    """What it is linked with, and the linker; nothing for a static program."""
    told = subprocess.run(("ldd", program), check=False, capture_output=True, text=True).stdout
    return re.findall(r"(/\S+) \(0x", told)
