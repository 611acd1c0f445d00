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
