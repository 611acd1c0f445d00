"""From annotations to the types that travel."""
import dataclasses
import enum
import functools
import inspect
import sys
import typing

from . import _troupe
from ._troupe import Signature, Tensor, make_type

try:
    from types import UnionType
except ImportError:  # before Python 3.10
    UnionType = None

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_REALS = ("float32", "float64")


@dataclasses.dataclass(frozen=True)
class Width:
    """In Annotated[int, Width("int32")]: the C++ type of a number."""

    name: str


int8, int16, int32, int64 = (typing.Annotated[int, Width(name)] for name in _INTEGERS[:4])
uint8, uint16, uint32, uint64 = (typing.Annotated[int, Width(name)] for name in _INTEGERS[4:])
float32, float64 = (typing.Annotated[float, Width(name)] for name in _REALS)


@dataclasses.dataclass(frozen=True)
class TensorOf:
    """In annotations: Annotated[numpy.ndarray, TensorOf("float32", 1)], or by itself: an array of this dtype and, if
    that is said, of so many axes. Others are refused before the method sees them."""

    dtype: str
    rank: int = -1


_natural = make_type("natural")


def _parts(annotations):
    return [type_of(each) for each in annotations]


def _torch_tensor(tensor):
    import torch

    return torch.from_dlpack(tensor.clone() if tensor.read_only else tensor)


def _class_type(cls):
    if cls is bool:
        return make_type("bool")
    if cls is int:
        return make_type("integer", "int64")
    if cls is float:
        return make_type("real", "float64")
    if cls is str:
        return make_type("string")
    if cls in (bytes, bytearray):
        return make_type("bytes")
    if cls is type(None):
        return make_type("void")
    if cls is object:
        return make_type("python")
    if cls is Tensor:
        return make_type("tensor", make=_same)
    if cls in (list, tuple, dict):
        return _natural
    if issubclass(cls, enum.Enum):
        return make_type("enum", "int32", make=cls)
    if dataclasses.is_dataclass(cls):
        hints = typing.get_type_hints(cls, include_extras=True)
        fields = [field.name for field in dataclasses.fields(cls)]
        return make_type("struct", name=getattr(cls, "__troupe_name__", cls.__name__), fields=fields,
                         parts=_parts(hints[name] for name in fields), make=cls)
    module = cls.__module__.split(".")[0]
    if module == "numpy" and cls.__name__ == "ndarray":
        return make_type("tensor")
    if module == "torch" and cls.__name__ in ("Tensor", "Parameter"):
        return make_type("tensor", make=_torch_tensor)
    if module == "numpy" and cls.__name__ in _INTEGERS + _REALS:
        return _number(cls.__name__)
    raise TypeError(f"{cls.__module__}.{cls.__qualname__} is no type that travels: `object` lets any through")


def _same(tensor):
    return tensor


def _number(name):
    return make_type("integer" if name in _INTEGERS else "real", name)


def _annotated(annotation):
    plain, *notes = typing.get_args(annotation)
    for note in notes:
        if isinstance(note, Width):
            return _number(note.name)
        if isinstance(note, TensorOf):
            make = _torch_tensor if getattr(plain, "__module__", "").startswith("torch") else None
            return make_type("tensor_of", note.dtype, note.rank, make=make)
    return type_of(plain)


def _array_type(arguments):
    """Of numpy.typing.NDArray[numpy.float32]."""
    if len(arguments) == 2:
        for scalar in typing.get_args(arguments[1]):
            name = getattr(scalar, "__name__", "")
            if name in _INTEGERS + _REALS + ("float16",):
                return make_type("tensor_of", name)
    return make_type("tensor")


@functools.lru_cache(maxsize=4096)
def type_of(annotation):
    """The Type of an annotation. TypeError: it says nothing that travels."""
    if annotation is inspect.Parameter.empty:
        return _natural
    if annotation is None:
        return make_type("void")
    if annotation is typing.Any:
        return make_type("python")
    if isinstance(annotation, TensorOf):
        return make_type("tensor_of", annotation.dtype, annotation.rank)
    if isinstance(annotation, _troupe.Type):
        return annotation
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is typing.Annotated:
        return _annotated(annotation)
    if origin is list:
        return make_type("list", parts=_parts(arguments))
    if origin is tuple:
        if Ellipsis in arguments:
            return make_type("list", parts=_parts(arguments[:1]))
        return make_type("tuple", parts=_parts(arguments))
    if origin is dict:
        return make_type("map", parts=_parts(arguments))
    if origin is typing.Union or (UnionType is not None and origin is UnionType):
        others = [each for each in arguments if each is not type(None)]
        if len(others) == 1 and len(arguments) == 2:
            return make_type("optional", parts=_parts(others))
        raise TypeError(f"{annotation} is no type that travels: of unions only those with None do")
    if origin is not None:
        if getattr(origin, "__name__", "") == "ndarray":
            return _array_type(arguments)
        raise TypeError(f"{annotation} is no type that travels: `object` lets any through")
    if isinstance(annotation, type):
        return _class_type(annotation)
    raise TypeError(f"{annotation!r} is no type that travels")


def signature_of(function, name=None, skip_self=True):
    """What a method takes and returns, by its annotations; what has none is not checked."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(f"{function.__qualname__}: an annotation names what is not there: {error}") from None
    parameters = list(inspect.signature(function).parameters.values())
    if skip_self:
        parameters = parameters[1:]
    for each in parameters:
        if each.kind not in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD):
            raise TypeError(f"{function.__qualname__}: arguments travel by their place; {each.name!r} cannot")
    empty = inspect.Parameter.empty
    types = [type_of(hints.get(each.name, empty)) for each in parameters]
    return Signature(name or function.__name__, types, type_of(hints["return"] if "return" in hints else empty))


if sys.version_info < (3, 9):
    raise ImportError("troupe needs Python 3.9")
