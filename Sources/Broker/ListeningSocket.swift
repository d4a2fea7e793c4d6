// SPDX-License-Identifier: Apache-2.0
// The socket on which the server listens: made at a path, or inherited from systemd.
//
// - A socket file that a dead server left behind is replaced; the file of a live server never is. Two servers that
//   start at once take turns: each holds a lock on the directory while it looks and binds.
// - Anybody may connect (mode 0666). The user at the other end decides, for each request, which answers are given.
// - The server that made the file removes it, if the name still leads to that file.

import ByteText
import CBroker
import Glibc
import ServerProtocol
import SystemAccess

/// Owns a listening socket, and the socket's file if this process made it.
struct ListeningSocket: ~Copyable {
  /// Where it listens, in words.
  let place: String
  private var socket: UnixSocket?
  private let file: SocketFile?

  /// The socket that systemd passed, if there is one, else a new socket at `path`. To be called before other threads
  /// start.
  static func open(at path: String) throws(Complaint) -> ListeningSocket {
    if let inherited = try inherited() { return inherited }
    try SocketLocation.prepareDirectory(of: path)
    return try ListeningSocket(at: path)
  }

  /// sd_listen_fds(3): LISTEN_PID, LISTEN_FDS, descriptor 3. Takes the variables out of the environment.
  private static func inherited() throws(Complaint) -> ListeningSocket? {
    defer {
      unsetenv("LISTEN_PID")
      unsetenv("LISTEN_FDS")
      unsetenv("LISTEN_FDNAMES")
    }
    guard let pid = getenv("LISTEN_PID"), Int32(String(cString: pid)) == getpid(), let count = getenv("LISTEN_FDS"),
      let descriptors = Int(String(cString: count)), descriptors > 0
    else { return nil }
    guard descriptors == 1 else {
      throw Complaint(
        .obstacle, what: "cannot serve \(descriptors) inherited sockets",
        advice: "have allocsd.socket list one ListenStream only")
    }
    let first: Int32 = 3  // SD_LISTEN_FDS_START
    guard fcntl(first, F_SETFD, FD_CLOEXEC) == 0, option(SO_DOMAIN, of: first) == AF_UNIX,
      option(SO_TYPE, of: first) == Int32(SOCK_STREAM.rawValue), option(SO_ACCEPTCONN, of: first) == 1
    else {
      throw Complaint(
        .obstacle, what: "cannot serve the inherited descriptor 3: it is not a listening Unix stream socket",
        advice: "check allocsd.socket")
    }
    return ListeningSocket(place: "the socket passed by systemd", socket: UnixSocket(adopting: first), file: nil)
  }

  /// Binds a socket to `path` and listens.
  private init(at path: String) throws(Complaint) {
    let lock = try DirectoryLock(ofDirectoryOf: path)
    defer { withExtendedLifetime(lock) {} }
    try Self.clear(path)

    let socket = try UnixSocket.create()
    let result = try UnixSocket.withAddress(of: path) { bind(socket.descriptor, $0, $1) }
    guard result == 0 else {
      throw Complaint(
        .obstacle, what: "cannot listen at \(path): \(systemWords(errno))", advice: "name another place with --socket",
        code: errno)
    }
    let file = SocketFile(path: path)
    // While the queue is full nobody can connect: a client that opens connections without end would keep others out.
    guard chmod(path.originalPath, 0o666) == 0, listen(socket.descriptor, SOMAXCONN) == 0 else {
      throw Complaint(.obstacle, what: "cannot listen at \(path): \(systemWords(errno))", code: errno)
    }
    self.init(place: path, socket: socket, file: file)
  }

  private init(place: String, socket: consuming UnixSocket, file: consuming SocketFile?) {
    self.place = place
    self.socket = consume socket
    self.file = file
  }

  /// Gives away the descriptor, once; its new owner closes it. This owner keeps the file.
  mutating func takeDescriptor() -> Int32? { socket.take()?.release() }

  /// Removes a dead server's socket file. Throws if another kind of file is there, or the socket of a live server.
  private static func clear(_ path: String) throws(Complaint) {
    var status = stat()
    guard lstat(path.originalPath, &status) == 0 else {
      if errno == ENOENT { return }
      throw Complaint(
        .obstacle, what: "cannot look at \(path): \(systemWords(errno))", advice: "check the path", code: errno)
    }
    guard status.st_mode & S_IFMT == S_IFSOCK else {
      throw Complaint(
        .obstacle, what: "cannot listen at \(path): a file that is not a socket is there",
        advice: "name another with --socket")
    }
    do throws(Complaint) {
      let other = try UnixSocket.connected(to: path).peer()
      throw Complaint(
        .obstacle, what: "cannot listen at \(path): process \(other.processID) of user \(other.userID) serves it",
        advice: "stop that server, or name another socket with --socket", code: EADDRINUSE)
    } catch {
      guard error.code == ECONNREFUSED else { throw error }
      guard unlink(path.originalPath) == 0 || errno == ENOENT else {
        throw Complaint(
          .obstacle, what: "cannot replace \(path), left by a server of user \(status.st_uid): \(systemWords(errno))",
          advice: "remove it as that user or as root", code: errno)
      }
    }
  }

  private static func option(_ name: Int32, of descriptor: Int32) -> Int32? {
    var value: Int32 = 0
    var size = socklen_t(MemoryLayout<Int32>.size)
    return getsockopt(descriptor, SOL_SOCKET, name, &value, &size) == 0 ? value : nil
  }
}

/// A socket's name in the file system. It is removed with its owner, if it still leads to the same file.
struct SocketFile: ~Copyable {
  private let path: String
  private let device: dev_t
  private let inode: ino_t

  init(path: String) {
    var status = stat()
    let known = lstat(path.originalPath, &status) == 0
    self.path = path
    device = known ? status.st_dev : 0
    inode = known ? status.st_ino : 0
  }

  deinit {
    var status = stat()
    if lstat(path.originalPath, &status) == 0, status.st_dev == device, status.st_ino == inode {
      unlink(path.originalPath)
    }
  }
}

/// Holds an exclusive lock on a directory, for the moment in which a socket there is looked at and replaced.
private struct DirectoryLock: ~Copyable {
  private let descriptor: Int32

  init(ofDirectoryOf path: String) throws(Complaint) {
    let directory =
      switch path.lastIndex(of: "/") {
      case nil: "."
      case path.startIndex?: "/"
      case let slash?: String(path[..<slash])
      }
    descriptor = Glibc.open(directory.originalPath, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else {
      throw Complaint(
        .obstacle, what: "cannot open the directory \(directory) of the socket: \(systemWords(errno))",
        advice: "create it, or name another place with --socket", code: errno)
    }
    // A server holds the lock for well under a millisecond. A process that holds it longer is no server.
    for _ in 0..<200 {
      if flock(descriptor, LOCK_EX | LOCK_NB) == 0 { return }
      usleep(10_000)
    }
    throw Complaint(
      .obstacle, what: "cannot lock \(directory): another process holds it",
      advice: "see with `fuser \(directory)` which, and stop it", code: EBUSY)
  }

  deinit { close(descriptor) }
}
