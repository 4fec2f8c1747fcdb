"""An image of HAProxy as the public one is, made from the package of Debian 13 on this machine."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

from kube_cluster import Cluster

REPOSITORY = "localhost/haproxy"
TAG = "debian"
# What the public image says of itself, and where it has its program. A pod has a command and a user
# of its own: so the script of the entry point need not be there.
_CHANGES = (
    "STOPSIGNAL SIGUSR1",
    "USER 99:99",
    'ENTRYPOINT ["docker-entrypoint.sh"]',
    "WORKDIR /var/lib/haproxy",
    "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
)


def load(cluster: Cluster) -> None:
    """Have the image in the cluster's store."""
    root = cluster.lab.directory / "haproxy"
    subprocess.run((str(Path(__file__).with_name("debian-haproxy")), str(root)), check=True)
    program = root / "usr/local/sbin/haproxy"
    program.parent.mkdir(parents=True, exist_ok=True)
    (root / "usr/sbin/haproxy").rename(program)
    archive = root.with_suffix(".tar")
    with tarfile.open(archive, "w") as tar:
        tar.add(root, arcname="/")
    shutil.rmtree(root)
    told = [word for change in _CHANGES for word in ("--change", change)]
    cluster.podman("import", "--quiet", *told, str(archive), f"{REPOSITORY}:{TAG}")
