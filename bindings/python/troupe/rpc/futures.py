"""Values that are still to come, as torch.futures has them."""
import os
import select
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

from .. import _troupe

_PENDING = object()


def _as_runtime_error(error):
    """What a callback raises is a RuntimeError, as in torch, and of its own class, too."""
    cls = type(error)
    if isinstance(error, RuntimeError):
        return error
    try:
        made = type(cls.__name__, (cls, RuntimeError), {})(*error.args)
    except TypeError:
        made = RuntimeError(f"{cls.__name__}: {error}")
    return made.with_traceback(error.__traceback__)


class Future:
    """The answer of a call, or what set_result() is given. Any thread."""

    def __init__(self, call=None):
        self._call = call
        self._settled = threading.Condition()
        self._value = _PENDING
        self._error = None
        self._callbacks = []
        self._taken = call is None  # somebody waits for the call already: a thread in wait(), or the watcher

    def __reduce__(self):
        raise RuntimeError("Can not pickle torch.futures.Future: a value that is still to come does not travel")

    def done(self):
        return self._value is not _PENDING or (not self._taken and self._call.done())

    def wait(self):
        """The value; raises what the callee raised."""
        while self._value is _PENDING:
            with self._settled:
                mine, self._taken = not self._taken, True
                if not mine:
                    self._settled.wait_for(lambda: self._value is not _PENDING, 0.05)  # and Ctrl-C is looked at
                    continue
            try:
                self._settle(self._call.result(), None)
            except KeyboardInterrupt:
                self._taken = False
                raise
            except Exception as error:
                self._settle(None, error)
        if self._error is not None:
            raise self._error
        return self._value

    def value(self):
        """Of a future that is done()."""
        if not self.done():
            raise RuntimeError("value() of a future that is not done")
        return self.wait()

    def then(self, callback):
        """The future of callback(this), which is called once this is done, on whatever thread knows it first."""
        if not callable(callback):
            raise TypeError("incompatible function arguments.: then() takes what can be called with the future")
        after = Future()

        def run(done):
            try:
                after.set_result(callback(done))
            except Exception as error:
                after.set_exception(_as_runtime_error(error))

        self.add_done_callback(run)
        return after

    def add_done_callback(self, callback):
        with self._settled:
            if self._value is _PENDING:
                self._callbacks.append(callback)
                watch, self._taken = not self._taken, True
            else:
                watch = None
        if watch is None:
            callback(self)
        elif watch:
            _watch(self)

    def set_result(self, result):
        self._settle(result, None)

    def set_exception(self, error):
        self._settle(None, error)

    def _settle(self, value, error):
        with self._settled:
            if self._value is not _PENDING:
                raise RuntimeError("Future can only be marked completed once")
            self._error = error
            self._value = value
            callbacks, self._callbacks = self._callbacks, []
            self._settled.notify_all()
        for each in callbacks:
            each(self)


def wait_all(futures):
    """Their values, in order; raises the first error."""
    return [each.wait() for each in futures]


def collect_all(futures):
    """A future of the list, ready when all of them are."""
    futures = list(futures)
    all_done = Future()
    left = [len(futures)]
    lock = threading.Lock()

    def count(_):
        with lock:
            left[0] -= 1
            last = left[0] == 0
        if last:
            all_done.set_result(futures)

    if not futures:
        all_done.set_result(futures)
    for each in futures:
        each.add_done_callback(count)
    return all_done


class _Watcher:
    """A thread that is told of answers for which nobody waits."""

    def __init__(self):
        self._queue = _troupe.Queue()
        self._types = {}
        self._futures = {}
        self._next = 0
        self._lock = threading.Lock()
        self._callbacks = ThreadPoolExecutor(64, thread_name_prefix="troupe-callbacks")
        threading.Thread(target=self._run, name="troupe-futures", daemon=True).start()

    def watch(self, future):
        with self._lock:
            tag = self._next
            self._next += 1
            self._types[tag] = future._call._type
            self._futures[tag] = future
        self._queue.watch(future._call, tag)

    def _run(self):
        poll = select.poll()
        poll.register(self._queue.fileno(), select.POLLIN)
        while True:
            poll.poll()
            try:
                done = self._queue.pop(self._types)
            except Exception:  # the thread is everybody's
                traceback.print_exc()
                continue
            if done is None:
                continue
            tag, value, error = done
            with self._lock:
                del self._types[tag]
                future = self._futures.pop(tag)
            if future._callbacks:
                self._callbacks.submit(_settle, future, value, error)  # they may wait for others that come this way
            else:
                _settle(future, value, error)


def _settle(future, value, error):
    try:
        future._settle(value, error)
    except Exception:  # of a callback: nobody is there to be told
        traceback.print_exc()


_watcher = None
_watcher_lock = threading.Lock()


def _watch(future):
    global _watcher
    with _watcher_lock:
        if _watcher is None:
            _watcher = _Watcher()
    _watcher.watch(future)


def _after_fork():
    """The watcher's thread is the parent's."""
    global _watcher, _watcher_lock
    _watcher = None
    _watcher_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
