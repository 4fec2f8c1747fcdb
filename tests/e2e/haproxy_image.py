"""An image of HAProxy as the public one is, made from Debian's package on this machine."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

from kube_cluster import Cluster

REPOSITORY = "localhost/haproxy"
TAG = "debian"


def load(cluster: Cluster) -> None:
    """Have the image in the cluster's store: HAProxy, its libraries, and nothing else."""
    program = Path(shutil.which("haproxy") or "/usr/sbin/haproxy")
    linked = subprocess.run(("ldd", str(program)), capture_output=True, text=True, check=True)
    words = linked.stdout.split()
    files = {program, *(Path(word) for word in words if word.startswith("/"))}
    archive = cluster.lab.directory / "haproxy.tar"
    with tarfile.open(archive, "w") as tar:
        for file in sorted(files):
            tar.add(file.resolve(), arcname=str(file).lstrip("/"))
        # Where its name is looked for.
        tar.add(program.resolve(), arcname="usr/local/sbin/haproxy")
    changes = ("STOPSIGNAL SIGUSR1", "ENV PATH=/usr/local/sbin:/usr/sbin")
    told = [word for change in changes for word in ("--change", change)]
    cluster.podman("import", "--quiet", *told, str(archive), f"{REPOSITORY}:{TAG}")
