"""Of functions that others call."""
import functools


def async_execution(function):
    """The function returns a Future (or one of torch.futures), and its value is the answer: no thread of the callee
    waits meanwhile. In static and class methods this comes below @staticmethod and @classmethod."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    wrapper._wrapped_async_rpc_function = function
    return wrapper


class Later:
    """What a decorated function has returned: a future, whose value is the answer."""

    def __init__(self, future):
        if not (hasattr(future, "add_done_callback") and hasattr(future, "wait")):
            raise RuntimeError("Functions decorated with @rpc.async_function must return a torch.futures.Future object, "
                               f"but got {type(future).__name__}")
        self.future = future


def is_async(function):
    return hasattr(function, "_wrapped_async_rpc_function")


def run(function, args, kwargs):
    """What it returns, or a Later."""
    result = function(*args, **kwargs)
    return Later(result) if is_async(function) else result
