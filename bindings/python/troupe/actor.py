"""Actors: objects whose methods others call."""
import asyncio
import functools
import inspect
import typing

from . import _aio, _types
from .errors import InvalidArgument

_RUNS = ("loop", "pool", "beside")


def actor(cls=None, *, runs="loop"):
    """Of a class whose public methods can be called from other processes, in Python, C++ or C.

    Annotations say how arguments and results travel, and callers of other types are refused. What has no annotation
    is taken as it comes; what is annotated with `object` comes back in Python as it was.

    runs  where methods run that do not say it themselves (see method())
    """
    if cls is None:
        return functools.partial(actor, runs=runs)
    if runs not in _RUNS:
        raise ValueError(f"methods run on {', '.join(_RUNS)}; not on {runs!r}")
    cls.__troupe_runs__ = runs
    cls.__troupe_methods__ = _methods_of_class(cls)
    return cls


def method(function=None, *, runs):
    """Of a method: where it runs.

    "loop"    on the node's loop, one call after another: for what is short
    "pool"    on a thread of the node's pool; nothing else of its actor runs meanwhile
    "beside"  the same, but others of its actor may run at the same time: they lock what they share
    """
    if function is None:
        return functools.partial(method, runs=runs)
    if runs not in _RUNS:
        raise ValueError(f"methods run on {', '.join(_RUNS)}; not on {runs!r}")
    function.__troupe_runs__ = runs
    return function


def _methods_of_class(cls):
    """By name: (Signature, where it runs)."""
    methods = {}
    for name, function in inspect.getmembers(cls, inspect.isfunction):
        if name.startswith("_"):
            continue
        runs = getattr(function, "__troupe_runs__", getattr(cls, "__troupe_runs__", "loop"))
        methods[name] = (_types.signature_of(function), runs, inspect.iscoroutinefunction(function))
    return methods


def methods_of(cls):
    own = cls.__dict__.get("__troupe_methods__")
    return _methods_of_class(cls) if own is None else own


def entries_of(obj):
    """What a node's table of methods is made of."""
    entries = []
    for name, (signature, runs, is_async) in methods_of(type(obj)).items():
        function = getattr(obj, name)
        if is_async:
            entries.append((signature, _later(function, _aio.loop_for_handlers()), "later"))
        else:
            entries.append((signature, function, runs))
    return entries


def _later(function, loop):
    """A coroutine method runs in an event loop of asyncio's, and is answered when it is done."""

    tasks = set()

    def finish(task, answer):
        if task.cancelled():
            answer.set_exception(asyncio.CancelledError("the handler's task was cancelled"))
        elif task.exception() is not None:
            answer.set_exception(task.exception())
        else:
            answer.set_result(task.result())

    def begin(answer, *args):
        def run():
            task = loop.create_task(function(*args))
            tasks.add(task)  # the loop itself would not keep it
            task.add_done_callback(tasks.discard)
            task.add_done_callback(functools.partial(finish, answer=answer))

        loop.call_soon_threadsafe(run)

    return begin


class BoundMethod:
    """A method of an actor somewhere."""

    __slots__ = ("_ref", "_name", "_signature")

    def __init__(self, ref, name, signature):
        self._ref, self._name, self._signature = ref, name, signature

    def __call__(self, *args, **options):
        """Calls it; waits for the answer. timeout, metadata, attempts: as Node.call()."""
        ref = self._ref
        if ref._asynchronous:
            return self.call_async(*args, **options)
        if self._signature is None:
            return ref._node.call(ref._name, self._name, *args, **options)
        return ref._node._call_typed(ref._name, self._signature, args, **options)

    def call_async(self, *args, **options):
        """Begins a call, whose answer is awaited, or waited for with result()."""
        ref = self._ref
        options.setdefault("help", not (ref._asynchronous or _aio.is_running()))
        if self._signature is None:
            return ref._node._start_call(ref._name, self._name, *args, **options)
        return ref._node._start_typed(ref._name, self._signature, args, **options)

    def __repr__(self):
        types = "" if self._signature is None else self._signature.text
        return f"<method {self._ref._name}.{self._name}{types}>"


class ActorRef:
    """A named actor somewhere. Its methods are called as those of an object; with the class that says what they
    take and return the types are compared with the actor's own."""

    __slots__ = ("_node", "_name", "_methods", "_asynchronous", "_bound")

    def __init__(self, node, name, interface=None, asynchronous=False):
        self._node, self._name, self._asynchronous = node, name, asynchronous
        self._methods = None if interface is None else methods_of(interface)
        self._bound = {}

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        bound = self._bound.get(name)
        if bound is None:
            signature = None
            if self._methods is not None:
                if name not in self._methods:
                    raise AttributeError(f"{self._name!r} has no method {name!r}; it has {', '.join(self._methods)}")
                signature = self._methods[name][0]
            bound = self._bound[name] = BoundMethod(self, name, signature)
        return bound

    def __repr__(self):
        return f"<actor {self._name!r}>"


class Functions:
    """Functions without an object, as a named actor: functions.add(f), node.spawn("name", functions)."""

    def __init__(self, *functions):
        self._entries = []
        for each in functions:
            self.add(each)

    def add(self, function: typing.Callable, name=None, runs="loop"):
        if runs not in _RUNS:
            raise InvalidArgument(f"functions run on {', '.join(_RUNS)}; not on {runs!r}")
        signature = _types.signature_of(function, name, skip_self=False)
        if inspect.iscoroutinefunction(function):
            self._entries.append((signature, _later(function, _aio.loop_for_handlers()), "later"))
        else:
            self._entries.append((signature, function, runs))
        return function
