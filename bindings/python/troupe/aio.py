"""Nodes for programs that run in an event loop:

    async with await troupe.aio.start("alice") as node:
        print(await node.call("adder", "add", 1, 2))
"""
import asyncio
import functools

from . import node as _node
from .actor import ActorRef


class Node(_node.Node):
    """As troupe.Node, but what would wait is awaited. Handlers that are coroutines run in the event loop in which
    spawn() was awaited."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        del self.call

    def call(self, actor, method, *args, **options):
        return self._node._start_call(actor, method, *args, help=False, **options)

    call_async = call

    def actor(self, name, interface=None):
        return ActorRef(self._node, name, interface, asynchronous=True)

    async def spawn(self, name, actor):
        from .actor import Functions, entries_of

        entries = actor._entries if isinstance(actor, Functions) else entries_of(actor)
        await _aside(self._node._spawn, name, actor, entries)
        return actor

    async def wait_for_actor(self, name, timeout=None):
        await _aside(self._node.wait_for_actor, name, timeout)

    async def wait_for_role(self, role, count, timeout=None):
        return await _aside(self._node.wait_for_role, role, count, timeout)

    async def barrier(self, name, participants, timeout=None):
        await _aside(self._node.barrier, name, list(participants), timeout)

    async def leave(self, drain_time=None):
        await _aside(super().leave, drain_time)

    async def aclose(self):
        await _aside(self.close)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.aclose()


async def _aside(function, *args, **kwargs):
    return await asyncio.get_running_loop().run_in_executor(None, functools.partial(function, *args, **kwargs))


async def start(*args, **kwargs):
    """A Node; the arguments are those of troupe.Node."""
    return await _aside(Node, *args, **kwargs)
