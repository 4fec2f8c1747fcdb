"""The commands that docs/guides tells people to type, and how each of them is tested.

A command is a line of a `sh` block, or code in the column `command` or `how` of a table. Each is
run: by `tests/docs` alone, or by `make e2e-kubernetes` on a real API server; or it says here why it
cannot be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GUIDES = ROOT / "docs" / "guides"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")
_COLUMNS = ("command", "how")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    text: str
    """On one line, as a shell takes it."""
    guide: str


class Place(StrEnum):
    """On which host of the test's cluster."""

    ADMIN = "the control plane's, with the administrator's kubeconfig"
    NODE = "a node that does not hold the VIP"
    HOLDER = "the node that holds the VIP"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    told: str
    """A regular expression that is found in what the command prints."""
    place: Place = Place.ADMIN


# What these begin with is run by tests/docs.
RUN_ALONE = ("havip manifest ", "havip check-config", "helm template ", "helm install ")

CAN_I = "--as=system:serviceaccount:kube-system:havip"
_SUBJECT = r"(?s)Subject Alternative Name.*IP Address:{vip}\b"
_ONE_HOLDER = r"{vip} +eth0 +[0-9a-f:]{{17}}( \(here\))? +port 6443 accepts\s*$"
_NOBODY = r"nobody has it"
_NODES = r"(?s)h1 +Ready.*h2 +Ready.*h3 +Ready"

