"""What the chart makes of the cluster that it finds: keys that are kept, and refusals in time."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from rendering import MAJORS, Object, RefusedError, Rendered, render
from stand_in_cluster import StandInCluster, namespace

KEY = "5f0c2f6c6a1f3a52d5d3c4e0a9f1b7c86e2f7a90b1c2d3e4f5061728394a5b6c"
V2 = {"vrrpVersion": 2}
FORMER = {"keepalived": {"vipAddressCidr": "192.0.2.10/24"}}
NEW = "keepalived-ingress-vip"

In = Callable[..., StandInCluster]
both_majors = pytest.mark.parametrize("major", MAJORS)


@pytest.fixture
def cluster() -> Iterator[In]:
    """Clusters with a namespace `vip` and what else is given."""
    with ExitStack() as stack:

        def make(*objects: Object) -> StandInCluster:
            return stack.enter_context(StandInCluster(namespace(), *objects))

        yield make


def install(found: StandInCluster, directory: Path, *args: Any, **options: Any) -> Rendered:
    """The cluster has afterwards what was rendered, as helm marks it."""
    rendered = found.render(directory, *args, **options)
    for each in rendered.objects:
        name = options.get("name", "havip")
        mark = {
            "meta.helm.sh/release-name": name,
            "meta.helm.sh/release-namespace": "vip",
            **each["metadata"].get("annotations", {}),
        }
        found.apply([{**each, "metadata": {**each["metadata"], "annotations": mark}}])
    return rendered


def upgrade(found: StandInCluster, directory: Path, *args: Any, **options: Any) -> Rendered:
    return install(found, directory, *args, is_upgrade=True, **options)


def refusal(make: Callable[[], object]) -> str:
    with pytest.raises(RefusedError) as caught:
        make()
    return "\n".join(caught.value.lines)


def secret(rendered: Rendered) -> dict[str, str]:
    data = rendered.one("Secret")["data"]
    return {name: base64.b64decode(text).decode() for name, text in data.items()}


def given(data: dict[str, str], name: str = "vrrp") -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "vip"},
        "data": {key: base64.b64encode(text.encode()).decode() for key, text in data.items()},
    }


@both_majors
def test_a_new_release_signs_with_a_key_of_its_own_and_keeps_it(
    cluster: In, tmp_path: Path, major: int
) -> None:
    one, other = cluster(), cluster()
    first = install(one, tmp_path, major=major)
    assert first.config["authHmacKeysFile"] == "/var/run/secrets/havip/hmac-keys"
    assert first.config["authHmacMode"] == "enforce"
    assert re.fullmatch('active: 1\n1: "[0-9a-f]{64}"\n', secret(first)["hmac-keys"])
    assert secret(first) != secret(install(other, tmp_path, major=major))
    assert secret(upgrade(one, tmp_path, {"debug": True}, major=major)) == secret(first)


@both_majors
def test_a_password_is_made_and_kept(cluster: In, tmp_path: Path, major: int) -> None:
    one, other = cluster(), cluster()
    first = install(one, tmp_path, V2, major=major)
    assert len(secret(first)["password"]) == 8
    assert secret(first) != secret(install(other, tmp_path, V2, major=major))
    assert secret(upgrade(one, tmp_path, V2, major=major)) == secret(first)


@both_majors
def test_the_password_of_the_former_chart_stays(cluster: In, tmp_path: Path, major: int) -> None:
    found = cluster(given({"password": "0f1e2d3c"}, NEW))
    rendered = upgrade(found, tmp_path, FORMER, name=NEW, major=major)
    assert secret(rendered) == {"password": "0f1e2d3c"}


def test_without_a_cluster_nothing_is_made_at_random() -> None:
    assert not render().all("Secret")
    assert "authHmacKeysFile" not in render().config
    # The former chart's password followed from the names, and does here.
    former = [render(FORMER, name=NEW, major=major) for major in MAJORS]
    assert [secret(each) for each in former] == [{"password": "e5b59336"}] * 2


def test_keys_that_are_given_need_no_cluster() -> None:
    rendered = render({"authHmacKeys": {"7": KEY}})
    assert secret(rendered) == {"hmac-keys": f'active: 7\n7: "{KEY}"\n'}


@pytest.mark.parametrize(
    ("values", "file"), [({}, "hmac-keys"), (V2, "password"), (FORMER, "password")]
)
def test_an_existing_secret(cluster: In, tmp_path: Path, values: dict[str, Any], file: str) -> None:
    values = {**values, "authExistingSecret": "vrrp"}
    for rendered in (
        render(values),
        cluster(given({file: "…", "other": "…"})).render(tmp_path, values),
        cluster().render(tmp_path, values),
    ):
        assert not rendered.all("Secret")
        volume = next(each for each in rendered.pod["volumes"] if each["name"] == "auth")["secret"]
        assert (volume["secretName"], volume["defaultMode"]) == ("vrrp", 0o400)
        assert volume["items"] == [{"key": file, "path": file}]
    told = refusal(lambda: cluster(given({"token": "…"})).render(tmp_path, values))
    assert told == (
        f"authExistingSecret vrrp: has no key {file} (it has token); add it, or name another Secret"
    )


# From one Secret to another -----------------------------------------------------------------


ONE, OTHER_KEY = f'1: "{KEY}"\n', f"1: {KEY[::-1]}\n"


@both_majors
@pytest.mark.parametrize(
    ("file", "is_the_same"),
    [
        pytest.param(ONE, True, id="the same key"),
        pytest.param(f"1: {KEY.upper()}\n2: {KEY[::-1]}\nactive: 1\n", True, id="one more"),
        pytest.param(OTHER_KEY, False, id="another key of that id"),
        pytest.param(f"7: {KEY}\n", False, id="another id"),
        pytest.param(f"{ONE}2: {KEY[::-1]}\nactive: 2\n", False, id="another one signs"),
    ],
)
def test_an_existing_secret_goes_on_with_the_key(
    cluster: In, tmp_path: Path, major: int, file: str, is_the_same: bool
) -> None:
    """Old and new pods have to understand each other while they are replaced one by one."""
    found = cluster(given({"hmac-keys": file}))
    install(found, tmp_path, {"authHmacKeys": {"1": KEY}}, major=major)

    def move() -> Rendered:
        return upgrade(found, tmp_path, {"authExistingSecret": "vrrp"}, major=major)

    if is_the_same:
        assert not move().all("Secret")
        return
    told = refusal(move)
    assert told == (
        "authExistingSecret vrrp: the nodes use key 1 of Secret havip, change one after the other, "
        "and would not understand each other meanwhile; give it what Secret havip has, and change "
        "the key after the upgrade"
    )


def test_an_existing_secret_that_nobody_can_look_into(cluster: In, tmp_path: Path) -> None:
    found = cluster()
    install(found, tmp_path)
    told = refusal(lambda: upgrade(found, tmp_path, {"authExistingSecret": "vrrp"}))
    assert told == (
        "authExistingSecret vrrp: is not there, and the nodes use key 1 of Secret havip; create it "
        "with what Secret havip has, then upgrade"
    )


def test_from_one_existing_secret_to_another(cluster: In, tmp_path: Path) -> None:
    found = cluster(given({"hmac-keys": ONE}), given({"hmac-keys": OTHER_KEY}, "other"))
    found.apply([given({"hmac-keys": ONE}, "copy")])
    install(found, tmp_path, {"authExistingSecret": "vrrp"})
    told = refusal(lambda: upgrade(found, tmp_path, {"authExistingSecret": "other"}))
    assert told.startswith("authExistingSecret other: the nodes use key 1 of Secret vrrp, change")
    assert upgrade(found, tmp_path, {"authExistingSecret": "copy"}).workload


@both_majors
def test_back_to_a_secret_of_the_charts_own(cluster: In, tmp_path: Path, major: int) -> None:
    found = cluster(given({"hmac-keys": ONE}))
    install(found, tmp_path, {"authExistingSecret": "vrrp"}, major=major)
    told = refusal(lambda: upgrade(found, tmp_path, major=major))
    assert told == (
        "authExistingSecret: the nodes use key 1 of Secret vrrp, change one after the other, and "
        "would not understand each other meanwhile; leave it at vrrp, or write what that has as "
        "authHmacKeys.1"
    )
    rendered = upgrade(found, tmp_path, {"authHmacKeys": {"1": KEY}}, major=major)
    assert secret(rendered)["hmac-keys"] == f'active: 1\n1: "{KEY}"\n'


def test_a_password_goes_on_too(cluster: In, tmp_path: Path) -> None:
    there, back = {**V2, "authExistingSecret": "vrrp"}, {**V2, "authPassword": "0f1e2d3c"}
    found = cluster(given({"password": "0f1e2d3c"}), given({"password": "another"}, "other"))
    install(found, tmp_path, back)
    told = refusal(lambda: upgrade(found, tmp_path, {**V2, "authExistingSecret": "other"}))
    assert told.startswith("authExistingSecret other: the nodes use the password of Secret havip")
    upgrade(found, tmp_path, there)
    # As helm does with what a release has no more.
    is_own = [
        (each["kind"], each["metadata"]["name"]) == ("Secret", "havip") for each in found.objects
    ]
    del found.objects[is_own.index(True)]
    told = refusal(lambda: upgrade(found, tmp_path, V2))
    assert told.endswith("leave it at vrrp, or write what that has as authPassword")
    assert upgrade(found, tmp_path, back).workload


def test_the_password_of_the_former_chart_goes_on_in_an_existing_secret(
    cluster: In, tmp_path: Path
) -> None:
    values = {**FORMER, "authExistingSecret": "vrrp"}
    found = cluster(given({"password": "0f1e2d3c"}, NEW), given({"password": "another"}))
    told = refusal(lambda: upgrade(found, tmp_path, values, name=NEW))
    assert told.startswith(f"authExistingSecret vrrp: the nodes use the password of Secret {NEW},")
    found.apply([given({"password": "0f1e2d3c"})])
    assert upgrade(found, tmp_path, values, name=NEW).workload


def test_two_renders_for_gitops_are_the_same() -> None:
    values = {"authExistingSecret": "vrrp", "metrics": {"enabled": True}}
    assert render(values, args=("--debug",)).text == render(values).text


@both_majors
def test_a_key_changes_in_two_steps(cluster: In, tmp_path: Path, major: int) -> None:
    found = cluster()

    def step(**values: Any) -> Rendered:
        return upgrade(found, tmp_path, values, major=major)

    def keys(rendered: Rendered) -> list[str]:
        return secret(rendered)["hmac-keys"].splitlines()

    _, old = keys(install(found, tmp_path, major=major))
    told = refusal(lambda: step(authHmacKeys={"2": ""}))
    assert told.startswith("authHmacKeys: the nodes sign with key 1, which is not among them; keep")

    active, kept, new = keys(step(authHmacKeys={"1": "", "2": ""}, authHmacActiveKey=2))
    assert (active, kept) == ("active: 2", old)
    assert keys(step(authHmacKeys={"2": ""})) == ["active: 2", new]


def test_a_key_that_changes_under_its_id_is_refused(cluster: In, tmp_path: Path) -> None:
    found = cluster()
    install(found, tmp_path)
    told = refusal(lambda: upgrade(found, tmp_path, {"authHmacKeys": {"1": KEY}}))
    assert "authHmacKeys.1 ***: the nodes use another key of that id" in told
    assert KEY not in told


def test_an_upgrade_leaves_an_unsigned_group_unsigned(cluster: In, tmp_path: Path) -> None:
    found = cluster()
    install(found, tmp_path, {"authMethod": "none"})
    assert not upgrade(found, tmp_path).all("Secret")


def test_from_version_2_to_3_the_group_is_signed(cluster: In, tmp_path: Path) -> None:
    """The two versions do not understand each other anyway."""
    found = cluster()
    install(found, tmp_path, FORMER, name=NEW)
    flat = {"nameOverride": NEW}
    assert "hmac-keys" in secret(upgrade(found, tmp_path, flat, name=NEW))


def authentication(mode: str) -> dict[str, str]:
    if mode == "none":
        return {"authMethod": "none"}
    return {"authMethod": "hmac", "authHmacMode": mode}


STEPS = ["none", "receive-only", "permissive", "enforce"]


@pytest.mark.parametrize("was", STEPS)
@pytest.mark.parametrize("becomes", STEPS)
def test_hmac_comes_and_goes_step_by_step(
    cluster: In, tmp_path: Path, was: str, becomes: str
) -> None:
    found = cluster()
    install(found, tmp_path, authentication(was))
    distance = STEPS.index(becomes) - STEPS.index(was)
    if abs(distance) <= 1:
        upgrade(found, tmp_path, authentication(becomes))
        return
    told = refusal(lambda: upgrade(found, tmp_path, authentication(becomes)))
    assert told.startswith(f"authHmacMode {becomes}: the nodes are at {was}, change one after")
    between = STEPS[STEPS.index(was) + (1 if distance > 0 else -1)]
    assert f"authHmacMode: {between}, wait" in told


@both_majors
@pytest.mark.parametrize("level", ["baseline", "restricted"])
def test_a_namespace_that_forbids_the_pods(
    cluster: In, tmp_path: Path, major: int, level: str
) -> None:
    found = cluster()
    label = {"pod-security.kubernetes.io/enforce": level}
    found.apply([namespace(**label)])
    told = refusal(lambda: found.render(tmp_path, major=major))
    assert told == (
        f"namespace vip: its Pod Security level {level} forbids the host's network, so that no pod "
        "would be created; kubectl label namespace vip "
        "pod-security.kubernetes.io/enforce=privileged --overwrite"
    )
    found.apply([namespace(**{**label, "pod-security.kubernetes.io/enforce": "privileged"})])
    assert found.render(tmp_path, major=major).workload


@both_majors
@pytest.mark.parametrize(
    ("name", "labels", "is_told"),
    [
        pytest.param("vip", {}, "Namespace vip has no Pod Security level of its own.", id="none"),
        pytest.param("new", {}, "Namespace vip was not there yet.", id="no namespace"),
        pytest.param("vip", {"pod-security.kubernetes.io/enforce": "privileged"}, "", id="its own"),
    ],
)
def test_the_notes_say_what_the_namespace_may_forbid(
    tmp_path: Path, major: int, name: str, labels: dict[str, str], is_told: str
) -> None:
    """A cluster may have a level for every namespace that has none."""
    with StandInCluster(namespace(name, **labels)) as found:
        told = found.notes(tmp_path, "--set=vipAddressCidr=192.0.2.10/24", major=major)
    command = "kubectl label namespace vip pod-security.kubernetes.io/enforce=privileged"
    assert is_told in told
    assert (command in told) is bool(is_told)


def test_a_namespace_that_is_made_with_the_release(cluster: In, tmp_path: Path) -> None:
    assert cluster().render(tmp_path, namespace="new").all("Secret")


def test_such_a_namespace_of_whoever_makes_no_cluster_role(cluster: In, tmp_path: Path) -> None:
    """The chart looks for the namespace, and must not take it for a cluster that is not there."""
    values = {"rbac": {"create": False}}
    assert cluster().render(tmp_path, values, namespace="new").all("Secret")


def test_a_service_account_that_is_not_there(cluster: In, tmp_path: Path) -> None:
    values = {"serviceAccount": {"name": "mine"}}
    told = refusal(lambda: cluster().render(tmp_path, values))
    assert told.startswith("serviceAccount.name mine: namespace vip has no such service account")
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "mine", "namespace": "vip"},
    }
    rendered = cluster(account).render(tmp_path, values)
    assert rendered.pod["serviceAccountName"] == "mine"
    # It may be on its way, with the release.
    assert cluster().render(tmp_path, {**values, "extraObjects": [account]}).workload


def test_a_priority_class_that_is_not_there(cluster: In, tmp_path: Path) -> None:
    told = refusal(lambda: cluster().render(tmp_path, {"pod": {"priorityClassName": "mine"}}))
    assert told.startswith("pod.priorityClassName mine: the cluster has no such priority class")


def test_a_workload_that_cannot_become_this_one(cluster: In, tmp_path: Path) -> None:
    """`fullnameOverride` gave the former chart's objects the name that they have here."""
    labels = {"app.kubernetes.io/name": NEW, "app.kubernetes.io/instance": "havip"}
    there = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "ingress", "namespace": "vip"},
        "spec": {"selector": {"matchLabels": labels}},
    }
    values = {"fullnameOverride": "ingress"}
    told = refusal(lambda: cluster(there).render(tmp_path, values, is_upgrade=True))
    assert told.startswith("Deployment ingress: is there with another selector (")
    assert f"set nameOverride: {NEW}, or delete it first" in told
    mended = {**values, "nameOverride": NEW}
    assert cluster(there).render(tmp_path, mended, is_upgrade=True).workload


