"""rpc_functions.py ADDRESS RANK WORLD_SIZE: a worker, with what tests call there."""
import dataclasses
import os
import sys
import threading
import time

from troupe import rpc


@dataclasses.dataclass
class Pair:
    left: object
    right: object


class Counter:
    def __init__(self, start=0):
        self.count = start

    def add(self, more=1):
        self.count += more
        return self.count

    def fail(self):
        raise ValueError("no such count")

    @staticmethod
    def pid():
        return os.getpid()

    @classmethod
    def name(cls):
        return cls.__name__

    @rpc.functions.async_execution
    def later(self, more):
        future = rpc.Future()
        threading.Timer(0.02, lambda: future.set_result(self.count + more)).start()
        return future


def add(a, b=1):
    return a + b


def fail(text):
    raise KeyError(text)


def sleep(seconds):
    time.sleep(seconds)
    return seconds


def pid():
    return os.getpid()


def same(value):
    return value


def count_at(rref, more):
    return rref.rpc_sync().add(more)


def value_here(rref):
    return rref.to_here().count


def make_counter(start):
    return rpc.RRef(Counter(start))


def call_back(to, value):
    return rpc.rpc_sync(to, add, args=(value, 1))


@rpc.functions.async_execution
def add_later(to, a, b):
    return rpc.rpc_async(to, add, args=(a, b)).then(lambda done: done.wait() + 100)


def owned_here():
    """Objects that others refer to."""
    return len(rpc.api.current()._owned)


def main():
    address, rank, world_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    options = rpc.TensorPipeRpcBackendOptions(num_worker_threads=8, rpc_timeout=60, init_method=f"tcp://{address}")
    rpc.init_rpc(f"worker{rank}", rank=rank, world_size=world_size, rpc_backend_options=options)
    rpc.shutdown()


if __name__ == "__main__":
    main()
