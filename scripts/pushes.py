#!/usr/bin/env python3
"""How long it takes from sending an event until push gateways hear of it, on a homeserver on this machine.

    pushes.py certify FOLDER           makes a certificate authority (FOLDER/ca.pem) and a certificate of it for the gateway
    pushes.py measure URL FOLDER PID   plays the gateway of ten people in a room, sends there as long as the process PID
                                       lives, and prints how long each notification took; fails if 5 of 100 took longer
                                       than two seconds, or one did not come

The server has to trust that authority, and to push to this machine; registration is open and unlimited. Run by
scripts/bench --push.
"""

import http.server
import json
import os
import pathlib
import ssl
import subprocess
import sys
import threading
import time
import urllib.request

PUSHED = 10
# Between two events, and at most.
PAUSE_S = 0.1
EVENTS_MAX = 600
# A notification comes by then.
COMES_WITHIN_S = 30
P95_MS_MAX = 2_000


def certify(folder):
    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=bench", "-days", "2",
            "-addext", "basicConstraints=critical,CA:TRUE")
    openssl("req", *key, "-keyout", "gateway.key", "-out", "gateway.csr", "-subj", "/CN=localhost")
    openssl("x509", "-req", "-in", "gateway.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-out", "gateway.pem", "-days", "2", "-extfile", "names")


class Gateway:
    """Takes everything, and notes when each pusher heard of which event."""

    def __init__(self, folder):
        arrived = self.arrived = {}

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                now, notification = time.monotonic(), json.loads(body)["notification"]
                for device in notification["devices"]:
                    arrived.setdefault((notification.get("event_id"), device["pushkey"]), now)
                answer = b'{"rejected":[]}'
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(folder / "gateway.pem", folder / "gateway.key")
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"https://localhost:{server.server_address[1]}/_matrix/push/v1/notify"


def measure(url, folder, pid):
    def call(method, path, body, token=None):
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
        request = urllib.request.Request(f"{url}/_matrix/client/v3{path}", json.dumps(body).encode(), headers, method=method)
        return json.load(urllib.request.urlopen(request))

    def register(name):
        auth = {"type": "m.login.dummy"}
        return call("POST", "/register", {"username": name, "password": "pushed", "auth": auth})["access_token"]

    gateway = Gateway(folder)
    sender, *pushed = [register(f"pushed{number}") for number in range(PUSHED + 1)]
    room = call("POST", "/createRoom", {"preset": "public_chat"}, sender)["room_id"]
    for number, token in enumerate(pushed):
        call("POST", f"/rooms/{room}/join", {}, token)
        pusher = {
            "kind": "http", "app_id": "bench", "pushkey": str(number), "app_display_name": "Bench", "append": True,
            "device_display_name": "Phone", "lang": "en", "data": {"url": gateway.url, "format": "event_id_only"},
        }
        call("POST", "/pushers/set", pusher, token)
    sent = {}
    while len(sent) < EVENTS_MAX and os.path.exists(f"/proc/{pid}"):
        began, path = time.monotonic(), f"/rooms/{room}/send/m.room.message/{len(sent)}"
        sent[call("PUT", path, {"msgtype": "m.text", "body": "pushed"}, sender)["event_id"]] = began
        time.sleep(PAUSE_S)
    wanted = [(event, str(number)) for event in sent for number in range(PUSHED)]
    deadline = time.monotonic() + COMES_WITHIN_S
    while any(one not in gateway.arrived for one in wanted) and time.monotonic() < deadline:
        time.sleep(PAUSE_S)
    took = sorted((gateway.arrived[one] - sent[one[0]]) * 1000 for one in wanted if one in gateway.arrived)
    if len(took) < len(wanted) or not took:
        sys.exit(f"pushes: of {len(wanted)} notifications {len(took)} came")
    p50, p95, last = (took[min(len(took) - 1, len(took) * percent // 100)] for percent in (50, 95, 100))
    print(f"from event to gateway, {len(sent)} events to {PUSHED} pushers each, under load: "
          f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, last {last:.0f} ms")
    if p95 > P95_MS_MAX:
        sys.exit(f"pushes: 5 of 100 took longer than {P95_MS_MAX} ms")


if len(sys.argv) == 3 and sys.argv[1] == "certify":
    certify(pathlib.Path(sys.argv[2]))
elif len(sys.argv) == 5 and sys.argv[1] == "measure":
    measure(sys.argv[2], pathlib.Path(sys.argv[3]), int(sys.argv[4]))
else:
    sys.exit(__doc__)
