// SPDX-License-Identifier: Apache-2.0
// The mark by which a server says that it sweeps a directory of segments, by limits that it was
// given: then agents, and programs that start others, remove nothing there. The mark is a file of
// the server's user, allocsd.UID.sweeps, that the server holds locked, so that the mark of a server
// that was killed says nothing.

import ByteText
import CLibrary
import Glibc
import SystemAccess

/// A held mark of a server. The mark is taken away when this value goes.
public struct SweeperMark: ~Copyable {
  private let path: String
  private let directory: Int32
  private let name: String
  private let descriptor: Int32

  /// Puts the mark into the directory at `path`, and holds it. Nil if the directory is not there,
  /// or another server of this user holds the mark. Nil also for a directory that another user
  /// could have put there, or in which another user could replace files: root must make no files
  /// where others want them.
  public init?(in path: String) {
    let directory: Int32
    if SharedDirectories.Place(path: path) == nil {
      directory = open(path.originalPath, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
    } else {
      // Looked at before it is opened: a file system of a user's own answers when it likes.
      guard let checked = try? CheckedDirectory(path: path) else { return nil }
      directory = openat(checked.descriptor, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    }
    guard directory >= 0 else { return nil }
    let name = Self.name(of: geteuid())
    guard Self.isTrusted(directory), let descriptor = Self.make(name, in: directory) else {
      close(directory)
      return nil
    }
    (self.path, self.directory, self.name, self.descriptor) = (path, directory, name, descriptor)
  }

  deinit {
    var own = stat()
    if fstat(descriptor, &own) == 0, let there = ownStatus(of: name, in: directory),
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
    // A file that somebody else put there is not opened; root, and the directory's owner, can
    // remove it.
    if let found = ownStatus(of: name, in: directory),
      found.st_uid != geteuid() || found.st_mode & S_IFMT != S_IFREG
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

  /// Whether the mark is where it was put: somebody may have removed it, or have put another
  /// directory in the place of its directory. A few system calls.
  public var isInPlace: Bool {
    var (own, around) = (stat(), stat())
    guard fstat(descriptor, &own) == 0, let there = ownStatus(of: name, in: directory),
      FileNumber(own) == FileNumber(there), fstat(directory, &around) == 0
    else { return false }
    return FileNumber(path: path) == FileNumber(around)
  }

  private static func name(of user: UInt32) -> String { "allocsd.\(user).sweeps" }

  /// Whether a name is that of a mark which may be in the directory of `owner`: the owner's, or
  /// root's.
  static func isMark(_ name: some Sequence<UInt8>, inDirectoryOf owner: UInt32) -> Bool {
    let bytes = Array(name)
    return [owner, 0].contains { bytes == Array(Self.name(of: $0).utf8) }
  }

  /// Whether a server sweeps the segments of `user` in the directory at `path`: one that has its
  /// mark there, of that user or of root's; or root's that has its mark in root's directory, which
  /// sweeps the directories of all users.
  static func isHeld(in path: String, for user: UInt32) -> Bool {
    if isHeld(in: path, byOneOf: [0, user]) { return true }
    return SharedDirectories.Place(path: path) != nil && isHeld(in: SharedDirectories.ofRoot, byOneOf: [0])
  }

  private static func isHeld(in path: String, byOneOf users: Set<UInt32>) -> Bool {
    guard let directory = try? CheckedDirectory(path: path) else { return false }
    return users.contains { user in
      do throws(FileRefusal) {
        let mark = try OpenedFile(in: directory.descriptor, name(of: user))
        return mark.status.st_uid == user && SegmentEvidence.isLocked(mark.descriptor)
      } catch {
        guard case .system(let code) = error, code == EACCES || code == EPERM else { return false }
        // A mark that may not be opened is that of root's server.
        guard let status = ownStatus(of: name(of: user), in: directory.descriptor) else { return false }
        return status.st_uid == user && status.st_mode & S_IFMT == S_IFREG
      }
    }
  }
}
