// SPDX-License-Identifier: Apache-2.0
// Which file it is, and in which state: the index notes it of each module, and symbols prove files by it.

import ByteText
import Glibc

/// The numbers of stat(2) that tell a file from all others of the machine, and one state of it from the next.
public struct FileState: Hashable, Sendable {
  /// The file system's device: st_dev.
  public var device: UInt64
  /// The file's number on that device: st_ino.
  public var inode: UInt64
  /// Bytes.
  public var size: UInt64
  /// When its contents were last changed: seconds since 1970-01-01 UTC.
  public var seconds: UInt64
  /// The rest of that time, below 10^9 in a sound file system.
  public var nanoseconds: UInt32

  /// Of the numbers that stat(2) gave; any numbers may be given.
  public init(device: UInt64, inode: UInt64, size: UInt64, seconds: UInt64, nanoseconds: UInt32) {
    self.device = device
    self.inode = inode
    self.size = size
    self.seconds = seconds
    self.nanoseconds = nanoseconds
  }

  /// From the answer of stat(2); negative numbers count as 0.
  package init(_ status: stat) {
    self.init(
      device: UInt64(truncatingIfNeeded: status.st_dev), inode: UInt64(truncatingIfNeeded: status.st_ino),
      size: UInt64(clamping: status.st_size),
      seconds: UInt64(clamping: status.st_mtim.tv_sec),
      nanoseconds: UInt32(truncatingIfNeeded: status.st_mtim.tv_nsec))
  }

  /// Of the file that an absolute path leads to; nil if there is none, or the path is not absolute.
  package init?(ofPath path: ForeignText) {
    var status = stat()
    guard path.isAbsolutePath, stat(path.originalPath, &status) == 0 else { return nil }
    self.init(status)
  }

  /// When its contents were last changed, in nanoseconds since 1970-01-01 UTC; times beyond the year 2500 are at its
  /// end.
  package var changed: UInt64 {
    seconds > 1 << 34 ? .max : seconds &* 1_000_000_000 &+ UInt64(truncatingIfNeeded: nanoseconds)
  }
}
