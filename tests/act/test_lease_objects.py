"""Lease objects to records and back, and the requests that carry them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havip.act.lease import HOLDER_MAC, Leases, decode, encode
from havip.core.actions import ReadLease, WriteLease
from havip.core.events import LeaseFailed, LeaseRead, LeaseWritten, ProbeResult
from havip.core.lease import LATEST_US
from havip.core.record import MOST, LeaseRecord
from havip.kube import KubeApi, KubeError

KEY = ("kube-system", "havip-10")
PATH = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
RECORD = LeaseRecord(
    holder="node-a",
    holder_mac=bytes.fromhex("02000000000a"),
    duration_s=15,
    acquired_us=1_700_000_000_000_000,
    renewed_us=1_700_000_002_123_456,
    transitions=3,
    version="70",
)
OBJECT: dict[str, Any] = {
    "apiVersion": "coordination.k8s.io/v1",
    "kind": "Lease",
    "metadata": {
        "name": "havip-10",
        "namespace": "kube-system",
        "resourceVersion": "70",
        "annotations": {HOLDER_MAC: "02:00:00:00:00:0a"},
    },
    "spec": {
        "holderIdentity": "node-a",
        "leaseDurationSeconds": 15,
        "acquireTime": "2023-11-14T22:13:20.000000Z",
        "renewTime": "2023-11-14T22:13:22.123456Z",
        "leaseTransitions": 3,
    },
}


def with_spec(**changes: object) -> dict[str, Any]:
    return {**OBJECT, "spec": {**OBJECT["spec"], **changes}}


def with_metadata(**changes: object) -> dict[str, Any]:
    return {**OBJECT, "metadata": {**OBJECT["metadata"], **changes}}


@pytest.mark.parametrize(
    ("lease", "record"),
    [
        pytest.param(OBJECT, RECORD, id="whole"),
        pytest.param(with_spec(holderIdentity=""), replace(RECORD, holder=""), id="released"),
        pytest.param(with_spec(holderIdentity=None), replace(RECORD, holder=""), id="nobody"),
        pytest.param(
            with_metadata(annotations=None), replace(RECORD, holder_mac=b""), id="no annotations"
        ),
        pytest.param(
            with_metadata(annotations={HOLDER_MAC: "nonsense"}),
            replace(RECORD, holder_mac=b""),
            id="no MAC",
        ),
        pytest.param(
            {"metadata": {"resourceVersion": "1"}},
            LeaseRecord(
                holder="",
                holder_mac=b"",
                duration_s=0,
                acquired_us=0,
                renewed_us=0,
                transitions=0,
            ),
            id="empty",
        ),
        pytest.param({}, None, id="no object"),
        pytest.param({"metadata": {}}, None, id="no version"),
        pytest.param(with_metadata(resourceVersion=70), None, id="version is no text"),
        pytest.param({**OBJECT, "spec": []}, None, id="spec is a list"),
        pytest.param(with_spec(holderIdentity=["a"]), None, id="holder is a list"),
        pytest.param(with_spec(leaseDurationSeconds="15"), None, id="duration is text"),
        pytest.param(with_spec(leaseDurationSeconds=True), None, id="duration is true"),
        pytest.param(with_spec(leaseDurationSeconds=-1), None, id="duration is negative"),
        pytest.param(with_spec(leaseDurationSeconds=10**400), None, id="duration is endless"),
        pytest.param(with_spec(leaseDurationSeconds=15.0), None, id="duration is a fraction"),
        pytest.param(with_spec(leaseTransitions=2**31), None, id="transitions of 33 bits"),
        pytest.param(with_spec(leaseTransitions=10**4299), None, id="transitions of 4300 digits"),
        pytest.param(
            with_spec(leaseTransitions=MOST),
            replace(RECORD, transitions=MOST),
            id="many transitions",
        ),
        pytest.param(with_spec(renewTime="yesterday"), None, id="no time"),
        pytest.param(with_spec(renewTime="1969-12-31T23:59:59Z"), None, id="before 1970"),
        pytest.param(
            with_spec(acquireTime="9999-12-31T23:59:59-01:00"), None, id="after 9999 in UTC"
        ),
        pytest.param(with_spec(renewTime="2023-11-14T22:13:22"), None, id="time of no zone"),
        pytest.param(with_spec(renewTime={}), None, id="time is a mapping"),
    ],
)
def test_what_a_lease_says(lease: Mapping[str, Any], record: LeaseRecord | None) -> None:
    found = decode(lease)
    assert found == record
    if found is not None:
        assert found.version == lease["metadata"]["resourceVersion"]


records = st.builds(
    LeaseRecord,
    holder=st.text(max_size=40),
    holder_mac=st.binary(max_size=6),
    duration_s=st.integers(1, 3600),
    acquired_us=st.integers(0, LATEST_US + 1),
    renewed_us=st.integers(0, LATEST_US + 1),
    transitions=st.integers(0, MOST),
    is_offered=st.booleans(),
    asked_by=st.text(max_size=40),
    version=st.sampled_from(["", "7"]),
)


@given(record=records)
def test_a_record_survives_the_way_there_and_back(record: LeaseRecord) -> None:
    written = encode(record, KEY, onto={})
    assert (written["metadata"]["namespace"], written["metadata"]["name"]) == KEY
    written["metadata"]["resourceVersion"] = "8"
    assert decode(written) == record


numbers = st.integers() | st.sampled_from([-1, MOST, MOST + 1, 10**400, 10**4299])
times = st.datetimes(
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=23)), timezone(timedelta(hours=-23))])
).map(datetime.isoformat)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.floats() | st.text(max_size=9) | times,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*OBJECT, *OBJECT["metadata"], *OBJECT["spec"], HOLDER_MAC]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


leases = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {"resourceVersion": st.just("7")}, optional={"annotations": values, "labels": values}
        ),
        "spec": st.fixed_dictionaries({}, optional=dict.fromkeys(OBJECT["spec"], values)),
    }
)


@given(lease=st.dictionaries(st.sampled_from([*OBJECT]), values) | leases)
def test_no_object_raises(lease: dict[str, Any]) -> None:
    """Neither when it is read, nor when the next holder writes over it."""
    found = decode(lease)
    if found is None:
        return
    assert found.version
    again = replace(found, transitions=min(found.transitions + 1, MOST))
    written = encode(again, KEY, onto=lease)
    assert decode(written) == again
    json.dumps(written)


def test_what_others_wrote_stays() -> None:
    onto = with_metadata(
        labels={"team": "net"},
        annotations={HOLDER_MAC: "02:00:00:00:00:0b", "example.org/note": "1"},
        ownerReferences=[{"name": "x"}],
        managedFields=[{"manager": "kubectl"}],
    )
    onto["spec"] = {**onto["spec"], "strategy": "OldestEmulationVersion"}
    body = encode(replace(RECORD, holder="", holder_mac=b""), KEY, onto=onto)
    metadata = body["metadata"]
    assert metadata["labels"] == {"team": "net"}
    assert metadata["annotations"] == {"example.org/note": "1"}
    assert metadata["ownerReferences"] == [{"name": "x"}]
    assert "managedFields" not in metadata
    assert body["spec"]["strategy"] == "OldestEmulationVersion"
    assert metadata["resourceVersion"] == "70"


class Server(KubeApi):
    """Answers with what it was given, and notes what it was asked."""

    def __init__(self, answer: dict[str, Any] | KubeError | None = None) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str, Mapping[str, Any]]] = []

    async def get(self, path: str, *, timeout_s: float) -> dict[str, Any]:
        return self._answered("GET", path, {})

    async def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any],
        *,
        timeout_s: float,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        return self._answered(method, path, body)

    def _answered(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append((method, path, body))
        if isinstance(self.answer, KubeError):
            raise self.answer
        if self.answer is not None:
            return self.answer
        metadata = {**body["metadata"], "resourceVersion": "71"}
        return {**body, "metadata": metadata}


READ = ReadLease(request=1, namespace=KEY[0], name=KEY[1], timeout_s=1.0)
WRITE = WriteLease(request=2, namespace=KEY[0], name=KEY[1], record=RECORD, timeout_s=1.0)


def ask(server: Server, *requests: ReadLease | WriteLease) -> list[object]:
    """The answers to these requests, one after the other."""
    answers: list[object] = []

    async def run() -> None:
        done = asyncio.Event()

        def deliver(answer: object) -> None:
            answers.append(answer)
            done.set()

        leases = Leases(server, deliver)
        for request in requests:
            done.clear()
            leases.start(request)
            await done.wait()
        await leases.close()

    asyncio.run(asyncio.wait_for(run(), 30))
    return answers


def test_a_read() -> None:
    server = Server(OBJECT)
    assert ask(server, READ) == [LeaseRead(request=1, record=RECORD)]
    assert server.asked[0][:2] == ("GET", f"{PATH}/havip-10")


def test_there_is_none() -> None:
    missing = KubeError(ProbeResult.WRONG_STATUS, "HTTP 404", 404)
    assert ask(Server(missing), READ) == [LeaseRead(request=1, record=None)]


@pytest.mark.parametrize("request_", [READ, WRITE], ids=["read", "write"])
@pytest.mark.parametrize("status", [403, 409, 500, None])
def test_a_refusal_is_an_answer(request_: ReadLease | WriteLease, status: int | None) -> None:
    error = KubeError(ProbeResult.FORBIDDEN, "allow it", status)
    assert ask(Server(error), request_) == [
        LeaseFailed(
            request=request_.request,
            result=ProbeResult.FORBIDDEN,
            status=status,
            detail="allow it",
        )
    ]


@pytest.mark.parametrize(
    ("version", "method", "path"),
    [("70", "PUT", f"{PATH}/havip-10"), ("", "POST", PATH)],
    ids=["renewed", "made"],
)
def test_a_write(version: str, method: str, path: str) -> None:
    server = Server()
    record = replace(RECORD, version=version)
    assert ask(server, replace(WRITE, record=record)) == [LeaseWritten(request=2, version="71")]
    ((asked, where, body),) = server.asked
    assert (asked, where) == (method, path)
    assert body["metadata"].get("resourceVersion", "") == version
    assert decode({**body, "metadata": {**body["metadata"], "resourceVersion": "1"}}) == RECORD


def test_a_write_keeps_what_was_read() -> None:
    server = Server(with_metadata(labels={"team": "net"}))
    asked = []

    async def run() -> None:
        answers: asyncio.Queue[object] = asyncio.Queue()
        leases = Leases(server, answers.put_nowait)
        leases.start(READ)
        await answers.get()
        server.answer = None
        leases.start(WRITE)
        asked.append(await answers.get())

    asyncio.run(asyncio.wait_for(run(), 30))
    assert asked == [LeaseWritten(request=2, version="71")]
    assert server.asked[-1][2]["metadata"]["labels"] == {"team": "net"}


@pytest.mark.parametrize(
    ("answer", "request_"),
    [
        pytest.param({"kind": "Status"}, READ, id="read: no Lease"),
        pytest.param({"kind": "Status"}, WRITE, id="written: no Lease"),
        pytest.param(with_spec(holderIdentity="node-b"), WRITE, id="written: somebody else's"),
    ],
)
def test_garbage_is_no_answer(answer: dict[str, Any], request_: ReadLease | WriteLease) -> None:
    (failed,) = ask(Server(answer), request_)
    assert isinstance(failed, LeaseFailed)
    assert failed.result is ProbeResult.MALFORMED


def test_what_goes_wrong_in_the_core_ends_the_daemon() -> None:
    """It reaches the loop's exception handler, not a task that nobody looks at."""
    caught: list[dict[str, Any]] = []

    async def run() -> None:
        handled = asyncio.Event()

        def handle(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            caught.append(context)
            handled.set()

        asyncio.get_running_loop().set_exception_handler(handle)

        def deliver(_answer: object) -> None:
            raise AssertionError("corrupt")

        Leases(Server(OBJECT), deliver).start(READ)
        await handled.wait()

    asyncio.run(asyncio.wait_for(run(), 30))
    assert isinstance(caught[0]["exception"], AssertionError)
