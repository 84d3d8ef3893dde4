"""Who may ask, and what a browser may do with the answer.

The page has no login of its own: it listens on loopback, or stands behind what knows its users.  So other web pages
must not reach it through the browser of somebody who can: a name that suddenly leads here (DNS rebinding) has the
wrong Host, and a form or script of another site has the wrong Sec-Fetch-Site and content type.
"""

from collections.abc import Awaitable, Callable, Collection

from aiohttp import web
from aiohttp.typedefs import Middleware

from services.ui.openapi import BYTES

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")
PROBES = ("/healthz", "/readyz")
"""A kubelet asks by the pod's address."""
ANY_HOST = "*"
_POST_TYPES = (BYTES, "application/json")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def parse_host(header: str) -> str:
    """Return the name in a Host header, without its port and in lower case: ``[::1]:80`` gives ``::1``."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].rstrip(".").lower()


def explain_refusal(request: web.Request, hosts: Collection[str], user_header: str | None) -> str | None:
    """Explain why a request is refused; None where it is not."""
    host, why = parse_host(request.headers.get("Host", "")), None
    if request.path in PROBES:
        return None
    if ANY_HOST not in hosts and host not in hosts:
        why = f"this page is not {host!r}: --allow-host {host} would allow that name"
    elif user_header is not None and not request.headers.get(user_header):
        why = f"the proxy in front must name a user in {user_header}"
    elif request.method not in ("GET", "HEAD", "POST"):
        why = f"{request.method} is not among what this page does: it only reads"
    elif request.method == "POST":
        # A script of another site could send neither type without asking first, and would be refused.
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            why = "only the page itself may send anything"
        elif request.content_type not in _POST_TYPES:
            why = f"a body must be {' or '.join(_POST_TYPES)}"
    return why


def build_guard(hosts: Collection[str], user_header: str | None) -> Middleware:
    """Build the middleware that refuses strangers and sets every answer's headers.

    Args:
        hosts: names by which the page may be called; ``*`` is any.
        user_header: a header without which nothing is answered; None where nobody sets one.
    """

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        why = explain_refusal(request, hosts, user_header)
        if why is not None:
            answer: web.StreamResponse = web.json_response({"error": why}, status=403)
        else:
            try:
                answer = await handler(request)
            except web.HTTPException as error:
                answer = web.json_response({"error": f"{request.path}: {error.reason}"}, status=error.status)
        if not answer.prepared:
            answer.headers.update(HEADERS)
        return answer

    return guard
