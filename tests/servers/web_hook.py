"""A web service of the test's own for the plugin `http`, as a process that can be killed and stalled."""

import shutil
import sys

from tests.servers.process import Process, free_port, public_folder

_SERVER = """\
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Hook(BaseHTTPRequestHandler):
    def do_POST(self):
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        bad = ["Subject", "reject-word"] in told["headers"]
        answer = json.dumps({"verdict": "reject"} if bad else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Hook).serve_forever()
"""


class WebHook(Process):
    """One instance on `port`. It refuses messages with the subject `reject-word`."""

    def __init__(self) -> None:
        self.folder = public_folder("hook")
        super().__init__("web hook", self.folder / "log")
        self.port = free_port()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self.spawn(sys.executable, "-c", _SERVER, str(self.port), cwd=self.folder)
        await self.until_listening(self.port)

    async def stop(self) -> None:
        """End it and remove its folder."""
        try:
            if self.popen is not None and self.popen.poll() is None:
                await self.kill()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
