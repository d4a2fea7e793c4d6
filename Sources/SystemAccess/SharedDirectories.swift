// SPDX-License-Identifier: Apache-2.0
// The directories in which agents put their segments and allocsd its socket, where neither was told another place.

import Glibc
import SharedLayout

/// The directories that all users share.
public enum SharedDirectories {
  /// In the order in which they are tried. They need not exist: systemd-tmpfiles makes the first one, and whoever needs
  /// a directory first makes the last one.
  public static let paths = (0..<ALLOCS_SHARED_DIRECTORIES).compactMap { index in
    allocs_shared_directory(index).map { String(cString: $0) }
  }

  /// The directory that is made where neither exists.
  public static var fallback: String { paths[paths.count - 1] }

  /// Makes `directory` with mode 1777, unless there is something of that name: all users may put files there, and the
  /// sticky bit keeps them from removing each other's.
  public static func make(_ directory: String) throws(Complaint) {
    if mkdir(directory, 0o1777) == 0 {
      // mkdir takes the umask off.
      chmod(directory, 0o1777)
    } else if errno != EEXIST {
      throw Complaint(
        .obstacle, what: "cannot create \(directory): \(systemWords(errno))",
        advice: "create it with mode 1777, or set ALLOCS_DIR", code: errno)
    }
  }
}
