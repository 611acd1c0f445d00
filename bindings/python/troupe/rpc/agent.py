"""What makes a process a worker: its node, and the actor that others call."""
import collections
import dataclasses
import itertools
import math
import os
import pathlib
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from .. import _hooks
from ..actor import actor, method
from ..errors import Cancelled, DeadlineExceeded, Error, FailedPrecondition, InvalidArgument, Unavailable
from ..node import Node
from . import functions, references, rref

_ROLE = "rpc"
_current = None


@dataclasses.dataclass(frozen=True)
class WorkerInfo:
    """A worker's name and number."""

    name: str
    id: int

    def __post_init__(self):
        if not self.name:
            raise RuntimeError("Worker name must be non-empty")
        if len(self.name) >= 128:
            raise RuntimeError("Worker name must be shorter than 128")
        if not re.fullmatch(r"[A-Za-z0-9\-_:.]+", self.name):
            raise RuntimeError(f"Worker name must match ^[A-Za-z0-9-_:.]*$, but got {self.name}")

    def __repr__(self):
        return f"WorkerInfo(id={self.id}, name={self.name})"


def current():
    if _current is None:
        raise FailedPrecondition("RPC has not been initialized: call init_rpc() first")
    return _current


@actor
class _Worker:
    """What others call."""

    def __init__(self, agent):
        self._agent = agent

    @method(runs="beside")
    def run(self, function: object, args: object, kwargs: object) -> object:
        return function(*args, **kwargs)

    @method(runs="beside")
    def create(self, rref_id: str, fork: str, function: object, args: object, kwargs: object) -> None:
        self._agent.create(rref_id, fork, function, args, kwargs)

    def begin_fork(self, rref_id: str, fork: str) -> None:
        self._agent.owned(rref_id).add(fork)

    def end_fork(self, rref_id: str, fork: str) -> None:
        self._agent.end_owned(rref_id, fork)


