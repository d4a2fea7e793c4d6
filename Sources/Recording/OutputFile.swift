// SPDX-License-Identifier: Apache-2.0
// A file that is written from its beginning to its end: a recording, or one in another program's
// format.

import ByteText
import Glibc
import SystemAccess

/// An open file, closed when this value goes.
struct OutputFile: ~Copyable {
  /// Why a file can't be written, in the system's words.
  struct Failure: Error {
    var words: String
    init(_ code: Int32) { words = systemWords(code) }
  }

  private let descriptor: Int32

  /// Opens the file at `path`, which is made if it is not there, and emptied if it is.
  init(path: String) throws(Failure) {
    try self.init(descriptor: open(path.originalPath, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600))
  }

  /// Standard output, through a descriptor of its own.
  static func standardOutput() throws(Failure) -> OutputFile {
    try OutputFile(descriptor: fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0))
  }

  private init(descriptor: Int32) throws(Failure) {
    guard descriptor >= 0 else { throw Failure(errno) }
    self.descriptor = descriptor
  }

  deinit { close(descriptor) }

  /// Appends all of `bytes`.
  func write(_ bytes: [UInt8]) throws(Failure) {
    let code = writeAll(bytes, to: descriptor)
    guard code == 0 else { throw Failure(code) }
  }
}
