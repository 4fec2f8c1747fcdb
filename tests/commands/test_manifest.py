"""`havip manifest`: what it refuses, where it writes, and what stands in no manifest."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import stat
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import pytest
import yaml

from havip.__main__ import main
from havip.commands.manifest.places import DISTRIBUTIONS
from havip.commands.status import default_url
from havip.settings import sources

ROOT = Path(__file__).resolve().parents[2]
VIP = "--vip-address-cidr=192.0.2.10/24"
KINDS = ("static-pod", "daemonset", "helmchart", "systemd", "systemd-haproxy")
BALANCED = (VIP, "--load-balancer", "--load-balancer-backends=a 192.0.2.11:6443")
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def manifest(*words: str, **environ: str) -> Done:
    """Run it, in this process, since there are many."""
    with (
        mock.patch.dict(os.environ, environ, clear=True),
        contextlib.redirect_stdout(io.StringIO()) as stdout,
        contextlib.redirect_stderr(io.StringIO()) as stderr,
    ):
        status = main(["manifest", *words])
    return Done(returncode=status, stdout=stdout.getvalue(), stderr=stderr.getvalue())


def refusal(*words: str, **environ: str) -> str:
    """What it says; nothing is written."""
    done = manifest(*words, **environ)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    return done.stderr


# What it refuses -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_settings_are_judged_as_ever(kind: str, tmp_path: Path) -> None:
    """By the same code as of `havip check-config`, before anything is written."""
    file = tmp_path / "manifest"
    told = refusal(kind, VIP, "--vrrp-priority=300", f"--output={file}", HAVIP_VRRP_VERSION="4")
    assert told.splitlines() == [
        "vrrpVersion 4 (environment HAVIP_VRRP_VERSION): is more than 3; set 3 or less",
        "vrrpPriority 300 (flag --vrrp-priority): is more than 254; set 254 or less",
    ]
    assert not file.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_asked_of_this_host(kind: str) -> None:
    """Neither an interface nor a file of keys: the manifest is for another one."""
    flags = [
        "--vrrp-interface-name=eno42",
        "--auth-hmac-keys-file=/var/run/secrets/havip/hmac-keys",
    ]
    if kind == "systemd-haproxy":
        flags += BALANCED
    done = manifest(kind, VIP, *flags)
    assert done.returncode == 0, done.stderr
    assert "eno42" in done.stdout


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        pytest.param(
            ["static-pod", "--vrrp-version=3", "--auth-password-file=/etc/havip/auth/password"],
            "authPasswordFile *** (flag --auth-password-file): VRRPv3 has no passwords",
            id="rules about secrets count without the secret",
        ),
        pytest.param(
            ["static-pod", "--auth-hmac-keys-file=/etc/havip/hmac-keys"],
            "authHmacKeysFile /etc/havip/hmac-keys (flag --auth-hmac-keys-file): /etc/havip as a "
            "whole would be mounted into the pod, and is not for keys alone; give them a "
            "directory, such as /etc/havip/auth/",
            id="keys beside the configuration",
        ),
        pytest.param(
            ["static-pod", "--auth-hmac-keys-file=/keys"],
            "/keys (flag --auth-hmac-keys-file): / as a whole would be mounted",
            id="keys in the root",
        ),
        pytest.param(
            ["static-pod", "--auth-hmac-keys-file=/usr/lib/havip/keys"],
            "/usr/lib/havip as a whole would be mounted",
            id="keys where the image has its programs",
        ),
        pytest.param(
            ["systemd", "--auth-hmac-keys-file=keys"],
            "authHmacKeysFile keys (flag --auth-hmac-keys-file): is no absolute path; name",
            id="a relative path",
        ),
        pytest.param(
            ["static-pod", "--check-service-ca-file=/etc/../ca.crt"],
            "checkServiceCaFile /etc/../ca.crt (flag --check-service-ca-file): is no absolute path",
            id="a path that Kubernetes refuses",
        ),
        pytest.param(
            ["static-pod", f"--check-kube-api-token-file={SERVICE_ACCOUNT}/token"],
            "is a service account's, and without the API server there is none",
            id="the token of a service account in a static pod",
        ),
        pytest.param(
            ["systemd", f"--check-kube-api-ca-file={SERVICE_ACCOUNT}/ca.crt"],
            "is a service account's, and without the API server there is none",
            id="the token of a service account on a host",
        ),
        pytest.param(
            ["daemonset", "--node-name=node-1"],
            "nodeName node-1 (flag --node-name): would be the name of every node",
            id="one name for all nodes",
        ),
        pytest.param(
            ["daemonset", "--auth-hmac-keys-file=/etc/havip/auth/hmac-keys"],
            "lies in /etc/havip, where the pod has its settings; name it under "
            "/var/run/secrets/havip/, such as /var/run/secrets/havip/hmac-keys",
            id="a mount within a mount",
        ),
        pytest.param(
            ["helmchart", "--auth-hmac-keys-file=/keys/hmac"],
            "authHmacKeysFile /keys/hmac (flag --auth-hmac-keys-file): is elsewhere in the chart's "
            "pods; name it /var/run/secrets/havip/hmac-keys",
            id="keys where the chart has none",
        ),
        pytest.param(
            ["helmchart", "--metrics-listen=192.0.2.1:9651"],
            "metricsListen 192.0.2.1:9651 (flag --metrics-listen): is no value of the chart",
            id="a setting that the chart does not have",
        ),
        pytest.param(
            ["static-pod", "--metrics-listen=192.0.2.1:9651", "--metrics"],
            "is given beside --metrics; leave one of them out",
            id="metrics twice",
        ),
        pytest.param(
            ["static-pod", "--image=registry.example.org/havip"],
            "--image registry.example.org/havip: has neither tag nor digest; write it like "
            "localhost/havip:",
            id="an image without a tag",
        ),
        pytest.param(
            ["static-pod", "--image=Havip:1"], "--image Havip:1: is no name of an image", id="image"
        ),
        pytest.param(
            ["daemonset", "--namespace=Kube System"],
            "--namespace Kube System: is no name that Kubernetes takes",
            id="namespace",
        ),
        pytest.param(
            ["systemd", "--name=../havip"],
            "--name ../havip: is no name that Kubernetes takes",
            id="name",
        ),
        pytest.param(
            ["static-pod", "--limits=memory=64Mi"],
            "--limits memory=64Mi: would kill the process, which takes some 60Mi; set 128Mi, or at "
            "least 96Mi",
            id="too little memory",
        ),
        pytest.param(
            ["static-pod", "--limits=cpu=50m"],
            "--limits cpu=50m: would hold adverts back",
            id="too little time",
        ),
        pytest.param(
            ["static-pod", "--requests=disk=1Gi"],
            "--requests disk=1Gi: is no amount; write it like cpu=50m,memory=128Mi",
            id="no resource",
        ),
        pytest.param(
            ["static-pod", "--requests=cpu=much"], "--requests cpu=much: is no amount", id="amount"
        ),
        pytest.param(
            ["helmchart", "--chart=/nonexistent"],
            "--chart /nonexistent: cannot be read: No such file or directory; name the directory",
            id="no chart",
        ),
        pytest.param(
            ["helmchart", f"--chart={__file__}"],
            "cannot be read: not a gzip file; name the directory",
            id="no archive",
        ),
        pytest.param(
            ["helmchart", f"--chart={Path(__file__).parent}"],
            "is not the chart of havip; name the directory chart/ of havip's source",
            id="another directory",
        ),
    ],
)
def test_refused(words: list[str], problem: str) -> None:
    assert problem in refusal(*words, VIP)


@pytest.mark.parametrize(
    ("config", "flags", "problem"),
    [
        pytest.param(
            "nodeOverrides: {node-1: {vrrpPriority: 120}}",
            ["static-pod"],
            "nodeOverrides (file {file}:1): are settings of single nodes, and this is for one of "
            "them; say for which: --node-name",
            id="a static pod of no node",
        ),
        pytest.param(
            "nodeOverrides: {node-1: {checkServiceCaFile: /ca.crt}}",
            ["daemonset"],
            "nodeOverrides.node-1.checkServiceCaFile /ca.crt (file {file}:1): concerns the pod",
            id="a file of one node",
        ),
        pytest.param(
            "virtualRouters: [{vipAddressCidr: 192.0.2.9/24, authHmacKeysFile: /a/b/c}]",
            ["helmchart"],
            "virtualRouters[0].authHmacKeysFile (file {file}:1): the chart has one authentication",
            id="keys of one router in the chart",
        ),
    ],
)
def test_refused_in_a_file(config: str, flags: list[str], problem: str, tmp_path: Path) -> None:
    file = tmp_path / "havip.yaml"
    file.write_text(config)
    if "virtualRouters" not in config:
        flags = [*flags, VIP]
    assert problem.format(file=file) in refusal(*flags, f"--config={file}")


# Secrets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_secret_stands_in_no_manifest(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "havip.yaml"
    file.write_text(
        "virtualRouters:\n"
        "  - {vipAddressCidr: 192.0.2.9/24, vrrpVersion: 2, authPassword: s3cret}\n"
        "  - vipAddressCidr: 192.0.2.8/24\n    virtualRouterId: 8\n"
        f"    authHmacKeys: {{1: {'5f' * 32}}}\n"
    )
    file.chmod(0o600)
    told = refusal(kind, f"--config={file}")
    for name in ("virtualRouters[0].authPassword", "virtualRouters[1].authHmacKeys"):
        assert f"{name} *** (file {file}:1): would stand in the manifest" in told
    assert "s3cret" not in told
    assert "5f5f" not in told
    told = refusal(kind, VIP, HAVIP_VRRP_VERSION="2", HAVIP_AUTH_PASSWORD="s3cret")
    assert "name that by authPasswordFile" in told
    assert "s3cret" not in told


def test_how_to_make_the_keys_is_said(tmp_path: Path) -> None:
    """And works: the daemon takes the file."""
    keys = tmp_path / "auth" / "hmac-keys"
    done = manifest("systemd", VIP, f"--auth-hmac-keys-file={keys}")
    commands = [line.strip() for line in done.stderr.splitlines() if line.startswith("  ")]
    assert len(commands) == 2
    for command in commands:
        subprocess.run(command, shell=True, check=True)
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.parent.stat().st_mode) == 0o700
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "havip", "check-config", "--offline", VIP),
            f"--auth-hmac-keys-file={keys}",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={},
    )
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "warning" not in checked.stdout


# Where it goes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["static-pod"], "/etc/kubernetes/manifests/havip.yaml"),
        (["static-pod", "--for=kubeadm"], "/etc/kubernetes/manifests/havip.yaml"),
        (["static-pod", "--for=k3s"], "/var/lib/rancher/k3s/agent/pod-manifests/havip.yaml"),
        (["static-pod", "--for=rke2"], "/var/lib/rancher/rke2/agent/pod-manifests/havip.yaml"),
        (["helmchart"], "/var/lib/rancher/k3s/server/manifests/havip.yaml"),
        (["helmchart", "--for=rke2"], "/var/lib/rancher/rke2/server/manifests/havip.yaml"),
        (["helmchart", "--for=rke2"], "/var/lib/rancher/rke2/server/static/charts/havip-"),
        (["systemd", "--name=edge"], "/etc/systemd/system/edge.service"),
        (["daemonset"], "kubectl apply --filename havip.yaml"),
    ],
)
def test_where_it_goes_is_said(words: list[str], place: str) -> None:
    done = manifest(*words, VIP)
    assert done.returncode == 0
    assert place in done.stderr
    assert place in done.stdout.partition("\n\n")[0]


def test_warnings_are_said_beside_it() -> None:
    done = manifest("static-pod", VIP)
    assert "warning: checkServiceUrl: nothing is checked" in done.stderr
    assert "warning" not in done.stdout
    assert "warning" not in manifest("static-pod", VIP, "--check-kube-api").stderr


@pytest.mark.parametrize(
    ("words", "is_warned"),
    [
        (["static-pod", "--for=kubeadm"], False),
        (["static-pod", "--for=k3s"], True),
        (["helmchart", "--for=rke2"], True),
        (["static-pod", "--for=k3s", "--check-service-expected-status=200-499"], False),
        (["static-pod", "--for=k3s", "--check-service-url=tcp://127.0.0.1:6443"], False),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_api_server_that_wants_a_credential(words: list[str], is_warned: bool) -> None:
    url = "--check-service-url=https://127.0.0.1:6443/readyz"
    done = manifest(words[0], VIP, url, *words[1:])
    assert done.returncode == 0
    assert ("answers 401 to a probe without a credential" in done.stderr) is is_warned


def test_a_file_is_replaced_as_a_whole_and_only_if_it_differs(tmp_path: Path) -> None:
    """A kubelet reads the directory at any moment, and starts a changed pod anew."""
    file = tmp_path / "havip.yaml"
    file.write_text("old")
    file.chmod(0o644)
    done = manifest("static-pod", VIP, f"--output={file}")
    assert (done.returncode, done.stdout) == (0, "")
    assert yaml.safe_load(file.read_text())["kind"] == "Pod"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.stat()
    assert manifest("static-pod", VIP, f"--output={file}").returncode == 0
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert manifest("static-pod", VIP, "--debug", f"--output={file}").returncode == 0
    assert file.stat().st_ino != before.st_ino
    assert os.listdir(tmp_path) == ["havip.yaml"]  # noqa: PTH208


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    done = manifest("static-pod", VIP, f"--output={tmp_path}/none/havip.yaml")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"havip manifest: {tmp_path}/none/havip.yaml: No such file")


# Texts that a parser could take for something else --------------------------------------------


@pytest.mark.parametrize("text", ["1e3", "true", "y", "0x1f", "1_0", "null", "07", "1:30"])
def test_a_name_stays_a_name(text: str) -> None:
    """Kubernetes wants texts, and its parser knows numbers that Python's does not."""
    told = manifest("static-pod", VIP, f"--node-name={text}").stdout
    line = told.partition("name: HAVIP_NODE_NAME\n")[2].splitlines()[0]
    assert line.strip() in (f'value: "{text}"', f"value: '{text}'")


