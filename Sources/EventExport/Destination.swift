// SPDX-License-Identifier: Apache-2.0
// Where exported bytes go: a descriptor with its kind, which decides how it is written to:
//
// | kind   | written at            | who else may close it | a reader that is gone shows as |
// |--------|-----------------------|-----------------------|--------------------------------|
// | file   | its present position  | nobody                | never                          |
// | pipe   | its end               | the reader            | EPIPE; POLLERR while idle      |
// | socket | its end               | the peer              | EPIPE, ECONNRESET; POLLHUP     |
// | other  | as a file: a terminal | the system            | EIO                            |

import ByteText
import Glibc
import SystemAccess

/// Owns the descriptor of a destination and closes it.
public struct Destination: ~Copyable {
  /// The kind of open file that a descriptor stands for.
  public enum Kind: Sendable, Equatable {
    case file, pipe, socket, other
  }

  let descriptor: Int32
  public let kind: Kind
  /// Its name in messages.
  public let name: String

  /// Takes over an open descriptor; `name` is for messages. Sockets must be connected streams.
  public init(adopting descriptor: Int32, name: String) throws(Complaint) {
    var status = stat()
    guard fstat(descriptor, &status) == 0 else {
      let code = errno
      close(descriptor)
      throw Complaint(
        .obstacle, what: "cannot write events to \(name): \(systemWords(code))", advice: "name an open descriptor",
        code: code)
    }
    let flags = fcntl(descriptor, F_GETFL)
    guard flags & O_ACCMODE != O_RDONLY else {
      close(descriptor)
      throw Complaint(
        .obstacle, what: "cannot write events to \(name): it is open for reading only", advice: "open it for writing",
        code: EBADF)
    }
    switch status.st_mode & S_IFMT {
    case S_IFREG: kind = .file
    case S_IFIFO: kind = .pipe
    case S_IFSOCK: kind = .socket
    case S_IFDIR:
      close(descriptor)
      throw Complaint(
        .obstacle, what: "cannot write events to \(name): it is a directory", advice: "name a file", code: EISDIR)
    default: kind = .other
    }
    self.descriptor = descriptor
    self.name = name
  }

  /// A second descriptor of the open file of `descriptor`, which stays open: of standard output, say.
  public init(duplicating descriptor: Int32, name: String) throws(Complaint) {
    let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
    guard copy >= 0 else {
      throw Complaint(
        .obstacle, what: "cannot write events to \(name): \(systemWords(errno))", advice: "check the redirection",
        code: errno)
    }
    try self.init(adopting: copy, name: name)
  }

  /// A new file, mode 0600. Whatever has the name already, a link to nothing too, is left alone: code EEXIST.
  public init(file path: String) throws(Complaint) {
    let descriptor = open(path.originalPath, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else {
      let code = errno
      let advice =
        switch code {
        case EEXIST: "name another file, or remove that one"
        case ENOENT: "create its directory"
        case EACCES, EPERM, EROFS: "name a place that you may write to"
        default: "name another place"
        }
      throw Complaint(.obstacle, what: "cannot create \(path): \(systemWords(code))", advice: advice, code: code)
    }
    try self.init(adopting: descriptor, name: path)
  }

  deinit { close(descriptor) }

  /// Calls `body` with the descriptor, which stays this owner's: for another process, which gets a copy of it.
  public borrowing func withDescriptor<Result>(_ body: (Int32) -> Result) -> Result { body(descriptor) }
}
