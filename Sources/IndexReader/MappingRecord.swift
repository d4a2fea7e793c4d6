// SPDX-License-Identifier: Apache-2.0
// Who mapped: the table of mappings (allocs_mapping.h).

import ByteText
import SharedLayout

/// A range of addresses that one call of mmap, mremap, brk or sbrk mapped, or the part of it that
/// later calls left.
public struct MappingRecord: Hashable, Sendable {
  /// The addresses, as far as calls through libc's functions tell. For a live process,
  /// /proc/PID/maps tells all mappings, as they are at present.
  public var range: Range<UInt64>
  /// The id of the call's context, for `Segment.context(_:)`; 0 if stack and thread are not known.
  public var context: UInt32
  /// When the call was made, in ticks of 1/64 s modulo 2^31.
  public var ticks: UInt32
  /// The protection that the call asked for: the sum of 1 to read, 2 to write, 4 to execute.
  public var protection: UInt32
  /// Whether no file is behind it.
  public var isAnonymous: Bool
  /// Whether it is shared with other processes (MAP_SHARED).
  public var isShared: Bool
  /// Whether brk or sbrk made it.
  public var isBreak: Bool
  /// Whether it is memory of the agent's own.
  public var isAgent: Bool
  /// Whether mremap moved it here from memory of which nothing was known; then its protection and
  /// its file are not known either.
  public var isMoved: Bool
  /// Bytes from the file's start to the first address.
  public var fileOffset: UInt64
  /// The path of the file, as the kernel names it; nil if there is no file, or it is not known.
  public var path: ForeignText?

  /// The permissions as /proc/PID/maps writes them, such as `rw-p`.
  public var permissions: String {
    // bounded: these are texts of a letter each
    (protection & 1 != 0 ? "r" : "-") + (protection & 2 != 0 ? "w" : "-") + (protection & 4 != 0 ? "x" : "-")
      + (isShared ? "s" : "p")
  }
}

extension Segment {
  /// How many changes were made to the table of mappings so far. As long as the number stays, the
  /// records stay. One load; any thread may ask.
  public var mappingChanges: UInt64 {
    // bounded: a counter's number is below ALLOCS_COUNTER_COUNT
    allocs_load_acquire_u64(
      headerField(\.counters, as: UInt64.self) + Int(ALLOCS_COUNTER_MAPPINGS_CHANGED.rawValue))
  }

  /// The mappings that are noted, in order of address. Reads the whole table; any thread may ask.
  public var mappingRecords: [MappingRecord] {
    let records = read(ALLOCS_SECTION_MAPPINGS) {
      mappingRecord(entry($0, of: ALLOCS_SECTION_MAPPINGS, as: allocs_mapping.self))
    }
    return records.sorted { $0.range.lowerBound < $1.range.lowerBound }
  }

  private func mappingRecord(_ entry: UnsafePointer<allocs_mapping>) -> MappingRecord? {
    guard let copy = copySequenced(of: entry, into: allocs_mapping()), copy.start < copy.end else { return nil }
    return MappingRecord(
      range: copy.start..<max(copy.start, copy.end), context: copy.context, ticks: copy.ticks,
      protection: copy.protection & 7,
      isAnonymous: copy.flags & ALLOCS_MAPPING_ANONYMOUS.rawValue != 0,
      isShared: copy.flags & ALLOCS_MAPPING_SHARED.rawValue != 0,
      isBreak: copy.flags & ALLOCS_MAPPING_BREAK.rawValue != 0,
      isAgent: copy.flags & ALLOCS_MAPPING_AGENT.rawValue != 0,
      isMoved: copy.flags & ALLOCS_MAPPING_MOVED.rawValue != 0, fileOffset: copy.offset,
      path: copy.path_size == 0 ? nil : path(at: copy.path, size: copy.path_size))
  }
}
