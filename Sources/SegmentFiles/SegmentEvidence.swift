// SPDX-License-Identifier: Apache-2.0
// The evidence of a segment's file about its process, without mapping the file: in which time
// namespace the process counts, and whether some process still has the segment.
//
// The agent locks the first byte of its segment by an "open file description lock" (fcntl(2)),
// which lasts as long as the mapping that was made through that opening. So the kernel knows
// whether the process has its segment, in whatever pid, time or mount namespace the process is; and
// anybody who may read the file may ask.

import CLibrary
import Glibc
import SharedLayout

/// The facts that one file with a segment's name tells. A few system calls.
package struct SegmentEvidence {
  package let identity: FileNumber
  /// The offsets of the time namespace in which the segment counts; nil if they are not known.
  package let offsets: ClockOffsets?
  /// Whether somebody holds the agent's lock. False also if the agent took no lock: see `tellsUse`.
  package let isLocked: Bool
  /// Whether the agent took the lock, so that a file that is not locked is in nobody's use.
  package let tellsUse: Bool
  /// Whether the process ran its exit handlers.
  package let hasExited: Bool

  /// Of the file `name` in an open directory; nil if it is not a regular file, or may not be
  /// opened.
  package init?(directory: Int32, name: String) {
    guard let file = try? OpenedFile(in: directory, name) else { return nil }
    identity = FileNumber(file.status)
    isLocked = Self.isLocked(file.descriptor)
    guard let header = SegmentHeader(descriptor: file.descriptor)?.fields else {
      (offsets, tellsUse, hasExited) = (nil, false, false)
      return
    }
    hasExited = header.state == ALLOCS_STATE_EXITED.rawValue
    offsets = ClockOffsets(header)
    tellsUse = header.identity & ALLOCS_IDENTITY_LOCKED.rawValue != 0
  }

  /// Whether somebody holds a lock of the first byte of a file that is open for reading.
  static func isLocked(_ descriptor: Int32) -> Bool {
    var lock = flock(
      l_type: Int16(F_WRLCK), l_whence: Int16(SEEK_SET), l_start: 0, l_len: 1, l_pid: 0)
    return fcntl(descriptor, allocs_get_lock_of_opening, &lock) == 0 && lock.l_type != F_UNLCK
  }
}

extension ClockOffsets {
  /// The offsets that a header has; nil if it has none.
  package init?(_ header: allocs_header) {
    guard header.identity & ALLOCS_IDENTITY_CLOCKS.rawValue != 0 else { return nil }
    self.init(monotonic: header.monotonic_offset, boottime: header.boottime_offset)
  }
}
