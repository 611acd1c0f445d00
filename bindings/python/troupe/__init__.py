"""Troupe: named actors in several processes, called by name. See docs/python.md."""
from . import _hooks, _troupe, errors
from . import node as _node
from ._hooks import allow_pickle
from ._troupe import PendingCall, Tensor
from ._types import (
    TensorOf, float32, float64, int8, int16, int32, int64, uint8, uint16, uint32, uint64,
)
from .actor import ActorRef, Functions, actor, method
from .errors import (
    Aborted, AlreadyExists, Cancelled, Code, DataLoss, DeadlineExceeded, Error, FailedPrecondition, Internal,
    InvalidArgument, NotFound, OutOfRange, PermissionDenied, ResourceExhausted, Unauthenticated, Unavailable,
    Unimplemented,
)
from .node import Node
from .table import Batches, Table, hand_out_batches, serve_shards
from .table import spec as table_spec

_hooks.install()
_node.install()

from . import aio  # noqa: E402  (after what it stands on)

__version__ = "0.1.0"
