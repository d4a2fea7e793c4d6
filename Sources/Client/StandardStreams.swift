// Standard output and input, without buffers of their own: what was answered is written before the next is read.

import Glibc

enum StandardOutput {
  /// Writes all bytes. If nobody reads any more (`| head`), the program ends there, quietly, as by SIGPIPE's default.
  static func write(_ bytes: [UInt8]) throws(Failure) {
    var written = 0
    while written < bytes.count {
      let result = bytes.withUnsafeBytes { Glibc.write(STDOUT_FILENO, $0.baseAddress! + written, $0.count - written) }
      if result >= 0 {
        written += result
        continue
      }
      switch errno {
      case EINTR: continue
      case EAGAIN: waitUntilWritable()
      case EPIPE: endByBrokenPipe()
      default:
        throw Failure(
          Status.notAnswered, "cannot write the answer to standard output: \(String(cString: strerror(errno)))",
          advice: "check where it is redirected to")
      }
    }
  }

  static func write(_ text: String) throws(Failure) { try write(Array(text.utf8)) }

  /// Whoever started the program may have given it a non-blocking descriptor.
  private static func waitUntilWritable() {
    var request = pollfd(fd: STDOUT_FILENO, events: Int16(POLLOUT), revents: 0)
    poll(&request, 1, -1)
  }

  /// The event loop ignores SIGPIPE; so its default is set again, and the signal sent.
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
  /// The next bytes, at most `limit`: as soon as there are some. Empty at the end.
  static func read(limit: Int) throws(Failure) -> [UInt8] {
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
        throw Failure(
          Status.notAnswered, "cannot read addresses from standard input: \(String(cString: strerror(errno)))",
          advice: "check where it comes from")
      }
    }
  }
}
