"""Functions, classes and plain objects by reference: module and name, found again where they are wanted."""
import collections
import dataclasses
import enum
import functools
import importlib
import sys
import types

from .. import _hooks
from ..errors import InvalidArgument, PermissionDenied

_allowed = None  # prefixes of modules; None: all


def allow(modules):
    """From which modules others may name functions and classes: names of modules, and of packages with all that is in
    them. None: from all."""
    global _allowed
    _allowed = None if modules is None else tuple(modules)


def name_of(value):
    """"module:name". TypeError: nobody else could find it."""
    if isinstance(value, types.MethodType) and isinstance(value.__self__, type):
        return f"{value.__self__.__module__}:{value.__self__.__qualname__}.{value.__name__}"
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if name is None:
        raise TypeError(f"{value!r} is not a function or class")
    owner = getattr(value, "__module__", None) or getattr(getattr(value, "__objclass__", None), "__module__", None)
    for module in (owner, "builtins"):
        if module is not None and _is(_find(module, name, import_it=False), value):
            return f"{module}:{name}"
    if not isinstance(value, types.FunctionType):
        found = _search(value, name.split(".")[-1])
        if found is not None:
            return found
    raise TypeError(f"{owner}.{name} is not to be found by its name: functions travel by reference, and those made inside "
                    "of others, and lambdas, have no name that others know")


def _is(found, value):
    """What is in a class's place may be another object each time, as methods are."""
    return found is value or (found is not None and found == value) or (
        getattr(found, "__wrapped__", None) is not None and found.__wrapped__ is value)


@functools.lru_cache(maxsize=4096)
def _search(value, name):
    """Functions of extension modules often do not know where they are."""
    for module, found in list(sys.modules.items()):
        if found is not None and module not in ("__main__", "__mp_main__"):
            try:
                if found.__dict__.get(name) is value:
                    return f"{module}:{name}"
                if module == "torch" and getattr(found.Tensor, name, None) is value:
                    return f"torch:Tensor.{name}"
            except AttributeError:
                continue
    return None


def _require_allowed(reference, found):
    """That it is of a module that others may name, and not only to be reached from there."""
    module, _, name = reference.partition(":")
    own = getattr(found, "__module__", None) or getattr(getattr(found, "__objclass__", None), "__module__", None) or module
    if isinstance(found, types.ModuleType) or any(part.startswith("__") for part in name.split(".")):
        raise PermissionDenied(f"{reference!r} is not for others to call")
    if _allowed is None or reference == "troupe.rpc.rref:call_method":
        return
    for each in (module, own):
        if not any(each == one or each.startswith(one + ".") for one in _allowed):
            raise PermissionDenied(f"{reference!r} is not for others to call: it is of the module {each!r}")


def _find(module, name, import_it):
    if module in ("__main__", "__mp_main__"):
        found = sys.modules.get(module) or sys.modules.get("__main__")
    else:
        found = sys.modules.get(module)
        if found is None and import_it:
            found = importlib.import_module(module)
    try:
        return functools.reduce(getattr, name.split("."), found) if found is not None else None
    except AttributeError:
        return None


@functools.lru_cache(maxsize=4096)
def _known(reference):
    module, _, name = reference.partition(":")
    found = _find(module, name, import_it=True)
    if found is None:
        raise InvalidArgument(f"{reference!r} is not to be found here")
    return found


def resolve(reference):
    module = reference.partition(":")[0]
    if _allowed is not None and reference != "troupe.rpc.rref:call_method" and not any(
            module == each or module.startswith(each + ".") for each in _allowed):
        raise PermissionDenied(f"functions of the module {module!r} are not for others to call")
    if module in ("__main__", "__mp_main__"):  # which may be another program's tomorrow
        found = _find(module, reference.partition(":")[2], import_it=False)
        if found is None:
            raise InvalidArgument(f"{reference!r} is not to be found here")
    else:
        found = _known(reference)
    _require_allowed(reference, found)
    return found


