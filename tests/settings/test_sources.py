"""Which source wins, where a value came from, and which names are none of havip's business."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from havip.core.host import Host
from havip.settings import ConfigError, Loaded, Settings, add_arguments, load, resolve
from havip.settings.sources import DEFAULT_FILE, ENVIRONMENT_PREFIX, variable_of

VIP = "--vip-address-cidr=192.0.2.10/24"
KEY = "5f" * 32

Load = Callable[..., Loaded]


@pytest.mark.parametrize(
    ("flags", "environ", "file", "priority", "where"),
    [
        pytest.param([], {}, "", 100, None, id="default"),
        pytest.param([], {}, "vrrpPriority: 30\n", 30, "file config.yaml:1", id="file"),
        pytest.param(
            [],
            {"HAVIP_VRRP_PRIORITY": "20"},
            "vrrpPriority: 30\n",
            20,
            "environment HAVIP_VRRP_PRIORITY",
            id="environment over file",
        ),
        pytest.param(
            ["--vrrp-priority=10"],
            {"HAVIP_VRRP_PRIORITY": "20"},
            "vrrpPriority: 30\n",
            10,
            "flag --vrrp-priority",
            id="flag over environment",
        ),
        pytest.param(
            [],
            {"HAVIP_VRRP_PRIORITY": ""},
            "vrrpPriority: 30\n",
            30,
            "file config.yaml:1",
            id="an empty variable is none",
        ),
        pytest.param([], {}, "vrrpPriority:\n", 100, None, id="an empty line is none"),
    ],
)
def test_rank(
    *,
    flags: list[str],
    environ: dict[str, str],
    file: str,
    priority: int,
    where: str | None,
    load_from: Load,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(file)
    loaded = load_from(VIP, "--config=config.yaml", *flags, environ=environ)
    assert loaded.settings.vrrp_priority == priority
    assert loaded.routers[""].vrrp_priority == priority
    assert loaded.where.get("vrrpPriority") == where


def test_the_file_is_named_by_a_variable_too(load_from: Load, tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.yaml"
    path.write_text("vrrpPriority: 30\n")
    loaded = load_from(VIP, environ={"HAVIP_CONFIG": str(path)})
    assert (loaded.settings.vrrp_priority, loaded.file) == (30, str(path))


def test_loading_again_reads_the_file_again(load_from: Load) -> None:
    assert load_from(VIP, file="vrrpPriority: 30\n").settings.vrrp_priority == 30
    assert load_from(VIP, file="vrrpPriority: 40\n").settings.vrrp_priority == 40


def test_every_file_is_noted_before_it_is_read(tmp_path: Path) -> None:
    """Also one that is not there, or holds nonsense: whoever waits for it must hear of it."""
    config, keys, password = (tmp_path / name for name in ("config.yaml", "keys", "password"))
    config.write_text(
        f"vrrpVersion: 2\nauthHmacKeysFile: {keys}\nvirtualRouters:\n"
        f"  - {{vipAddressCidr: 192.0.2.10/24, authPasswordFile: {password}}}\n"
    )
    noted: list[str] = []
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = parser.parse_args([f"--config={config}"])
    with pytest.raises(ConfigError):
        load(arguments, {}, before_reading=noted.append)
    assert noted == [str(config), str(password), str(keys)]
    noted.clear()
    config.write_text("[")
    with pytest.raises(ConfigError):
        load(arguments, {}, before_reading=noted.append)
    assert noted == [str(config)]
    noted.clear()
    load(parser.parse_args([VIP]), {}, before_reading=noted.append)
    assert noted == [DEFAULT_FILE], "it may appear"


@pytest.mark.parametrize(
    "name",
    [
        # A Service called havip, and one called havip-metrics.
        "HAVIP_SERVICE_HOST",
        "HAVIP_SERVICE_PORT",
        "HAVIP_SERVICE_PORT_HTTP",
        "HAVIP_PORT",
        "HAVIP_PORT_9650_TCP",
        "HAVIP_PORT_9650_TCP_PROTO",
        "HAVIP_PORT_9650_TCP_PORT",
        "HAVIP_PORT_9650_TCP_ADDR",
        "HAVIP_METRICS_SERVICE_HOST",
        "HAVIP_METRICS_SERVICE_PORT_HTTP_METRICS",
        "HAVIP_METRICS_PORT",
        "HAVIP_METRICS_PORT_53_UDP_ADDR",
        # Of those called havip-load-balancer and so on, settings have the names.
        "HAVIP_LOAD_BALANCER_PORT",
        "HAVIP_LOAD_BALANCER_REDIRECT_PORT",
    ],
)
def test_what_kubernetes_injects_is_ignored(name: str, load_from: Load) -> None:
    assert name not in load_from(VIP, environ={name: "tcp://10.96.0.1:9650"}).where


def test_no_setting_hides_behind_an_injected_name(load_from: Load) -> None:
    """Only what Kubernetes puts there is ignored without a word: a URL, and this is a number."""
    from havip.settings.sources import _INJECTED

    names = [variable_of(attribute) or "" for attribute in Settings.model_fields]
    hiding = {"HAVIP_LOAD_BALANCER_PORT": "7443", "HAVIP_LOAD_BALANCER_REDIRECT_PORT": "7444"}
    assert [name for name in names if _INJECTED.fullmatch(name)] == [*hiding]
    settings = load_from(VIP, "--load-balancer", environ=hiding).settings
    assert (settings.load_balancer_port, settings.load_balancer_redirect_port) == (7443, 7444)
    assert all(name.startswith(ENVIRONMENT_PREFIX) or not name for name in names)


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--vrrp-no-preempt", True),
        ("--vrrp-no-preempt=true", True),
        ("--vrrp-no-preempt=no", False),
        ("--vrrp-no-preempt=false", False),
    ],
)
def test_switches(flag: str, expected: bool, load_from: Load) -> None:
    assert load_from(VIP, flag).settings.vrrp_no_preempt is expected


def test_lists_are_written_with_commas_or_as_lists(load_from: Load) -> None:
    text = "192.0.2.10/24, 192.0.2.11/24"
    by_flag = load_from(f"--vip-address-cidr={text}").routers[""].vip_address_cidr
    by_list = load_from(file="vipAddressCidr: [192.0.2.10/24, 192.0.2.11/24]\n")
    assert by_flag == by_list.routers[""].vip_address_cidr
    assert list(map(str, by_flag or ())) == text.split(", ")


@pytest.mark.parametrize(
    ("listen", "metrics_listen"),
    [
        pytest.param("127.0.0.1:9650", "192.0.2.1:9650", id="the same port elsewhere"),
        pytest.param("127.0.0.1:9650", "127.0.0.1:9651", id="another port"),
        pytest.param("127.0.0.1:9650", "[::]:9650", id="another family"),
        pytest.param("0.0.0.0:9650", "0.0.0.0:9651", id="everywhere"),
    ],
)
def test_metrics_elsewhere(listen: str, metrics_listen: str, load_from: Load) -> None:
    settings = load_from(VIP, f"--listen={listen}", f"--metrics-listen={metrics_listen}").settings
    assert (str(settings.listen), str(settings.metrics_listen)) == (listen, metrics_listen)


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_an_address_in_brackets_is_of_either_family(address: str, load_from: Load) -> None:
    """`[$(HOST_IP)]:9651` in a pod's manifest: nobody knows the node's family there."""
    settings = load_from(VIP, environ={"HAVIP_METRICS_LISTEN": f"[{address}]:9651"}).settings
    assert settings.metrics_listen == (address, 9651)


@pytest.mark.parametrize(
    ("flags", "interval_s"),
    [
        ([], 0.1),
        (["--vrrp-version=2"], 1.0),
        (["--vrrp-version=2", "--vrrp-advert-interval=3"], 3.0),
        (["--vrrp-advert-interval=0.07"], 0.07),
        (["--vrrp-advert-interval=40.95"], 40.95),
    ],
)
def test_advert_interval(flags: list[str], interval_s: float, load_from: Load) -> None:
    assert load_from(VIP, *flags).routers[""].advert_interval_s == interval_s


class TestSecrets:
    def test_a_password_file_in_a_flag_hides_the_password_of_the_environment(
        self, load_from: Load, tmp_path: Path
    ) -> None:
        path = tmp_path / "password"
        path.touch(mode=0o600)
        path.write_text("by-file\n")
        loaded = load_from(
            VIP,
            "--vrrp-version=2",
            f"--auth-password-file={path}",
            environ={"HAVIP_AUTH_PASSWORD": "by-env"},
        )
        password = loaded.routers[""].auth_password
        assert password is not None
        assert password.value == b"by-file"
        assert loaded.warnings == ()

    def test_keys_by_file_and_inline_are_the_same(self, load_from: Load, tmp_path: Path) -> None:
        path = tmp_path / "keys"
        path.write_text(f"# two keys\n1: {KEY}  # old\n\n2: '{KEY.upper()}6c'\n")
        path.chmod(0o600)
        active = "--auth-hmac-active-key=2"
        by_file = load_from(VIP, active, f"--auth-hmac-keys-file={path}").routers[""]
        inline = load_from(VIP, active, file=f"authHmacKeys: {{1: {KEY}, 2: {KEY}6c}}\n")
        assert by_file.auth_hmac_keys == inline.routers[""].auth_hmac_keys
        keys = by_file.auth_hmac_keys
        assert keys is not None
        assert keys[2].value == bytes.fromhex(f"{KEY}6c")

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param(f"active: 2\n1: {KEY}\n2: {KEY}6c\n", id="first"),
            pytest.param(f"1: {KEY}\n2: {KEY}6c\n'active': '2'  # since May\n", id="last"),
        ],
    )
    def test_the_file_says_which_key_signs(
        self, text: str, load_from: Load, tmp_path: Path, host: Host
    ) -> None:
        path = tmp_path / "keys"
        path.write_text(text)
        path.chmod(0o600)
        loaded = load_from(VIP, f"--auth-hmac-keys-file={path}")
        config, _ = resolve(loaded, host)
        (router,) = config.routers
        assert router.hmac is not None
        assert (router.hmac.active_key, list(router.hmac.keys)) == (2, [1, 2])
        assert router.rotation_delay_s == 180

    def test_a_file_that_everyone_reads_is_a_warning(self, load_from: Load, tmp_path: Path) -> None:
        path = tmp_path / "keys"
        path.write_text(f"1: {KEY}\n")
        path.chmod(0o644)
        (warning,) = load_from(VIP, f"--auth-hmac-keys-file={path}").warnings
        assert warning.field == "authHmacKeysFile"
        assert "every user" in warning.problem
        assert warning.remedy == f"chmod 0600 {path}"

    @pytest.mark.parametrize(
        ("file", "names"),
        [
            pytest.param("authPassword: s3cret\nvrrpVersion: 2", ["authPassword"], id="password"),
            pytest.param(f"authHmacKeys: {{1: {KEY}}}", ["authHmacKeys"], id="keys"),
            pytest.param(
                "virtualRouters:\n  - vipAddressCidr: 192.0.2.10/24\n"
                f"    authHmacKeys: {{1: {KEY}}}\n",
                ["authHmacKeys"],
                id="of one virtual router",
            ),
            pytest.param("authHmacKeys:\nvrrpPriority: 30", [], id="none"),
        ],
    )
    @pytest.mark.parametrize("mode", [0o600, 0o644])
    def test_a_secret_in_a_configuration_that_everyone_reads_is_a_warning(
        self, file: str, names: list[str], mode: int, load_from: Load, tmp_path: Path
    ) -> None:
        flags = () if "virtualRouters" in file else (VIP,)
        warnings = load_from(*flags, file=file, mode=mode).warnings
        assert [warning.field for warning in warnings] == (names if mode & 0o004 else [])
        for warning in warnings:
            path = tmp_path / "config.yaml"
            assert str(path) in warning.problem
            assert warning.remedy.startswith(f"chmod 0600 {path}, or name a file")

    def test_no_secret_is_in_any_repr(self, load_from: Load) -> None:
        file = f"authPassword: s3cret\nauthHmacKeys: {{1: {KEY}}}\n"
        shown = repr(load_from(VIP, "--vrrp-version=2", file=file))
        assert "***" in shown
        assert "s3cret" not in shown
        assert KEY not in shown
        assert str(bytes.fromhex(KEY)) not in shown


class TestVirtualRouters:
    FILE = """\
