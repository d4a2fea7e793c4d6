// The socket on which the server listens: made at a path, or inherited from systemd.
//
// - A socket file that a dead server left behind is replaced; a live server's never. Two servers that start at once are
//   kept apart by a lock on the directory while one of them looks and binds.
// - Anybody may connect (mode 0666): who may know what is decided for each request, by the user at the other end.
// - Whoever made the file removes it, and only if it is still the same file.

import ByteText
import Glibc
import ServerProtocol

/// Owns a listening socket, and the socket's file if this process made it.
struct ListeningSocket: ~Copyable {
  /// Where it listens, in words.
  let place: String
  private var socket: UnixSocket?
  private let file: SocketFile?

  /// The socket that systemd passed, if any, else one at `path`. Call before other threads start.
  static func open(at path: String) throws(SocketError) -> ListeningSocket {
    if let inherited = try inherited() { return inherited }
    try SocketLocation.prepareDirectory(of: path)
    return try ListeningSocket(at: path)
  }

  /// sd_listen_fds(3): LISTEN_PID, LISTEN_FDS, descriptor 3. Takes the variables out of the environment.
  private static func inherited() throws(SocketError) -> ListeningSocket? {
    defer {
      unsetenv("LISTEN_PID")
      unsetenv("LISTEN_FDS")
      unsetenv("LISTEN_FDNAMES")
    }
    guard let pid = getenv("LISTEN_PID"), Int32(String(cString: pid)) == getpid(), let count = getenv("LISTEN_FDS"),
      let descriptors = Int(String(cString: count)), descriptors > 0
    else { return nil }
    guard descriptors == 1 else {
      throw SocketError(
        "cannot serve \(descriptors) inherited sockets — have allocsd.socket list one ListenStream only")
    }
    let first: Int32 = 3  // SD_LISTEN_FDS_START
    guard fcntl(first, F_SETFD, FD_CLOEXEC) == 0, option(SO_DOMAIN, of: first) == AF_UNIX,
      option(SO_TYPE, of: first) == Int32(SOCK_STREAM.rawValue), option(SO_ACCEPTCONN, of: first) == 1
    else {
      throw SocketError(
        "cannot serve the inherited descriptor 3: it is not a listening Unix stream socket — check allocsd.socket")
    }
    return ListeningSocket(place: "the socket passed by systemd", socket: UnixSocket(adopting: first), file: nil)
  }

  /// Binds a socket to `path` and listens.
  private init(at path: String) throws(SocketError) {
    let lock = try DirectoryLock(ofDirectoryOf: path)
    defer { withExtendedLifetime(lock) {} }
    try Self.clear(path)

    let socket = try UnixSocket.create()
    let result = try UnixSocket.withAddress(of: path) { bind(socket.descriptor, $0, $1) }
    guard result == 0 else {
      throw SocketError(
        code: errno, "cannot listen at \(path): \(SocketError.words(errno)) — name another place with --socket")
    }
    let file = SocketFile(path: path)
    // While the queue is full others can't connect: one who makes connections without end would keep them out.
    guard chmod(path.originalPath, 0o666) == 0, listen(socket.descriptor, SOMAXCONN) == 0 else {
      throw SocketError(code: errno, "cannot listen at \(path): \(SocketError.words(errno))")
    }
    self.init(place: path, socket: socket, file: file)
  }

  private init(place: String, socket: consuming UnixSocket, file: consuming SocketFile?) {
    self.place = place
    self.socket = consume socket
    self.file = file
  }

  /// Gives away the descriptor, once; its new owner closes it. The file stays with this owner.
  mutating func takeDescriptor() -> Int32? { socket.take()?.release() }

  /// Removes a dead server's socket file. Throws if something else is there, or a server that lives.
  private static func clear(_ path: String) throws(SocketError) {
    var status = stat()
    guard lstat(path.originalPath, &status) == 0 else {
      if errno == ENOENT { return }
      throw SocketError(code: errno, "cannot look at \(path): \(SocketError.words(errno)) — check the path")
    }
    guard status.st_mode & S_IFMT == S_IFSOCK else {
      throw SocketError("cannot listen at \(path): a file that is not a socket is there — name another with --socket")
    }
    do throws(SocketError) {
      let other = try UnixSocket.connected(to: path).peer()
      throw SocketError(
        code: EADDRINUSE,
        "cannot listen at \(path): process \(other.processID) of user \(other.userID) serves it — "
          + "stop that server, or name another socket with --socket")
    } catch {
      guard error.code == ECONNREFUSED else { throw error }
      guard unlink(path.originalPath) == 0 || errno == ENOENT else {
        throw SocketError(
          code: errno,
          "cannot replace \(path), left by a server of user \(status.st_uid): \(SocketError.words(errno)) — "
            + "remove it as that user or as root")
      }
    }
  }

  private static func option(_ name: Int32, of descriptor: Int32) -> Int32? {
    var value: Int32 = 0
    var size = socklen_t(MemoryLayout<Int32>.size)
    return getsockopt(descriptor, SOL_SOCKET, name, &value, &size) == 0 ? value : nil
  }
}

/// A socket's name in the file system: removed with its owner, if it still is the same file.
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

  init(ofDirectoryOf path: String) throws(SocketError) {
    let directory =
      switch path.lastIndex(of: "/") {
      case nil: "."
      case path.startIndex?: "/"
      case let slash?: String(path[..<slash])
      }
    descriptor = Glibc.open(directory.originalPath, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else {
      throw SocketError(
        code: errno,
        "cannot open the directory \(directory) of the socket: \(SocketError.words(errno)) — "
          + "create it, or name another place with --socket")
    }
    // A server holds the lock for well under a millisecond. Whoever holds it longer is no server.
    for _ in 0..<200 {
      if flock(descriptor, LOCK_EX | LOCK_NB) == 0 { return }
      usleep(10_000)
    }
    throw SocketError(
      code: EBUSY,
      "cannot lock \(directory): another process holds it — see with `fuser \(directory)` which, and stop it")
  }

  deinit { close(descriptor) }
}
