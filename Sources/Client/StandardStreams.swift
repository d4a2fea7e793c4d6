// SPDX-License-Identifier: Apache-2.0
// Standard output and input, without buffers: an answer is written before the next question is read.

import Glibc
import SystemAccess

enum StandardOutput {
  /// Writes all bytes. If nobody reads any more (`| head`), the program ends there, quietly, as by SIGPIPE's default.
  static func write(_ bytes: [UInt8]) throws(Complaint) {
    let code = writeAll(bytes, to: STDOUT_FILENO)
    if code == EPIPE { endByBrokenPipe() }
    guard code == 0 else {
      throw Complaint(
        .obstacle, what: "cannot write the answer to standard output: \(systemWords(code))",
        advice: "check where it is redirected to", code: code)
    }
  }

  static func write(_ text: String) throws(Complaint) { try write(Array(text.utf8)) }

  /// Ends the program by SIGPIPE, whose default is set again first, as the event loop ignores it.
  private static func endByBrokenPipe() -> Never {
    signal(SIGPIPE, SIG_DFL)
    var signals = sigset_t()
    sigemptyset(&signals)
    sigaddset(&signals, SIGPIPE)
    pthread_sigmask(SIG_UNBLOCK, &signals, nil)
    raise(SIGPIPE)
    exit(128 + SIGPIPE)
  }
}

enum StandardInput {
  /// The next bytes, at most `limit`, as soon as there are any. Empty at the end.
  static func read(limit: Int) throws(Complaint) -> [UInt8] {
    while true {
      var result = 0
      let bytes = [UInt8](unsafeUninitializedCapacity: limit) { buffer, count in
        result = Glibc.read(STDIN_FILENO, buffer.baseAddress, limit)
        count = max(result, 0)
      }
      if result >= 0 { return bytes }
      switch errno {
      case EINTR: continue
      case EAGAIN:
        var request = pollfd(fd: STDIN_FILENO, events: Int16(POLLIN), revents: 0)
        poll(&request, 1, -1)
      default:
        throw Complaint(
          .obstacle, what: "cannot read addresses from standard input: \(systemWords(errno))",
          advice: "check where it comes from")
      }
    }
  }
}