vrrpPriority: 150
authPassword: common
vrrpVersion: 2
virtualRouters:
  - vipAddressCidr: 192.0.2.10/24
  - vipAddressCidr: 192.0.2.11/24
    virtualRouterId: 11
    vrrpPriority: 50
    authPassword: own
"""

    def test_entries_override_what_is_common(self, load_from: Load) -> None:
        first, second = load_from(file=self.FILE).routers.values()
        assert (first.virtual_router_id, first.vrrp_priority) == (10, 150)
        assert (second.virtual_router_id, second.vrrp_priority) == (11, 50)
        passwords = [each.auth_password and each.auth_password.value for each in (first, second)]
        assert passwords == [b"common", b"own"]

    def test_in_the_environment_they_are_json(self, load_from: Load) -> None:
        text = '[{"vipAddressCidr": "192.0.2.10/24", "vrrpNoPreempt": true}]'
        (router,) = load_from(environ={"HAVIP_VIRTUAL_ROUTERS": text}).routers.values()
        assert router.vrrp_no_preempt


class TestNodeOverrides:
    FILE = """\
vrrpPriority: 100
checkServiceInterval: 3
nodeOverrides:
  node-a: {vrrpPriority: 150, vrrpInterfaceName: eth1, checkServiceUrl: "tcp://127.0.0.1:80"}
  node-b.example.org:
    vrrpPriority: 50
  7: {vrrpUnicastPeers: 192.0.2.7, checkServiceInterval: 4}
  empty:
