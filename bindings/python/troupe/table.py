"""Tables whose rows lie at shard servers, with their optimizer."""
import asyncio
import functools
import json

from . import _troupe


def serve_shards(node, name, index=0, count=1):
    """Makes the named actor that keeps the shards number `index` of `count` of all tables."""
    _troupe.serve_shards(node._node, name, index, count)


def _optimizer(given):
    name, numbers = (given, {}) if isinstance(given, str) else given
    known = _troupe.optimizer_parameters(name)
    unknown = set(numbers) - set(known)
    if unknown:
        raise ValueError(f"the optimizer {name!r} has no {', '.join(sorted(unknown))}; it has {', '.join(known)}")
    return {"kind": name, **known, **numbers}


def _choice(given):
    kind, numbers = (given, {}) if isinstance(given, str) else given
    return {"kind": kind, **numbers}


def spec(name, dim, *, rows=0, optimizer="sgd", initializer="zeros", consistency="asynchronous", weights="float32",
         slots=1024, seed=0, step_scaling="none", schedule=None, clipping=None):
    """What defines a table, as JSON.

    rows         0: an embedding table, whose keys are any 64-bit numbers; else a dense one with the rows 0 .. rows-1
    optimizer    a name, or a name and numbers: ("adagrad", {"learning_rate": 0.1})
    initializer  "zeros", ("uniform", {"low": -0.1, "high": 0.1}), ("normal", {"mean": 0, "stddev": 0.01})
    consistency  "asynchronous", ("bounded_staleness", {"bound": 4}), "synchronous", ("k_of_n", {"k": 2, "late": "drop"})
    schedule, clipping   dicts, as in docs/consistency.md and docs/tables.md
    """
    value = {
        "name": name, "kind": "dense" if rows else "embedding", "dim": dim, "rows": rows, "weights": weights,
        "slots": slots, "optimizer": _optimizer(optimizer), "initializer": _choice(initializer), "seed": seed,
        "consistency": _choice(consistency), "step_scaling": step_scaling,
    }
    if schedule is not None:
        value["schedule"] = {"warm_up": 0, "warm_up_from": 0.0, **schedule}
    if clipping is not None:
        value["clipping"] = {"value": 0.0, "row_norm": 0.0, "push_norm": 0.0, **clipping}
    return json.dumps(value)


class PullCall:
    """Rows that are under way."""

    def __init__(self, table, pull, rows):
        self._table, self._pull, self._rows = table, pull, rows

    def done(self):
        return self._pull.done()

    def result(self, timeout=None):
        """float32 [keys, dim]."""
        self.versions = self._pull.result(timeout)
        self._table._versions = self.versions
        return self._rows

    def __await__(self):
        return asyncio.get_running_loop().run_in_executor(None, self.result).__await__()


class PushCall:
    """Gradients that are under way."""

    def __init__(self, push):
        self._push = push

    def done(self):
        return self._push.done()

    def result(self, timeout=None):
        """A dict: staleness, applied, dropped."""
        return dict(zip(("staleness", "applied", "dropped"), self._push.result(timeout)))

    def __await__(self):
        return asyncio.get_running_loop().run_in_executor(None, self.result).__await__()


