"""Hosts as network namespaces, real packets between them, and what a client sees of it."""

from havip.netlab.capture import Capture, Frame
from havip.netlab.clients import (
    PORT,
    Connection,
    Connector,
    Forgetting,
    IdleConnection,
    Prober,
    Seen,
)
from havip.netlab.host import Host, Process, plain_address
from havip.netlab.lab import Lab
from havip.netlab.namespace import LabError, sweep
from havip.netlab.peers import keepalived_config
from havip.netlab.volume import Volume
from havip.netlab.watch import Held, LifeEvent, VipEvent, Watch

__all__ = [
    "PORT",
    "Capture",
    "Connection",
    "Connector",
    "Forgetting",
    "Frame",
    "Held",
    "Host",
    "IdleConnection",
    "Lab",
    "LabError",
    "LifeEvent",
    "Prober",
    "Process",
    "Seen",
    "VipEvent",
    "Volume",
    "Watch",
    "keepalived_config",
    "plain_address",
    "sweep",
]