def test_what_kubernetes_would_expand() -> None:
    url = "http://127.0.0.1/?a=$(HOST_IP)"
    pod = yaml.safe_load(manifest("static-pod", VIP, f"--check-service-url={url}").stdout)
    (container,) = pod["spec"]["containers"]
    (value,) = (
        each["value"] for each in container["env"] if each["name"] == "HAVIP_CHECK_SERVICE_URL"
    )
    assert value == "http://127.0.0.1/?a=$$(HOST_IP)"


def test_settings_of_the_named_node(tmp_path: Path) -> None:
    file = tmp_path / "havip.yaml"
    file.write_text("vrrpPriority: 30\nnodeOverrides: {node-1: {vrrpPriority: 120}}\n")
    for node, priority in (("node-1", "120"), ("node-2", "30")):
        pod = yaml.safe_load(
            manifest("static-pod", VIP, f"--config={file}", f"--node-name={node}").stdout
        )
        env = {each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"]}
        assert env == {
            "HAVIP_VIP_ADDRESS_CIDR": "192.0.2.10/24",
            "HAVIP_VRRP_PRIORITY": priority,
            "HAVIP_NODE_NAME": node,
            "HAVIP_LISTEN": "127.0.0.1:9650",
        }


# Files of the node ---------------------------------------------------------------------------


def test_files_beside_keys_of_others_are_mounted_alone() -> None:
    pod = yaml.safe_load(
        manifest(
            *("static-pod", VIP, "--auth-hmac-keys-file=/etc/havip/auth/hmac-keys"),
            *("--check-kube-api", "--check-kube-api-ca-file=/etc/kubernetes/pki/ca.crt"),
            "--check-service-ca-file=/etc/kubernetes/pki/ca.crt",
            "--check-kubelet-ca-file=/etc/havip/auth/kubelet.crt",
        ).stdout
    )
    paths = [each["hostPath"] for each in pod["spec"]["volumes"]]
    assert paths == [
        {"path": "/etc/havip/auth", "type": "Directory"},
        {"path": "/etc/kubernetes/pki/ca.crt", "type": "File"},
    ]
    mounts = pod["spec"]["containers"][0]["volumeMounts"]
    assert [each["mountPath"] for each in mounts] == [each["path"] for each in paths]
    assert all(each["readOnly"] for each in mounts)


@pytest.mark.parametrize(
    ("flags", "mounted"),
    [
        (
            [
                *("--kube-events", "--kube-api-server=https://127.0.0.1:6443"),
                "--kube-token-file=/etc/havip/api/token",
                "--kube-ca-file=/etc/havip/api/ca.crt",
            ],
            "/etc/havip/api",
        ),
        (
            [
                *("--kube-events", "--kube-ca-file=/var/lib/kubelet/pki/ca.crt"),
                "--kube-client-cert-file=/var/lib/kubelet/pki/kubelet-client-current.pem",
                "--kube-client-key-file=/var/lib/kubelet/pki/kubelet-client-current.pem",
            ],
            "/var/lib/kubelet/pki",
        ),
    ],
    ids=["havip's own", "the kubelet's"],
)
def test_a_file_that_is_renewed_is_mounted_with_its_directory(
    flags: list[str], mounted: str
) -> None:
    """A mount of the file alone would show the one that was there at the start for ever."""
    done = manifest("static-pod", VIP, *flags)
    assert done.returncode == 0, done.stderr
    spec = yaml.safe_load(done.stdout)["spec"]
    (volume,) = spec["volumes"]
    assert volume["hostPath"] == {"path": mounted, "type": "DirectoryOrCreate"}
    (mount,) = spec["containers"][0]["volumeMounts"]
    assert (mount["mountPath"], mount["readOnly"]) == (mounted, True)


@pytest.mark.parametrize("kind", ["static-pod", "daemonset"])
def test_discovered_peers_outlast_the_pod(kind: str) -> None:
    flags = ("--vrrp-unicast-peers=auto", "--kube-peers-selector=node-role.kubernetes.io/x")
    made = [*yaml.safe_load_all(manifest(kind, VIP, *flags, "--name=havip-2").stdout)]
    pod = made[-1] if kind == "static-pod" else made[-1]["spec"]["template"]
    volumes = {
        each["name"]: each["hostPath"] for each in pod["spec"]["volumes"] if "hostPath" in each
    }
    path = "/var/lib/havip/kube-system/havip-2"
    assert volumes["state"] == {"path": path, "type": "DirectoryOrCreate"}
    (container,) = pod["spec"]["containers"]
    assert {"name": "state", "mountPath": "/var/lib/havip"} in container["volumeMounts"]
    if kind == "static-pod":
        assert volumes["kubeconfig-file"]["path"] == "/etc/kubernetes/admin.conf"
    else:
        (role,) = (each for each in made if each["kind"] == "ClusterRole")
        assert role["rules"] == [
            {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]}
        ]


