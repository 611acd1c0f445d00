"""Calls in event loops of asyncio's. A loop polls the descriptor of a queue in which answers arrive: so what follows an
answer runs in the loop's own thread, and no thread of the loop's is lent to a node."""
import asyncio
import os
import threading
import weakref

from . import _troupe

_AT_ONCE = 256  # answers; then others in the event loop have their turn
_readers = weakref.WeakKeyDictionary()
_background = None
_lock = threading.Lock()


def is_running():
    return asyncio._get_running_loop() is not None


class _Reader:
    def __init__(self, loop):
        self._loop = weakref.ref(loop)
        self._queue = _troupe.Queue()
        self._types = {}
        self._waiting = {}
        self._next = 0
        loop.add_reader(self._queue.fileno(), self._drain)

    def wait(self, call):
        future = self._loop().create_future()
        tag = self._next
        self._next += 1
        self._types[tag] = call._type
        self._waiting[tag] = future

        def cancelled(ended):
            if ended.cancelled() and self._waiting.pop(tag, None) is not None:
                call.cancel()

        future.add_done_callback(cancelled)
        try:
            self._queue.watch(call, tag)
        except BaseException:
            self._waiting.pop(tag), self._types.pop(tag)
            raise
        return future

    def _drain(self):
        for _ in range(_AT_ONCE):
            done = self._queue.pop(self._types)
            if done is None:
                return
            tag, value, error = done
            del self._types[tag]
            future = self._waiting.pop(tag, None)
            if future is None or future.done():
                continue
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)


def wait(call):
    """A future of the running event loop."""
    loop = asyncio.get_running_loop()
    reader = _readers.get(loop)
    if reader is None:
        reader = _readers[loop] = _Reader(loop)
    return reader.wait(call)


def loop_for_handlers():
    """Where coroutine methods run: the event loop that runs where the actor is made, else one on a thread of its
    own."""
    running = asyncio._get_running_loop()
    if running is not None:
        return running
    global _background
    with _lock:
        if _background is None or _background.is_closed():
            _background = asyncio.new_event_loop()
            threading.Thread(target=_background.run_forever, name="troupe-handlers", daemon=True).start()
    return _background


def _after_fork():
    """Event loops and their threads are the parent's."""
    global _background, _lock, _readers
    _background = None
    _lock = threading.Lock()
    _readers = weakref.WeakKeyDictionary()


os.register_at_fork(after_in_child=_after_fork)
