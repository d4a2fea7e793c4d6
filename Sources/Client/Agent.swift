// SPDX-License-Identifier: Apache-2.0
// The agent's library, which `run` preloads, and the directory into which the agent will put the program's index.

import ByteText
import Glibc
import ServerProtocol
import SystemAccess

/// The library that is preloaded.
enum Agent {
  static let name = "liballocs_agent.so"

  /// The path of the library: $ALLOCS_AGENT, else beside this program, else in ../lib.
  static func find() throws(Complaint) -> String {
    let path: String
    if let named = Variables.nonEmptyValue(of: "ALLOCS_AGENT") {
      guard let real = realPath(named) else {
        throw Complaint(
          .obstacle, what: "cannot find the agent: there is no \(named)",
          advice: "set ALLOCS_AGENT to the path of \(name), or unset it")
      }
      path = real
    } else {
      let own = realPath("/proc/self/exe") ?? "/"
      let directory = own[..<(own.lastIndex(of: "/") ?? own.startIndex)]
      let candidates = ["\(directory)/\(name)", "\(directory)/../lib/\(name)"]
      guard let found = candidates.lazy.compactMap({ realPath($0) }).first else {
        throw Complaint(
          .obstacle, what: "cannot find the agent \(name) in \(directory) or \(directory)/../lib",
          advice: "install it there, or set ALLOCS_AGENT to its path")
      }
      path = found
    }
    guard access(path.originalPath, R_OK) == 0 else {
      throw Complaint(
        .obstacle, what: "cannot read the agent \(path): \(systemWords(errno))",
        advice: "make it readable (chmod a+r)")
    }
    // ld.so(8) splits LD_PRELOAD at spaces and colons, and has no way to quote them.
    guard !path.contains(":"), !path.contains(" ") else {
      throw Complaint(
        .obstacle, what: "cannot preload \(path): the loader can't take a path with a space or a colon",
        advice: "install it elsewhere, or set ALLOCS_AGENT to a link without them")
    }
    return path
  }

  static func realPath(_ path: String) -> String? {
    guard let resolved = realpath(path.originalPath, nil) else { return nil }
    defer { free(resolved) }
    return String(reversibly: UnsafePointer(resolved))
  }
}

/// The directory into which the agent will put the program's index.
enum IndexDirectory {
  /// Throws if the agent would find no directory to write to. Makes the user's own where none exists.
  static func check() throws(Complaint) {
    if let named = Variables.nonEmptyValue(of: "ALLOCS_DIR") {
      guard isUsable(named) else {
        throw Complaint(
          .obstacle, what: "cannot put an index into ALLOCS_DIR \(named): \(systemWords(errno))",
          advice: "create it and make it writable, or unset ALLOCS_DIR")
      }
      makeAbsolute(named)
      return
    }
    // Root's server makes a directory for each user who comes.
    RootsServer.makeDirectory()
    let user = geteuid()
    /// The directory that the agent would take, if it can't be used: it has no room, say.
    var refused: (path: String, code: Int32)?
    for place in SharedDirectories.tried(byUser: user) {
      guard let directory = try? CheckedDirectory(path: place.path),
        place.isCommon ? directory.isShared : directory.ownerID == user
      else { continue }
      if isUsable(place.path) { return take(place.path, insteadOf: refused) }
      if refused == nil { refused = (place.path, errno) }
    }
    take(try SharedDirectories.makeOwn(where: isUsable), insteadOf: refused)
  }

  /// Has the agent put the index into the directory at `path`, where it would try another one first.
  private static func take(_ path: String, insteadOf refused: (path: String, code: Int32)?) {
    guard let refused else { return }
    complain("cannot put an index into \(refused.path): \(systemWords(refused.code)) — it goes to \(path)")
    Variables.set("ALLOCS_DIR", to: path)
  }

  /// Whether the agent can make a file in the directory; else errno says why not. Only an attempt tells the rights of
  /// root, and whether a file system is mounted read-only: the attempt makes a file without a name, where the file
  /// system has such files.
  private static func isUsable(_ path: String) -> Bool {
    let directory = open(path.originalPath, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard directory >= 0 else { return false }
    defer { close(directory) }
    var file = openat(directory, ".", O_RDWR | __O_TMPFILE | O_DIRECTORY | O_CLOEXEC, 0o600)
    if file < 0, errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT {
      let name = ".allocsctl-\(getpid())"
      file = openat(directory, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
      if file >= 0 { unlinkat(directory, name, 0) }
    }
    guard file >= 0 else { return false }
    close(file)
    return true
  }

  /// Replaces a relative path, or a link, by the absolute path. The agent uses the path as it is, in this process and
  /// in all processes that the program starts: a relative path would mean another directory once they change their
  /// working directory, and the agent does not follow links.
  private static func makeAbsolute(_ path: String) {
    var status = stat()
    let isLink = lstat(path.originalPath, &status) == 0 && status.st_mode & S_IFMT == S_IFLNK
    guard isLink || path.utf8.first != UInt8(ascii: "/"), let real = Agent.realPath(path) else { return }
    Variables.set("ALLOCS_DIR", to: real)
  }
}

/// Root's server, as far as `run` needs it.
private enum RootsServer {
  /// Has root's server make the user's directory, where there is a server and the directory is missing: the server does
  /// that for each user who connects. Without a server nothing happens.
  static func makeDirectory() {
    let place = SharedDirectories.Place.ofRoot(user: geteuid())
    func isThere() -> Bool { (try? CheckedDirectory(path: place.path)) != nil }
    guard !isThere(), let parent = try? CheckedDirectory(path: SharedDirectories.ofRoot), !parent.isShared,
      let connection = try? UnixSocket.connected(to: SocketLocation.ofRoot, isTrusted: true)
    else { return }
    // A server that is busy elsewhere costs the program its directory there, and not its start.
    for _ in 0..<200 where !isThere() { usleep(1000) }
    _ = connection.descriptor
  }
}