# The kubeconfig ------------------------------------------------------------------------------

CHECK = "--check-kube-api"


@pytest.mark.parametrize(
    ("words", "kubeconfig"),
    [
        pytest.param([CHECK], None, id="kubeadm lets everybody ask"),
        pytest.param(["--for=k3s"], None, id="nothing asks"),
        pytest.param(["--for=k3s", CHECK], "/etc/rancher/k3s/k3s.yaml", id="k3s"),
        pytest.param(["--for=rke2", CHECK], "/etc/rancher/rke2/rke2.yaml", id="RKE2"),
        pytest.param(
            ["--for=k3s", CHECK, "--kubeconfig-file=/etc/havip/k3s.yaml"],
            "/etc/havip/k3s.yaml",
            id="one that is named",
        ),
        pytest.param(
            ["--for=k3s", CHECK, "--kube-token-file=/etc/havip/token"], None, id="a token"
        ),
        pytest.param(
            ["--for=k3s", CHECK, "--check-kube-api-url=https://127.0.0.1:6443"],
            None,
            id="a URL, of which the kubeconfig knows nothing",
        ),
        *(
            pytest.param([flag], "/etc/kubernetes/admin.conf", id=f"kubeadm, for {flag}")
            for flag in (
                *("--kube-holder-lease", "--kube-events", "--kube-holder-label"),
                *("--kube-node-watch", "--election=lease"),
            )
        ),
        pytest.param(
            ["--kubeconfig-file=/etc/kubernetes/admin.conf"],
            "/etc/kubernetes/admin.conf",
            id="kubeadm, if it is named",
        ),
    ],
)
def test_a_static_pod_has_a_kubeconfig_only_if_it_needs_one(
    words: list[str], kubeconfig: str | None
) -> None:
    """It is an administrator's. Not read here: the node has it later."""
    done = manifest("static-pod", VIP, *words)
    assert done.returncode == 0, done.stderr
    pod = yaml.safe_load(done.stdout)
    (container,) = pod["spec"]["containers"]
    variables = {each["name"]: each.get("value") for each in container["env"]}
    assert variables.get("HAVIP_KUBECONFIG_FILE") == kubeconfig
    volumes = {each["name"]: each["hostPath"] for each in pod["spec"]["volumes"]}
    wanted = {"path": kubeconfig, "type": "File"} if kubeconfig else None
    assert volumes.get("kubeconfig-file") == wanted


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        pytest.param(
            ["systemd", "--election=lease"],
            "election lease (flag --election): there is no access to the Kubernetes API",
            id="a unit without any",
        ),
        pytest.param(
            ["systemd", "--election=lease", "--kube-token-file=/etc/havip/api/token"],
            "kubeCaFile: https://127.0.0.1:6443 cannot be verified; the credential is withheld",
            id="a token without a CA",
        ),
        pytest.param(
            ["static-pod", "--election=lease", "--kube-token-file=/etc/havip/api/token"],
            "kubeCaFile: https://127.0.0.1:6443 cannot be verified; the credential is withheld",
            id="in a pod likewise",
        ),
        pytest.param(
            [
                *("static-pod", "--election=lease", "--kubeconfig-file=/etc/havip/api/config"),
                "--kube-api-server=https://192.0.2.10:6443",
            ],
            "(flag --kube-api-server): is the VIP, which leads to nobody",
            id="only by the VIP",
        ),
    ],
)
def test_an_election_that_could_not_begin_is_refused(words: list[str], problem: str) -> None:
    kind, *flags = words
    assert problem in refusal(kind, VIP, *flags)


