# SPDX-License-Identifier: Apache-2.0
"""Chromium without a window, by its own protocol (https://chromedevtools.github.io/devtools-protocol/), with Python's
own library alone."""

import base64
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import time


def installed():
  """The path of a Chromium; None where there is none."""
  return next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)


class Browser:
  """One page in a browser."""

  def __init__(self):
    self.directory = tempfile.mkdtemp(prefix="allocs-browser.")
    self.process = subprocess.Popen(
      [installed(), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run",
       "--disable-background-networking", "--disable-dev-shm-usage",
       f"--user-data-dir={self.directory}", "about:blank"],
      stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
    self.socket, self.number, self.events = None, 0, []
    for line in self.process.stderr:
      match = re.search(r"ws://([^:]+):(\d+)(/\S+)", line)
      if match:
        break
    else:
      raise RuntimeError("Chromium did not start")
    self.connect(match[1], int(match[2]), match[3])
    target = self.call("Target.createTarget", url="about:blank")["targetId"]
    self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ["Page", "Runtime", "Log"]:
      self.call(f"{domain}.enable")

  def connect(self, host, port, path):
    self.socket = socket.create_connection((host, port), timeout=60)
    key = base64.b64encode(os.urandom(16)).decode()
    self.socket.sendall(
      (f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
       f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n").encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
      head += self.take(1)

  def take(self, count):
    data = b""
    while len(data) < count:
      piece = self.socket.recv(count - len(data))
      if not piece:
        raise RuntimeError("Chromium has gone")
      data += piece
    return data

  def receive(self):
    data = b""
    while True:
      first, second = self.take(2)
      size = second & 127
      if size == 126:
        size = struct.unpack(">H", self.take(2))[0]
      elif size == 127:
        size = struct.unpack(">Q", self.take(8))[0]
      data += self.take(size)
      if first & 128:
        return json.loads(data) if first & 15 == 1 or first & 15 == 0 else {}

  def call(self, method, **parameters):
    """Calls a method and waits for its result; events that come meanwhile are kept."""
    self.number += 1
    message = {"id": self.number, "method": method, "params": parameters}
    if getattr(self, "session", None):
      message["sessionId"] = self.session
    data = json.dumps(message).encode()
    mask = os.urandom(4)
    size = struct.pack(">BBQ", 0x81, 0x80 | 127, len(data))
    self.socket.sendall(size + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(data)))
    while True:
      answer = self.receive()
      if answer.get("id") == self.number:
        if "error" in answer:
          raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]
      self.events.append(answer)

  def evaluate(self, expression):
    """The value of a JavaScript expression, of a promise its result."""
    result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
    if "exceptionDetails" in result:
      raise RuntimeError(json.dumps(result["exceptionDetails"])[:2000])
    return result["result"].get("value")

  def open(self, url):
    self.call("Page.navigate", url=url)

  def size(self, width, height=900, mobile=False):
    self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

  def scheme(self, name):
    self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

  def wait(self, expression, patience=60):
    """Waits until an expression is true; returns the seconds that it took."""
    start = time.monotonic()
    while not self.evaluate(expression):
      if time.monotonic() - start > patience:
        raise RuntimeError(f"not within {patience} s: {expression}: {self.evaluate('document.body.innerText')[:1500]}")
      time.sleep(0.01)
    return time.monotonic() - start

  def key(self, name):
    for kind in ["keyDown", "keyUp"]:
      self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name)

  def mouse(self, x, y, to=None):
    """A click, or a drag to a place."""
    end = to or (x, y)
    self.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", clickCount=1)
    for part in range(1, 6):
      place = [start + (stop - start) * part / 5 for start, stop in zip((x, y), end)]
      self.call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1], button="left", buttons=1)
    self.call("Input.dispatchMouseEvent", type="mouseReleased", x=end[0], y=end[1], button="left", clickCount=1)

  def screenshot(self, path, whole=True):
    data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
    with open(path, "wb") as file:
      file.write(base64.b64decode(data))

  def problems(self):
    """What the page's console said that it should not: errors, and refusals of the policy."""
    found = []
    for event in self.events:
      parameters = event.get("params", {})
      if event.get("method") == "Runtime.exceptionThrown":
        found.append(json.dumps(parameters)[:500])
      if event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
        found.append(parameters["entry"]["text"] + " " + parameters["entry"].get("url", ""))
      if event.get("method") == "Page.javascriptDialogOpening":
        found.append("a dialog")
    return found

  def close(self):
    self.process.terminate()
    try:
      self.process.wait(10)
    except subprocess.TimeoutExpired:
      self.process.kill()
      self.process.wait()
    shutil.rmtree(self.directory, ignore_errors=True)