OTHER = {"vipAddressCidr": "192.0.2.20/24", "virtualRouterId": 20}


@both_majors
@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet"])
def test_two_releases_side_by_side(cluster: In, tmp_path: Path, major: int, kind: str) -> None:
    found = cluster(namespace("edge"))
    values = {"kind": kind}
    first = install(found, tmp_path, values, major=major)
    second = found.render(
        tmp_path, {**OTHER, **values}, major=major, name="second", namespace="edge"
    )
    ports = [each.container["livenessProbe"]["httpGet"]["port"] for each in (first, second)]
    assert ports == [9650, 9660]
    assert [each.config["listen"] for each in (first, second)] == [
        "127.0.0.1:9650",
        "127.0.0.1:9660",
    ]
    assert first.one("ClusterRole")["metadata"]["name"] == "vip:havip"
    assert second.one("ClusterRole")["metadata"]["name"] == "edge:second-havip"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        pytest.param(
            {**OTHER, "virtualRouterId": 10, "listen": "127.0.0.1:9999"},
            "virtualRouterId 10: is that of release havip in namespace vip; choose another, or set "
            "allowSharedVirtualRouterId: true if the two speak on separate networks",
            id="VRID",
        ),
        pytest.param(
            {**OTHER, "vipAddressCidr": "192.0.2.10/25"},
            "vipAddressCidr 192.0.2.10/25: is held by release havip in namespace vip already; "
            "choose another address",
            id="VIP",
        ),
        pytest.param(
            {**OTHER, "listen": "0.0.0.0:9650"},
            "listen 0.0.0.0:9650: its port is that of release havip in namespace vip, and both may "
            "be on one node; set another port",
            id="port",
        ),
        pytest.param(
            {"virtualRouters": [{"vipAddressCidr": "192.0.2.10/24", "virtualRouterId": 20}]},
            "virtualRouters[0].vipAddressCidr 192.0.2.10/24: is held by release havip",
            id="VIP in a list",
        ),
        pytest.param(
            {**OTHER, "vipAddressCidr": "2001:DB8:0::10/64"},
            "vipAddressCidr 2001:DB8:0::10/64: is held by release havip in namespace vip already; "
            "choose another address",
            id="VIP in another spelling",
        ),
    ],
)
def test_two_releases_that_clash(
    cluster: In, tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    found = cluster()
    install(found, tmp_path, {"vipAddressCidr": "192.0.2.10/24,2001:db8::10/64"})
    told = refusal(lambda: found.render(tmp_path, values, name="second"))
    assert told.startswith(said)
    assert "\n" not in told


def claim(kind: str = "Deployment", **metadata: Any) -> Object:
    """A workload that says of itself what nobody has looked at."""
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": "claim", "namespace": "tenant", **metadata},
        "spec": {"replicas": 0, "selector": {"matchLabels": {}}, "template": {"spec": {}}},
    }


