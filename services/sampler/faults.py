"""What went wrong with a connection, in the words of its innermost cause."""


def in_words(error: BaseException) -> str:
    """Say ``connection refused`` rather than ``max retries exceeded``.

    The client libraries wrap what the socket said: as an argument, as ``reason``, as a cause.
    """
    wrapped = (*error.args, getattr(error, "reason", None), error.__cause__, error.__context__)
    inner = next((one for one in wrapped if isinstance(one, Exception) and one is not error), None)
    if inner is not None:
        return in_words(inner)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return f"{type(error).__name__}: {error}"
