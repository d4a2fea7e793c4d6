// SPDX-License-Identifier: Apache-2.0
// One mapping of a process, asked of the kernel by an address in it (PROCMAP_QUERY, Linux 6.11 or
// later). To read the text of all mappings takes the kernel a fraction of a millisecond, of which
// paths are the greatest part; a question takes a microsecond.
//
// The kernel checks whoever opens the file, as it does for its text. The answer is what the text
// would say, but for a path's newline, which is written \012 there.

import CLibrary
import Glibc

/// A mapping, as the kernel describes it.
package struct MappingFacts {
  /// First address, and the address behind the last byte.
  package var start, end: UInt64
  package var isReadable, isWritable, isExecutable, isShared: Bool
  /// Bytes from the file's start; the file.
  package var offset: UInt64
  package var major, minor: UInt32
  package var inode: UInt64
  /// The file's path, with " (deleted)" behind that of a file that is gone, or the kernel's name
  /// such as `[heap]`; empty if it has none.
  package var name: [UInt8]
}

/// An open /proc/PID/maps, to be asked. It is kept for one request: the right to ask is checked
/// when it is opened.
package struct MappingQuery: ~Copyable {
  private let descriptor: Int32

  init(taking descriptor: Int32) { self.descriptor = descriptor }

  deinit { close(descriptor) }

  /// The mapping that holds `address`; nil if none does. Throws ENOTTY where the kernel knows no
  /// such question, ENAMETOOLONG where a path is longer than any that can be opened.
  package func mapping(at address: UInt64) throws(ProcError) -> MappingFacts? {
    var query = allocs_mapping_query()
    var failure: Int32 = 0
    let name = [UInt8](unsafeUninitializedCapacity: Int(PATH_MAX)) { buffer, size in
      query.size = UInt(bitPattern: MemoryLayout<allocs_mapping_query>.size)
      query.query_addr = UInt(truncatingIfNeeded: address)
      query.vma_name_size = UInt32(PATH_MAX)
      query.vma_name_addr = UInt(bitPattern: buffer.baseAddress)
      if allocs_query_mapping(descriptor, &query) != 0 {
        failure = errno
        return
      }
      size = min(max(0, Int(truncatingIfNeeded: query.vma_name_size) &- 1), buffer.count)
    }
    if failure == ENOENT { return nil }
    guard failure == 0 else { throw ProcError(number: failure) }
    return MappingFacts(
      start: UInt64(truncatingIfNeeded: query.vma_start), end: UInt64(truncatingIfNeeded: query.vma_end),
      isReadable: query.vma_flags & 1 != 0,
      isWritable: query.vma_flags & 2 != 0, isExecutable: query.vma_flags & 4 != 0,
      isShared: query.vma_flags & 8 != 0, offset: UInt64(truncatingIfNeeded: query.vma_offset), major: query.dev_major,
      minor: query.dev_minor, inode: UInt64(truncatingIfNeeded: query.inode), name: name)
  }
}
