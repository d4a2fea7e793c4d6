// SPDX-License-Identifier: Apache-2.0
// The owner of a segment's mapping, and the only place where it is made or ended.

import Glibc
import MappingGuard
import SegmentFiles
import SystemAccess

/// A shared, read-only mapping of a file's start, guarded against the file being cut; and the
/// windows that are mapped of the rest, when they are asked for.
struct MappedFile: ~Copyable, @unchecked Sendable {
  let file: OpenFile
  let start: UnsafeRawPointer
  let length: Int
  let windows: FileWindows
  private let entry: OpaquePointer

  /// Maps `length` bytes; the file must have them.
  init(_ file: consuming OpenFile, length: Int, path: String) throws(Complaint) {
    guard length > 0 else { throw .notASegment(path: path, why: "its header says that it has \(length) bytes") }
    // The mapping is far larger than the memory behind it, and nothing is ever written to it.
    let mapping = mmap(nil, length, PROT_READ, MAP_SHARED | MAP_NORESERVE, file.descriptor, 0)
    guard let mapping, mapping != MAP_FAILED else {
      throw .system(path: path, operation: "map", why: systemWords(errno))
    }
    guard let entry = mapping_guard_add(mapping, length, false) else {
      munmap(mapping, length)
      throw .system(path: path, operation: "guard the mapping of", why: systemWords(ENOMEM))
    }
    windows = FileWindows(descriptor: file.descriptor, whole: entry)
    self.file = file
    self.start = UnsafeRawPointer(mapping)
    self.length = length
    self.entry = entry
  }

  deinit {
    windows.close()
    mapping_guard_remove(entry)
    munmap(UnsafeMutableRawPointer(mutating: start), length)
  }

  /// A page was missing when it was read, and zeros were put in its place; or a window could not be
  /// mapped.
  var isBroken: Bool { mapping_guard_is_broken(entry) || windows.failure != 0 }
}
