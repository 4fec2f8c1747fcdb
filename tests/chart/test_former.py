"""The values of keepalived-ingress-vip, as they are: what each means, and what is said of it."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from rendering import CHART, MAJORS, ROOT, RefusedError, Rendered, render, render_ahead
from stand_in_cluster import StandInCluster, namespace

NAME = "keepalived-ingress-vip"
COMPLETE = Path(__file__).with_name("former_values.yaml")
TABLE = Path(__file__).with_name("former_parameters.txt")
BOTH = pytest.mark.parametrize("major", MAJORS)


def parameters() -> list[tuple[str, str]]:
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    pairs = (line.partition(" | ") for line in lines if not line.startswith("#"))
    return [(setting.strip(), line.strip()) for setting, _, line in pairs]


def former(*settings: str, major: int = 3, name: str = NAME) -> Rendered:
    """A release whose values are those of the former chart's README, and the settings."""
    args = tuple(f"--set={each}" for each in settings)
    values = {"keepalived": {"vipAddressCidr": "192.0.2.10/24"}}
    return render(values, major=major, name=name, args=args)


@pytest.fixture(scope="module", autouse=True)
def _ahead() -> None:
    render_ahead(
        functools.partial(former, setting, major=major, name="vip")
        for setting, _ in parameters()
        for major in MAJORS
    )


@pytest.fixture
def cluster() -> Iterator[StandInCluster]:
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "mine", "namespace": "vip"},
    }
    with StandInCluster(namespace(), account) as cluster:
        yield cluster


@BOTH
@pytest.mark.parametrize(("setting", "line"), parameters(), ids=lambda text: text.split("=")[0])
def test_each_parameter(
    setting: str, line: str, major: int, cluster: StandInCluster, tmp_path: Path
) -> None:
    # `vip`, so that an override of the name shows in the name of the objects.
    lines = [each.strip() for each in former(setting, major=major, name="vip").text.splitlines()]
    before = [each.strip() for each in former(major=major, name="vip").text.splitlines()]
    kind, _, rest = line.partition(" ")
    if kind == "without":
        assert rest in before
        assert rest not in lines
    elif kind == "notes":
        values = f"--values={COMPLETE}"
        assert f"\n{rest}" in cluster.notes(tmp_path, values, f"--set={setting}", major=major)
        assert f"\n{rest}" not in cluster.notes(tmp_path, values, major=major)
    else:
        assert lines.count(line) > before.count(line)


def test_the_table_has_every_parameter() -> None:
    def names(values: dict[str, object], prefix: str = "") -> set[str]:
        found = set()
        for name, value in values.items():
            deeper = isinstance(value, dict) and value
            found |= names(value, f"{prefix}{name}.") if deeper else {prefix + name}  # type: ignore[arg-type]
        return found

    listed = {setting.partition("=")[0].partition("[")[0] for setting, _ in parameters()}
    listed = {
        "pod.nodeSelector"
        if "nodeSelector" in each
        else "pod.affinity"
        if "affinity" in each
        else each
        for each in listed
    }
    complete = yaml.safe_load(COMPLETE.read_text(encoding="utf-8"))
    assert listed == names(complete) | {"nameOverride", "fullnameOverride"}


def test_the_documented_table_has_every_parameter() -> None:
    document = (ROOT / "docs" / "chart.md").read_text(encoding="utf-8")
    for setting, _ in parameters():
        name = setting.partition("=")[0].partition("[")[0].removesuffix(".nodeRole")
        assert f"`{name.removesuffix('.nodeAffinity.mine')}`" in document, name


@BOTH
def test_the_complete_values_mean_the_same(major: int) -> None:
    """As somebody has them who copied the former values.yaml and filled it in."""
    rendered = render(yaml.safe_load(COMPLETE.read_text(encoding="utf-8")), major=major, name=NAME)
    config = rendered.config
    wanted = {
        "vrrpVersion": 2,
        "vrrpAdvertInterval": 1,
        "vrrpPriority": 100,
        "vrrpPreemptDelay": 5,
        "virtualRouterId": 10,
        "vrrpInterfaceName": "eth0",
        "vipInterfaceName": "eth0",
        "authPasswordFile": "/var/run/secrets/havip/password",
        "checkServiceExpectedStatus": "200-399",
        "checkServiceRecoverAfter": 2,
        "checkServiceWeight": 0,
        "checkServiceFastFail": False,
        "checkKubeletUrl": "http://127.0.0.1:10248/healthz",
        "checkKubeletWeight": 0,
        "checkKubeApiUrl": "auto",
        "checkKubeApiWeight": -40,
        "vrrpFastDetect": False,
        "vipTakeOver": True,
    }
    assert {name: config[name] for name in wanted} == wanted
    assert rendered.container["image"] == "localhost/havip:0.1.0"
    assert rendered.container["resources"] == {
        "requests": {"cpu": "80m", "memory": "64Mi"},
        "limits": {"memory": "128Mi"},
    }


