"""The functions of torch.distributed.rpc, on troupe's nodes."""
import contextlib
import dataclasses
import enum
import os
import threading

from .. import _hooks
from . import agent as _agent
from . import references
from .agent import WorkerInfo, current
from .functions import is_async
from .futures import Future
from .rref import RRef

DEFAULT_RPC_TIMEOUT_SEC = 60.0
UNSET_RPC_TIMEOUT = -1.0


@dataclasses.dataclass
class RpcBackendOptions:
    """rpc_timeout in seconds, of calls that say none: 0 is none at all."""

    num_worker_threads: int = 16
    rpc_timeout: float = DEFAULT_RPC_TIMEOUT_SEC
    init_method: str = "env://"
    device_maps: dict = None
    devices: list = None
    _transports: list = None
    _channels: list = None

    def __post_init__(self):
        if not isinstance(self.rpc_timeout, (int, float)):
            raise TypeError("incompatible constructor arguments: rpc_timeout is a number of seconds")


TensorPipeRpcBackendOptions = RpcBackendOptions


def init_rpc(name, backend=None, rank=-1, world_size=None, rpc_backend_options=None, *, secret="", pickle=False,
             modules=None):
    """Makes this process the worker `name` and waits for the others.

    rank, world_size     also of the environment: RANK, WORLD_SIZE
    rpc_backend_options  RpcBackendOptions
    secret               what all workers know; needed where they are on several machines
    modules              from which modules others may name functions: None, from all that can be imported
    pickle               whether objects of any class travel, by pickle, as in torch.distributed.rpc

    Any function of `modules` can be called by whoever has the secret; with `pickle` he can run any code.
    """
    if backend is not None and not isinstance(backend, enum.Enum):
        raise TypeError("Argument backend must be a member of BackendType")
    if rpc_backend_options is not None and not isinstance(rpc_backend_options, RpcBackendOptions):
        raise TypeError("Argument rpc_backend_options must be an instance of RpcBackendOptions")
    options = rpc_backend_options or RpcBackendOptions()
    if rank < 0:
        rank = int(os.environ.get("RANK", -1))
    if world_size is None:
        world_size = int(os.environ.get("WORLD_SIZE", -1))
    if rank < 0 or world_size < 1:
        raise ValueError("say rank and world_size, or set RANK and WORLD_SIZE")
    if rank >= world_size:
        raise ValueError(f"there is no rank {rank} among {world_size} workers")
    references.allow(modules)
    before = _hooks.pickle_allowed()
    _hooks.allow_pickle(pickle or before)
    try:
        _agent.begin(name, rank, world_size, options, secret).pickle_before = before
    except BaseException:
        if not _is_current_rpc_agent_set():
            _hooks.allow_pickle(before)
        raise


def shutdown(graceful=True, timeout=0):
    """Ends the worker. Graceful: all workers call it, and their calls are finished first."""
    current().shut_down(graceful, timeout)


def get_worker_info(worker_name=None):
    """Of this worker, or of the named one."""
    if worker_name is None:
        return current().info
    return current().find(worker_name)


def set_rpc_timeout(seconds):
    """Of calls that say none, from now on."""
    current().default_timeout = seconds


def get_rpc_timeout():
    return current().default_timeout


@contextlib.contextmanager
def _wait_all():
    """What rpc_async() and remote() begin within it has ended when it ends; raises the first error."""
    _thread_local_var.future_list = []
    try:
        yield
    finally:
        futures = _thread_local_var.future_list
        del _thread_local_var.future_list
        for each in futures:
            each.wait()


_thread_local_var = threading.local()


def _begun(future):
    if hasattr(_thread_local_var, "future_list"):
        _thread_local_var.future_list.append(future)
    return future


def is_available():
    return True


def _is_current_rpc_agent_set():
    return _agent._current is not None


def _sync_later(to, function, args=None, kwargs=None, timeout=UNSET_RPC_TIMEOUT):
    agent = current()
    return agent.call(agent.find(to), "run_later", (function, tuple(args or ()), kwargs or {}), timeout)


def _async_later(to, function, args=None, kwargs=None, timeout=UNSET_RPC_TIMEOUT):
    agent = current()
    call = agent.start(agent.find(to), "run_later", (function, tuple(args or ()), kwargs or {}), timeout)
    return _begun(Future(call))


def rpc_sync(to, func, args=None, kwargs=None, timeout=UNSET_RPC_TIMEOUT):
    """Runs func(*args, **kwargs) at the worker `to` (a name, a rank or a WorkerInfo) and waits for what it returns."""
    if is_async(func):
        return _sync_later(to, func, args, kwargs, timeout)
    agent = current()
    return agent.call(agent.find(to), "run", (func, tuple(args or ()), kwargs or {}), timeout)


def rpc_async(to, func, args=None, kwargs=None, timeout=UNSET_RPC_TIMEOUT):
    """The same without waiting: a Future."""
    if is_async(func):
        return _async_later(to, func, args, kwargs, timeout)
    agent = current()
    return _begun(Future(agent.start(agent.find(to), "run", (func, tuple(args or ()), kwargs or {}), timeout)))


def remote(to, func, args=None, kwargs=None, timeout=UNSET_RPC_TIMEOUT):
    """Runs it there and leaves the result there: an RRef to it, at once."""
    agent = current()
    owner = agent.find(to)
    rref_id, fork = agent.new_id(), agent.new_id()
    name = "create_later" if is_async(func) else "create"
    creation = Future(agent.start(owner, name, (rref_id, fork, func, tuple(args or ()), kwargs or {}), timeout))
    return RRef._of(agent, rref_id, owner, fork, creation)


__all__ = ["DEFAULT_RPC_TIMEOUT_SEC", "UNSET_RPC_TIMEOUT", "RpcBackendOptions", "TensorPipeRpcBackendOptions", "WorkerInfo",
           "init_rpc", "shutdown", "get_worker_info", "is_available", "rpc_sync", "rpc_async", "remote", "RRef", "Future"]