PART_OF = {"app.kubernetes.io/part-of": "havip", "app.kubernetes.io/instance": "theirs"}


@both_majors
@pytest.mark.parametrize(
    "claimed",
    [
        *("oops", "{}", "[1, null, [], {}]", '["oops"]', "["),
        '[{"id": "x", "interface": {}, "addresses": "oops"}]',
        '[{"id": 20, "interface": [1], "addresses": [null, 7, {}]}]',
    ],
)
def test_a_claim_of_no_sense_is_no_clash(
    cluster: In, tmp_path: Path, major: int, claimed: str
) -> None:
    annotations = {"havip/virtual-routers": claimed, "meta.helm.sh/release-name": "theirs"}
    found = cluster(claim(labels=PART_OF, annotations=annotations))
    assert found.render(tmp_path, {"vrrpInterfaceName": "eth0"}, major=major).workload


@both_majors
def test_a_claim_that_is_not_helms_is_a_warning(cluster: In, tmp_path: Path, major: int) -> None:
    taken = '[{"id": 10, "interface": "", "addresses": ["192.0.2.10"]}]'
    found = cluster(claim(labels=PART_OF, annotations={"havip/virtual-routers": taken}))
    told = found.notes(tmp_path, "--set=vipAddressCidr=192.0.2.10/24", major=major).splitlines()
    who = "release theirs in namespace tenant"
    for warning in (
        f"WARNING: virtualRouterId 10: is that of {who}; choose another, or set "
        "allowSharedVirtualRouterId: true if the two speak on separate networks",
        f"WARNING: vipAddressCidr 192.0.2.10/24: is held by {who} already; choose another address",
    ):
        assert told.count(warning) == 1


