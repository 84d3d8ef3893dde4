"""The connection to Hubble Relay; the one module that imports grpc.

*relay_client* -> flow_reader -> replay_filter -> pairing -> metrics
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from grpc.experimental import ChannelOptions

from schemas.exporter import Relay

METHOD = "/observer.Observer/GetFlows"
_LARGEST_MESSAGE = 1024 * 1024


class RelayError(RuntimeError):
    """The stream could not be opened, or ended; the text has the reason."""


class RelayStream:
    """The messages of one call, undecoded.  ``cancel`` may be called from another thread."""

    def __init__(self, channel: grpc.Channel, request: bytes) -> None:
        """Start the call."""
        self._channel = channel
        call: Any = channel.unary_stream(METHOD)
        self._call: Any = call(request, wait_for_ready=False)

    def __iter__(self) -> Iterator[bytes]:
        """Yield each message as it arrives.

        Raises:
            RelayError: the call failed, or was cancelled.
        """
        try:
            yield from self._call
        except grpc.RpcError:
            raise RelayError(f"{self._call.code().name}: {self._call.details()}") from None

    def cancel(self) -> None:
        """End the call; the iteration ends with an error."""
        self._call.cancel()

    def close(self) -> None:
        """Drop the connection."""
        self._channel.close()


def open_stream(relay: Relay, request: bytes) -> RelayStream:
    """Connect and send the request.  Each stream has its own connection, so that a dead one is never reused.

    Raises:
        RelayError: a certificate cannot be read.
    """
    options: list[tuple[str, Any]] = [
        # Receiving takes a third less time.
        (ChannelOptions.SingleThreadedUnaryStream, 1),
        ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if relay.tls is None:
        return RelayStream(grpc.insecure_channel(relay.address, options), request)
    if relay.tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", relay.tls.server_name))
    try:
        # Read each time, because certificates are renewed while the service runs.
        ca, key, certificate = (
            Path(path).read_bytes() if path else None for path in (relay.tls.ca, relay.tls.key, relay.tls.certificate)
        )
    except OSError as error:
        raise RelayError(f"TLS: {error}") from None
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    return RelayStream(grpc.secure_channel(relay.address, credentials, options), request)
