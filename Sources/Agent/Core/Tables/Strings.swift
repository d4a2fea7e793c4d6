// SPDX-License-Identifier: Apache-2.0
// Strings: text in the segment, to which entries of other tables point. The section only grows.
//
// Invariants:
// - No byte is written before its page is backed by memory. Texts are drafted in place, before
//   their size is known; so there is memory for the longest text (`limit`) behind the last one, and
//   `strings_committed` notes how far it reaches.
// - `used` counts whole texts only (release); it pairs with the reader's acquire.

import AgentMachine
import SharedLayout

enum Strings {
  /// The most bytes that one text may have.
  static let limit = Int(ALLOCS_PAGE_SIZE)

  /// Where a text lies in the section, in bytes. The size is 0 if there is no text.
  struct Extent {
    var offset: UInt64 = 0
    var size: UInt32 = 0
  }

  @inline(__always)
  static func table(_ header: UnsafeMutablePointer<allocs_header>) -> SegmentTable<UInt8> {
    SegmentTable(header, ALLOCS_SECTION_STRINGS)
  }

  /// Adds the bytes that `write` puts into the `limit` bytes which it is given; it returns their
  /// number. Nil if there is no room or no memory. The caller holds the lock.
  static func add(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>,
    _ write: (UnsafeMutablePointer<UInt8>) -> Int
  ) -> Extent? {
    guard let bytes = draft(shared, header) else { return nil }
    let size = write(bytes)
    return Extent(offset: keep(header, size), size: UInt32(size))
  }

  /// `limit` bytes behind the last text, to be written to. Nil if there is no room or no memory.
  /// The caller holds the lock.
  static func draft(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>
  ) -> UnsafeMutablePointer<UInt8>? {
    let pageSize = UInt64(ALLOCS_PAGE_SIZE)
    let strings = table(header)
    let end = strings.count + limit
    guard end <= strings.capacity else { return nil }
    while shared.pointee.strings_committed < UInt64(end) {
      guard System.commit(strings[Int(shared.pointee.strings_committed)], pageSize) else { return nil }
      shared.pointee.strings_committed += pageSize
    }
    return strings[strings.count]
  }

  /// Makes the first `size` bytes of the draft a text, and gives its offset.
  static func keep(_ header: UnsafeMutablePointer<allocs_header>, _ size: Int) -> UInt64 {
    let strings = table(header)
    let start = strings.count
    strings.publish(start + size)
    return UInt64(start)
  }

  /// Adds `size` bytes of `text`, cut to `limit`.
  static func add(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>,
    _ text: UnsafePointer<CChar>, _ size: Int
  ) -> Extent? {
    guard size > 0 else { return Extent() }
    return add(shared, header) { bytes in
      for index in 0..<min(size, limit) { bytes[index] = UInt8(bitPattern: text[index]) }
      return min(size, limit)
    }
  }

  /// Whether the `size` bytes at `offset` are what `add` would make of `text`.
  static func holds(
    _ header: UnsafeMutablePointer<allocs_header>, _ offset: UInt64, _ size: Int, _ text: Allocators.Name
  ) -> Bool {
    guard size == min(text.size, limit) else { return false }
    guard let start = text.start else { return true }
    return ModuleFiles.isEqual(table(header)[Int(offset)], start, size)
  }
}
