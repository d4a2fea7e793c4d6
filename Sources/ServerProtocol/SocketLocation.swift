// Where allocsd's socket is: the one rule that the server, which creates it, and its clients, which look for it, share.

import ByteText
import Glibc

/// The places of the server's socket.
public enum SocketLocation {
  /// The directories of segments, and so of the socket, that are tried in turn where nothing was named.
  public static let directories = ["/run/allocs", "/dev/shm/allocs"]
  static let fileName = "allocsd.sock"

  /// The socket that the user named: by an option, else by `ALLOCS_SOCKET`; nil if by neither.
  public static func named(_ option: String?) -> String? {
    if let option { return option }
    guard let variable = getenv("ALLOCS_SOCKET") else { return nil }
    let path = String(reversibly: UnsafePointer(variable))
    return path.isEmpty ? nil : path
  }

  /// The sockets that a client tries, in this order, where none was named.
  public static var defaults: [String] { directories.map { "\($0)/\(fileName)" } }

  /// Where a server listens if none was named: in the first of the directories that exists, else in the last.
  public static var serverDefault: String {
    let directory = directories.first { path in
      var status = stat()
      return stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
    }
    return "\(directory ?? directories[directories.count - 1])/\(fileName)"
  }

  /// Makes the directory of the socket `path` if it is one of the default ones and missing: open to all users, who put
  /// their segments there, with the sticky bit, so that nobody removes another's. A directory the user named is not
  /// made.
  public static func prepareDirectory(of path: String) throws(SocketError) {
    guard let directory = directories.first(where: { path == "\($0)/\(fileName)" }) else { return }
    try makeShared(directory)
  }

  /// Makes `directory` with mode 1777, if there is nothing of that name.
  public static func makeShared(_ directory: String) throws(SocketError) {
    if mkdir(directory, 0o1777) == 0 {
      // mkdir takes the umask off.
      chmod(directory, 0o1777)
    } else if errno != EEXIST {
      throw SocketError(
        code: errno,
        "cannot create \(directory): \(SocketError.words(errno)) — create it with mode 1777, or set ALLOCS_DIR")
    }
  }
}
