"""The two units of a load balancer, as `havip manifest` writes them, started by a real systemd."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from balanced import API_PORT, PORT, Balanced, balancer, healthy, link_certificates
from service_manager import PROGRAM, ServiceManager

from havip.netlab import Lab


def test_both_units_start_hold_and_stop_together(
    make_lab: Any, certificates: Any, tmp_path: Path
) -> None:
    lab: Lab = make_lab(hosts=1, capture=False)
    (host,) = lab.hosts
    it = Balanced(lab, link_certificates(certificates, lab.directory / "pki"))
    it.serve(host)
    flags = (
        *(f"--vip-address-cidr={lab.vip}", "--load-balancer", f"--program={PROGRAM}"),
        f"--load-balancer-backends=h1 {host.ipv4}:{API_PORT}",
        f"--load-balancer-redirect-port={API_PORT}",
        *("--load-balancer-check-interval=0.5", "--load-balancer-ca-file=/etc/havip/ca.crt"),
    )
    ours, haproxys = (
        subprocess.run(
            (sys.executable, "-m", "havip", "manifest", kind, *flags),
            capture_output=True,
            text=True,
            check=True,
            env={},
        ).stdout
        for kind in ("systemd", "systemd-haproxy")
    )
    authority = Path(certificates.path("ca.pem")).read_text()
    manager = ServiceManager(
        host, tmp_path, ours, {"/etc/havip/ca.crt": authority}, {"havip-haproxy": haproxys}
    )
    try:
        manager.wait_until("ActiveState", "active")
        lab.watch.wait_for_holder(lab.vip_address, host.name, timeout_s=40)
        assert healthy(host) == {"h1"}
        client = it.requests(PORT)
        client.wait_for(10, 0.0, servers={"h1"})
        it.requests(API_PORT).wait_for(1, 0.0, servers={"h1"})
        process = balancer(host)["process"]

        # HAProxy dies: the VIP leaves, it is started again, and the VIP comes back.
        manager.systemctl("kill", "--signal=KILL", "havip-haproxy")
        manager.wait_for(
            lambda: manager.show("NRestarts", "havip-haproxy") == "1", "HAProxy is not replaced"
        )
        manager.wait_for(lambda: balancer(host)["process"] not in (0, process), "it is the same")
        lab.watch.wait_for_holder(lab.vip_address, host.name, timeout_s=40)

        # It belongs to havip, which goes first.
        manager.systemctl("stop", "havip")
        assert not host.has_vip(lab.vip_address)
        manager.wait_for(
            lambda: manager.show("ActiveState", "havip-haproxy") == "inactive", "HAProxy stays"
        )
        assert manager.show("Result", "havip-haproxy") == "success", manager.log()
    finally:
        manager.close()
