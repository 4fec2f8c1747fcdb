"""The list of peers on disk: what is written is read again; what somebody else wrote is judged."""

from __future__ import annotations

import asyncio
import json
import os
from ipaddress import ip_address
from pathlib import Path

import pytest

from havip.act.peers_file import PeersKeeper, read_peers, write_peers
from havip.core.actions import KeepPeers
from havip.core.config import PeerSource
from havip.core.events import ActionFailed

PEERS = tuple(map(ip_address, ("192.0.2.1", "192.0.2.2", "2001:db8::1")))


@pytest.fixture
def source(tmp_path: Path) -> PeerSource:
    file = tmp_path / "state" / "peers-eth0-10.json"
    return PeerSource(service="peers", namespace="vip", file=str(file))


def document(of: PeerSource, **changes: object) -> bytes:
    addresses = list(map(str, PEERS))
    return json.dumps({"version": 1, "source": str(of), "addresses": addresses} | changes).encode()


def test_what_is_written_is_read(source: PeerSource) -> None:
    """In a directory that is made for it, and nothing else is left there."""
    write_peers(source, PEERS[:1])
    write_peers(source, PEERS)
    assert read_peers(source) == (frozenset(PEERS), "")
    assert [path.name for path in Path(source.file).parent.iterdir()] == ["peers-eth0-10.json"]


def test_no_file_is_no_problem(source: PeerSource) -> None:
    assert read_peers(source) == (frozenset(), "")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"source": "nodes with a=b"}, "is of another list", id="of another list"),
        pytest.param({"version": 2}, "is not of this version of havip", id="version"),
        pytest.param({"addresses": "192.0.2.1"}, "has no list of addresses", id="no list"),
        pytest.param({"addresses": ["192.0.2.1"] * 200}, "has no list of addresses", id="too many"),
        pytest.param(
            {"addresses": [1]}, "has something else than addresses in its list", id="a number"
        ),
        pytest.param(
            {"addresses": ["node-a"]},
            "'node-a' does not appear to be an IPv4 or IPv6 address",
            id="a name",
        ),
        pytest.param({"more": "x" * 20_000}, "is longer than 16384 bytes", id="too long"),
    ],
)
def test_a_file_that_does_not_count(
    source: PeerSource, changes: dict[str, object], problem: str
) -> None:
    Path(source.file).parent.mkdir()
    Path(source.file).write_bytes(document(source, **changes))
    assert read_peers(source) == (frozenset(), problem)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"null", b"[]", b"{", b"[" * 10_000, b"1e999"],
    ids=["empty", "no text", "null", "a list", "cut off", "deep", "infinite"],
)
def test_garbage_does_not_count(source: PeerSource, content: bytes) -> None:
    Path(source.file).parent.mkdir()
    Path(source.file).write_bytes(content)
    addresses, problem = read_peers(source)
    assert (addresses, bool(problem)) == (frozenset(), True)


def test_what_is_no_file_does_not_count(source: PeerSource) -> None:
    """A FIFO would wait for somebody to write."""
    Path(source.file).parent.mkdir()
    os.mkfifo(source.file)
    addresses, problem = read_peers(source)
    assert (addresses, bool(problem)) == (frozenset(), True)


def test_a_write_that_fails_leaves_the_former_list(source: PeerSource) -> None:
    write_peers(source, PEERS)
    (Path(source.file).parent / ".peers-eth0-10.json.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_peers(source, PEERS[:1])
    assert read_peers(source) == (frozenset(PEERS), "")


def test_the_last_of_several_lists_is_kept(source: PeerSource) -> None:
    async def main() -> list[ActionFailed]:
        failed: list[ActionFailed] = []
        keeper = PeersKeeper(source, failed.append)
        for count in (1, 2, 3):
            keeper.keep(KeepPeers(addresses=PEERS[:count]))
        assert keeper.writing is not None
        await asyncio.wait_for(keeper.writing, 30)
        return failed

    assert asyncio.run(main()) == []
    assert read_peers(source)[0] == frozenset(PEERS)


def test_a_list_that_cannot_be_kept_is_told(source: PeerSource, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file, where the directory should be")

    async def main() -> ActionFailed:
        failed: asyncio.Queue[ActionFailed] = asyncio.Queue()
        PeersKeeper(source, failed.put_nowait).keep(KeepPeers(addresses=PEERS))
        return await asyncio.wait_for(failed.get(), 30)

    failed = asyncio.run(main())
    assert (failed.action, failed.subject) == ("KeepPeers", source.file)
    assert failed.message