"""

    @pytest.mark.parametrize(
        ("node", "priority", "interface", "interval_s"),
        [
            pytest.param("node-a", 150, "eth1", 3, id="this node"),
            pytest.param("node-b.example.org", 50, None, 3, id="a name with dots"),
            pytest.param("7", 100, None, 4, id="a name that YAML takes for a number"),
            pytest.param("empty", 100, None, 3, id="nothing for this node"),
            pytest.param("node", 100, None, 3, id="no name that is only a part"),
        ],
    )
    def test_only_the_nodes_own_count(
        self, node: str, priority: int, interface: str | None, interval_s: float, load_from: Load
    ) -> None:
        loaded = load_from(VIP, f"--node-name={node}", file=self.FILE)
        router = loaded.routers[""]
        assert (router.vrrp_priority, router.vrrp_interface_name) == (priority, interface)
        assert loaded.settings.check_service_interval == interval_s
        assert loaded.node_name == node

    def test_the_origin_names_the_node(self, load_from: Load, tmp_path: Path) -> None:
        where = load_from(VIP, "--node-name=node-a", file=self.FILE).where
        place = f"file {tmp_path / 'config.yaml'}:3"
        assert where["vrrpPriority"] == f"{place}, nodeOverrides.node-a"
        assert where["nodeOverrides"] == place

    def test_the_name_is_the_hosts_unless_it_is_set(self, load_from: Load) -> None:
        here = os.uname().nodename
        file = f"nodeOverrides: {{'{here}': {{vrrpPriority: 7}}, node-a: {{vrrpPriority: 8}}}}\n"
        assert load_from(VIP, file=file).settings.vrrp_priority == 7
        in_file = load_from(VIP, file=f"nodeName: node-a\n{file}")
        assert in_file.settings.vrrp_priority == 8
        by_environment = load_from(VIP, environ={"HAVIP_NODE_NAME": "node-a"}, file=file)
        assert by_environment.settings.vrrp_priority == 8

    def test_flags_and_environment_are_above_them(self, load_from: Load) -> None:
        flags = (VIP, "--node-name=node-a")
        environ = {"HAVIP_VRRP_PRIORITY": "20"}
        assert load_from(*flags, environ=environ, file=self.FILE).settings.vrrp_priority == 20

    def test_an_entry_of_virtual_routers_is_above_them(self, load_from: Load) -> None:
        routers = (
            "virtualRouters:\n"
            "  - {vipAddressCidr: 192.0.2.10/24, vrrpPriority: 110}\n"
            "  - {vipAddressCidr: 192.0.2.11/24, virtualRouterId: 11}\n"
        )
        loaded = load_from("--node-name=node-a", file=self.FILE + routers)
        assert [r.vrrp_priority for r in loaded.routers.values()] == [110, 150]
        assert {r.vrrp_interface_name for r in loaded.routers.values()} == {"eth1"}
