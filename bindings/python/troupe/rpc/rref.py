"""References to objects at other workers, counted at their owners."""
import functools
import threading

from .. import _hooks
from ..errors import DeadlineExceeded, FailedPrecondition
from . import functions


class Owned:
    """What an owner keeps of an object that references are made to. Its methods: any thread."""

    def __init__(self):
        self._lock = threading.Lock()
        self.forks = set()  # one for each reference to it, wherever that is
        self.ended = set()  # of which the end came before the beginning
        self.ready = threading.Event()
        self.value = None
        self.error = None
        self._told = []

    def add(self, fork):
        """False: it has ended already."""
        with self._lock:
            if fork in self.ended:
                self.ended.discard(fork)
                return False
            self.forks.add(fork)
            return True

    def end(self, fork):
        """Whether nobody refers to it any more."""
        with self._lock:
            if fork in self.forks:
                self.forks.discard(fork)
            else:
                self.ended.add(fork)
            return not self.forks and self.ready.is_set()

    def settle(self, value, error):
        with self._lock:
            self.value, self.error = value, error
            self.ready.set()
            told, self._told = self._told, []
        for each in told:
            each(self)

    def when_ready(self, told):
        with self._lock:
            if not self.ready.is_set():
                self._told.append(told)
                return
        told(self)

    def get(self):
        if self.error is not None:
            raise self.error
        return self.value


class RRef:
    """A reference to an object that one worker owns. RRef(value) is one to a value here."""

    def __init__(self, value, type_hint=None):
        from .agent import current

        agent = current()
        rref_id = agent.new_id()
        self._begin(agent, rref_id, agent.info, rref_id)
        owned = agent.owned(self._id)
        owned.add(self._fork)
        owned.settle(value, None)

    @classmethod
    def _of(cls, agent, rref_id, owner, fork, creation=None):
        self = cls.__new__(cls)
        self._begin(agent, rref_id, owner, fork, creation)
        return self

    def _begin(self, agent, rref_id, owner, fork, creation=None):
        self._agent, self._id, self._owner, self._fork, self._creation = agent, rref_id, owner, fork, creation
        self._methods = set()  # that the object is known to have

    def __del__(self):
        # The collector of garbage may run anywhere, also within what this would need: it only takes a note.
        agent = getattr(self, "_agent", None)
        if agent is not None:
            agent.ended.append((self._owner, self._id, self._fork))
            agent.some_ended.set()

    # ---- What it refers to

    def owner(self):
        return self._owner

    def owner_name(self):
        return self._owner.name

    def is_owner(self):
        return self._owner == self._agent.info

    def confirmed_by_owner(self):
        """Whether the owner knows of it."""
        return self._creation is None or (self._creation.done() and self._creation_error() is None)

    def _creation_error(self):
        try:
            self._creation.wait()
        except Exception as error:
            return error
        return None

    def _get_future(self):
        from .futures import Future

        if self._creation is not None:
            return self._creation
        done = Future()
        done.set_result(None)
        return done

    def to_here(self, timeout=-1.0):
        """The value, copied here; raises what its creation raised."""
        if self._agent.node.closed:
            raise FailedPrecondition("RPC has been shut down. Cannot call to_here() on it after deletion.")
        if self.is_owner():
            return self._wait(timeout).get()
        if self._creation is not None:
            if not self._creation._call.wait(self._agent.timeout(timeout)):
                raise DeadlineExceeded(f"{self} was not made in time")
            error = self._creation_error()
            if isinstance(error, DeadlineExceeded):
                raise DeadlineExceeded("RRef creation via rpc.remote() timed out, and it is possible that the RRef on the "
                                       f"owner node does not exist: {error}")
            if error is not None:
                raise error
        return self._agent.call(self._owner, "fetch", (self._id,), timeout)

    def local_value(self):
        """The value itself, at its owner."""
        if not self.is_owner():
            raise RuntimeError(f"For UserRRef(rref_id={_as_torch(self._id)}, fork_id={_as_torch(self._fork)}), can't call "
                               f"localValue() on user {self._agent.info}. Call it on owner {self._owner}")
        return self._wait(-1.0).get()

    def _wait(self, timeout):
        owned = self._agent.owned(self._id)
        limit = self._agent.timeout(timeout)
        if not owned.ready.wait(limit):
            raise DeadlineExceeded(f"{self} has no value yet after {limit} s")
        return owned

    # ---- Its methods, called where it is

    def rpc_sync(self, timeout=-1.0):
        """A proxy: rref.rpc_sync().method(args) runs there, and waits."""
        from . import api

        return _Proxy(self, functools.partial(api._sync_later, timeout=timeout))

    def rpc_async(self, timeout=-1.0):
        from . import api

        return _Proxy(self, functools.partial(api._async_later, timeout=timeout))

    def remote(self, timeout=-1.0):
        from . import api

        return _Proxy(self, functools.partial(api.remote, timeout=timeout), timeout)

    def _check_method(self, name, timeout):
        """That the object is there and has a method of this name: nobody else would say so where the answer stays."""
        if name in self._methods:
            return
        told = self._agent.call(self._owner, "lacks", (self._id, name), timeout)
        if told:
            raise AttributeError(told)
        self._methods.add(name)

    def __repr__(self):
        if self.is_owner():
            return f"OwnerRRef({_as_torch(self._id)})"
        return f"UserRRef(RRefId = {_as_torch(self._id)}, ForkId = {_as_torch(self._fork)})"


def _as_torch(number):
    """As torch writes ours: "RANK.LIFE.NUMBER"."""
    rank, _, local = number.split(".")
    return f"GloballyUniqueId(created_on={rank}, local_id={local})"


class _Proxy:
    def __init__(self, rref, call, check_within=None):
        self._rref, self._call, self._check_within = rref, call, check_within

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def method(*args, **kwargs):
            if self._check_within is not None:
                self._rref._check_method(name, self._check_within)
            return self._call(self._rref.owner(), call_method, args=(self._rref, name, args, kwargs))

        return method


def call_method(rref, name, args, kwargs):
    """Runs at the owner."""
    return functions.run(getattr(rref.local_value(), name), args, kwargs)


def register(agent):
    """References travel; each that comes counts as one more."""

    def send(rref):
        fork = agent.new_id()
        agent.begin_fork(rref._owner, rref._id, fork)
        return [rref._id, rref._owner.name, rref._owner.id, fork]

    def receive(payload):
        from .agent import WorkerInfo

        rref_id, name, number, fork = payload
        return RRef._of(agent, rref_id, WorkerInfo(name, number), fork)

    _hooks.register_extension(RRef, "RRef", send, receive)