@pytest.mark.parametrize(
    ("url", "status", "insecure"),
    [
        ("http://127.0.0.1:10254/healthz", "200-399", False),
        ("https://127.0.0.1:6443/healthz", "200-399,401", False),
        ("https://localhost:6443/healthz", "200-399,401", False),
        ("https://[::1]:6443/healthz", "200-399,401", False),
        ("https://192.0.2.1/healthz", "200-399,401", True),
    ],
)
def test_no_certificate_was_verified(url: str, status: str, insecure: bool) -> None:
    """On a loopback address the daemon verifies none by itself."""
    config = former(f"keepalived.checkServiceUrl={url}").config
    assert config["checkServiceExpectedStatus"] == status
    assert config["checkServiceInsecure"] is insecure


@BOTH
@pytest.mark.parametrize("kind", ["Deployment", "Daemonset"])
def test_objects_keep_their_names_and_selectors(major: int, kind: str) -> None:
    """So that the upgrade rolls the pods that there are."""
    rendered = former(f"kind={kind}", major=major)
    labels = {"app.kubernetes.io/name": NAME, "app.kubernetes.io/instance": NAME}
    assert rendered.workload["metadata"]["name"] == NAME
    assert rendered.workload["spec"]["selector"]["matchLabels"] == labels
    names = [rendered.one(each)["metadata"]["name"] for each in ("Secret", "ServiceAccount")]
    assert names == [NAME, NAME]
    # Of a release of another name, as that chart's helper made it.
    assert former(name="vip").workload["metadata"]["name"] == f"vip-{NAME}"


def test_moving_on_keeps_them_too() -> None:
    flat = render({"nameOverride": NAME}, name=NAME).workload
    assert flat["metadata"]["name"] == NAME
    assert flat["spec"]["selector"] == former().workload["spec"]["selector"]


@BOTH
def test_reused_values_are_refused(major: int, tmp_path: Path) -> None:
    """`helm upgrade --reuse-values` replaces this chart's values.yaml with the former one."""
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    shutil.copy(COMPLETE, chart / "values.yaml")
    with pytest.raises(RefusedError) as caught:
        render(yaml.safe_load(COMPLETE.read_text()), major=major, chart=chart, name=NAME)
    assert caught.value.lines == [
        "--reuse-values: would keep the defaults of the chart that was there before; use "
        "--reset-then-reuse-values, or give the values by --values"
    ]


@BOTH
def test_the_notes_say_what_was_translated(
    cluster: StandInCluster, tmp_path: Path, major: int
) -> None:
    told = cluster.notes(tmp_path, f"--values={COMPLETE}", major=major, name=NAME)
    for line in (
        "  keepalived.vipAddressCidr -> vipAddressCidr: 172.16.135.2/21",
        "  keepalived.checkKubeletFailAfter -> checkKubeletFailAfter: 5",
        "  version 2, an advert each second -> vrrpVersion: 2, vrrpAdvertInterval: 1",
        "  2xx and 3xx are healthy -> checkServiceExpectedStatus: 200-399",
        "  vrrpInterfaceName not given -> vrrpInterfaceName: eth0",
        "  image janeczku/keepalived-ingress-vip:v0.1.6 -> localhost/havip:0.1.0",
        "  pod.resources.limits.cpu 80m -> none",
        "  pod.resources.limits.memory 10Mi -> 128Mi",
        "  pod.resources.requests.memory 10Mi -> 64Mi",
        "Once no pod of that chart is left, write these values without `keepalived.` and with",
    ):
        assert line in told.splitlines()
    assert "authPassword" not in told


@BOTH
def test_the_notes_say_that_certificates_are_not_verified(
    cluster: StandInCluster, tmp_path: Path, major: int
) -> None:
    said = "  certificates are not verified -> checkServiceInsecure: true"
    for url, is_said in (("https://192.0.2.1/", True), ("https://127.0.0.1/", False)):
        values = (f"--values={COMPLETE}", f"--set=keepalived.checkServiceUrl={url}")
        told = cluster.notes(tmp_path, *values, major=major, name=NAME)
        assert (said in told.splitlines()) is is_said


@BOTH
def test_the_tag_of_the_former_chart_is_not_asked_of_our_image(
    cluster: StandInCluster, tmp_path: Path, major: int
) -> None:
    """Whoever has no `image.repository` in the values, but a tag."""
    former_tag = "image.tag=v0.1.6"
    assert former(former_tag, major=major).container["image"] == "localhost/havip:0.1.0"
    told = cluster.notes(
        *(tmp_path, "--set=keepalived.vipAddressCidr=192.0.2.10/24", f"--set={former_tag}"),
        major=major,
    )
    assert "  image localhost/havip:v0.1.6 -> localhost/havip:0.1.0" in told.splitlines()
    flat = render({"image": {"tag": "v0.1.6"}}).container["image"]
    assert flat == "localhost/havip:v0.1.6", "without the block it is what somebody wants"


def test_the_notes_hide_the_password(cluster: StandInCluster, tmp_path: Path) -> None:
    told = cluster.notes(
        tmp_path, f"--values={COMPLETE}", "--set=keepalived.authPassword=s3cret", name=NAME
    )
    assert "  keepalived.authPassword -> authPassword: ***" in told.splitlines()
    assert "s3cret" not in told
