"""The one loop: sense → core → act.

One process, one thread of decisions, one asyncio loop. Whatever wakes it, the order is the
same: read every socket dry, let the core decide fact by fact, act, and only then deliver the
time. The core's decisions rest on that order (`core.router`).

Nothing here waits for the world. Netlink requests are done by `act.addresses` in a thread of
its own, probes are tasks, and a crash anywhere ends the process: the kernel then removes the
VIP by itself, since nobody renews it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import gc
import math
import os
import random
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from havip.act.addresses import Addresses
from havip.act.haproxy import BalancerHand, end_sessions, kept
from havip.act.http import Server, is_of_accept, metrics_pages, status_pages
from havip.act.journal import Journal
from havip.act.kube_record import KubeRecord
from havip.act.lease import Leases
from havip.act.lock import Lock, LockHeldError, Subject
from havip.act.metrics import Metrics
from havip.act.peers_file import PeersKeeper, read_peers
from havip.act.redirect import Redirection
from havip.act.systemd import ServiceManager
from havip.act.transmit import Transmitter
from havip.core.actions import (
    Action,
    ChangeBalancer,
    Count,
    Finished,
    InstallAddress,
    KeepBackends,
    KeepPeers,
    ReadLease,
    RemoveAddress,
    Report,
    ResetConnections,
    ResetFormerConnections,
    SendFrame,
    SendVrrp,
    StartProbe,
    WriteLease,
)
from havip.core.announce import Restraint
from havip.core.balancer import BALANCER, carried_over, check_of, unheard
from havip.core.config import BalancerConfig, KubeAccess, NodeConfig, PeerSource, interfaces_of
from havip.core.events import (
    ActionFailed,
    BackendsListed,
    ClockStepped,
    Event,
    FrameReceived,
    LinkChanged,
    PeersListed,
    ProbeFinished,
    Reconfigured,
    Started,
    StopRequested,
    VrrpReceived,
    Woken,
)
from havip.core.host import Host
from havip.core.node import Node
from havip.core.reasons import State
from havip.core.redirect import Redirect, redirect_of
from havip.core.view import NodeView
from havip.kube import KubeApi
from havip.sense.checks import Prober
from havip.sense.files import FileWatch
from havip.sense.haproxy import BalancerWatch, CaWatch
from havip.sense.host import HostWatch
from havip.sense.kube_backends import BackendsWatch
from havip.sense.kube_node import NodeWatch
from havip.sense.kube_peers import PeerWatch
from havip.sense.leases import LeaseWatch
from havip.sense.packets import PacketSockets
from havip.sense.threads import LOOP_PRIORITY, step_behind_the_loop
from havip.settings.balancer import refused_redirect

CLOCK_CHECK_S: Final = 1.0
FILES_CHECK_S: Final = 2.0
"""Each look costs a thread's turn: one a second was a tenth of what an idle backup takes."""
CLOCK_STEP_S: Final = 0.05
"""A difference of UTC and the monotonic clock that is more than slewing."""
ALIVE_WITHIN_S: Final = 3.0
SAID_WITHIN_S: Final = 0.25
"""What was decided longer ago is not said any more."""
SWITCH_S: Final = 0.0005
"""How long a thread of ours may keep the interpreter while the loop wants it. Reading the state of
a node with hundreds of pods takes a thread as long as several adverts, and the loop asks for the
interpreter after each system call."""

UNTRACED: Final = (Woken, VrrpReceived, FrameReceived, SendVrrp, SendFrame, Count, Report)
"""What there are too many of, or is told anyway: `havip watch` shows the packets."""

Reload = Callable[[FileWatch], NodeConfig]
"""Reads the configuration anew, in a thread, and has each file noted before; raises ConfigError."""


