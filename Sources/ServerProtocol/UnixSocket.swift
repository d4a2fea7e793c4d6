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

  /// How long a server may keep a client waiting until it takes the connection, in seconds: its queue may be full.
  private static let patience = 1

  /// A connection to the server that listens at `path`. `code` of the complaint is ENOENT or ECONNREFUSED if no server
  /// does, EAGAIN if the server doesn't take connections.
  ///
  /// `isTrusted`: the socket must be root's or the caller's, and so must the server: else anybody who can put a socket
  /// there could tell false answers. The socket's owner is looked at before anything is connected to it.
  public static func connected(to path: String, isTrusted: Bool = false) throws(Complaint) -> UnixSocket {
    func refusal(_ code: Int32) -> Complaint {
      let advice =
        switch code {
        case ENOENT, ECONNREFUSED: "start allocsd, or leave --socket out to read the segments directly"
        case EACCES, EPERM:
          "run as a user who may write to the socket; who has connected without end can't, for half a minute"
        case EAGAIN: "it is overloaded, or does not serve; try again, or use --direct"
        default: "check the path"
        }
      let why = code == EAGAIN ? "it did not take the connection within \(patience) s" : systemWords(code)
      return Complaint(.obstacle, what: "cannot connect to the server at \(path): \(why)", advice: advice, code: code)
    }
    let file = SharedDirectories.open(path, __O_PATH | O_CLOEXEC | (isTrusted ? O_NOFOLLOW : 0))
    guard file >= 0 else { throw refusal(errno) }
    defer { close(file) }
    var status = stat()
    guard fstat(file, &status) == 0 else { throw refusal(errno) }
    guard status.st_mode & S_IFMT == S_IFSOCK else { throw refusal(ECONNREFUSED) }
    try check(isTrusted, status.st_uid, "the socket at \(path) belongs to")
    let socket = try create()
    // Of all calls of this socket, only connect counts this time so far.
    var time = timeval(tv_sec: patience, tv_usec: 0)
    setsockopt(socket.descriptor, SOL_SOCKET, SO_SNDTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
    // By the descriptor: the name may lead to another socket by now. Where no /proc is mounted, the name has to do.
    var result = try withAddress(of: "/proc/self/fd/\(file)") { connect(socket.descriptor, $0, $1) }
    if result != 0, errno == ENOENT { result = try withAddress(of: path) { connect(socket.descriptor, $0, $1) } }
    guard result == 0 else { throw refusal(errno) }
    time.tv_sec = 0
    setsockopt(socket.descriptor, SOL_SOCKET, SO_SNDTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
    try check(isTrusted, try socket.peer().userID, "the server at \(path) runs as")
    return socket
  }

  private static func check(_ isTrusted: Bool, _ user: UInt32, _ what: String) throws(Complaint) {
    guard !isTrusted || user == 0 || user == geteuid() else {
      throw Complaint(
        .obstacle, what: "\(what) user \(user), neither root nor you", advice: "name it with --socket to trust it",
        code: EPERM)
    }
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
        .obstacle, what: "cannot use \"\(path)\" as a socket: its name must have 1 to \(capacity &- 1) bytes",
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
