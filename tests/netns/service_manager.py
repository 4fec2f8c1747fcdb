"""A systemd of its own on a host of a lab, with a root that is the machine's and keeps nothing.

It is PID 1 of new namespaces, on an overlay of `/` in memory, in a control group of its own. So a
unit is started by the real thing, with everything that it forbids.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from havip.netlab import Host, LabError

PROGRAM = "/opt/havip/bin/havip"
HANG_S = 40.0
"""Protection against a hang."""
CGROUPS = Path("/sys/fs/cgroup")
_APP = Path(__file__).parents[2] / "app"
_HAVIP = """\
#!/bin/sh
export LD_LIBRARY_PATH=/opt/havip/python/lib PYTHONPATH=/opt/havip/app:/opt/havip/site
exec /opt/havip/python/bin/{python} -m havip "$@"
"""
_TARGET = "[Unit]\nDescription=the unit under test, and nothing else\nRequires=havip.service\n"
# Nothing of the machine's own system is started beside it, its log is where tests read it, and they
# do not wait for its watchdog as long as others would.
_DROP_IN = """\
[Unit]
DefaultDependencies=no
[Service]
WatchdogSec=3
StandardOutput=file:/opt/havip/log
StandardError=file:/opt/havip/log
"""
# $1: a directory; $2: the control group; $3: the type of its hierarchy; $4: where that is mounted.
_BOOT = """\
set -eu
echo $$ >"$2/cgroup.procs"
exec unshare --mount --pid --fork --kill-child --uts --ipc --cgroup sh -eu -c '
mount --make-rprivate /
mount -t tmpfs none "$1/memory"
mkdir "$1/memory/upper" "$1/memory/work"
mount -t overlay -o "lowerdir=/,upperdir=$1/memory/upper,workdir=$1/memory/work" none "$1/root"
cd "$1/root"
rm -rf etc/systemd/system etc/havip
cp -a "$1/files/." .
mkdir -p opt/havip/app opt/havip/site opt/havip/python
mount --bind "$5" opt/havip/app
mount --bind "$6" opt/havip/site
mount --bind "$7" opt/havip/python
mount -t proc none proc
mount -t sysfs none sys
mount -t tmpfs none sys/fs/cgroup
mkdir -p ".$4"
case $3 in
cgroup2) mount -t cgroup2 none ".$4" ;;
*) mount -t cgroup -o none,name=systemd none ".$4" ;;
esac
mount -t tmpfs none run
mount -t tmpfs none tmp
mount --rbind /dev dev
exec chroot . env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
  /lib/systemd/systemd --system --unit=test.target --log-target=console --show-status=no
' sh "$@"
"""


class ServiceManager:
    """Boots, and starts `havip.service`.

    Args:
        unit: the text of the unit.
        files: more files of the host, by their paths, each with mode 0600.
        units: units that this one wants, by their names.
    """

    def __init__(
        self,
        host: Host,
        directory: Path,
        unit: str,
        files: dict[str, str],
        units: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.host = host
        self._root = directory / "root"
        for name in ("root", "memory"):
            (directory / name).mkdir()
        for name, text in {"havip": unit, **units}.items():
            self._put(directory, f"/etc/systemd/system/{name}.service", text)
            self._put(directory, f"/etc/systemd/system/{name}.service.d/test.conf", _DROP_IN)
        self._put(directory, "/etc/systemd/system/test.target", _TARGET)
        self._put(
            directory, PROGRAM, _HAVIP.format(python=Path(sys.executable).resolve().name), 0o755
        )
        for path, text in files.items():
            self._put(directory, path, text, 0o600)
        kind, mounted = ("cgroup2", CGROUPS)
        if not (CGROUPS / "cgroup.controllers").exists():
            kind, mounted = ("cgroup", CGROUPS / "systemd")
        self._group = mounted / host.namespace
        self._group.mkdir()
        self._process = host.popen(
            (
                # Back from where `ip netns exec` has hidden the control groups.
                *("nsenter", f"--mount=/proc/{os.getpid()}/ns/mnt"),
                *("sh", "-c", _BOOT, "sh", str(directory), str(self._group), kind, str(mounted)),
                # Where the unit sees them: it hides /root, /home and /tmp.
                *(str(_APP), sysconfig.get_path("purelib"), sys.base_prefix),
            ),
            name="systemd",
            is_daemon=True,
        )

    @staticmethod
    def _put(directory: Path, path: str, text: str, mode: int = 0o644) -> None:
        target = directory / "files" / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def wait_until(self, name: str, value: str) -> None:
        """Until a property of the unit is that, such as `ActiveState` is `active`."""
        self.wait_for(lambda: self.show(name) == value, f"{name} is not {value}")

    def wait_for(self, question: Callable[[], bool], what: str) -> None:
        """Ask again and again until the answer is yes.

        Raises:
            LabError: not in time; the message has the unit's log.
        """
        try:
            self._process.wait_for(question, HANG_S, what)
        except LabError as error:
            raise LabError(f"{error}\n{self.log()}") from None

    def systemctl(self, *words: str, check: bool = True) -> str:
        """Run systemctl there; returns what it printed.

        Raises:
            LabError: it failed, unless `check` is False.
        """
        inside = ("nsenter", f"--target={self._pid}", "--mount", "--pid", "--root", "--wd=/")
        done = subprocess.run(
            (*inside, "systemctl", *words), capture_output=True, text=True, check=False, timeout=60
        )
        if check and done.returncode != 0:
            raise LabError(f"systemctl {' '.join(words)}: {done.stderr}\n{self.log()}")
        return done.stdout

    def show(self, name: str, unit: str = "havip") -> str:
        """One property of a unit; empty as long as systemd does not answer."""
        return self.systemctl("show", "--value", f"--property={name}", unit, check=False).strip()

    @property
    def main_pid(self) -> int:
        """Of the unit's process, as this machine numbers it."""
        inner = self.show("MainPID")
        for process in (self._group).rglob("cgroup.procs"):
            for pid in process.read_text().split():
                status = Path("/proc", pid, "status").read_text()
                if status.partition("NSpid:")[2].split("\n")[0].split()[-1] == inner:
                    return int(pid)
        raise LabError(f"no process {inner}: {self.log()}")

    @property
    def environment(self) -> dict[str, str]:
        """Of the unit's process."""
        text = Path(f"/proc/{self.main_pid}/environ").read_text()
        return dict(each.split("=", 1) for each in text.split("\0") if each)

    def log(self) -> str:
        """What the unit has printed."""
        path = Path(f"/proc/{self._pid}/root/opt/havip/log")
        return path.read_text() if path.exists() else self._process.log_text()

    def close(self) -> None:
        """End everything in it, and remove the control group."""
        self._process.kill()
        deadline = time.monotonic() + HANG_S
        # The kernel takes a moment to end a PID namespace.
        while any(each.read_text() for each in self._group.rglob("cgroup.procs")):
            assert time.monotonic() < deadline, "it does not end"
        for directory in sorted(self._group.rglob("*/"), reverse=True):
            directory.rmdir()
        self._group.rmdir()

    @property
    def _pid(self) -> int:
        """systemd's, as this machine numbers it."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        self._process.wait_for(lambda: bool(children.read_text()), HANG_S, "has no child")
        return int(children.read_text())
