"""calls.py [--calls N]: what calls between two Python processes of this machine take; a JSON line for each kind. Beside
them torch.distributed.rpc, where PyTorch is installed. To be run where the package is: see scripts/python_wheel.sh.

Each kind is measured in rounds, in turn with the others, so that what else the machine does meets all of them."""
import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time

import numpy

import troupe
from troupe import rpc as our_rpc

try:
    import torch
    from torch.distributed import rpc as torch_rpc
except ImportError:
    torch = torch_rpc = None

SMALL = b"x" * 64
LARGE = 4 << 20  # float32: 16 MiB


@troupe.actor
class Echo:
    def bytes(self, data: bytes) -> bytes:
        return data

    def array(self, array: numpy.ndarray) -> numpy.ndarray:
        return array


def same(value):
    return value


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def begin_torch(rank, port):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TP_SOCKET_IFNAME="lo", GLOO_SOCKET_IFNAME="lo")
    torch_rpc.init_rpc(f"torch{rank}", rank=rank, world_size=2)


def begin_ours(rank, port):
    options = our_rpc.RpcBackendOptions(init_method=f"tcp://127.0.0.1:{port}")
    our_rpc.init_rpc(f"ours{rank}", rank=rank, world_size=2, rpc_backend_options=options)


def callee(address, our_port, torch_port):
    with troupe.Node("callee", registry=address) as node:
        begin_ours(1, our_port)
        if torch_rpc is not None:
            begin_torch(1, torch_port)
        node.spawn("echo", Echo())
        try:
            node.run()
        except troupe.Unavailable:
            pass
        if torch_rpc is not None:
            torch_rpc.shutdown()
        our_rpc.shutdown()


def measure(kinds, calls, rounds):
    """Seconds of each call, by kind."""
    times = {name: [] for name, _ in kinds}
    for each in kinds:
        each[1]()
    for _ in range(rounds):
        for name, call in kinds:
            for _ in range(calls // rounds):
                begun = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - begun)
    return times


def report(times, **more):
    for name, taken in times.items():
        taken.sort()
        print(json.dumps({"bench": "python_call", "call": name, "median_us": round(1e6 * statistics.median(taken), 2),
                          "p99_us": round(1e6 * taken[int(0.99 * (len(taken) - 1))], 2), "calls": len(taken), **more}))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10000)
    parser.add_argument("--callee", nargs=3)
    arguments = parser.parse_args()
    if arguments.callee:
        return callee(arguments.callee[0], *map(int, arguments.callee[1:]))
    with troupe.Node("caller") as node:
        our_port, torch_port = free_port(), free_port()
        process = subprocess.Popen([sys.executable, __file__, "--callee", node.address, str(our_port), str(torch_port)])
        begin_ours(0, our_port)
        if torch_rpc is not None:
            begin_torch(0, torch_port)
        node.wait_for_actor("echo", 30)
        echo = node.actor("echo", Echo)
        array = numpy.ones(LARGE, numpy.float32)
        shared = node.shared_tensor([LARGE])
        numpy.asarray(shared)[:] = 1
        small = [("actor, by name", lambda: node.call("echo", "bytes", SMALL)), ("actor", lambda: echo.bytes(SMALL)),
                 ("troupe.rpc", lambda: our_rpc.rpc_sync("ours1", same, args=(SMALL,)))]
        large = [("actor", lambda: echo.array(array)), ("actor, shared tensor", lambda: echo.array(shared)),
                 ("troupe.rpc", lambda: our_rpc.rpc_sync("ours1", same, args=(array,)))]
        if torch_rpc is not None:
            tensor = torch.from_numpy(array)
            small.append(("torch.distributed.rpc", lambda: torch_rpc.rpc_sync("torch1", same, args=(SMALL,))))
            large.append(("torch.distributed.rpc", lambda: torch_rpc.rpc_sync("torch1", same, args=(tensor,))))
        report(measure(small, arguments.calls, 10), bytes=64)
        report(measure(large, 40, 4), bytes=4 * LARGE)
        node.close()
        if torch_rpc is not None:
            torch_rpc.shutdown()
        our_rpc.shutdown()
        process.wait(30)


if __name__ == "__main__":
    main()