class ListenError(Exception):
    """A port cannot be opened; `field` is the setting that names it."""

    def __init__(self, field: str, listen: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field
        self.listen = listen


class RedirectError(Exception):
    """The kernel does not lead another port of the VIPs to the balancer; it names the remedy."""

    def __init__(self, redirect: Redirect, error: OSError) -> None:
        number = error.errno or errno.EIO
        super().__init__(str(refused_redirect(redirect.port, redirect.table, number)))


class Daemon:
    """Runs one node until it is told to stop.

    Raises:
        LockHeldError: another havip runs the same VRID or VIP on this interface.
        ListenError: one of its ports is in use, or its address is not this node's.
        RedirectError: the kernel does not lead another port to the balancer.
        OSError: a socket cannot be opened.
    """

    def __init__(
        self,
        config: NodeConfig,
        host: Host,
        *,
        listen: str,
        metrics_listen: str | None,
        journal: Journal,
        files: FileWatch,
        reload: Reload,
    ) -> None:
        """
        Args:
            files: those that `config` was read from.
            host: the node as it was when `config` was made, for what an earlier life left.
            metrics_listen: where `/metrics` is served too, alone.
        """
        self._config = config
        self._journal = journal
        self._files = files
        self._reload = reload
        self._node = Node(config, random=random.SystemRandom().random)
        self._metrics = Metrics(self._view, lambda: journal.dropped, self._events_dropped)
        self._events: deque[Event] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._done = asyncio.Event()
        self._failure: BaseException | None = None
        self._accept_alarms = Restraint()
        self._manager = ServiceManager(os.environ)
        self._utc_offset_s = _utc_offset_s()
        self._locks: dict[tuple[str, Subject], Lock] = {}
        self._watched: set[int] = set()
        self._watching: asyncio.Task[None] | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._reload_because = ""
        self._discovering: asyncio.Task[None] | None = None
        self._keeper: PeersKeeper | None = None
        self._watching_node: asyncio.Task[None] | None = None
        self._record: KubeRecord | None = None
        self._following: asyncio.Task[None] | None = None
        self._watching_ca: asyncio.Task[None] | None = None
        self._balancer: BalancerWatch | None = None
        self._balancer_hand: BalancerHand | None = None
        self._redirection: Redirection | None = None
        # Of its own: asyncio's threads may all wait for a token on a file system that hangs.
        self._reloader = ThreadPoolExecutor(
            1, thread_name_prefix="havip-reload", initializer=step_behind_the_loop
        )
        self._has_stale_locks = False

        self._host_at_start = host
        with contextlib.ExitStack() as opened:
            opened.callback(self._drop_locks)
            self._take_locks(config)
            self._opened = opened.pop_all()
        self._prober = Prober(config.checks, self._probed)
        self._kube: KubeApi | None = None
        self._leases: Leases | None = None
        self._lease_watch = LeaseWatch(self._deliver)
        metrics = self._metrics.render
        self._servers = {
            ("listen", listen): Server(listen, status_pages(self._view, self._is_alive, metrics))
        }
        if metrics_listen is not None:
            server = Server(metrics_listen, metrics_pages(metrics))
            self._servers["metricsListen", metrics_listen] = server

    async def run(self) -> None:
        """Hold and hand over until SIGTERM or SIGINT, then leave in order."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._fail)
        try:
            for (field, listen), server in self._servers.items():
                try:
                    await server.open()
                except OSError as error:
                    # asyncio's own words repeat the address.
                    problem = os.strerror(error.errno) if error.errno else str(error)
                    raise ListenError(field, listen, problem) from error
            self._ask_for_realtime()
            sys.setswitchinterval(SWITCH_S)
            self._redirect()
            self._open()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stop)
            loop.add_signal_handler(signal.SIGHUP, self._start_reload, "SIGHUP")
            self._watching = self._start(self._watch_files())
            self._watch_sockets()
            self._check_clock()
            self._use_leases(self._config, None)
            self._show_in_kube(self._config, None)
            self._use_balancer(self._config)
            self._deliver(Started(utc_offset_s=self._utc_offset_s))
            for event in self._host.initial_events():
                self._deliver(event)
            self._discover_peers(self._config)
            self._watch_node(self._config, None)
            self._follow_backends(self._config)
            # What is allocated by now lives for good: the collector need not walk it again.
            gc.collect()
            gc.freeze()
            gc.enable()
            # One that came during the start has waited for this.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
            # From here on it takes part. Not only once it is fit: what is behind the VIP may be
            # started after this service.
            self._manager.tell_ready()
            self._tell_of_life()
            await self._done.wait()
        finally:
            await self._close()
        if self._failure is not None:
            raise self._failure

    def _redirect(self) -> None:
        """Have another port lead to the balancer, until the VIP has left."""
        if (redirect := redirect_of(self._config)) is None:
            return
        try:
            self._redirection = Redirection()
            self._opened.callback(self._redirection.close)
            self._redirection.use(redirect)
        except OSError as error:
            raise RedirectError(redirect, error) from error

    def _open(self) -> None:
        """Clean up, and open what hears and changes the host.

        Only once nothing can refuse the start any more: until then nothing is changed.
        """
        balancer = self._config.balancer
        self._addresses = Addresses(None if balancer is None else partial(end_sessions, balancer))
        self._opened.callback(self._addresses.close)
        try:
            kept = self._addresses.clean_leftovers(self._host_at_start, self._config.routers)
        except OSError as error:
            # It ends by itself, and until then it is no worse than before this start.
            self._journal.warning("a leftover cannot be removed", problem=str(error))
        else:
            for left in kept:
                self._journal.warning(left.problem, address=str(left.address), remedy=left.remedy)
        self._host = self._watch_host(interfaces_of(self._config.routers))
        self._opened.callback(lambda: self._host.close())  # noqa: PLW0108
        self._packets = PacketSockets(self._config.routers)
        # Both are replaced by a reload: close those that there are then.
        self._opened.callback(lambda: self._packets.close())  # noqa: PLW0108
        self._transmitter = Transmitter()
        self._opened.callback(self._transmitter.close)

    def _watch_host(self, interfaces: Collection[str]) -> HostWatch:
        return HostWatch(interfaces, self._addresses.port_id, self._addresses.take_removal)

    # From the world ----------------------------------------------------------------------

    def _watch_sockets(self) -> None:
        loop = asyncio.get_running_loop()
        wanted = {*self._packets.filenos(), *self._host.filenos(), self._addresses.fileno()}
        for fileno in self._watched - wanted:
            loop.remove_reader(fileno)
        for fileno in wanted - self._watched:
            loop.add_reader(fileno, self._run)
        self._watched = wanted

    def _deliver(self, event: Event) -> None:
        """An event that no socket holds: a probe's end, a signal."""
        self._events.append(event)
        self._run()

    def _run(self) -> None:
        """Read everything, decide, act, and set the alarm."""
        if self._done.is_set():
            # Finished, or failed: in doubt nothing is renewed any more.
            return
        self._drain()
        now = time.monotonic()
        wake_at = self._node.wake_at
        if now >= wake_at:
            self._metrics.observe_loop_delay(now - wake_at)
            self._decide(Woken())
            wake_at = self._node.wake_at
        # What a running reload has just taken is not stale, though it is not configured yet.
        if self._has_stale_locks and not self._is_reloading:
            self._drop_stale_locks()
        self._set_alarm(wake_at)

    def _drain(self) -> None:
        """Deliver all that has arrived, netlink first: a lost address is older than its echo."""
        events = self._events
        events.extend(self._host.read_all())
        events.extend(self._addresses.read_all())
        events.extend(self._packets.read_all())
        while events:
            event = events.popleft()
            self._decide(event)
            if isinstance(event, LinkChanged) and event.is_up:
                self._reopen(event.interface)

    def _reopen(self, interface: str) -> None:
        if self._packets.reopen(interface):
            self._watch_sockets()

    def _decide(self, event: Event) -> None:
        now = time.monotonic()
        if self._journal.is_debug:
            self._trace(event)
        for action in self._node.handle(now, event):
            if self._journal.is_debug:
                self._trace(action)
            self._act(now, action)

    def _trace(self, what: Event | Action) -> None:
        """What goes into the core and comes out, for somebody who looks for it."""
        if not isinstance(what, UNTRACED):
            fields = {each.name: str(getattr(what, each.name)) for each in dataclasses.fields(what)}
            self._journal.debug(type(what).__name__, **fields)

    def _set_alarm(self, wake_at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wake_at < math.inf and not self._done.is_set():
            self._timer = asyncio.get_running_loop().call_at(wake_at, self._run)

    def _check_clock(self) -> None:
        """Tell the core when somebody set the clock: HMAC stamps follow UTC."""
        offset_s = _utc_offset_s()
        if abs(offset_s - self._utc_offset_s) > CLOCK_STEP_S:
            self._utc_offset_s = offset_s
            self._deliver(ClockStepped(utc_offset_s=offset_s))
        asyncio.get_running_loop().call_later(CLOCK_CHECK_S, self._check_clock)

    # To the world ------------------------------------------------------------------------

    def _act(self, now: float, action: Action) -> None:
        failed: ActionFailed | None = None
        match action:
            case SendVrrp() | SendFrame() if time.monotonic() - now > SAID_WITHIN_S:
                # Stopped and resumed since it was decided: another one may hold by now.
                pass
            case SendVrrp():
                failed = self._transmitter.send_vrrp(action)
            case SendFrame():
                failed = self._transmitter.send_frame(action)
            case InstallAddress():
                failed = self._addresses.install(action)
            case RemoveAddress():
                failed = self._addresses.remove(action)
            case ResetConnections():
                failed = self._addresses.reset_connections(action)
            case ResetFormerConnections():
                failed = self._addresses.reset_former_connections(action)
            case StartProbe() if action.check == BALANCER:
                assert self._balancer is not None
                self._balancer.start()
            case StartProbe():
                self._prober.start(action.check)
            case ReadLease() | WriteLease():
                assert self._leases is not None
                self._leases.start(action)
            case KeepPeers():
                if self._keeper is not None:
                    self._keeper.keep(action)
            case KeepBackends():
                assert self._balancer_hand is not None
                self._balancer_hand.keep(action)
            case ChangeBalancer():
                assert self._balancer_hand is not None
                self._balancer_hand.change(action)
            case Report():
                self._metrics.observe(action)
                self._journal.write(action, now + self._utc_offset_s)
                if self._record is not None:
                    self._record.note(action, now + self._utc_offset_s)
            case Count():
                self._metrics.observe(action)
            case Finished():
                self._done.set()
        if failed is not None:
            self._events.append(failed)

    # Configuration -----------------------------------------------------------------------

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Work beside the loop's own; what goes wrong there ends the process too."""
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._end_of_task)
        return task

    def _end_of_task(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(task.get_loop(), {"exception": error})

    async def _watch_files(self) -> None:
        while True:
            await asyncio.sleep(FILES_CHECK_S)
            files = self._files
            changed = await asyncio.to_thread(files.look)
            # A reload that began meanwhile reads them as they are now.
            if changed and files is self._files and not self._is_reloading:
                self._start_reload(f"changed: {', '.join(changed)}")

    @property
    def _is_reloading(self) -> bool:
        return self._reloading is not None and not self._reloading.done()

    def _start_reload(self, because: str) -> None:
        self._reload_because = because
        if not self._is_reloading:
            self._reloading = self._start(self._reload_all())

    async def _reload_all(self) -> None:
        self._manager.tell_reloading()
        # A signal that comes while a reload runs may be about a file that was read already.
        while because := self._reload_because:
            self._reload_because = ""
            await self._reload_once(because)
        self._manager.tell_ready()

    async def _reload_once(self, because: str) -> None:
        loop = asyncio.get_running_loop()
        files = FileWatch()
        try:
            config = await loop.run_in_executor(self._reloader, self._reload, files)
        except Exception as error:
            # Whatever is wrong with the file, also what nobody thought of, changes nothing. What
            # it was read from is watched all the same: one of two files may only be late.
            self._files = self._files.joined(files)
            self._refuse_reload(error, because)
            return
        self._files = files
        if self._done.is_set():
            return
        config = dataclasses.replace(
            config, balancer=carried_over(self._config.balancer, config.balancer)
        )
        if problem := unheard(config):
            self._refuse_reload(ValueError(problem), because)
            return
        # A router that the new configuration does not have hands its VIP over first, and must
        # hear its successor for that.
        routers = {router.name: router for router in (*self._config.routers, *config.routers)}
        interfaces = interfaces_of(routers.values())
        self._has_stale_locks = True
        host, events = self._host, list[Event]()
        with contextlib.ExitStack() as undo:
            try:
                self._take_locks(config)
                # Where the interfaces stay, so does what the core knows of them.
                if interfaces != self._host.interfaces:
                    host = undo.enter_context(contextlib.closing(self._watch_host(interfaces)))
                    # On a node with many pods it takes as long as several adverts.
                    events += await loop.run_in_executor(self._reloader, host.initial_events)
                    if self._done.is_set():
                        return
                packets = undo.enter_context(contextlib.closing(PacketSockets([*routers.values()])))
                # Last, since nothing takes it back.
                if self._redirection is not None and (redirect := redirect_of(config)):
                    try:
                        # A VIP that is to be handed over is the balancer's until it has left.
                        use = partial(self._redirection.use, redirect, keeps_former=True)
                        await loop.run_in_executor(self._reloader, use)
                    except OSError as error:
                        raise RedirectError(redirect, error) from error
                    if self._done.is_set():
                        return
            except (LockHeldError, RedirectError, OSError) as error:
                self._refuse_reload(error, because)
                return
            undo.pop_all()
        self._drain()
        old_packets, self._packets = self._packets, packets
        old_host, self._host = self._host, host
        self._watch_sockets()
        old_packets.close()
        if old_host is not host:
            old_host.close()
        old_config, self._config = self._config, config
        self._prober.reconfigure(config.checks)
        self._use_leases(config, old_config)
        self._show_in_kube(config, old_config)
        # Before anything that the new watch has heard since, which is newer.
        self._events += [Reconfigured(config=config), *events]
        self._run()
        if (config.kube, config.peer_source) != (old_config.kube, old_config.peer_source):
            self._discover_peers(config)
        self._watch_node(config, old_config)
        if config.kube != old_config.kube:
            self._follow_backends(config)
        self._journal.info("configuration reloaded", because=because)

    def _use_leases(self, config: NodeConfig, old: NodeConfig | None) -> None:
        """Open the way to the API server, where a Lease elects.

        A configuration without one leaves it open: a Lease may have to be released yet.
        """
        leases = [router.lease for router in config.routers if router.lease is not None]
        if leases and (old is None or self._kube is None or config.kube != old.kube):
            assert config.kube is not None
            # What the old one has under way ends there.
            self._kube = self._kube_api(config.kube)
            if self._leases is None:
                self._leases = Leases(self._kube, self._deliver)
            self._leases.use(self._kube)
        if self._kube is not None:
            self._lease_watch.watch(self._kube, [(each.namespace, each.name) for each in leases])

    def _discover_peers(self, config: NodeConfig) -> None:
        if self._discovering is not None:
            self._discovering.cancel()
        self._discovering = self._keeper = None
        if config.kube is not None and config.peer_source is not None:
            self._keeper = PeersKeeper(config.peer_source, self._deliver)
            self._discovering = self._start(self._follow_peers(config.kube, config.peer_source))

    async def _follow_peers(self, access: KubeAccess, source: PeerSource) -> None:
        addresses, problem = await asyncio.to_thread(read_peers, source)
        if problem:
            self._journal.warning(
                "the kept list of peers does not count", file=source.file, problem=problem
            )
        if addresses:
            self._deliver(PeersListed(addresses=addresses, is_kept=True))
        await PeerWatch(self._kube_api(access), source, self._deliver).run()

    def _watch_node(self, config: NodeConfig, old: NodeConfig | None) -> None:
        """Follow what Kubernetes plans for this node, where the configuration wants that."""
        wanted = _node_watch_of(config)
        if old is not None and wanted == _node_watch_of(old):
            return
        if self._watching_node is not None:
            self._watching_node.cancel()
            self._watching_node = None
        if wanted is not None:
            access, name = wanted
            watch = NodeWatch(self._kube_api(access), name, self._deliver)
            self._watching_node = self._start(watch.run())

    def _show_in_kube(self, config: NodeConfig, old: NodeConfig | None) -> None:
        """Have Kubernetes show who holds, where the configuration wants that.

        One that does not want it any more has what is shown taken back.
        """
        access = config.kube
        if self._record is not None:
            is_other = access is not None and (old is None or access != old.kube)
            self._record.use(self._kube_api(access) if access and is_other else None, config)
        elif access is not None and config.shows_anything:
            since_utc = {
                router.name: router.since_at + self._utc_offset_s
                for router in self._view().routers
                if router.state == State.ACTIVE
            }
            self._record = KubeRecord(
                self._kube_api(access), config, since_utc, warn=self._journal.warning
            )

    def _events_dropped(self) -> int:
        return 0 if self._record is None else self._record.dropped

    def _kube_api(self, access: KubeAccess) -> KubeApi:
        return KubeApi(access, self._metrics.observe_kube_call)

    def _use_balancer(self, config: NodeConfig) -> None:
        """Open the way to HAProxy, where there is one; a reload does not change it."""
        if config.balancer is not None:
            timeout_s = check_of(config.balancer).timeout_s
            self._balancer = BalancerWatch(config.balancer, timeout_s, self._deliver)
            self._balancer_hand = BalancerHand(config.balancer, self._balancer.api, self._deliver)
            if ca_file := config.balancer.ca_file:
                watch = CaWatch(ca_file, config.balancer.ca_copy, self._deliver)
                self._watching_ca = self._start(watch.run())

    def _follow_backends(self, config: NodeConfig) -> None:
        if config.kube is None:
            # Where a reload takes the API away, the balancer goes on as it was started: it is
            # asked in the old way, until the restart that gives up discovery too.
            return
        if self._following is not None:
            self._following.cancel()
        self._following = None
        if config.balancer is not None and config.balancer.backends is None:
            self._following = self._start(self._list_backends(config.kube, config.balancer))

    async def _list_backends(self, access: KubeAccess, balancer: BalancerConfig) -> None:
        backends, problem = await asyncio.to_thread(kept, balancer)
        if problem:
            self._journal.warning(
                "the kept list of backends does not count",
                file=balancer.kept_file,
                problem=problem,
            )
        if backends:
            self._deliver(BackendsListed(backends=frozenset(backends), is_kept=True))
        await BackendsWatch(self._kube_api(access), self._deliver).run()

    def _refuse_reload(self, error: Exception, because: str) -> None:
        self._journal.error(
            "the new configuration is refused, the old one stays",
            because=because,
            problem=str(error) or type(error).__name__,
        )

    def _take_locks(self, config: NodeConfig) -> None:
        # VRIDs first: who runs the same configuration twice is told so.
        for key in sorted(
            _keys(config) - self._locks.keys(), key=lambda key: not isinstance(key[1], int)
        ):
            self._locks[key] = Lock(*key)

    def _drop_stale_locks(self) -> None:
        """A router that was configured away keeps its lock and its redirect until it has let go."""
        if not self._node.is_handing_over:
            for key in self._locks.keys() - _keys(self._config):
                self._locks.pop(key).close()
            self._has_stale_locks = False
            redirect = redirect_of(self._config)
            if self._redirection is not None and redirect and not self._done.is_set():
                self._start(self._redirect_no_more(self._redirection, redirect))

    async def _redirect_no_more(self, redirection: Redirection, redirect: Redirect) -> None:
        """Leave the VIPs that have left to whoever listens there."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._reloader, redirection.use, redirect)
        except OSError as error:
            problem = str(RedirectError(redirect, error))
            self._journal.warning("what has left is led to the balancer still", problem=problem)

    def _drop_locks(self) -> None:
        for lock in self._locks.values():
            lock.close()
        self._locks.clear()

    def _probed(self, finished: ProbeFinished) -> None:
        self._metrics.observe_probe(finished)
        self._deliver(finished)

    # The process -------------------------------------------------------------------------

    def _view(self) -> NodeView:
        return self._node.view(time.monotonic())

    def _is_alive(self) -> bool:
        """Whether no timer of the core is overdue."""
        return time.monotonic() - self._node.wake_at < ALIVE_WITHIN_S

    def _stop(self) -> None:
        self._manager.tell_stopping()
        self._deliver(StopRequested())

    def _tell_of_life(self) -> None:
        if (interval_s := self._manager.alive_each_s) is not None:
            if self._is_alive():
                self._manager.tell_alive()
            asyncio.get_running_loop().call_later(interval_s, self._tell_of_life)

    def _ask_for_realtime(self) -> None:
        """Adverts must not wait behind a build on the same cores; without the right, go on.

        Before any thread begins, so that all have the same: one that waits for a core with the
        interpreter's lock in its hand has the loop wait, too.
        """
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(LOOP_PRIORITY))
        except PermissionError:
            self._journal.info("no real-time scheduling", remedy="add the capability SYS_NICE")

    def _fail(self, _loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """A bug of ours: end, so that the VIP expires. A holder in doubt is worse than none."""
        error = context.get("exception")
        if isinstance(error, BaseException) and is_of_accept(error):
            if self._accept_alarms.allows(time.monotonic()):
                self._journal.error("the status port accepts no connection", problem=str(error))
            return
        self._failure = (
            error if isinstance(error, BaseException) else RuntimeError(str(context.get("message")))
        )
        self._done.set()

    async def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        for fileno in self._watched:
            loop.remove_reader(fileno)
        tasks = (
            *(self._watching, self._discovering, self._watching_node),
            *(self._following, self._watching_ca),
        )
        for task in tasks:
            if task is not None:
                task.cancel()
        await self._prober.close()
        await self._lease_watch.close()
        if self._leases is not None:
            await self._leases.close()
        if self._balancer is not None and self._balancer_hand is not None:
            await self._balancer_hand.close()
            await self._balancer.close()
        for server in self._servers.values():
            await server.close()
        self._manager.close()
        self._opened.close()
        # Last, since it may take a moment: nothing is held any more.
        if self._record is not None:
            if self._failure is None:
                await self._record.finish()
            await self._record.close()


def _node_watch_of(config: NodeConfig) -> tuple[KubeAccess, str] | None:
    if config.kube is None or config.node_weight is None:
        return None
    return config.kube, config.node_name


def _keys(config: NodeConfig) -> set[tuple[str, Subject]]:
    """What no other process may serve: VRIDs and VIPs, each with its interface."""
    keys: set[tuple[str, Subject]] = set()
    for router in config.routers:
        keys.add((router.vrrp_interface, router.virtual_router_id))
        keys |= {(router.vip_interface, vip.address) for leg in router.legs for vip in leg.vips}
    return keys


def _utc_offset_s() -> float:
    return time.time() - time.monotonic()