class Table:
    """One worker's access to a table; made if it is not there yet.

        table = troupe.Table(node, troupe.table_spec("words", 64, optimizer="adagrad"), ["ps-0", "ps-1"])
        rows = table.pull(keys)                 # float32 [keys, dim]
        table.push(keys, gradients)             # one step of the optimizer, where the rows are

    Keys are arrays of integers of any shape; rows have that shape and one axis more. Any thread may use it.
    """

    def __init__(self, node, spec, servers, *, timeout=None, worker=0):
        self._table = _troupe.Table.open(node._node, spec, list(servers), timeout, worker)
        self.dim = self._table.dim
        self._versions = None

    def _keys(self, keys):
        import numpy

        array = numpy.asarray(keys)
        if array.dtype.kind not in "iu" and array.size:
            raise TypeError(f"keys are integers, not {array.dtype}")
        if array.dtype != numpy.uint64:
            array = array.astype(numpy.int64, copy=False, order="C").view(numpy.uint64)
        return array if array.flags.c_contiguous else array.copy()

    def pull_async(self, keys, *, peek=False):
        """Begins a pull; its result() or what it is awaited for are the rows."""
        import numpy

        keys = self._keys(keys)
        rows = numpy.empty(keys.shape + (self.dim,), numpy.float32)
        return PullCall(self, self._table.pull(keys, rows, peek), rows)

    def pull(self, keys):
        """The rows as they are; those of an embedding table that are not there yet are made."""
        return self.pull_async(keys).result()

    def peek(self, keys):
        """As pull(), but makes no rows and waits for nobody: for evaluation."""
        call = self.pull_async(keys, peek=True)
        call._pull.result()
        return call._rows

    def push_async(self, keys, gradients, *, versions=None, samples=1):
        """Begins a step. The gradients have been copied when this returns."""
        import numpy

        keys = self._keys(keys)
        gradients = numpy.ascontiguousarray(gradients, numpy.float32)
        if gradients.shape != keys.shape + (self.dim,):
            raise ValueError(f"the gradients are to be {list(keys.shape + (self.dim,))}, not {list(gradients.shape)}")
        return PushCall(self._table.push(keys, gradients, versions or self._versions, samples))

    def push(self, keys, gradients, *, versions=None, samples=1):
        """One step of the optimizer with these gradients; those of a key that comes more than once are added.
        `versions`, of a PullCall: of what they were made from, if it was not this object's last pull."""
        return self.push_async(keys, gradients, versions=versions, samples=samples).result()

    @property
    def clock(self):
        """Batches that this worker has finished, for tables of bounded staleness."""
        return self._table.clock

    @clock.setter
    def clock(self, clock):
        self._table.clock = clock

    @property
    def spec(self):
        return json.loads(self._table.spec)

    def prefetch(self, batches, ahead=2):
        """For each batch of keys: (keys, rows), pulled while the ones before it are worked on."""
        return _prefetch(self, iter(batches), ahead)

    def close(self):
        """Leaves the table: this worker holds nobody back."""
        self._table.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _prefetch(table, batches, ahead):
    waiting = []
    for keys in batches:
        waiting.append((keys, table.pull_async(keys)))
        if len(waiting) > ahead:
            oldest, call = waiting.pop(0)
            yield oldest, call.result()
    for oldest, call in waiting:
        yield oldest, call.result()


class _Batches:
    """Hands numbers of batches out to workers on demand."""

    def __init__(self, count, epochs):
        self._count, self._epochs = count, epochs
        self._next = 0
        self._given = {}
        self._again = []

    def size(self) -> int:
        return self._count

    def take(self, worker: str) -> object:
        if self._again:
            given = self._again.pop(0)
        elif self._next < self._count * self._epochs:
            given = self._next
            self._next += 1
        else:
            return None if not any(self._given.values()) else -1  # others may die yet
        self._given.setdefault(worker, []).append(given)
        return given

    def done(self, worker: str, number: int) -> None:
        if number in self._given.get(worker, ()):
            self._given[worker].remove(number)

    def lost(self, worker: str) -> None:
        self._again.extend(self._given.pop(worker, []))


def hand_out_batches(node, name, count, epochs=1):
    """Makes the actor that hands out the numbers of `count` batches an epoch."""
    return node.spawn(name, _Batches(count, epochs))


class Batches:
    """The batches that this worker is to work on, whichever others there are: (epoch, index) pairs. One that a worker
    has taken and not finished when it dies is given to another, once somebody says so with lost()."""

    def __init__(self, node, name, patience=0.05):
        self._node, self._name, self._patience = node, name, patience
        self._actor = functools.partial(node.call, name)

    def __iter__(self):
        import time

        self._node.wait_for_actor(self._name)
        count = self._actor("size")
        while True:
            number = self._actor("take", self._node.name)
            if number is None:
                return
            if number < 0:
                time.sleep(self._patience)
                continue
            yield divmod(number, count)
            self._actor("done", self._node.name, number)