# What `make e2e-kubernetes` runs, in the order of the guide, and what must be printed then.
ON_CLUSTER: dict[str, Expected] = {
    # before.md, while nobody has the VIP yet
    "havip who-has --timeout 2 192.168.1.100": Expected(told=_NOBODY, place=Place.NODE),
    "ip -brief -4 address show": Expected(told=r"10\.77\.0\.1\d/24", place=Place.NODE),
    "timeout 10 havip watch --interface eth0": Expected(told=r"watching eth0", place=Place.NODE),
    "curl -sk https://127.0.0.1:6443/readyz": Expected(told=r"^ok$"),
    "openssl s_client -connect 192.168.1.11:6443 </dev/null 2>/dev/null"
    " | openssl x509 -noout -ext subjectAltName": Expected(told=_SUBJECT),
    # api-kubeadm.md
    "openssl s_client -connect 127.0.0.1:6443 </dev/null 2>/dev/null"
    " | openssl x509 -noout -ext subjectAltName": Expected(told=_SUBJECT),
    # credentials.md
    "kubectl apply --filename rbac.yaml": Expected(
        told=r"clusterrolebinding\S+ (created|unchanged)"
    ),
    "kubectl apply --filename rights.yaml": Expected(
        told=r"clusterrolebinding\S+ (created|unchanged)"
    ),
    "kubectl --namespace kube-system create token havip --duration 8760h >token": Expected(told=""),
    "kubectl apply --filename token-secret.yaml": Expected(
        told=r"secret/havip-token (created|unchanged)"
    ),
    "kubectl --namespace kube-system get secret havip-token --output jsonpath='{.data.token}'"
    " | base64 -d >token": Expected(told=""),
    f"kubectl auth can-i get /readyz {CAN_I}": Expected(told=r"^yes$"),
    f"kubectl auth can-i get secrets --all-namespaces {CAN_I}": Expected(told=r"^no$"),
    f"kubectl auth can-i --list {CAN_I}": Expected(told=r"/readyz"),
    "curl --silent --cacert /etc/kubernetes/pki/ca.crt"
    ' --header "Authorization: Bearer $(cat token)" https://192.168.1.11:6443/readyz': Expected(
        told=r"^ok$"
    ),
    # validate.md
    "kubectl --namespace kube-system get pods --selector app.kubernetes.io/part-of=havip"
    " --output wide": Expected(told=r"(?s)(1/1 +Running.*){{3}}"),
    "kubectl --namespace kube-system exec $POD -- havip status": Expected(
        told=r"(?s){vip}/32 +(active|backup) .*service +good"
    ),
    "kubectl --namespace kube-system exec $POD -- havip who-has --port 6443 192.168.1.100": (
        Expected(told=_ONE_HOLDER)
    ),
    "curl -k https://192.168.1.100:6443/healthz": Expected(told=r"^ok"),
    # curl says on the same line how fast that was.
    "curl --cacert /etc/kubernetes/pki/ca.crt https://192.168.1.100:6443/healthz": Expected(
        told=r"^ok"
    ),
    "kubectl --server https://192.168.1.100:6443 get nodes": Expected(told=_NODES),
    "ip neigh show 192.168.1.100": Expected(told=r"lladdr {holder_mac}"),
    "kubectl get nodes --output wide": Expected(told=r"(?s)^(?!.*{vip}\b).*10\.77\.0\.11\b"),
    "kubectl --namespace kube-system logs $POD": Expected(told=r"moved"),
    "kubectl drain cp-1 --ignore-daemonsets --delete-emptydir-data": Expected(told=r"drained"),
    "kubectl uncordon cp-1": Expected(told=r"uncordoned"),
    "kubectl annotate node cp-1 havip.io/step-down=true": Expected(told=r"annotated"),
    "kubectl annotate node cp-1 havip.io/step-down-": Expected(told=r"annotated"),
    "kubectl --namespace kube-system get lease havip-10": Expected(told=r"havip-10 +{holder}\b"),
    # moving.md
    "havip who-has --port 6443 192.168.1.100": Expected(told=_ONE_HOLDER, place=Place.NODE),
    "havip who-has --timeout 2 192.168.1.90": Expected(told=_NOBODY, place=Place.NODE),
    "kubectl config set-cluster kubernetes --server https://api.example.org:6443": Expected(
        told=r'Cluster "kubernetes" set'
    ),
    "ss --no-header --tcp --numeric state established src 192.168.1.90": Expected(
        told=r"^$", place=Place.HOLDER
    ),
    "kubectl get nodes": Expected(told=_NODES),
    "ip -4 address show to 192.168.1.90": Expected(told=r"^$", place=Place.HOLDER),
    # from-kube-vip.md: its objects are there, and do nothing
    "kubectl --namespace kube-system get lease plndr-cp-lock"
    " --output jsonpath='{.spec.holderIdentity}'": Expected(told=r"^h2$"),
    "kubectl --namespace kube-system get daemonset kube-vip-ds --output yaml >kube-vip-ds.yaml": (
        Expected(told="")
    ),
    "kubectl --namespace kube-system delete daemonset kube-vip-ds": Expected(told=r"deleted"),
    "kubectl --namespace kube-system delete lease plndr-cp-lock": Expected(told=r"deleted"),
    "kubectl delete clusterrolebinding system:kube-vip-binding": Expected(told=r"deleted"),
    "kubectl delete clusterrole system:kube-vip-role": Expected(told=r"deleted"),
    "kubectl --namespace kube-system delete serviceaccount kube-vip": Expected(told=r"deleted"),
    # troubleshooting.md
    "curl --silent http://127.0.0.1:9650/status": Expected(
        told=r'"ready": ?true', place=Place.NODE
    ),
    "kubectl --namespace kube-system get serviceaccount havip": Expected(told=r"havip"),
    "kubectl --namespace kube-system get pod $POD"
    " --output jsonpath='{.spec.serviceAccountName} {.spec.automountServiceAccountToken}'": (
        Expected(told=r"^havip ")
    ),
    "cut -d. -f2 token | tr '_-' '/+' | base64 -d 2>/dev/null": Expected(told=r"serviceaccount"),
    "date +%s": Expected(told=r"^\d+$"),
    "kubectl get clusterrolebinding --output wide | grep havip": Expected(
        told=r"kube-system/havip"
    ),
    "curl -k https://127.0.0.1:6443/readyz": Expected(told=r"^ok"),
    "ss --no-header --listening --tcp --numeric 'sport = :6443'": Expected(told=r":6443"),
    "curl -k -m 5 'https://127.0.0.1:6443/readyz?verbose'": Expected(told=r"\[\+\]etcd ok"),
    "openssl s_client -connect 192.168.1.11:6443 </dev/null 2>/dev/null"
    " | openssl x509 -noout -issuer -dates -ext subjectAltName": Expected(
        told=r"(?s)issuer=.*notAfter=.*" + _SUBJECT.removeprefix("(?s)")
    ),
    "ip neigh flush 192.168.1.100": Expected(told=r"^$"),
    "kubectl get nodes --output jsonpath='{range .items[*]}{.metadata.name}"
    r" {.metadata.annotations.projectcalico\.org/IPv4Address}{"
    r'"\n"'
    "}{end}'": Expected(told=r"(?s)h1.*h2.*h3"),
    "kubectl --namespace kube-system describe pod $POD": Expected(told=r"Image: +\S*havip"),
    "curl --silent http://127.0.0.1:9650/readyz": Expected(told=r"^(ready|ok)\b", place=Place.NODE),
}

_NO_SYSTEMD = "no systemd runs in a test"
_NO_RUNTIME = "the tests' pods are podman's: there is no containerd to ask"
_NO_KUBEADM = "there is no kubeadm, and no node that it set up"
_NO_K3S = "there is no k3s and no RKE2 here"
_OF_A_NODE = "it changes files of a real node"
_FORMER_CHART = "tests/e2e/test_former_chart.py does this with the old chart and its images"
_REGISTRY = "there is no registry"
_FIREWALL = "it changes the firewall of the machine"

