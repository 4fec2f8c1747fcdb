from __future__ import annotations

import time

import pytest

from havip.core.view import (
    BackendView,
    BalancerView,
    CheckView,
    LeaseView,
    NodeObjectView,
    NodeView,
    PeerView,
    RouterView,
    TransitionView,
)


@pytest.fixture
def view() -> NodeView:
    """A node with one of everything that a view can show."""
    now = time.monotonic()
    router = RouterView(
        name="eth0/10",
        virtual_router_id=10,
        version=3,
        vrrp_interface="eth0",
        vip_interface="eth0",
        vips=("10.0.0.100/32",),
        state="backup",
        reason="higher_priority",
        since_at=now - 60,
        may_hold=False,
        blocked_by="check_failed",
        priority=100,
        effective_priority=60,
        advert_interval_s=0.1,
        is_holding=False,
        hmac_key=2,
        fast_detect="armed",
        peers=(
            PeerView(
                address="10.0.0.2",
                priority=110,
                is_active=True,
                last_advert_at=now - 0.05,
                advert_interval_s=0.1,
            ),
        ),
        lease=LeaseView(
            namespace="kube-system",
            name="havip-10",
            holder="node-b",
            transitions=3,
            changed_at=now - 2,
            held_until_at=None,
            problem="",
        ),
    )
    checks = (
        CheckView(
            name="service",
            url="http://127.0.0.1:10254/healthz",
            healthy=False,
            has_passed=True,
            weight=0,
            last_result="refused",
            detail="nothing listens",
            consecutive=3,
            last_at=now - 1,
            changed_at=now - 5,
        ),
        CheckView(
            name="kube_api",
            url="https://127.0.0.1:6443/readyz",
            healthy=None,
            has_passed=False,
            weight=-40,
            last_result="",
            detail="",
            consecutive=0,
            last_at=None,
            changed_at=None,
        ),
    )
    balancer = BalancerView(
        answers=True,
        version="2.6.12",
        process=17,
        uptime_s=60,
        problem="",
        port=8443,
        sessions=3,
        sessions_limit=8000,
        full=False,
        sessions_total=9,
        backends_known_by="api",
        backends=(
            BackendView(
                name="10.0.0.11:6443",
                endpoint="10.0.0.11:6443",
                listed=True,
                healthy=True,
                status="UP",
                check="L7OK 200",
                sessions=2,
                sessions_total=8,
                bytes_in_total=1000,
                bytes_out_total=2000,
                connection_errors_total=1,
                retries_total=4,
                redispatches_total=5,
            ),
        ),
    )
    transition = TransitionView(
        at=now - 60,
        router="eth0/10",
        topic="moved",
        reason="higher_priority",
        state="backup",
        was="active",
        fields={"peer": "10.0.0.2", "silent_s": float("inf")},
    )
    return NodeView(
        node_name="node-1",
        version="0.1.0",
        at=now,
        ready=True,
        not_ready_because="",
        routers=(router,),
        checks=checks,
        balancer=balancer,
        transitions=(transition,),
        node_object=NodeObjectView(
            leaving="node_cordoned", detail="", weight=-30, seen_at=now - 1, problem=""
        ),
    )