@both_majors
@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet"])
def test_a_release_of_the_former_chart_that_clashes(
    cluster: In, tmp_path: Path, major: int, kind: str
) -> None:
    labels = {"app.kubernetes.io/name": NEW, "app.kubernetes.io/instance": "old"}
    there = claim(kind, labels=labels, annotations={"meta.helm.sh/release-name": "old"})
    variables = {"VIP_ADDR_CIDR": "192.0.2.10/24", "VIRTUAL_ROUTER_ID": "10", "VRRP_IFACE": "eth0"}
    env = [{"name": "AUTH_PASSWORD", "valueFrom": {}}]
    env += [{"name": name, "value": value} for name, value in variables.items()]
    there["spec"]["template"]["spec"]["containers"] = [{"env": env}]
    found = cluster(there)
    assert refusal(lambda: found.render(tmp_path, major=major)).splitlines() == [
        "virtualRouterId 10: is that of release old in namespace tenant; choose another, or set "
        "allowSharedVirtualRouterId: true if the two speak on separate networks",
        "vipAddressCidr 192.0.2.10/24: is held by release old in namespace tenant already; choose "
        "another address",
    ]
    assert found.render(tmp_path, OTHER, major=major).workload


@pytest.mark.parametrize(
    "apart",
    [
        {"allowSharedVirtualRouterId": True},
        {"vrrpInterfaceName": "eth1"},
    ],
    ids=["as told", "by their interfaces"],
)
def test_one_vrid_on_separate_networks(cluster: In, tmp_path: Path, apart: dict[str, Any]) -> None:
    found = cluster()
    install(found, tmp_path, {"vrrpInterfaceName": "eth0"})
    second = {**OTHER, "virtualRouterId": 10, "listen": "127.0.0.1:9999", **apart}
    assert found.render(tmp_path, second, name="second").workload


