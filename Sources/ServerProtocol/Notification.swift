// SPDX-License-Identifier: Apache-2.0
// Tells systemd that the server is ready, and that it stops (sd_notify(3)): one datagram to the socket that
// NOTIFY_SOCKET names, if it names one.

import ByteText
import Glibc

public enum Notification: String {
  case ready = "READY=1"
  case stopping = "STOPPING=1"

  /// Does nothing where no socket is named. Errors are ignored: systemd has a timeout for a server that it does not
  /// hear from.
  public func send() {
    guard let variable = getenv("NOTIFY_SOCKET") else { return }
    let name = String(reversibly: UnsafePointer(variable))  // raw: an address to send to
    let descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else { return }
    defer { close(descriptor) }
    let message = Array(rawValue.utf8)
    _ = try? UnixSocket.withAddress(of: name) { address, size in
      Int32(clamping: sendto(descriptor, message, message.count, 0, address, size))
    }
  }
}
