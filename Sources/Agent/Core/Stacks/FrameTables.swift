// SPDX-License-Identifier: Apache-2.0
// FrameTables: sorted tables of frame description entries, made by the agent for modules that have
// none: modules linked with --no-eh-frame-hdr, or by a linker that wrote a header without a table.
//
// Nothing in memory says where such a module has its .eh_frame. But a section of that kind cannot
// be mistaken: it begins with a common entry, of a few forms, and is a chain of records from there
// on. Each record tells where the next one begins, which common entry it belongs to, and which code
// of the module it is for. So everything that can be read of the module is searched for such
// chains, once: when the module is noted, or when a stack first needs the table.
//
// A table is written by one thread, then published. When its module goes, the table is forgotten.
// Its memory stays, for the table of the next module.

import AgentMachine
import SharedLayout

enum FrameTables {
  private typealias Table = UnsafeMutablePointer<allocs_frame_table>
  private typealias Map = UnsafeMutablePointer<link_map>
  private typealias Entry = UnsafeMutablePointer<allocs_frame_place>

  /// Entries of all tables together.
  private static let mostEntries: UInt64 = 1 << 22
  private static let mostSegments = 16

  /// Makes the module's table, if it needs one and has none yet.
  static func prepare(_ map: UnsafeMutablePointer<link_map>, at address: UInt64) {
    var segment = FrameSegment(start: 0, end: 0)
    var table: UInt64 = 0
    var found: UnsafeMutablePointer<link_map>?
    guard allocs_find_frame_table(address, &segment.start, &segment.end, &found, &table), found == map,
      !FrameEntry.isSearchable(table, map, segment)
    else { return }
    _ = self.table(of: map)
  }

  /// The entry for `address` of a module without a table of its own.
  static func find(_ address: UInt64, _ map: UnsafeMutablePointer<link_map>) -> FrameEntry.Found {
    guard let table = table(of: map), table.pointee.has_failed == 0 else { return .unreadable }
    guard let entries = table.pointee.entries, table.pointee.count > 0 else { return .nothing }
    let count = Int(table.pointee.count)
    let offset = address &- table.pointee.start
    guard address >= table.pointee.start, offset >> 32 == 0, UInt64(entries[0].code) <= offset else { return .nothing }
    var (low, high) = (0, count)
    while high - low > 1 {
      let middle = (low + high) / 2
      if UInt64(entries[middle].code) <= offset { low = middle } else { high = middle }
    }
    return .entry(table.pointee.start &+ UInt64(entries[low].entry))
  }

  /// Forgets the tables of the modules that lay in this range: another module may come to lie
  /// there.
  static func forget(from start: UInt64, to end: UInt64) {
    for index in 0..<Int(ALLOCS_FRAME_TABLE_COUNT) {
      let table = allocs_frame_tables() + index
      if table.pointee.start >= start, table.pointee.start < end, allocs_load_acquire_u64(&table.pointee.map) != 0 {
        table.pointee.is_ready = 0
        allocs_store_release_u64(&table.pointee.map, 0)
      }
    }
  }

  // MARK: making one

  /// The module's table, which is made if there is none. nil if it cannot be made, if another
  /// thread is making it, or if the stack may be too small to make it here: only a thread's own
  /// stack is known to be large enough.
  private static func table(of map: Map) -> Table? {
    let key = UInt64(UInt(bitPattern: map))
    for index in 0..<Int(ALLOCS_FRAME_TABLE_COUNT) {
      let table = allocs_frame_tables() + index
      if allocs_load_acquire_u64(&table.pointee.map) == key { return isReady(table) ? table : nil }
    }
    guard let thread = allocs_registered_block(), Bounds.isOwn(thread, allocs_stack_address()) else { return nil }
    for index in 0..<Int(ALLOCS_FRAME_TABLE_COUNT) {
      let table = allocs_frame_tables() + index
      guard allocs_load_relaxed_u64(&table.pointee.map) == 0,
        allocs_compare_exchange_u64(&table.pointee.map, 0, key)
      else { continue }
      table.pointee.count = 0
      table.pointee.has_failed = 0
      make(table, map)
      allocs_store_release_u32(&table.pointee.is_ready, 1)
      // Meanwhile other threads may have cached that there is no rule.
      if let rules = allocs_process().pointee.shared?.pointee.frame_rules { FrameRules.flush(rules) }
      return table
    }
    return nil
  }
  private static func isReady(_ table: Table) -> Bool { allocs_load_acquire_u32(&table.pointee.is_ready) != 0 }

  private static func make(_ table: Table, _ map: Map) {
    withUnsafeTemporaryAllocation(of: allocs_code_segment.self, capacity: mostSegments) { buffer in
      guard let segments = buffer.baseAddress else { return }
      var count = 0
      while count < mostSegments, allocs_module_segment(map, UInt32(count), segments + count) { count += 1 }
      make(table, Segments(first: UnsafePointer(segments), count: count))
    }
  }

