"""Files that change under a running daemon, as Kubernetes and as editors change them: no signal."""

from __future__ import annotations

import base64
import sys
import time
from pathlib import Path

import pytest
from cluster import (
    HANG_S,
    adverts,
    decisions,
    dropped,
    holder,
    message,
    metric,
    others,
    router,
    settled,
    wait_for_adverts,
)
from patience import becomes

from havip.netlab import Frame, Host, Lab, Process, Volume

CONFIG = "vipAddressCidr: 10.77.0.100/24\nvrrpPriority: {}\n"
REFUSED = "the new configuration is refused, the old one stays"
KEY_1, KEY_2 = "5f" * 32, "a7" * 48
DELAY_S = 5.0
"""Of the rotation here; the nodes are told within it, one after another."""
# It looks at its files each two seconds, which is no setting.
LOOKS_OFTEN = """\
import sys
from havip import daemon
from havip.__main__ import main
daemon.FILES_CHECK_S = 0.1
sys.exit(main())
"""


def lines(daemon: Process, event: str) -> list[dict[str, str]]:
    return [line for line in decisions(daemon) if line["event"] == event]


def wait_for_line(daemon: Process, event: str, count: int) -> dict[str, str]:
    daemon.wait_for(lambda: len(lines(daemon, event)) == count, HANG_S, f"no {count} × {event!r}")
    return lines(daemon, event)[-1]


def run(host: Host, *args: str, **settings: object) -> Process:
    """`havip run`, which looks at its files often."""
    return host.popen(
        (sys.executable, "-c", LOOKS_OFTEN, "run", *args),
        name="havip",
        env={f"HAVIP_{name.upper()}": str(value) for name, value in settings.items()},
        is_daemon=True,
    )


def start_with(host: Host, config: Path) -> Process:
    daemon = run(host, "--config", str(config))
    daemon.wait_for(host.is_ready, HANG_S, "is not ready")
    return daemon


@pytest.fixture
def one(make_lab) -> Lab:
    return make_lab(hosts=1)


def test_a_volume_that_is_changed(one: Lab, tmp_path: Path) -> None:
    volume = Volume(tmp_path / "volume", {"config": CONFIG.format(100)})
    daemon = start_with(one["h1"], volume.path("config"))
    holder(one)
    since_at = time.monotonic()
    volume.change({"config": CONFIG.format(125)})
    told = wait_for_line(daemon, "configuration reloaded", 1)
    assert told["because"] == f"changed: {volume.path('config')}"
    wait_for_adverts(one, "h1", 2, time.monotonic(), priority=125)

    volume.change({"config": CONFIG.format(300)})
    told = wait_for_line(daemon, REFUSED, 1)
    assert "vrrpPriority 300" in told["problem"]
    # The file is looked at again and again meanwhile: told once, and the old one stays.
    wait_for_adverts(one, "h1", 20, time.monotonic(), priority=125)
    assert len(lines(daemon, REFUSED)) == 1

    volume.change({"config": CONFIG.format(130)})
    wait_for_line(daemon, "configuration reloaded", 2)
    wait_for_adverts(one, "h1", 2, time.monotonic(), priority=130)
    assert [e for e in one.watch.vip_events(one.vip_address) if e.at > since_at] == []


def test_a_file_that_an_editor_changes(one: Lab, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(100))
    daemon = start_with(one["h1"], config)
    holder(one)
    config.rename(tmp_path / "config.yaml~")
    new = tmp_path / ".config.yaml.swp"
    new.write_text(CONFIG.format(125))
    new.rename(config)
    wait_for_line(daemon, "configuration reloaded", 1)
    wait_for_adverts(one, "h1", 2, time.monotonic(), priority=125)
    config.write_text(CONFIG.format(130))
    wait_for_line(daemon, "configuration reloaded", 2)
    wait_for_adverts(one, "h1", 2, time.monotonic(), priority=130)


def test_a_kubeconfig_that_is_made_later(one: Lab, tmp_path: Path, certificates) -> None:
    """As k3s makes it at its first start, which may be after havip's."""
    path = tmp_path / "k3s.yaml"
    config = tmp_path / "config.yaml"
    config.write_text(
        f"{CONFIG.format(100)}kubeconfigFile: {path}\n"
        "checkKubeApi: true\ncheckKubeApiWeight: 20\ncheckKubeApiInterval: 0.5\n"
    )
    daemon = start_with(one["h1"], config)
    holder(one)

    def why() -> str:
        (check,) = one["h1"].status()["checks"]
        return str(check["detail"])

    becomes(why, f"the kubeconfig {path} is not there yet: it says which server to ask")
    ca = Path(certificates.path("ca.pem")).read_text()
    data = base64.b64encode(ca.encode()).decode()
    new = tmp_path / "new"
    new.write_text(
        "current-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\n"
        "clusters: [{name: c, cluster: {server: 'https://127.0.0.1:6443', "
        f"certificate-authority-data: {data}}}}}]\nusers: [{{name: u, user: {{token: t0ken}}}}]\n"
    )
    new.chmod(0o600)
    new.rename(path)
    wait_for_line(daemon, "configuration reloaded", 1)
    becomes(
        why,
        "nothing listens on 127.0.0.1:6443 (connection refused): start the API server, or correct "
        "checkKubeApiUrl",
    )
    # Once it was there, its absence is no reason to go on without it.
    path.unlink()
    assert "No such file" in wait_for_line(daemon, REFUSED, 1)["problem"]


