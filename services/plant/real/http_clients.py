"""A client of erp-dashboard: fetches pages over HTTP at a fixed pace or as fast as possible.

Runs in the office's namespace of the bed:
``python -m services.plant.real.http_clients ADDRESS PORT PATH SECONDS``, SECONDS from one fetch to the next.
"""

import http.client
import sys
import time


def main() -> None:
    """Fetch until killed; a server that is not there yet, or goes away, is asked again."""
    address, port, path, pace = sys.argv[1:]
    due = time.monotonic()
    server = http.client.HTTPConnection(address, int(port), timeout=10)
    while True:
        try:
            server.request("GET", path)
            answer = server.getresponse()
            while answer.read(262144):
                pass
        except (OSError, http.client.HTTPException):
            server.close()
            time.sleep(0.05)
        now = time.monotonic()
        # Do not catch up after a fetch that took longer than its pace.
        due = max(due + float(pace), now)
        time.sleep(due - now)


if __name__ == "__main__":
    main()