CANNOT: tuple[tuple[str, str], ...] = (
    (r"systemctl .*", _NO_SYSTEMD),
    (r"journalctl .*", _NO_SYSTEMD),
    (r"(crictl|ctr|k3s ctr|/var/lib/rancher/rke2/bin/ctr) .*", _NO_RUNTIME),
    (r"(podman|docker) pull .*", _REGISTRY),
    (r"(nft add|iptables|firewall-cmd) .*", _FIREWALL),
    (r"kubeadm .*", _NO_KUBEADM),
    (r"kubectl .* get configmap kubeadm-config .*", _NO_KUBEADM),
    (r"kubectl .* edit configmap .*", "an editor opens, and kubeadm made what it edits"),
    (r"kubectl .* (get|delete) secret k3s-serving\b.*", _NO_K3S),
    (r"kubectl .* get secret rke2-serving .*", _NO_K3S),
    (r"openssl s_client -connect 192\.168\.1\.11:9345 .*", _NO_K3S),
    (r"rm /var/lib/rancher/.*", _NO_K3S),
    (r"kubectl .* delete helmchart havip", _NO_K3S),
    (r"kubectl .* set env daemonset/calico-node .*", "there is no Calico"),
    (r"kubectl patch installation .*", "there is no Calico"),
    (r"(install|mv|sed) .*", _OF_A_NODE),
    (r"\(umask 077; .*", _OF_A_NODE),
    (r"(python3 -m venv|/opt/havip/bin/pip|ln -s) .*", "the tests run the havip of this clone"),
    (r"ping .*", "`havip who-has` asks the same, and not every machine has ping"),
    (r"arp .*", "`ip neigh show` shows the same, and not every machine has net-tools"),
    (r"ip address delete .*", "the address is not there"),
    (r"getent hosts .*", "there is no DNS"),
    (r"while sleep .*", "it does not end"),
    (r"kubectl .* get secret \$\(kubectl .*", "Kubernetes before 1.24 is not at hand"),
    (r"kubectl .* apply --filename kube-vip-ds\.yaml", "the way back from what was not there"),
    (r"helm (get values|upgrade|test|uninstall|rollback) .*", _FORMER_CHART),
    (r"helm upgrade", "it stands for a change of another chart"),
    (r"kubectl --namespace vip .*", _FORMER_CHART),
    (r"havip who-has 172\.16\.135\.2", _FORMER_CHART),
    (r"havip who-has 192\.168\.1\.90", "the old address is not there"),
    (r"helm (package|repo index) .*", "it makes files, which tests/chart looks at"),
    (r"(the same|there|an editor)", "these are words"),
)


def guides() -> list[Path]:
    return sorted(GUIDES.glob("*.md"))


def commands(guide: Path) -> Iterator[Command]:
    """In the order of the text; one that stands there twice comes twice."""
    text = guide.read_text(encoding="utf-8")
    position = 0
    for block in _BLOCK.finditer(text):
        yield from _of_tables(text[position : block.start()], guide.name)
        position = block.end()
        if block[1] == "sh":
            yield from _of_shell(block[2], guide.name)
    yield from _of_tables(text[position:], guide.name)


def rights() -> dict[str, str]:
    """What readers are told to save, by the names of the files."""
    return {
        "rbac.yaml": _rights("kubernetes-api.md"),
        "rights.yaml": _rights("holder-and-drains.md"),
    }


def _rights(page: str) -> str:
    text = (GUIDES.parent / page).read_text(encoding="utf-8")
    (found,) = (each[2] for each in _BLOCK.finditer(text) if "kind: ClusterRoleBinding" in each[2])
    return found


def files(guide: Path) -> Iterator[tuple[str, str]]:
    """The YAML blocks whose first line is a comment with a path: path and text."""
    for block in _BLOCK.finditer(guide.read_text(encoding="utf-8")):
        head, _, _ = block[2].partition("\n")
        if block[1] == "yaml" and head.startswith("# "):
            yield head.removeprefix("# "), block[2]


def why_not(command: Command) -> list[str]:
    """Why it cannot be run here."""
    return [reason for pattern, reason in CANNOT if re.fullmatch(pattern, command.text)]


def _of_shell(block: str, guide: str) -> Iterator[Command]:
    for line in re.sub(r"\s*\\\n\s*", " ", block).splitlines():
        if line and not line.startswith("#"):
            yield Command(text=line, guide=guide)


def _of_tables(text: str, guide: str) -> Iterator[Command]:
    columns: list[int] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            columns = []
            continue
        cells = [each.strip() for each in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not columns:
            columns = [at for at, cell in enumerate(cells) if cell in _COLUMNS] or [-1]
        elif columns != [-1]:
            for at in columns:
                for code in _CODE.findall(cells[at]):
                    yield Command(text=code.replace(r"\|", "|"), guide=guide)
