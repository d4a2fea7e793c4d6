// The mark by which a server says that it sweeps a directory of segments, by limits that it was given: agents, and whoever starts
// programs, then remove nothing there. The mark is a file of the server's user, allocsd.UID.sweeps, that it holds locked, so that
// the mark of a server that was killed says nothing.

import ByteText
import CLibrary
import Glibc

/// A held mark. It is taken away when this value goes.
public struct SweeperMark: ~Copyable {
  private let path: String
  private let descriptor: Int32

  /// Nothing if the directory can't have one, as where it is not there, or another server of the same user holds it.
  public init?(in directory: String) {
    path = Self.path(in: directory, of: geteuid())
    // What somebody else put there is not opened; root, and the directory's owner, can remove it.
    var status = stat()
    if lstat(path.originalPath, &status) == 0, status.st_uid != geteuid() || status.st_mode & S_IFMT != S_IFREG { unlink(path.originalPath) }
    descriptor = open(path.originalPath, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0o600)
    guard descriptor >= 0 else { return nil }
    var lock = flock(l_type: Int16(F_WRLCK), l_whence: Int16(SEEK_SET), l_start: 0, l_len: 1, l_pid: 0)
    guard fstat(descriptor, &status) == 0, status.st_uid == geteuid(), status.st_mode & S_IFMT == S_IFREG,
      fcntl(descriptor, allocs_set_lock_of_opening, &lock) == 0
    else {
      close(descriptor)
      return nil
    }
  }

  deinit {
    if isInPlace { unlink(path.originalPath) }
    close(descriptor)
  }

  /// Whether it is where it was put: somebody may have removed it, or the directory.
  public var isInPlace: Bool {
    var status = stat()
    return fstat(descriptor, &status) == 0 && FileNumber(path: path) == FileNumber(status)
  }

  static func path(in directory: String, of user: UInt32) -> String { "\(directory)/allocsd.\(user).sweeps" }

  /// Whether a server of one of `users` sweeps the directory.
  static func isHeld(in directory: String, by users: Set<UInt32>) -> Bool {
    users.contains { user in
      let path = path(in: directory, of: user)
      var status = stat()
      guard lstat(path.originalPath, &status) == 0, status.st_uid == user, status.st_mode & S_IFMT == S_IFREG else { return false }
      let descriptor = open(path.originalPath, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)
      // The mark of root's server, that only root may look into.
      guard descriptor >= 0 else { return true }
      defer { close(descriptor) }
      return SegmentEvidence.isLocked(descriptor)
    }
  }
}
