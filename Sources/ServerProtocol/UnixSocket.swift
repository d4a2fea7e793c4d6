// SPDX-License-Identifier: Apache-2.0
// A Unix stream socket: who owns its descriptor, and who is at its other end.

import ByteText
import Glibc
import SystemAccess

/// The process at the other end of a connection, as of the moment it connected (or began to listen).
public struct Peer: Sendable, Equatable {
  public var processID: Int32
  public var userID: UInt32

  public init(processID: Int32, userID: UInt32) {
    self.processID = processID
    self.userID = userID
  }
}

/// `struct ucred` of socket(7), the value of SO_PEERCRED, which the C library shows to GNU programs only.
public struct SocketCredentials: Sendable {
  private var pid: Int32 = 0
  private var uid: UInt32 = 0
  private var gid: UInt32 = 0

  public init() {}

  public var peer: Peer { Peer(processID: pid, userID: uid) }
}

/// Owns the descriptor of a Unix stream socket and closes it. Close-on-exec.
public struct UnixSocket: ~Copyable {
  public let descriptor: Int32

  /// Takes over an open descriptor.
  public init(adopting descriptor: Int32) { self.descriptor = descriptor }

  deinit { close(descriptor) }

  /// Gives the descriptor to a caller that closes it from now on.
  public consuming func release() -> Int32 {
    let descriptor = descriptor
    discard self
    return descriptor
  }

  /// A new, unconnected socket.
  public static func create() throws(Complaint) -> UnixSocket {
    let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else {
      throw Complaint(
        .obstacle, what: "cannot create a socket: \(systemWords(errno))",
        advice: "raise the limit of open files (ulimit -n)", code: errno)
    }
    return UnixSocket(adopting: descriptor)
  }

  /// A connection to the server that listens at `path`. `code` of the complaint is ENOENT or ECONNREFUSED if no server
  /// does.
  public static func connected(to path: String) throws(Complaint) -> UnixSocket {
    let socket = try create()
    let result = try withAddress(of: path) { connect(socket.descriptor, $0, $1) }
    guard result == 0 else {
      let code = errno
      let advice =
        switch code {
        case ENOENT, ECONNREFUSED: "start allocsd, or leave --socket out to read the segments directly"
        case EACCES, EPERM: "run as a user who may write to the socket"
        default: "check the path"
        }
      throw Complaint(
        .obstacle, what: "cannot connect to the server at \(path): \(systemWords(code))", advice: advice, code: code)
    }
    return socket
  }

  /// The process at the other end (SO_PEERCRED).
  public borrowing func peer() throws(Complaint) -> Peer {
    var credentials = SocketCredentials()
    var size = socklen_t(MemoryLayout<SocketCredentials>.size)
    guard getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0 else {
      throw Complaint(
        .obstacle, what: "cannot learn who is at the other end of a socket: \(systemWords(errno))", code: errno)
    }
    return credentials.peer
  }

  /// Calls `body` with the address of the socket named `path`, and returns the result of `body`.
  public static func withAddress(
    of path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
  ) throws(Complaint) -> Int32 {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let capacity = MemoryLayout.size(ofValue: address.sun_path)
    let bytes = path.originalBytes
    guard !bytes.isEmpty, bytes.count < capacity, !bytes.contains(0) else {
      throw Complaint(
        .obstacle, what: "cannot use \"\(path)\" as a socket: its name must have 1 to \(capacity - 1) bytes",
        advice: "choose a shorter path", code: ENAMETOOLONG)
    }
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
    return withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
  }
}