def test_a_key_file_that_comes_later_than_what_names_its_key(one: Lab, tmp_path: Path) -> None:
    """A ConfigMap and a Secret are two volumes, and reach a pod at different times."""
    keys = Volume(tmp_path / "keys", {"keys": f"1: {KEY_1}\n"})
    text = CONFIG.format(100) + f"authHmacKeysFile: {keys.path('keys')}\nauthRotationDelay: 0\n"
    config = Volume(tmp_path / "config", {"config": text + "authHmacActiveKey: 1\n"})
    daemon = start_with(one["h1"], config.path("config"))
    holder(one)
    config.change({"config": text + "authHmacActiveKey: 2\n"})
    assert "there is no HMAC key of that id" in wait_for_line(daemon, REFUSED, 1)["problem"]
    keys.change({"keys": f"1: {KEY_1}\n2: {KEY_2}\n"})
    wait_for_line(daemon, "configuration reloaded", 1)
    becomes(lambda: router(one["h1"])["hmac_key"], 2)
    for secret in (KEY_1, KEY_2):
        assert secret not in daemon.log_text()


def test_a_password_that_changes(make_lab, tmp_path: Path) -> None:
    lab = make_lab(hosts=2)
    volumes = {h.name: Volume(tmp_path / h.name, {"password": "former"}) for h in lab.hosts}
    for host in lab.hosts:
        run(
            host,
            vip_address_cidr=lab.vip,
            vrrp_version=2,
            auth_password_file=volumes[host.name].path("password"),
            auth_rotation_delay=3,
        )
    first = settled(lab)
    (second,) = others(lab, first)
    since_at = time.monotonic()
    for volume in volumes.values():
        volume.change({"password": "newer\n"})
    # The password is the last eight bytes.
    new = lab.capture.wait_for(
        lambda f: f.is_vrrp and message(f)[-8:] == b"newer\0\0\0", 3 + HANG_S, since_at
    )
    assert new is not None
    assert new.port == first.name
    wait_for_adverts(lab, first, 3, time.monotonic())
    assert adverts(lab, second, since_at) == []
    assert metric(lab[second], "havip_adverts_dropped_total") == 0
    assert [e for e in lab.watch.vip_events(lab.vip_address) if e.at > since_at] == []


# Rotation of the keys of three nodes that are told one after another -----------------------------


def key_id_and_tag(frame: Frame) -> tuple[int, int]:
    """The id of the key that signed it, and the length of the message: is it signed at all?"""
    told = message(frame)
    return told[-27], len(told)


@pytest.mark.parametrize("holder_is_told", ["first", "last"])
def test_keys_are_rotated_without_losing_a_peer(
    make_lab, tmp_path: Path, holder_is_told: str
) -> None:
    """One change of the Secret: the new key beside the old one, and named as the active one."""
    lab = make_lab()
    old = {"keys": f"active: 1\n1: {KEY_1}\n"}
    new = {"keys": f"active: 2\n1: {KEY_1}\n2: {KEY_2}\n"}
    secrets = {host.name: Volume(tmp_path / host.name, old) for host in lab.hosts}
    daemons = {
        host.name: run(
            host,
            vip_address_cidr=lab.vip,
            auth_hmac_keys_file=secrets[host.name].path("keys"),
            auth_rotation_delay=DELAY_S,
        )
        for host in lab.hosts
    }
    first = settled(lab)
    order = others(lab, first)
    order.insert(0 if holder_is_told == "first" else 2, first.name)
    since_at = time.monotonic()
    for name in order:
        secrets[name].change(new)
        told = wait_for_line(daemons[name], "configuration reloaded", 1)
        assert told["because"].startswith("changed: ")
    assert {router(host)["hmac_key"] for host in lab.hosts} == {1}, "all told within the delay"

    switched = lab.capture.wait_for(
        lambda f: f.is_vrrp and key_id_and_tag(f)[0] == 2, DELAY_S + HANG_S, since_at
    )
    assert switched is not None
    for name in order:
        becomes(lambda name=name: router(lab[name])["hmac_key"], 2)
    wait_for_adverts(lab, first, 10, time.monotonic())
    spoken = [key_id_and_tag(frame) for frame in lab.capture.frames(since_at) if frame.is_vrrp]
    assert {frame.port for frame in lab.capture.frames(since_at) if frame.is_vrrp} == {first.name}
    assert {length for _, length in spoken} == {12 + 28}
    assert [key for key, _ in spoken] == sorted(key for key, _ in spoken), "first 1, then 2"
    assert [e for e in lab.watch.vip_events(lab.vip_address) if e.at > since_at] == []

    # Two adverts that left by different processors may cross, and the older is taken for a replay:
    # of those right after a claim, milliseconds apart, one was. No key may be at fault.
    assert all(dropped(host).keys() <= {"auth_replay"} for host in lab.hosts)
    # They agree: who succeeds is heard by the third.
    assert daemons[first.name].stop() == 0
    second = settled(lab)
    wait_for_adverts(lab, second, 5, time.monotonic())
    running = [host for host in lab.hosts if daemons[host.name].is_running]
    assert all(dropped(host).keys() <= {"auth_replay"} for host in running)
    for daemon in daemons.values():
        assert KEY_1 not in daemon.log_text()
        assert KEY_2 not in daemon.log_text()
