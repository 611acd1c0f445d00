"""What Python does for the extension module."""
import pickle as _pickle
import re
import sys
import traceback

from . import _troupe, _types
from ._troupe import Tensor  # noqa: F401
from .errors import Code, Error, InvalidArgument, make_error

_MAX_TRACEBACK = 4096
_pickles = False
_extensions = {}  # by class: (name, to_payload)
_makers = {}  # by name: from_payload


def allow_pickle(allowed):
    """Whether objects of any class may be sent and taken, by pickle: whoever may call then may run any code here."""
    global _pickles
    _pickles = bool(allowed)


def register_extension(cls, name, to_payload, from_payload):
    """Objects of `cls` travel, where the annotation is `object`, as what to_payload makes of them."""
    _extensions[cls] = (name, to_payload)
    _makers[name] = from_payload


def _to_array(tensor):
    try:
        import numpy
    except ImportError:
        _troupe.set_hooks({"to_array": lambda same: same})
        return tensor
    _troupe.set_hooks({"to_array": numpy.asarray})
    return numpy.asarray(tensor)


def _plain(value):
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        return value.item()
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if hasattr(value, "__index__"):
        return value.__index__()
    if hasattr(value, "__float__"):
        return float(value)
    raise TypeError(f"a {type(value).__name__} cannot be sent: name its type in the method's signature")


def _dumps(value):
    if not _pickles:
        raise TypeError(
            f"a {type(value).__name__} cannot be sent as it is; pickle could, which lets whoever may call run any "
            "code here: troupe.allow_pickle(True) at both ends, if that is wanted"
        )
    return _pickle.dumps(value, protocol=5)


def _loads(data):
    if not _pickles:
        raise InvalidArgument(
            "a pickled object came, and pickle is not allowed here, since it runs code: troupe.allow_pickle(True)"
        )
    return _pickle.loads(data)


def pickle_allowed():
    return _pickles


def _scalar_payload(number):
    if number.dtype.kind not in "biufc":
        raise TypeError(f"a {type(number).__name__} cannot be sent")
    return [number.dtype.str, number.tobytes()]


def _make_scalar(payload):
    import numpy

    name, data = payload
    if not isinstance(name, str) or not _SCALAR.fullmatch(name) or not isinstance(data, bytes):
        raise InvalidArgument("a malformed number came")
    dtype = numpy.dtype(name)
    if len(data) != dtype.itemsize:
        raise InvalidArgument("a malformed number came")
    return numpy.frombuffer(data, dtype)[0]


_SCALAR = re.compile(r"[<>|][biufc]\d{1,2}")


def register_maker(name, from_payload):
    _makers[name] = from_payload


def unregister(names):
    """Nothing of these names is sent or taken any more."""
    for name in names:
        _makers.pop(name, None)
    for cls in [each for each, (name, _) in _extensions.items() if name in names]:
        del _extensions[cls]


def set_fallback(function):
    """What is asked for objects of classes that are not registered: (name, payload), or None."""
    global _fallback
    _fallback = function


_fallback = None


def _extension(value):
    found = _extensions.get(type(value))
    if found is not None:
        return found[0], found[1](value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        return "numpy", _scalar_payload(value)
    return None if _fallback is None else _fallback(value)


def _extended(name, payload):
    if name == "numpy":
        return _make_scalar(payload)
    make = _makers.get(name)
    if make is None:
        raise InvalidArgument(f"an object of the class {name!r} came, which is not known here")
    return make(payload)


def _describe(exception):
    code, *texts = _described(exception)
    return (code, *(each.encode("utf-8", "backslashreplace").decode() for each in texts))


def _described(exception):
    cls = type(exception)
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    text = "".join(traceback.format_exception(cls, exception, exception.__traceback__))
    if isinstance(exception, Error):
        return int(exception.code), exception.message, exception.exception, exception.cause, exception.node
    return int(Code.INTERNAL), f"the handler raised {cls.__name__}: {exception}", name, text[-_MAX_TRACEBACK:], ""


def install():
    _troupe.set_hooks(
        {
            "to_array": _to_array,
            "plain": _plain,
            "pickle": _dumps,
            "unpickle": _loads,
            "extension": _extension,
            "extended": _extended,
            "error": make_error,
            "describe": _describe,
            "type_of": _types.type_of,
        }
    )
