"""peer.py REGISTRY NAME: a process whose actors tests call, until the first node goes."""
import os
import sys
import time

import numpy

import troupe


@troupe.actor
class Echo:
    def __init__(self, node):
        self.node = node

    def bytes(self, data: bytes) -> bytes:
        return data

    def array(self, array: numpy.ndarray) -> numpy.ndarray:
        return array

    def total(self, array: numpy.ndarray) -> float:
        return float(array.sum())

    def anything(self, value: object) -> object:
        return value

    def pid(self) -> int:
        return os.getpid()

    def fail(self, text: str):
        raise KeyError(text)

    def ask(self, actor: str, method: str, value: int) -> int:
        return self.node.call(actor, method, value)

    @troupe.method(runs="beside")
    def sleep(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    def die(self):
        os._exit(3)

    async def later(self, value: int) -> int:
        import asyncio

        await asyncio.sleep(0.01)
        return value + 1


def main():
    registry, name = sys.argv[1:]
    with troupe.Node(name, registry=registry, pool_threads=8) as node:
        node.spawn(f"{name}.echo", Echo(node))
        try:
            node.run()
        except troupe.Unavailable:
            pass


if __name__ == "__main__":
    main()
