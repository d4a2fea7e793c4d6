# A server that answers `top` as a script says, for what allocsctl makes of answers that a server of now gives rarely:
#
#   scripted_server.py SOCKET old        one that does not know the parameter `totals`
#   scripted_server.py SOCKET emptied    whose group has blocks at the first question, and none later
#
# Says "listening" when it does, and one line for each question: the question.

import http.server
import json
import os
import socketserver
import sys

LOOK = {
    "pid": 4242, "command": ["/usr/bin/old"], "total": {"bytes": 960, "blocks": 10}, "site_count": 1,
    "sites": [{"key": "0x1000/0/0/f", "bytes": 960, "blocks": 10, "function": "malloc", "stack": []}],
    "group": "site",
}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked = 0

    def do_GET(self):
        print(self.path, flush=True)
        Handler.asked += 1
        status, answer = 200, LOOK
        if sys.argv[2] == "old" and "totals" in self.path:
            status, answer = 400, {"error": "there is no parameter \"totals\" here — the parameters are: group, limit"}
        if sys.argv[2] == "emptied" and Handler.asked > 1:
            status, answer = 404, {"error": "no live block is in the group — there are others", "no_such": "group"}
        body = (json.dumps(answer, ensure_ascii=False, separators=(",", ":")) + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

    def address_string(self):
        return "local"


class Server(socketserver.UnixStreamServer):
    def finish_request(self, request, client_address):
        self.RequestHandlerClass(request, ("local", 0), self)


server = Server(sys.argv[1], Handler)
os.chmod(sys.argv[1], 0o600)
print("listening", flush=True)
while True:
    server.handle_request()