class Agent:
    def __init__(self, name, rank, world_size, node, timeout, threads):
        self.info = WorkerInfo(name, rank)
        self.node = node
        self.world_size = world_size
        self.default_timeout = timeout
        self._known = {}  # workers by name and by rank
        self._owned = {}
        self._owned_lock = threading.RLock()
        self._numbers = itertools.count()
        self._prefix = f"{rank}.{os.urandom(3).hex()}."
        self._pending = []
        self._look_at = 1000  # how many may be there before those that are done are dropped
        self.pickle_before = False
        self._pending_lock = threading.Lock()
        self.ended = collections.deque()  # references that have gone, for end_forks()
        self.some_ended = threading.Event()
        self._closed = False
        threading.Thread(target=self._end_forks, name="troupe-references", daemon=True).start()
        self.executor = ThreadPoolExecutor(threads, thread_name_prefix="troupe-rpc")
        self._worker = _Worker(self)
        self._signatures = {each: entry[0] for each, entry in _Worker.__troupe_methods__.items()}
        entries = [(signature, getattr(self._worker, each), runs)
                   for each, (signature, runs, _) in _Worker.__troupe_methods__.items()]
        entries.append((self._later_signature("run_later", 3), self._run_later, "later"))
        entries.append((self._later_signature("create_later", 5), self._create_later, "later"))
        entries.append((self._later_signature("lacks", 2), self._lacks, "later"))
        entries.append((self._later_signature("fetch", 1), self._fetch, "later"))
        self._entries = entries
        rref.register(self)
        references.register()

    def publish(self):
        """Others may call from now on."""
        self.node._node._spawn(self.actor_of(self.info), self._worker, self._entries)

    def _later_signature(self, name, count):
        from .. import _types

        anything = _types.type_of(object)
        self._signatures[name] = _types.Signature(name, [anything] * count, anything)
        return self._signatures[name]

    @staticmethod
    def actor_of(info):
        return f"rpc.{info.name}"

    def new_id(self):
        return self._prefix + str(next(self._numbers))

    def timeout(self, given):
        """Seconds, or None for ever. As torch has it: negative is the default, zero never ends."""
        seconds = self.default_timeout if given is None or given < 0 else given
        return None if seconds == 0 or math.isinf(seconds) else seconds

    # ---- Calls

    def call(self, to, name, args, timeout):
        limit = self.timeout(timeout)
        return self.node._node._call_typed(self.actor_of(to), self._signatures[name], args,
                                           timeout=math.inf if limit is None else limit)

    def start(self, to, name, args, timeout):
        limit = self.timeout(timeout)
        call = self.node._node._start_typed(self.actor_of(to), self._signatures[name], args,
                                            timeout=math.inf if limit is None else limit)
        with self._pending_lock:
            self._pending.append(call)
            if len(self._pending) > self._look_at:
                self._pending = [each for each in self._pending if not each.done()]
                self._look_at = 2 * len(self._pending) + 1000
        return call

    def _tell(self, to, name, *args):
        try:
            # From anywhere, also while the collector of garbage runs: it only asks the loop to begin.
            self.node._node._start_typed(self.actor_of(to), self._signatures[name], args, help=False)
        except Error:
            pass  # one of both has gone, and with it what was to be counted

    def _run_later(self, answer, function, args, kwargs):
        self.executor.submit(self._run_and_answer, answer, function, args, kwargs)

    def _run_and_answer(self, answer, function, args, kwargs):
        try:
            result = functions.run(function, args, kwargs)
            if isinstance(result, functions.Later):
                result.future.add_done_callback(lambda done: _answer_with(answer, done))
                return
        except Exception as error:
            answer.set_exception(error)
        else:
            answer.set_result(result)

    # ---- Objects that others refer to

    def owned(self, rref_id):
        with self._owned_lock:
            found = self._owned.get(rref_id)
            if found is None:
                found = self._owned[rref_id] = rref.Owned()
            return found

    def end_owned(self, rref_id, fork):
        if self.owned(rref_id).end(fork):
            with self._owned_lock:
                dropped = self._owned.pop(rref_id, None)
            del dropped

    def create(self, rref_id, fork, function, args, kwargs):
        owned = self.owned(rref_id)
        owned.add(fork)
        try:
            value, failed = functions.run(function, args, kwargs), None
            if isinstance(value, functions.Later):
                value = value.future.wait()
        except BaseException as error:
            value, failed = None, error
        owned.settle(value, failed)
        if not owned.forks:
            with self._owned_lock:
                self._owned.pop(rref_id, None)

    def _create_later(self, answer, rref_id, fork, function, args, kwargs):
        """Of a function that returns a Future: its value is the object."""
        self.executor.submit(self.create, rref_id, fork, function, args, kwargs)
        answer.set_result(None)

    def _fetch(self, answer, rref_id):
        def told(owned):
            if owned.error is not None:
                answer.set_exception(owned.error)
            else:
                answer.set_result(owned.value)

        self.owned(rref_id).when_ready(told)

    def _lacks(self, answer, rref_id, name):
        """What is wrong with calling that method of the object; None: nothing."""

        def told(owned):
            if owned.error is None and not hasattr(owned.value, name):
                answer.set_result(f"{type(owned.value).__name__!r} object has no attribute {name!r}")
            else:
                answer.set_result(None)

        self.owned(rref_id).when_ready(told)

    def begin_fork(self, owner, rref_id, fork):
        if owner == self.info:
            self.owned(rref_id).add(fork)
        else:
            self._tell(owner, "begin_fork", rref_id, fork)

    def _end_forks(self):
        """A thread, which holds no lock while it runs what allocates for itself."""
        while not self._closed:
            self.some_ended.wait()
            self.some_ended.clear()
            while self.ended and not self.node.closed:
                self._end_fork(*self.ended.popleft())

    def _end_fork(self, owner, rref_id, fork):
        if self.node.closed:
            return
        if owner == self.info:
            self.end_owned(rref_id, fork)
        else:
            self._tell(owner, "end_fork", rref_id, fork)

    # ---- The group

    def workers(self):
        members = [each for each in self.node.members() if each["role"] == _ROLE]
        return sorted((WorkerInfo(each["name"], int(each["metadata"]["rank"])) for each in members), key=lambda w: w.id)

    def find(self, to):
        if isinstance(to, WorkerInfo):
            return to
        if not isinstance(to, (str, int)) or isinstance(to, bool):
            raise InvalidArgument(f"a destination is a name, a rank or a WorkerInfo, not {to!r}")
        found = self._known.get(to)
        if found is not None:
            return found
        for each in self.workers():
            self._known[each.name] = self._known[each.id] = each
            if to in (each.name, each.id):
                return each
        raise Unavailable(f"could not find destination {to!r}; there are {', '.join(each.name for each in self.workers())}")

    def finish_calls(self, limit):
        deadline = time.monotonic() + limit
        while self._pending:
            with self._pending_lock:
                pending, self._pending = self._pending, []
            for each in pending:
                if not each.wait(max(deadline - time.monotonic(), 0)):
                    raise DeadlineExceeded(f"calls were under way still after {limit} s")

    def shut_down(self, graceful, timeout):
        global _current
        try:
            if graceful:
                limit = math.inf if not timeout else timeout
                names = [each.name for each in self.workers()]
                for step in ("calls are done", "nothing came of them"):
                    self.finish_calls(limit)
                    self.node.barrier(f"rpc: {step}", names, limit)
        finally:
            _current = None
            self._owned.clear()
            self._closed = True
            self.some_ended.set()
            # The first node waits for the others, so that nobody takes its end for a failure.
            try:
                self.node.leave(5 if graceful else 0)
            except (Cancelled, DeadlineExceeded):
                pass
            references.unregister()
            _hooks.allow_pickle(self.pickle_before)
            self.executor.shutdown(wait=False)


