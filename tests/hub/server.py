"""A local server in place of the addresses of published files, with the faults that a network has."""

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Files(dict):
    """Contents by path without the leading slash; sets of paths have faults."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.broken, self.silent, self.moved = set(), set(), {}
        self.asked = []


@contextlib.contextmanager
def serving(files: Files) -> Iterator[str]:
    """Serves `files` and yields the address of the server, without a slash at its end."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.lstrip("/")
            files.asked.append(path)
            if path in files.moved:
                self.send_response(302)
                self.send_header("Location", f"/{files.moved[path]}")
                self.end_headers()
            elif path not in files:
                self.send_error(404)
            else:
                self.send_response(200)
                self.send_header("Content-Length", str(len(files[path])))
                self.end_headers()
                if path in files.silent:
                    time.sleep(2.0)
                content = files[path]
                self.wfile.write(content[: len(content) // 2] if path in files.broken else content)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
