"""Nodes: a process's place in a cluster."""
import atexit
import typing
import weakref

from . import _aio, _troupe
from .actor import ActorRef, Functions, entries_of

_open = weakref.WeakSet()


class Node:
    """Joins a cluster under a unique name, keeps named actors that others call, and calls theirs.

        with troupe.Node("alice") as node:
            print(node.call("adder", "add", 1, 2))

    name             unique in the cluster
    registry         the address of the first node; empty: this is the first, and others get its `address`
    role, metadata   what other nodes may want to know
    listen           where it listens; advertise: what others dial, if that is another address
    secret           what all nodes of a cluster know that spans machines; secret_file: where it stands
    default_timeout  of calls, in seconds (60)
    help             whether a thread that waits in a call runs handlers of this node meanwhile. That makes calls fast.
                     Where handlers take locks that callers hold, say False: then the node's own thread runs them
    pool_threads     for methods that run on the pool

    Any thread may use it. Its handlers run one at a time, but for those of the pool.
    """

    def __init__(self, name: str, *, registry: str = "", role: str = "worker", listen: str = "127.0.0.1:0",
                 advertise: str = "", secret: str = "", secret_file: str = "",
                 metadata: typing.Optional[typing.Dict[str, str]] = None, join_timeout: typing.Optional[float] = None,
                 default_timeout: typing.Optional[float] = None, help: bool = True, pool_threads: int = 4,
                 metrics_address: str = "") -> None:
        self._node = _troupe.Node._start(
            name=name, role=role, registry=registry, listen=listen, advertise=advertise, secret=secret,
            secret_file=secret_file, metadata=metadata or {}, join_timeout=join_timeout,
            default_timeout=default_timeout, help=help, pool_threads=pool_threads, metrics_address=metrics_address)
        self.call = self._node.call  # type: ignore[method-assign]  # one step less in each call
        _open.add(self._node)

    # ---- Calls

    def call(self, actor: str, method: str, *args: typing.Any, timeout: typing.Optional[float] = None,
             returns: typing.Any = None, metadata: typing.Optional[typing.Dict[str, str]] = None,
             attempts: int = 1) -> typing.Any:
        """Calls a method of a named actor and waits for its answer.

        timeout   seconds, of all attempts together; math.inf: none
        returns   an annotation, for answers that are to be something else than what they come as
        metadata  a dict of texts that goes with the call
        attempts  how often it is tried while the callee cannot be reached; it runs once
        """
        raise AssertionError("replaced in __init__")

    def call_async(self, actor: str, method: str, *args: typing.Any, **options: typing.Any) -> _troupe.PendingCall:
        """Begins a call. What it returns can be awaited, or waited for with result(); cancel() ends it."""
        options.setdefault("help", not _aio.is_running())
        return self._node._start_call(actor, method, *args, **options)

    def actor(self, name: str, interface: typing.Optional[type] = None) -> ActorRef:
        """A named actor as an object: node.actor("adder", Adder).add(1, 2). `interface`: a class whose methods say
        the types."""
        return ActorRef(self._node, name, interface)

    # ---- Actors

    def spawn(self, name: str, actor: typing.Any) -> typing.Any:
        """Makes an object callable under a name."""
        entries = actor._entries if isinstance(actor, Functions) else entries_of(actor)
        self._node._spawn(name, actor, entries)
        return actor

    def kill(self, name: str) -> None:
        """Ends a named actor of this node."""
        self._node.kill(name)

    # ---- The cluster

    @property
    def name(self) -> str:
        return self._node.name

    @property
    def id(self) -> int:
        return self._node.id

    @property
    def address(self) -> str:
        """Where others reach it: the `registry` of the next nodes, if this is the first."""
        return self._node.address

    @property
    def closed(self) -> bool:
        return self._node.closed

    def members(self) -> typing.List[typing.Dict[str, typing.Any]]:
        """All nodes, as dicts."""
        return self._node.members()

    def actors(self) -> typing.Dict[str, str]:
        """All named actors: the name of the node of each."""
        return self._node.actors()

    def wait_for_actor(self, name: str, timeout: typing.Optional[float] = None) -> None:
        self._node.wait_for_actor(name, timeout)

    def wait_for_role(self, role: str, count: int,
                      timeout: typing.Optional[float] = None) -> typing.List[typing.Dict[str, typing.Any]]:
        return self._node.wait_for_role(role, count, timeout)

    def barrier(self, name: str, participants: typing.Iterable[str], timeout: typing.Optional[float] = None) -> None:
        """Waits until all these nodes, of which this is one, are here."""
        self._node.barrier(name, list(participants), timeout)

    def shared_tensor(self, shape: typing.Iterable[int], dtype: str = "float32") -> _troupe.Tensor:
        """A tensor that processes of this machine map, where others would be copied: fill numpy.asarray() of it."""
        return self._node.shared_tensor(list(shape), dtype)

    # ---- Its end

    def run(self) -> None:
        """Serves until stop(), or until the first node has gone."""
        self._node.run()

    def stop(self) -> None:
        self._node.stop()

    def leave(self, drain_time: typing.Optional[float] = None) -> None:
        """Leaves in order: what is open is finished, for so many seconds at most (5)."""
        self._node.leave(drain_time)
        _open.discard(self._node)

    def close(self) -> None:
        """Ends it; what is open ends with an error. Idempotent."""
        self._node.close()
        _open.discard(self._node)

    def __enter__(self) -> "Node":
        return self

    def __exit__(self, *_: typing.Any) -> None:
        self.close()

    def __repr__(self):
        return f"<troupe node {self.name!r} at {self.address}>"


def _at_exit():
    for each in list(_open):
        each.close()
    _troupe.interpreter_ends()


def install():
    atexit.register(_at_exit)
