// SPDX-License-Identifier: Apache-2.0
// Where allocsd's socket is: the one rule that the server, which creates it, and its clients, which look for it, share.

import ByteText
import Glibc
import SystemAccess

/// The places of the server's socket.
public enum SocketLocation {
  static let fileName = "allocsd.sock"

  /// The socket that the user named: by an option, else by `ALLOCS_SOCKET`; nil if by neither.
  public static func named(_ option: String?) -> String? {
    if let option { return option }
    guard let variable = getenv("ALLOCS_SOCKET") else { return nil }
    let path = String(reversibly: UnsafePointer(variable))
    return path.isEmpty ? nil : path
  }

  /// The sockets that a client tries, in this order, where none was named.
  public static var defaults: [String] { SharedDirectories.paths.map { "\($0)/\(fileName)" } }

  /// Where a server listens if none was named: in the first of the directories that exists, else in the last.
  public static var serverDefault: String {
    let directory = SharedDirectories.paths.first { path in
      var status = stat()
      return stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
    }
    return "\(directory ?? SharedDirectories.fallback)/\(fileName)"
  }

  /// Makes the directory of the socket `path`, if that is a shared directory and is missing. A directory that the user
  /// named is not made.
  public static func prepareDirectory(of path: String) throws(Complaint) {
    guard let directory = SharedDirectories.paths.first(where: { path == "\($0)/\(fileName)" }) else { return }
    try SharedDirectories.make(directory)
  }
}
