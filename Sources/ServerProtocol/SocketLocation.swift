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
    let path = String(reversibly: UnsafePointer(variable))  // raw: a socket to connect to
    return path.isEmpty ? nil : path
  }

  /// Where root's server listens.
  public static var ofRoot: String { "\(SharedDirectories.ofRoot)/\(fileName)" }

  /// The sockets that a client tries, in this order, where none was named: in the user's own directories, then where
  /// root's server is, then where root's server of the layout before is.
  public static var defaults: [String] {
    let own = SharedDirectories.Place.own(ofUser: geteuid())
    return (own + [.common, .former]).map { "\($0.path)/\(fileName)" }
  }

  /// Where a server listens if none was named: root's in root's directory, a user's in the user's own.
  public static var serverDefault: String {
    if geteuid() == 0 { return ofRoot }
    let own = SharedDirectories.Place.own(ofUser: geteuid())
    let there = own.first { place in
      guard let directory = try? CheckedDirectory(path: place.path) else { return false }
      return directory.ownerID == geteuid()
    }
    // The directory in /run/user is made where that of its user is there.
    let session = "/run/user/\(geteuid())"
    let canBeMade = own.first { $0.path.hasPrefix(session + "/") && access(session, W_OK) == 0 }
    return "\((there ?? canBeMade ?? own[own.count - 1]).path)/\(fileName)"
  }

  /// Makes the directory of the socket `path`, if that is a default one and is missing. A directory that the user named
  /// is not made.
  public static func prepareDirectory(of path: String) throws(Complaint) {
    if path == ofRoot, geteuid() == 0 {
      try SharedDirectories.makeRootsDirectory()
    } else if SharedDirectories.Place.own(ofUser: geteuid()).contains(where: { path == "\($0.path)/\(fileName)" }) {
      _ = try SharedDirectories.makeOwn()
    }
  }
}