def test_what_could_not_be_shown_is_said() -> None:
    done = manifest("systemd", VIP, "--kube-events")
    assert done.returncode == 0
    assert "kubeEvents: there is no access to the Kubernetes API, so it has no" in done.stderr
    with_access = manifest("systemd", VIP, "--kube-events", "--kubeconfig-file=/root/config")
    assert "no access" not in with_access.stderr


OWN = "https://127.0.0.1:6443"
FOLLOWS = ["systemd", "--load-balancer", "--kubeconfig-file=/etc/rancher/k3s/k3s.yaml"]
"""A unit that follows the backends, where the distribution has a kubeconfig."""


@pytest.mark.parametrize(
    ("words", "servers"),
    [
        pytest.param(["static-pod", "--kube-events"], f"{OWN},https://192.0.2.10:6443", id="pod"),
        pytest.param(
            ["static-pod", "--for=k3s", CHECK, "--vip-address-cidr=2001:db8::10/64"],
            f"{OWN},https://[2001:db8::10]:6443",
            id="IPv6",
        ),
        pytest.param(
            ["systemd", "--kube-events", "--kubeconfig-file=/etc/rancher/rke2/rke2.yaml"],
            f"{OWN},https://192.0.2.10:6443",
            id="unit",
        ),
        pytest.param(
            ["static-pod", "--kube-events", "--kube-api-server=https://192.0.2.1:6443"],
            "https://192.0.2.1:6443",
            id="as it is set",
        ),
        pytest.param(
            ["static-pod", "--kube-events", "--kubeconfig-file=/etc/havip/kube/config"],
            None,
            id="a kubeconfig of one's own",
        ),
        pytest.param(["static-pod", CHECK], None, id="no kubeconfig"),
        pytest.param(
            ["static-pod", "--load-balancer"], f"{OWN},https://127.0.0.1:8443", id="balancer"
        ),
        pytest.param(
            ["static-pod", "--load-balancer", "--vip-address-cidr=2001:db8::10/64"],
            f"{OWN},https://[::1]:8443",
            id="balancer by IPv6",
        ),
        pytest.param(
            ["static-pod", "--load-balancer", "--load-balancer-bind=vip"],
            f"{OWN},https://192.0.2.10:8443",
            id="balancer at the VIP",
        ),
        pytest.param(
            [*FOLLOWS, "--load-balancer-redirect-port=6443"],
            f"{OWN},https://127.0.0.1:8443",
            id="unit with a balancer",
        ),
        pytest.param(
            ["systemd-haproxy", *FOLLOWS[1:]], f"{OWN},https://127.0.0.1:8443", id="HAProxy"
        ),
    ],
)
def test_the_nodes_own_api_server_is_asked_first(words: list[str], servers: str | None) -> None:
    """A distribution's kubeconfig names the VIP, maybe by a name, and nobody has that yet."""
    kind, *flags = words
    done = manifest(kind, VIP, *flags)
    assert done.returncode == 0, done.stderr
    if kind.startswith("systemd"):
        found = re.findall(r"^Environment=HAVIP_KUBE_API_SERVER=(.*)$", done.stdout, re.MULTILINE)
    else:
        container, *_ = yaml.safe_load(done.stdout)["spec"]["containers"]
        found = [
            each["value"] for each in container["env"] if each["name"] == "HAVIP_KUBE_API_SERVER"
        ]
    assert found == ([servers] if servers else [])


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "and nothing needs one; leave it out"),
        (["--for=k3s", CHECK], "and this is not for kubeadm"),
        (["--kubeconfig-file=/etc/kubernetes/admin.conf"], "and kubeconfigFile names one"),
    ],
    ids=["kubeadm", "k3s", "named"],
)
def test_init_is_refused_where_it_means_nothing(words: list[str], problem: str) -> None:
    assert problem in refusal("static-pod", VIP, "--init", *words)