  private struct Segments {
    let first: UnsafePointer<allocs_code_segment>
    let count: Int
  }

  private static func make(_ table: Table, _ segments: Segments) {
    guard segments.count > 0 else { return }
    let start = segments.first.pointee.start
    var counter = Filler(entries: nil, start: start)
    for index in 0..<segments.count { search(segments.first + index, segments, &counter) }
    guard counter.count > 0 else { return }
    guard let entries = room(table, counter.count) else {
      table.pointee.has_failed = 1
      return
    }
    var filler = Filler(entries: entries, start: start, most: counter.count)
    for index in 0..<segments.count { search(segments.first + index, segments, &filler) }
    sort(entries, Int(filler.count))
    table.pointee.start = start
    table.pointee.count = filler.count
  }

  private static func room(_ table: Table, _ count: UInt64) -> Entry? {
    if table.pointee.capacity >= count { return table.pointee.entries }
    guard allocs_fetch_add_u64(&allocs_process().pointee.frame_entries, count) + count <= mostEntries,
      let memory = System.map(count * UInt64(MemoryLayout<allocs_frame_place>.stride))
    else { return nil }
    table.pointee.entries = memory.assumingMemoryBound(to: allocs_frame_place.self)
    table.pointee.capacity = count
    return table.pointee.entries
  }

  /// Counts entries, and writes them to `entries` if that is not nil.
  private struct Filler {
    let entries: Entry?
    let start: UInt64
    var most = UInt64.max
    var count: UInt64 = 0

    mutating func add(_ code: UInt64, _ entry: UInt64) {
      guard count < most, code >= start, entry >= start, (code - start) >> 32 == 0, (entry - start) >> 32 == 0 else {
        return
      }
      entries?[Int(count)] = allocs_frame_place(
        code: UInt32(truncatingIfNeeded: code - start), entry: UInt32(truncatingIfNeeded: entry - start))
      count += 1
    }
  }

  /// Adds the frame description entries in a segment.
  private static func search(
    _ segment: UnsafePointer<allocs_code_segment>, _ segments: Segments, _ filler: inout Filler
  ) {
    let segment = segment.pointee
    guard segment.is_readable != 0 else { return }
    let alignment: UInt64 = 8
    var address = (segment.start + alignment - 1) & ~(alignment - 1)
    while address < segment.end, segment.end - address >= 16 {
      // A length and a zero, then the version and "zR" or "zP": hardly any other data looks like a
      // common entry.
      let words = UnsafePointer<UInt32>(bitPattern: UInt(address)).unsafelyUnwrapped
      let letterZ: UInt32 = 0x7A
      guard words[1] == 0, words[0] >= 12, words[0] < 256, words[2] & 0xFF == 1 || words[2] & 0xFF == 3,
        words[2] >> 8 & 0xFF == letterZ, FrameEntry.isCommon(address, end: segment.end)
      else {
        address += alignment
        continue
      }
      while let next = FrameEntry.next(after: address, end: segment.end) {
        let link = UnsafeRawPointer(bitPattern: UInt(address)).unsafelyUnwrapped.loadUnaligned(
          fromByteOffset: 4, as: UInt32.self)
        if link == 0 {
          guard FrameEntry.isCommon(address, end: segment.end) else { break }
        } else {
          guard
            let entry = FrameEntry(at: address, in: FrameSegment(start: segment.start, end: segment.end)),
            isCode(entry.code.start, entry.code.size, segments)
          else { break }
          if entry.code.size > 0 { filler.add(entry.code.start, address) }
        }
        address = next
      }
      address = (address + alignment) & ~(alignment - 1)
    }
  }

  private static func isCode(_ start: UInt64, _ size: UInt64, _ segments: Segments) -> Bool {
    for index in 0..<segments.count {
      let segment = segments.first + index
      if segment.pointee.is_code != 0, start >= segment.pointee.start, start < segment.pointee.end,
        size <= segment.pointee.end - start
      {
        return true
      }
    }
    return false
  }

  /// Sorts in place, in bounded time, without recursion: a heap sort.
  private static func sort(_ entries: Entry, _ count: Int) {
    for start in (0..<count / 2).reversed() { sink(entries, start, count) }
    for end in (0..<count).reversed() where end > 0 {
      swap(entries, 0, end)
      sink(entries, 0, end)
    }
  }

  private static func sink(_ entries: Entry, _ start: Int, _ end: Int) {
    var parent = start
    while 2 * parent + 1 < end {
      var child = 2 * parent + 1
      if child + 1 < end, entries[child].code < entries[child + 1].code { child += 1 }
      guard entries[parent].code < entries[child].code else { return }
      swap(entries, parent, child)
      parent = child
    }
  }

  private static func swap(_ entries: Entry, _ one: Int, _ other: Int) {
    let entry = entries[one]
    entries[one] = entries[other]
    entries[other] = entry
  }
}
