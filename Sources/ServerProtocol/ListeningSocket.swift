// SPDX-License-Identifier: Apache-2.0
// The socket on which the server listens: made at a path, or inherited from systemd.
//
// - A socket file that a dead server left behind is replaced; the file of a live server never is. Two servers that
//   start at once take turns: each holds a lock while it looks and binds. Root's server removes what another user has
//   put at its name, and its lock is a file that only root can lock.
// - Anybody may connect (mode 0666). The user at the other end decides, for each request, which answers are given.
// - The server that made the file removes it, if the name still leads to that file.

import ByteText
import COpening
import Glibc
import SystemAccess

/// Owns a listening socket, and the socket's file if this process made it.
public struct ListeningSocket: ~Copyable {
  /// Where it listens, in words.
  public let place: String
  private var socket: UnixSocket?
  private let file: SocketFile?

  /// The socket that systemd passed, if there is one, else a new socket at `path`. To be called before other threads
  /// start.
  public static func open(at path: String) throws(Complaint) -> ListeningSocket {
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
    PassedRights.refuse(on: first)
    return ListeningSocket(place: "the socket passed by systemd", socket: UnixSocket(adopting: first), file: nil)
  }

  /// Binds a socket to `path` and listens.
  private init(at path: String) throws(Complaint) {
    let lock = try SocketLock(of: path)
    defer { withExtendedLifetime(lock) {} }
    try Self.clear(path)

    let socket = try UnixSocket.create()
    PassedRights.refuse(on: socket.descriptor)
    // The mode comes with the file: a change by name could reach another file by now.
    let mask = umask(0o111)
    let result = try UnixSocket.withAddress(of: path) { bind(socket.descriptor, $0, $1) }
    umask(mask)
    guard result == 0 else {
      throw Complaint(
        .obstacle, what: "cannot listen at \(path): \(systemWords(errno))", advice: "name another place with --socket",
        code: errno)
    }
    let file = SocketFile(path: path)
    // While the queue is full nobody can connect: a client that opens connections without end would keep others out.
    guard listen(socket.descriptor, SOMAXCONN) == 0 else {
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
  public mutating func takeDescriptor() -> Int32? { socket.take()?.release() }

  /// Removes a dead server's socket file. Throws if another kind of file is there, or the socket of a live server.
  private static func clear(_ path: String) throws(Complaint) {
    var status = stat()
    let code = NameInDirectory(path: path).look(&status)
    guard code == 0 else {
      if code == ENOENT { return }
      throw Complaint(
        .obstacle, what: "cannot look at \(path): \(NameInDirectory.words(code))",
        advice: code == EXDEV ? NameInDirectory.advice : "check the path", code: code)
    }
    if geteuid() == 0, status.st_uid != 0 {
      // Whoever made it could keep root's server away by it, or tell false answers to those who trust the name.
      let code = takeAway(path)
      guard code == 0 else {
        throw Complaint(
          .obstacle, what: "cannot replace \(path), made by user \(status.st_uid): \(systemWords(code))", code: code)
      }
      return
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

  /// Takes away what another user has put at a name in a directory of root's: a link, a file, a pipe; and a directory,
  /// whatever is in it, gets another name. Returns 0, or the number of an error.
  fileprivate static func takeAway(_ path: String) -> Int32 {
    if unlink(path.originalPath) == 0 || errno == ENOENT || rmdir(path.originalPath) == 0 { return 0 }
    let other = "\(path).\(getpid()).\(UInt32.random(in: .min ... .max))"
    return rename(path.originalPath, other.originalPath) == 0 || errno == ENOENT ? 0 : errno
  }

  private static func option(_ name: Int32, of descriptor: Int32) -> Int32? {
    var value: Int32 = 0
    var size = socklen_t(MemoryLayout<Int32>.size)
    return getsockopt(descriptor, SOL_SOCKET, name, &value, &size) == 0 ? value : nil
  }
}

/// A name in a directory in which others may have put anything under it. They may also have mounted a file system of
/// their own making there (FUSE), which answers when it likes: such a name is neither asked nor opened (EXDEV).
private struct NameInDirectory: ~Copyable {
  /// A descriptor, or a negated error number.
  private let directory: Int32
  private let name: String

  init(path: String) {
    let slash = path.lastIndex(of: "/")
    let parent = slash.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
    name = slash.map { String(path[path.index(after: $0)...]) } ?? path
    let opened = Glibc.open(parent.originalPath, __O_PATH | O_DIRECTORY | O_CLOEXEC)
    directory = opened < 0 ? 0 &- errno : opened
  }

  deinit { if directory >= 0 { close(directory) } }

  /// As lstat(2). 0, or an error number.
  func look(_ status: inout stat) -> Int32 {
    directory < 0 ? 0 &- directory : allocs_look_at(directory, name.originalPath, &status)
  }

  /// As open(2), through no link. A descriptor, or a negated error number.
  func open(_ flags: Int32, mode: UInt32) -> Int32 {
    directory < 0 ? directory : allocs_make_in(directory, name.originalPath, flags, mode)
  }

  static func words(_ code: Int32) -> String { code == EXDEV ? "something is mounted there" : systemWords(code) }
  static let advice = "unmount it, or name another place with --socket"
}

/// A socket's name in the file system. It is removed with its owner, if it still leads to the same file.
struct SocketFile: ~Copyable {
  private let path: String
  private let device: dev_t
  private let inode: ino_t

  init(path: String) {
    var status = stat()
    let known = NameInDirectory(path: path).look(&status) == 0
    self.path = path
    device = known ? status.st_dev : 0
    inode = known ? status.st_ino : 0
  }

  deinit {
    var status = stat()
    if NameInDirectory(path: path).look(&status) == 0, status.st_dev == device, status.st_ino == inode {
      unlink(path.originalPath)
    }
  }
}

/// Holds an exclusive lock of a file beside a socket, for the moment in which the socket is looked at and replaced. The
/// file is the server's user's, with mode 0600: others can't lock it.
private struct SocketLock: ~Copyable {
  private let descriptor: Int32
  private let path: String

  init(of socket: String) throws(Complaint) {
    path = socket + ".lock"
    let name = NameInDirectory(path: path)
    // A server holds the lock for well under a millisecond. A process that holds it longer is no server.
    for _ in 0..<200 {
      let file = name.open(O_RDWR | O_CREAT | O_NONBLOCK, mode: 0o600)
      let code = file < 0 ? 0 &- file : 0
      var own = stat()
      var there = stat()
      if file >= 0, fstat(file, &own) == 0, own.st_uid == geteuid(), own.st_mode & (S_IFMT | 0o077) == S_IFREG {
        // A server that held the lock has removed the file meanwhile: then another file is there, or none.
        if flock(file, LOCK_EX | LOCK_NB) == 0, name.look(&there) == 0, own.st_ino == there.st_ino {
          descriptor = file
          return
        }
        close(file)
        usleep(10_000)
        continue
      }
      if file >= 0 { close(file) }
      // What somebody else has put there, root removes; no other server can.
      if geteuid() == 0, code != ENOENT, ListeningSocket.takeAway(path) == 0 { continue }
      throw Complaint(
        .obstacle, what: "cannot make \(path): \(code == 0 ? "it is another user's" : NameInDirectory.words(code))",
        advice: code == EXDEV ? NameInDirectory.advice : "create its directory, or name another place with --socket",
        code: code)
    }
    throw Complaint(
      .obstacle, what: "cannot lock \(path): another process holds it",
      advice: "see with `fuser \(path)` which, and stop it", code: EBUSY)
  }

  deinit {
    unlink(path.originalPath)
    close(descriptor)
  }
}
