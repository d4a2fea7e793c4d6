// SPDX-License-Identifier: Apache-2.0
// Files that somebody else has named: in a segment, in another file, or on a command line.
//
// To open a device, a pipe or a socket is to act on it: a watchdog starts to count, a pipe's writer goes on. So a path
// is resolved first, without opening what it leads to (O_PATH); then the file is looked at; and only a regular file, on
// a file system that holds files, is opened, through the descriptor by which it was looked at. No exchange of names in
// between leads to another file.

import ByteText
import CFileSystem
import Glibc

/// A regular file, open for reading; closed with its owner.
public struct RegularFile: ~Copyable, Sendable {
  /// Why a file was not opened.
  public enum Refusal: Error, Hashable, Sendable {
    /// The system refused: an `errno` value.
    case system(Int32)
    /// A directory, device, pipe or socket; or a file that the kernel makes up, as those of /proc are.
    case notRegular
    /// It has more bytes than the caller wants to read.
    case tooLarge
  }

  /// For `pread`, `fstat` and their like. It belongs to this value.
  public let descriptor: Int32
  /// As of the opening.
  public let state: FileState
  /// Permissions, as of the opening.
  public let mode: UInt32
  public let ownerID: UInt32

  /// Bytes, as of the opening.
  public var size: UInt64 { state.size }

  /// O_PATH, which Swift's Glibc module leaves out (asm-generic/fcntl.h).
  private static let placeOnly: Int32 = 0o10000000

  /// The longest path that the system takes, with its final zero: PATH_MAX.
  public static let pathLimit = 4096

  /// Opens the regular file that `path` leads to; links are followed.
  ///
  /// - `directory`: what a relative path starts from.
  /// - `sizeLimit`: bytes; a larger file is refused.
  public init(path: ForeignText, in directory: Int32 = AT_FDCWD, sizeLimit: UInt64 = .max) throws(Refusal) {
    guard path.byteCount <= 4 * Self.pathLimit else { throw .system(ENAMETOOLONG) }
    let place = openat(directory, path.originalPath, Self.placeOnly | O_CLOEXEC)
    guard place >= 0 else { throw .system(errno) }
    defer { close(place) }
    try self.init(place: place, sizeLimit: sizeLimit)
  }

  /// Opens the regular file that `place` leads to, a descriptor that was opened with O_PATH and stays the caller's.
  public init(place: Int32, sizeLimit: UInt64 = .max) throws(Refusal) {
    var status = stat()
    var system = statfs()
    guard fstat(place, &status) == 0, fstatfs(place, &system) == 0 else { throw .system(errno) }
    guard status.st_mode & S_IFMT == S_IFREG,
      !Self.madeUp.contains(UInt32(truncatingIfNeeded: system.f_type))
    else { throw .notRegular }
    let state = FileState(status)
    guard state.size <= sizeLimit else { throw .tooLarge }
    // O_NONBLOCK: another process may hold a lease of the file, which would be waited for.
    let opened = open("/proc/self/fd/\(place)", O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
    guard opened >= 0 else { throw .system(errno) }
    descriptor = opened
    self.state = state
    mode = status.st_mode
    ownerID = status.st_uid
  }

  deinit { close(descriptor) }

  /// Whether nobody has changed it since it was opened.
  public var isUnchanged: Bool {
    var status = stat()
    return fstat(descriptor, &status) == 0 && FileState(status) == state
  }

  /// The file once more.
  public func duplicate() -> RegularFile? {
    let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
    return copy < 0 ? nil : RegularFile(descriptor: copy, state: state, mode: mode, ownerID: ownerID)
  }

  private init(descriptor: Int32, state: FileState, mode: UInt32, ownerID: UInt32) {
    self.descriptor = descriptor
    self.state = state
    self.mode = mode
    self.ownerID = ownerID
  }

  /// At most `count` bytes from `offset` on, fewer at the file's end; none where there can be none. `count` is the
  /// caller's own, not a number from outside.
  public func bytes(at offset: UInt64, count: Int) -> [UInt8] {
    guard let place = off_t(exactly: offset), count > 0 else { return [] }
    return [UInt8](unsafeUninitializedCapacity: count) { buffer, size in
      size = max(0, pread(descriptor, buffer.baseAddress, count, place))
    }
  }

  /// File systems whose regular files are no stored bytes, by statfs(2)'s f_type (linux/magic.h): to read such a file
  /// is to ask the kernel, or a driver, to do something.
  private static let madeUp: Set<UInt32> = [
    0x9FA0,  // proc
    0x6265_6572,  // sysfs
    0x6462_6720,  // debugfs
    0x7472_6163,  // tracefs
    0x27_E0EB,  // cgroup
    0x6367_7270,  // cgroup2
    0x7363_6673,  // securityfs
    0x6265_6570,  // configfs
    0xCAFE_4A11,  // bpf
    0x6165_676C,  // pstore
    0xDE5E_81E4,  // efivarfs
    0xF97C_FF8C,  // selinuxfs
    0x4249_4E4D,  // binfmt_misc
    0x1980_0202,  // mqueue
    0x6E73_6673,  // nsfs
    0x1CD1,  // devpts
  ]
}