def _answer_with(answer, done):
    try:
        result = done.wait()
    except Exception as error:
        answer.set_exception(error)
    else:
        answer.set_result(result)


def _address(init_method):
    """Where the first node listens; or a file in which it says so."""
    if init_method.startswith("tcp://"):
        return init_method[len("tcp://"):].split("?")[0].rstrip("/"), None
    if init_method.startswith("file://"):
        return "", pathlib.Path(init_method[len("file://"):])
    if init_method.startswith("env://"):
        for variable in ("MASTER_ADDR", "MASTER_PORT"):
            if variable not in os.environ:
                raise ValueError(f"the environment has no {variable}, which says where the first worker listens")
        return f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}", None
    raise ValueError(f"init_method is tcp://HOST:PORT, file://PATH or env://, not {init_method!r}")


def _read_address(path, patience):
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            text = path.read_text()
        except FileNotFoundError:
            text = ""
        if text.endswith("\n"):
            return text.strip()
        time.sleep(0.01)
    raise DeadlineExceeded(f"the first worker did not write its address to {path}")


def begin(name, rank, world_size, options, secret):
    global _current
    if _current is not None:
        raise FailedPrecondition("RPC is initialized already: call shutdown() first")
    address, path = _address(options.init_method or "env://")
    patience = options.rpc_timeout if options.rpc_timeout > 0 else 60.0
    common = dict(role=_ROLE, metadata={"rank": str(rank)}, secret=secret, pool_threads=options.num_worker_threads,
                  join_timeout=patience)
    if rank == 0:
        node = Node(name, listen=address or "127.0.0.1:0", **common)
        if path is not None:
            path.with_suffix(".new").write_text(node.address + "\n")
            path.with_suffix(".new").replace(path)
    else:
        node = Node(name, registry=address or _read_address(path, patience), **common)
    try:
        agent = Agent(name, rank, world_size, node, options.rpc_timeout, options.num_worker_threads)
        _current = agent
        agent.publish()
        node.wait_for_role(_ROLE, world_size, patience)
        for each in agent.workers():
            node.wait_for_actor(agent.actor_of(each), patience)
    except BaseException:
        _current = None
        node.close()
        references.unregister()
        raise
    return agent


def _after_fork():
    """The group is the parent's: a child may have its own."""
    global _current
    _current = None


os.register_at_fork(after_in_child=_after_fork)
