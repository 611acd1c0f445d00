"""The exceptions of troupe: one class for each code, which is what the caller should do about it."""
import builtins
import enum


class Code(enum.IntEnum):
    """The codes of errors, as they go over the wire; see docs/failure-contract.md."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Error(RuntimeError):
    """What a call ends with in place of a value.

    code       what the caller should do about it
    message    what happened
    node       the node where it happened; empty: here
    exception  the type of the exception that a handler raised; empty: it was none
    cause      what led to it; of a handler in Python its traceback
    trace_id   joins it to logs and traces; 0: none
    """

    code = Code.UNKNOWN

    def __init__(self, message="", *, node="", exception="", cause="", trace_id=0):
        super().__init__(message)
        self.message = message
        self.node = node
        self.exception = exception
        self.cause = cause
        self.trace_id = trace_id

    def __str__(self):
        return f"{self.message} (at {self.node})" if self.node else self.message


class Cancelled(Error):
    """Nobody wants the answer any more, or the node has shut down."""

    code = Code.CANCELLED


class InvalidArgument(Error, ValueError):
    """The request can never succeed as it is: mend it."""

    code = Code.INVALID_ARGUMENT


class DeadlineExceeded(Error, TimeoutError):
    """No answer in time; the work may or may not have been done."""

    code = Code.DEADLINE_EXCEEDED


class NotFound(Error, LookupError):
    """No such name, table, method or file."""

    code = Code.NOT_FOUND


class AlreadyExists(Error):
    """The name is taken."""

    code = Code.ALREADY_EXISTS


class PermissionDenied(Error):
    """Identified, but not allowed."""

    code = Code.PERMISSION_DENIED


class ResourceExhausted(Error):
    """A bound was reached: slow down and try again."""

    code = Code.RESOURCE_EXHAUSTED


class FailedPrecondition(Error):
    """Not possible in the present state: change the state first."""

    code = Code.FAILED_PRECONDITION


class Aborted(Error):
    """Lost against something concurrent: start again from reading."""

    code = Code.ABORTED


class OutOfRange(Error):
    """Past the end."""

    code = Code.OUT_OF_RANGE


class Unimplemented(Error, NotImplementedError):
    """No such method or feature."""

    code = Code.UNIMPLEMENTED


class Internal(Error):
    """A fault of the callee: its handler raised, for one."""

    code = Code.INTERNAL


class Unavailable(Error, ConnectionError):
    """The peer is dead or cannot be reached."""

    code = Code.UNAVAILABLE


class DataLoss(Error):
    """Stored or received bytes are corrupt."""

    code = Code.DATA_LOSS


class Unauthenticated(Error):
    """Not identified."""

    code = Code.UNAUTHENTICATED


_CLASSES = {cls.code: cls for cls in Error.__subclasses__()}
_raised = {}


def _class_of(code, exception):
    """The code's class; where a handler raised a plain exception of Python's, one that is that, too."""
    cls = _CLASSES.get(code, Error)
    if not exception or "." in exception:
        return cls
    known = _raised.get((code, exception))
    if known:
        return known
    theirs = getattr(builtins, exception, None)
    if not isinstance(theirs, type) or not issubclass(theirs, Exception) or issubclass(cls, theirs):
        return cls
    if issubclass(theirs, (StopIteration, StopAsyncIteration)) or len(_raised) >= 256:  # which mean something else here
        return cls
    try:
        made = type(exception, (cls, theirs), {"__module__": __name__, "__doc__": f"A handler raised {exception}."})
        made("")
    except TypeError:  # of another layout, as OSError is
        return cls
    _raised[code, exception] = made
    return made


def make_error(code, message, node, cause, trace_id, exception):
    """The exception that stands for an error of C++."""
    error = _class_of(code, exception)(message, node=node, exception=exception, cause=cause, trace_id=trace_id)
    if cause and exception and hasattr(error, "add_note"):
        error.add_note(cause)
    return error
