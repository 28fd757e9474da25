"""The shop's front door: GET /checkout/<n> asks orders for /orders/<n>.

Python's own http.server with one thread per connection. Nothing in it knows about tracing.
"""

import http.client
import http.server
import json
import os
import re
import threading
import time
import urllib.parse

ORDERS = urllib.parse.urlsplit(os.environ.get("ORDERS_URL", "http://orders:8080"))
PATH = re.compile(r"/checkout/([0-9]{1,9})")
# Seconds until orders counts as gone.
TIMEOUT = 10
kept = threading.local()


def get_order(number):
    """Fetches an order over the connection that this thread keeps; returns (status, body)."""
    for attempt in ("kept", "fresh"):
        connection = getattr(kept, "connection", None)
        if connection is None or attempt == "fresh":
            connection = http.client.HTTPConnection(ORDERS.hostname, ORDERS.port or 80, timeout=TIMEOUT)
            kept.connection = connection
        try:
            connection.request("GET", f"/orders/{number}")
            response = connection.getresponse()
            return response.status, response.read()
        except (http.client.RemoteDisconnected, ConnectionError):
            # A kept connection may have been closed since its last request; a GET may be repeated.
            connection.close()
            kept.connection = None
    raise ConnectionError("orders closed the connection without an answer")


class Storefront(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body leave in one write.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self):
        match = PATH.fullmatch(urllib.parse.urlsplit(self.path).path)
        if not match:
            return self.answer(404, {"error": "no such page"})
        number = int(match[1])
        time.sleep(number % 3 / 1000)
        try:
            status, body = get_order(number)
            if status != 200:
                return self.answer(502, {"error": f"orders answered {status}"})
            order = json.loads(body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            kept.connection = None
            return self.answer(502, {"error": f"orders: {error}"})
        self.answer(200, {"checkout": number, "order": order, "slip": "=" * (number % 64)})

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


if __name__ == "__main__":
    Server(("0.0.0.0", int(os.environ.get("PORT", "8080"))), Storefront).serve_forever()
