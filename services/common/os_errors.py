"""What the operating system refuses, in words for people."""

import os
import ssl


def describe_os_error(error: OSError) -> str:
    """The file, where the error names one, and the cause; without its number."""
    # Asyncio puts an address in place of the cause.  Errors of name resolution and of TLS have numbers of their own.
    has_number = error.errno is not None and error.errno > 0 and not isinstance(error, ssl.SSLError)
    known = os.strerror(error.errno or 0) if has_number else error.strerror
    cause = known.lower() if known else str(error) or type(error).__name__
    return f"{error.filename}: {cause}" if error.filename is not None else cause
