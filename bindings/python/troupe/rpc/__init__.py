"""The interface of torch.distributed.rpc: functions run at other workers, and objects are left there.

    from troupe import rpc

    rpc.init_rpc("worker0", rank=0, world_size=2)
    print(rpc.rpc_sync("worker1", max, args=(1, 2)))
    rpc.shutdown()

Functions and methods travel by reference, and must be found by their names at the callee. Values travel as those of
methods that are annotated with `object`; see docs/python.md.
"""
import enum

from . import api, functions, futures
from .api import (
    DEFAULT_RPC_TIMEOUT_SEC, UNSET_RPC_TIMEOUT, Future, RpcBackendOptions, RRef, TensorPipeRpcBackendOptions, WorkerInfo,
    _is_current_rpc_agent_set, get_worker_info, init_rpc, is_available, remote, rpc_async, rpc_sync, shutdown,
)
from .futures import collect_all, wait_all
from .rref import RRef as PyRRef


class BackendType(enum.Enum):
    """Only for programs that name it."""

    TENSORPIPE = "TENSORPIPE"


__all__ = ["BackendType", "DEFAULT_RPC_TIMEOUT_SEC", "Future", "PyRRef", "RRef", "RpcBackendOptions",
           "TensorPipeRpcBackendOptions", "UNSET_RPC_TIMEOUT", "WorkerInfo", "api", "collect_all", "functions", "futures",
           "get_worker_info", "init_rpc", "is_available", "remote", "rpc_async", "rpc_sync", "shutdown", "wait_all"]