# ---- Objects -----------------------------------------------------------------------------------------


def _fallback(value):
    """For objects of classes that are not registered."""
    cls = type(value)
    if isinstance(value, type):
        return "reference", name_of(value)
    if isinstance(value, enum.Enum):
        return "enum", (name_of(cls), value.value)
    if isinstance(value, tuple) and hasattr(cls, "_fields"):
        return "namedtuple", (name_of(cls), list(value))
    if isinstance(value, tuple):
        return "tuple", list(value)  # torch.Size, for one
    if isinstance(value, types.MethodType):
        if isinstance(value.__self__, type):
            return "reference", name_of(value)
        return "method", [value.__self__, value.__name__]
    if callable(value) and getattr(value, "__name__", None):
        return "reference", name_of(value)  # a function of an extension module, as NumPy's are
    if dataclasses.is_dataclass(value):
        return "dataclass", (name_of(cls), {each.name: getattr(value, each.name) for each in dataclasses.fields(cls)})
    return None


def _make_enum(payload):
    cls = resolve(payload[0])
    if not (isinstance(cls, type) and issubclass(cls, enum.Enum)):
        raise InvalidArgument(f"{payload[0]!r} is no enum")
    return cls(payload[1])


def _make_namedtuple(payload):
    cls = resolve(payload[0])
    if not (isinstance(cls, type) and issubclass(cls, tuple)):
        raise InvalidArgument(f"{payload[0]!r} is no named tuple")
    return cls(*payload[1])


def _make_dataclass(payload):
    cls = resolve(payload[0])
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise InvalidArgument(f"{payload[0]!r} is no dataclass")
    made = cls.__new__(cls)
    for name, value in payload[1].items():
        object.__setattr__(made, name, value)
    return made


def _torch_payload(tensor):
    return [_hooks.Tensor.of(tensor), bool(tensor.requires_grad)]


def _make_torch(payload):
    import torch

    array, requires_grad = payload
    if isinstance(array, _hooks.Tensor):
        tensor = torch.from_dlpack(array.clone() if array.read_only else array)
    else:
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.requires_grad_() if requires_grad else tensor


def register_torch(torch):
    for cls in (torch.Tensor, torch.nn.Parameter):
        _hooks.register_extension(cls, "torch", _torch_payload, _make_torch)
    for cls in (torch.dtype, torch.device):
        _hooks.register_extension(cls, f"torch.{cls.__name__}", str, _torch_word(torch, cls))


def _torch_word(torch, cls):
    if cls is torch.device:
        return torch.device
    return lambda name: getattr(torch, name.removeprefix("torch."))


def register():
    for cls in (types.FunctionType, types.BuiltinFunctionType, types.MethodDescriptorType):
        _hooks.register_extension(cls, "reference", name_of, resolve)
    _hooks.register_extension(collections.OrderedDict, "OrderedDict", lambda value: [list(pair) for pair in value.items()],
                              lambda pairs: collections.OrderedDict(pairs))
    _hooks.register_extension(complex, "complex", lambda value: [value.real, value.imag], lambda parts: complex(*parts))
    for name, make in (("reference", resolve), ("enum", _make_enum), ("namedtuple", _make_namedtuple), ("tuple", tuple), ("method", lambda parts: getattr(*parts)),
                       ("dataclass", _make_dataclass), ("torch", _make_torch)):
        _hooks.register_maker(name, make)
    _hooks.set_fallback(_fallback)
    torch = sys.modules.get("torch")
    if torch is not None:
        register_torch(torch)


def unregister():
    """Where there is no group any more, nobody finds functions of this process by their names."""
    _hooks.set_fallback(None)
    _hooks.unregister({"RRef", "reference", "method", "enum", "namedtuple", "tuple", "dataclass", "OrderedDict", "complex",
                       "torch", "torch.dtype", "torch.device"})
