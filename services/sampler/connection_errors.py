"""What went wrong with a connection, in the words of its innermost cause."""


def in_words(error: BaseException) -> str:
    """Say ``connection refused`` rather than ``max retries exceeded``.

    Raises:
        TimeoutError: that is what it was.
    """
    inner = _innermost(error)
    if isinstance(inner, TimeoutError):
        raise TimeoutError from None
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror.lower()
    return f"{type(inner).__name__}: {inner}"


def _innermost(error: BaseException) -> BaseException:
    # The client libraries wrap what the socket said: as an argument, as ``reason``, as a cause.
    wrapped = (*error.args, getattr(error, "reason", None), error.__cause__, error.__context__)
    inner = next((one for one in wrapped if isinstance(one, Exception) and one is not error), None)
    return error if inner is None else _innermost(inner)
