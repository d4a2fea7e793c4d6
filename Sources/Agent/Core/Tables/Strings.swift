// Strings: text in the segment, to which other tables' entries point. It only grows.

import AgentMachine
import SharedLayout

enum Strings {
  /// Bytes of one text, at most.
  static let limit = Int(ALLOCS_PAGE_SIZE)

  struct Place {
    var offset: UInt64 = 0
    var size: UInt32 = 0
  }

  /// Adds what `write` puts into the `limit` bytes that it is given; it says how many it has put there. Nil if there is
  /// no room or no memory. Under the lock of the slow paths.
  static func add(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>,
    _ write: (UnsafeMutablePointer<UInt8>) -> Int
  ) -> Place? {
    guard let bytes = draft(shared, header) else { return nil }
    let size = write(bytes)
    return Place(offset: keep(header, size), size: UInt32(size))
  }

  /// `limit` bytes behind the last text, to be written to; nil if there is no room or no memory. Under the lock.
  static func draft(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>
  ) -> UnsafeMutablePointer<UInt8>? {
    let pageSize = UInt64(ALLOCS_PAGE_SIZE)
    let strings = Segment.section(header, ALLOCS_SECTION_STRINGS)
    let start = strings.pointee.used
    guard start + UInt64(limit) <= strings.pointee.capacity else { return nil }
    while shared.pointee.strings_committed < start + UInt64(limit) {
      let next = Segment.start(header, ALLOCS_SECTION_STRINGS) + Int(shared.pointee.strings_committed)
      guard System.commit(next, pageSize) else { return nil }
      shared.pointee.strings_committed += pageSize
    }
    return (Segment.start(header, ALLOCS_SECTION_STRINGS) + Int(start)).assumingMemoryBound(to: UInt8.self)
  }

  /// Makes the first `size` bytes of the draft a text, and gives its offset.
  static func keep(_ header: UnsafeMutablePointer<allocs_header>, _ size: Int) -> UInt64 {
    let strings = Segment.section(header, ALLOCS_SECTION_STRINGS)
    let start = strings.pointee.used
    allocs_store_release_u64(&strings.pointee.used, start + UInt64(size))
    return start
  }

  /// Adds `size` bytes of `text`, cut to `limit`.
  static func add(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>,
    _ text: UnsafePointer<CChar>, _ size: Int
  ) -> Place? {
    guard size > 0 else { return Place() }
    return add(shared, header) { bytes in
      for index in 0..<min(size, limit) { bytes[index] = UInt8(bitPattern: text[index]) }
      return min(size, limit)
    }
  }

  /// Whether this text is there, as `add` would have put it.
  static func holds(
    _ header: UnsafeMutablePointer<allocs_header>, _ offset: UInt64, _ size: Int, _ text: Allocators.Name
  ) -> Bool {
    guard size == min(text.size, limit) else { return false }
    guard let start = text.start else { return true }
    let strings = Segment.start(header, ALLOCS_SECTION_STRINGS).assumingMemoryBound(to: CChar.self) + Int(offset)
    for index in 0..<size where strings[index] != start[index] { return false }
    return true
  }
}
