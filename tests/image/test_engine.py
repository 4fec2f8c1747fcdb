"""The engine itself leaves nothing, also when the process that has it is killed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from archive import Image
from engine import Engine

from havip.netlab import Lab


def test_what_a_killed_run_left_is_swept_by_the_next(archive: Path, image: Image) -> None:
    program = f"""
        import signal
        from engine import Engine
        from havip.netlab import Lab

        engine = Engine()
        engine.podman("load", "--quiet", "--input", {str(archive)!r})
        with Lab(hosts=1, clients=0) as lab:
            network = f"ns:/run/netns/{{lab.hosts[0].namespace}}"
            told = ("run", "--vip-address-cidr", lab.vip)
            container = engine.podman(
                "run", "--detach", "--cap-add", "NET_ADMIN,NET_RAW", "--network", network,
                {image.reference!r}, *told
            ).strip()
            print(engine.directory, engine.inspect(container)["State"]["Pid"], flush=True)
            signal.pause()
    """
    run = subprocess.Popen(
        (sys.executable, "-c", textwrap.dedent(program)),
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    directory, pid = run.stdout.readline().split()
    run.kill()
    run.wait()
    run.stdout.close()
    assert Path("/proc", pid).exists(), "a container outlives who started it"

    with Engine(), Lab(hosts=1, clients=0):
        assert not Path("/proc", pid).exists()
        assert not Path(directory).exists()
        assert directory not in Path("/proc/mounts").read_text()