def test_a_release_does_not_clash_with_itself(cluster: In, tmp_path: Path) -> None:
    found = cluster()
    install(found, tmp_path)
    assert upgrade(found, tmp_path).workload


def test_without_rights_to_the_whole_cluster(cluster: In, tmp_path: Path) -> None:
    """Who makes no ClusterRole is asked for no right to look beyond the namespace."""
    found = cluster()
    found.forbids = frozenset({"deployments", "daemonsets", "secrets"})
    rendered = found.render(tmp_path, {"rbac": {"create": False}})
    assert rendered.all("Secret")
    assert not rendered.all("ClusterRole")
    with pytest.raises(RefusedError, match="error calling lookup: Forbidden"):
        found.render(tmp_path)


# The Lease that shows who holds --------------------------------------------------------------


def lease(**annotations: str) -> Object:
    metadata = {"name": "havip-10", "namespace": "vip", "annotations": annotations}
    spec = {"holderIdentity": "node-a"}
    kind = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    return {**kind, "metadata": metadata, "spec": spec}


@both_majors
def test_an_upgrade_keeps_the_lease_and_says_nothing_of_its_holder(
    cluster: In, tmp_path: Path, major: int
) -> None:
    found = cluster()
    assert install(found, tmp_path, major=major).all("Lease")
    (again,) = upgrade(found, tmp_path, major=major).all("Lease")
    assert "spec" not in again


@both_majors
@pytest.mark.parametrize(
    "annotations",
    [
        pytest.param({}, id="an election's"),
        pytest.param(
            {"meta.helm.sh/release-name": "other", "meta.helm.sh/release-namespace": "vip"},
            id="another release's",
        ),
        pytest.param(
            {"meta.helm.sh/release-name": "havip", "meta.helm.sh/release-namespace": "other"},
            id="a release of that name elsewhere",
        ),
    ],
)
def test_a_lease_of_somebody_else_is_used_as_it_is(
    cluster: In, tmp_path: Path, major: int, annotations: dict[str, str]
) -> None:
    """Helm would refuse to take it over, and so to go from one election to the other."""
    found = cluster(lease(**annotations))
    assert not install(found, tmp_path, major=major).all("Lease")
    assert found.render(tmp_path, {"leaseName": "mine"}, major=major).all("Lease")