def test_the_first_node_of_kubeadm_has_the_kubeconfig_that_may_already(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where something needs one, such as a check of an API server that wants to know who asks."""
    closed = replace(DISTRIBUTIONS["kubeadm"], lets_everybody_ask=False)
    monkeypatch.setitem(DISTRIBUTIONS, "kubeadm", closed)
    done = manifest("static-pod", VIP, "--init", CHECK)
    assert "path: /etc/kubernetes/super-admin.conf" in done.stdout
    assert "after `kubeadm init`: make it anew, without --init" in done.stderr


@pytest.mark.parametrize("kind", ["static-pod", "systemd"])
def test_a_service_account_that_has_to_be_there(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "havip.yaml"
    file.write_text("k8s: {enabled: true, in_cluster: true}\n")
    assert "k8s.in_cluster true" in refusal(kind, VIP, f"--config={file}")
    assert manifest("daemonset", VIP, f"--config={file}").returncode == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_backend_that_is_the_balancer_on_every_node(kind: str) -> None:
    given = ("--load-balancer", "--load-balancer-backends=a 127.0.0.1:8443")
    assert "is where the balancer itself listens" in refusal(kind, VIP, *given)


# systemd -------------------------------------------------------------------------------------


@pytest.mark.parametrize("home", ["", "/root/.kube/config"])
def test_systemd_knows_every_line_of_the_unit(home: str, tmp_path: Path) -> None:
    """And finds that little is exposed: what is left, havip needs."""
    unit = tmp_path / "havip.service"
    flags = [f"--check-kube-api-token-file={home}"] if home else []
    url = 'http://127.0.0.1/%20?a="$HOME"&b=\\'
    done = manifest(
        *("systemd", VIP, "--program=/bin/true", f"--check-service-url={url}", *flags),
        f"--output={unit}",
    )
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(unit.stat().st_mode) == 0o644
    verified = subprocess.run(
        ("systemd-analyze", "verify", "--man=no", str(unit)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    exposed = subprocess.run(
        ("systemd-analyze", "security", "--offline=yes", "--threshold=25", "--no-pager", str(unit)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert exposed.returncode == 0, exposed.stdout
    assert ("ProtectHome=read-only" in unit.read_text()) is bool(home)


@pytest.mark.parametrize("port", [8443, 443])
def test_systemd_knows_every_line_of_haproxys_unit(port: int, tmp_path: Path) -> None:
    """Verified with havip's own beside it, to which it belongs."""
    flags = (*BALANCED, f"--load-balancer-port={port}", "--program=/bin/true")
    units = {
        "havip.service": manifest("systemd", *flags),
        "havip-haproxy.service": manifest("systemd-haproxy", *flags, "--haproxy=/bin/true"),
    }
    for name, made in units.items():
        assert made.returncode == 0, made.stderr
        (tmp_path / name).write_text(made.stdout)
    paths = [str(tmp_path / name) for name in units]
    verified = subprocess.run(
        ("systemd-analyze", "verify", "--man=no", *paths),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    for path in paths:
        command = ("systemd-analyze", "security", "--offline=yes", "--threshold=25", "--no-pager")
        exposed = subprocess.run((*command, path), capture_output=True, text=True, check=False)
        assert exposed.returncode == 0, exposed.stdout
    ours, haproxys = (made.stdout for made in units.values())
    assert "Wants=havip-haproxy.service" in ours
    assert "SupplementaryGroups=haproxy" in ours
    assert "PartOf=havip.service" in haproxys
    assert ("CAP_NET_BIND_SERVICE" in haproxys) is (port == 443)


@pytest.mark.parametrize(
    ("words", "count_401"),
    [
        pytest.param(["static-pod", "--for=k3s"], True, id="a static pod of k3s"),
        pytest.param(["static-pod", "--for=rke2"], True, id="a static pod of RKE2"),
        pytest.param(["helmchart", "--for=k3s"], True, id="a HelmChart"),
        pytest.param(["static-pod"], False, id="kubeadm"),
    ],
)
def test_the_balancers_check_counts_the_answer_of_the_distribution(
    words: list[str], count_401: bool
) -> None:
    """k3s and RKE2 say 401 to whoever shows no credential: no backend would ever be healthy."""
    name = "loadBalancerCheckExpectedStatus"
    done = manifest(*words, *BALANCED)
    assert ("200,401" in done.stdout) is count_401, done.stderr
    assert name not in done.stderr
    chosen = manifest(*words, *BALANCED, "--load-balancer-check-expected-status=204")
    assert "200,401" not in chosen.stdout
    assert (name in chosen.stderr) is count_401
    assert "200,401" not in manifest(*words, VIP).stdout, "without a load balancer"


API_CHECK = "--check-service-url=https://127.0.0.1:6443/readyz"
OWN_API = "is this node's own API server"


@pytest.mark.parametrize(
    ("flags", "warns"),
    [
        pytest.param([API_CHECK], True, id="weight 0"),
        pytest.param(
            [
                "--check-kube-api",
                "--check-kube-api-url=https://[::1]:6443/livez",
                "--check-kube-api-weight=0",
            ],
            True,
            id="by the other check",
        ),
        pytest.param([API_CHECK, "--check-service-weight=-2"], False, id="it only counts"),
        pytest.param([API_CHECK.replace("6443", "8443")], False, id="the balancer"),
        pytest.param([API_CHECK.replace("127.0.0.1", "192.0.2.9")], False, id="another's"),
    ],
)
def test_of_a_check_that_makes_the_vip_follow_one_backend_it_warns(
    flags: list[str], warns: bool
) -> None:
    done = manifest("systemd", *BALANCED, *flags)
    assert done.returncode == 0, done.stderr
    assert (OWN_API in done.stderr) is warns
    assert OWN_API not in manifest("systemd", VIP, *flags).stderr, "without a load balancer"


@pytest.mark.parametrize(
    "flags", [(), ("--kubeconfig-file=/etc/kubernetes/admin.conf",)], ids=["no access", "named"]
)
@pytest.mark.parametrize("kind", ["static-pod", "systemd", "systemd-haproxy"])
def test_backends_that_the_daemon_could_not_learn_are_refused(
    kind: str, flags: tuple[str, ...]
) -> None:
    """HAProxy has the API server's port of the VIP, and so no API server the loopback's."""
    port = ("--load-balancer-bind=vip", "--load-balancer-port=6443")
    told = refusal(kind, VIP, "--load-balancer", *port, *flags)
    asked = "is asked at https://127.0.0.1:6443, https://192.0.2.10:6443, where nobody answers"
    without = "and there is no access to it"
    assert (asked if flags or kind == "static-pod" else without) in told
    assert "list them, like cp-1 192.0.2.11:6443" in told
    assert manifest(kind, *BALANCED, *port, *flags).returncode == 0


@pytest.mark.parametrize(
    ("flags", "is_refused"),
    [
        pytest.param(["--kube-api-server=https://127.0.0.1:8443"], True, id="the balancer"),
        pytest.param(
            [
                "--kube-api-server=https://192.0.2.10:6443",
                "--load-balancer-redirect-port=6443",
            ],
            True,
            id="the port that leads to the balancer",
        ),
        pytest.param(
            ["--kube-api-server=https://127.0.0.1:8443,https://192.0.2.11:6443"],
            False,
            id="a node's own address too",
        ),
        pytest.param(["--kube-api-server=https://192.0.2.10:6443"], False, id="the VIP"),
        pytest.param(
            ["--load-balancer-bind=vip", "--load-balancer-port=6443"],
            False,
            id="the Service of the cluster",
        ),
    ],
)
def test_pods_that_could_not_learn_the_backends_are_refused(
    flags: list[str], *, is_refused: bool
) -> None:
    """With their service account, each of them would refuse to start."""
    if is_refused:
        told = refusal("daemonset", VIP, "--load-balancer", *flags)
        assert "loadBalancerBackends auto: the API that lists the backends is asked at" in told
        assert "where nobody answers before HAProxy has a backend" in told
        assert "name the nodes' own addresses by kubeApiServer" in told
    else:
        flags = ["--load-balancer", *flags]
        assert manifest("daemonset", VIP, *flags).returncode == 0
    assert manifest("daemonset", *BALANCED, *flags).returncode == 0


def test_without_a_load_balancer_the_unit_knows_no_haproxy() -> None:
    assert "haproxy" not in manifest("systemd", VIP).stdout
    assert "there is no HAProxy to run" in refusal("systemd-haproxy", VIP)


@pytest.mark.parametrize(
    ("flags", "url"),
    [
        pytest.param([], "http://127.0.0.1:9650", id="the usual unit, of whichever VRID"),
        pytest.param(["--name=second"], "http://127.0.0.1:9751", id="beside another one"),
        pytest.param(
            ["--name=second", "--virtual-router-id=10"],
            "http://127.0.0.1:9710",
            id="of the VRID that pods have 9650 for",
        ),
        pytest.param(["--listen=127.0.0.1:9700"], "http://127.0.0.1:9700", id="as it is set"),
    ],
)
def test_where_a_unit_serves_its_status(flags: list[str], url: str) -> None:
    """`havip status` without the unit's variables asks at the usual place."""
    listens = []
    for kind in ("systemd", "systemd-haproxy"):
        made = manifest(kind, *BALANCED, "--virtual-router-id=51", *flags).stdout
        listens.append("".join(re.findall(r"^Environment=HAVIP_LISTEN=(.*)$", made, re.MULTILINE)))
    assert [default_url({"HAVIP_LISTEN": each}) for each in listens] == [url, url]


def test_two_load_balancers_of_a_host_share_nothing() -> None:
    """By --name: in one directory, each would write the other's configuration."""
    variable = "HAVIP_LOAD_BALANCER_DIRECTORY"
    flags = (*BALANCED, "--name=second")
    ours, haproxys = (
        manifest(kind, *flags).stdout.splitlines() for kind in ("systemd", "systemd-haproxy")
    )
    assert "ReadWritePaths=-/run/second-haproxy" in ours
    assert f"Environment={variable}=/run/second-haproxy" in ours
    assert "RuntimeDirectory=second-haproxy" in haproxys
    assert f"Environment={variable}=/run/second-haproxy" in haproxys
    assert "ExecStart=/usr/sbin/haproxy -W -db -f /run/second-haproxy/haproxy.cfg" in haproxys

    first = manifest("systemd-haproxy", *BALANCED).stdout
    assert "RuntimeDirectory=havip-haproxy\n" in first
    assert variable not in first, "the default"
    assert variable not in manifest("systemd", VIP, "--name=second").stdout


@pytest.mark.parametrize("kind", ["systemd", "systemd-haproxy"])
def test_units_leave_a_list_of_backends_to_the_file_that_the_daemon_follows(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable would beat the file, and a change of the list have no effect."""
    file = tmp_path / "config.yaml"
    backends = "a 192.0.2.11:6443, b 192.0.2.12:6443"
    file.write_text(f"loadBalancer: true\nloadBalancerBackends: {backends}\n")
    elsewhere = manifest(kind, VIP, f"--config={file}")
    assert "HAVIP_LOAD_BALANCER_BACKENDS=a 192.0.2.11:6443" in elsewhere.stdout, elsewhere.stderr

    monkeypatch.setattr(sources, "DEFAULT_FILE", str(file))
    made = manifest(kind, VIP)
    assert "HAVIP_LOAD_BALANCER=true" in made.stdout, made.stderr
    assert "BACKENDS" not in made.stdout
    flag = "--load-balancer-backends=c 192.0.2.13:6443"
    assert "BACKENDS=c 192.0.2.13:6443" in manifest(kind, VIP, flag).stdout


@pytest.mark.parametrize("kind", ["systemd", "systemd-haproxy"])
def test_a_list_that_hosts_have_in_another_file_is_left_to_it(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("loadBalancer: true\nloadBalancerBackends: a 192.0.2.11:6443\n")
    there = "--host-config=/etc/havip/api.yaml"
    made = manifest(kind, VIP, f"--config={file}", there)
    assert "Environment=HAVIP_CONFIG=/etc/havip/api.yaml\n" in made.stdout, made.stderr
    assert "HAVIP_LOAD_BALANCER=true" in made.stdout
    assert "BACKENDS" not in made.stdout
    flagged = manifest(kind, *BALANCED, there)
    assert "HAVIP_LOAD_BALANCER_BACKENDS=" in flagged.stdout, "a flag beats the file"
    told = refusal(kind, *BALANCED, "--host-config=api.yaml")
    assert "--host-config api.yaml: is no absolute path; name a file of the hosts" in told


@pytest.mark.parametrize(
    ("kind", "flag"),
    [
        ("systemd", "--host-config"),
        ("systemd", "--program"),
        ("systemd-haproxy", "--host-config"),
        ("systemd-haproxy", "--program"),
        ("systemd-haproxy", "--haproxy"),
    ],
)
@pytest.mark.parametrize("character", ["\n", "\0", "\udcff"], ids=["line", "null", "no text"])
def test_no_path_of_the_hosts_begins_another_line(kind: str, flag: str, character: str) -> None:
    told = refusal(kind, *BALANCED, f"{flag}=/etc/a{character}ExecStartPre=/bin/false")
    shown = repr(character)[1:-1]
    assert f"{flag} /etc/a{shown}ExecStartPre=/bin/false: contains a control character" in told


@pytest.mark.parametrize(
    "kind", ["static-pod", "daemonset", "helmchart", "systemd", "systemd-haproxy"]
)
def test_the_manifest_chooses_the_directory(kind: str) -> None:
    told = refusal(kind, *BALANCED, "--load-balancer-directory=/run/mine")
    assert "loadBalancerDirectory /run/mine" in told


# The guide -----------------------------------------------------------------------------------

GUIDE = (ROOT / "docs" / "manifest.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(command.partition(" | ")[0])[2:]
    for block in re.findall(r"^```\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)
    for command in block.replace("\\\n", "").splitlines()
    if command.startswith("havip manifest")
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_the_commands_of_the_guide(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    if "--output" in words:
        words = [*words[:-1], str(tmp_path / "manifest")]
    done = manifest(*words)
    assert (done.returncode, "warning" in done.stderr) == (0, words[0] == "daemonset")


def test_the_guide_has_each_kind() -> None:
    assert {words[0] for words in COMMANDS} == set(KINDS)
    for place in (each.static_pods for each in DISTRIBUTIONS.values()):
        assert f"`{place}/havip.yaml`" in GUIDE
