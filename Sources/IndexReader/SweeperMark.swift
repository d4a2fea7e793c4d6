// The mark by which a server says that it sweeps a directory of segments, by limits that it was given: agents, and
// whoever starts programs, then remove nothing there. The mark is a file of the server's user, allocsd.UID.sweeps, that
// it holds locked, so that the mark of a server that was killed says nothing.

import ByteText
import CLibrary
import Glibc

/// A held mark. It is taken away when this value goes.
public struct SweeperMark: ~Copyable {
  private let path: String
  private let directory: Int32
  private let name: String
  private let descriptor: Int32

  /// Nothing if the directory can't have one, as where it is not there, or another server of the same user holds it.
  /// Nor in one that another user could have put there, or could put another file in: root must make no files where
  /// others want them.
  public init?(in path: String) {
    let directory = open(path.originalPath, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
    guard directory >= 0 else { return nil }
    let name = Self.name(of: geteuid())
    guard Self.isTrusted(directory), let descriptor = Self.make(name, in: directory) else {
      close(directory)
      return nil
    }
    (self.path, self.directory, self.name, self.descriptor) = (path, directory, name, descriptor)
  }

  deinit {
    var (own, there) = (stat(), stat())
    if fstat(descriptor, &own) == 0, fstatat(directory, name, &there, AT_SYMLINK_NOFOLLOW) == 0,
      FileNumber(own) == FileNumber(there)
    {
      unlinkat(directory, name, 0)
    }
    close(descriptor)
    close(directory)
  }

  private static func isTrusted(_ directory: Int32) -> Bool {
    var status = stat()
    guard fstat(directory, &status) == 0, [0, geteuid()].contains(status.st_uid) else { return false }
    return status.st_mode & (S_IWGRP | S_IWOTH) == 0 || status.st_mode & S_ISVTX != 0
  }

  private static func make(_ name: String, in directory: Int32) -> Int32? {
    var status = stat()
    // What somebody else put there is not opened; root, and the directory's owner, can remove it.
    if fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) == 0,
      status.st_uid != geteuid() || status.st_mode & S_IFMT != S_IFREG
    {
      unlinkat(directory, name, 0)
    }
    let file = openat(directory, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0o600)
    guard file >= 0 else { return nil }
    var lock = flock(l_type: Int16(F_WRLCK), l_whence: Int16(SEEK_SET), l_start: 0, l_len: 1, l_pid: 0)
    guard fstat(file, &status) == 0, status.st_uid == geteuid(), status.st_mode & S_IFMT == S_IFREG,
      fcntl(file, allocs_set_lock_of_opening, &lock) == 0
    else {
      close(file)
      return nil
    }
    return file
  }

  /// Whether it is where it was put: somebody may have removed it, or have put another directory in the place of its
  /// own.
  public var isInPlace: Bool {
    var (own, there) = (stat(), stat())
    return fstat(descriptor, &own) == 0 && fstatat(directory, name, &there, AT_SYMLINK_NOFOLLOW) == 0
      && FileNumber(own) == FileNumber(there) && fstat(directory, &there) == 0
      && FileNumber(path: path) == FileNumber(there)
  }

  private static func name(of user: UInt32) -> String { "allocsd.\(user).sweeps" }

  /// Whether a server of one of `users` sweeps the directory.
  static func isHeld(in directory: String, by users: Set<UInt32>) -> Bool {
    users.contains { user in
      let path = "\(directory)/\(name(of: user))"
      var status = stat()
      guard lstat(path.originalPath, &status) == 0, status.st_uid == user, status.st_mode & S_IFMT == S_IFREG else {
        return false
      }
      let descriptor = open(path.originalPath, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)
      // The mark of root's server, that only root may look into.
      guard descriptor >= 0 else { return true }
      defer { close(descriptor) }
      return SegmentEvidence.isLocked(descriptor)
    }
  }
}
