// SPDX-License-Identifier: Apache-2.0
// AnchoredSection: a section whose entries are large and are mapped one by one, when they are
// needed: arenas, nested arenas, event rings.
//
// The segment's descriptor is closed at the start, for programs that close all descriptors, change
// their root directory or drop privileges. The file is reached through an *anchor*: a mapping of
// the first page of the next entry. To make that entry, the anchor grows (mremap) over the whole
// entry and one page more; that last page is the next anchor. The last entry of a section has no
// successor to anchor.
//
// Invariants:
// - Nothing in an entry is written before the page under it is backed by memory. Where the file
//   system is full, the section gets no new entry; the process never gets SIGBUS.
// - The anchor is never lost. Where the first bytes of the entry get no memory, the mapping shrinks
//   to the one page again. If the kernel refuses even that, the mapping stays as large as it is:
//   it remains the anchor, the next attempt finds it grown already, and a counter says that the
//   index holds address space which it does not use (ALLOCS_COUNTER_ANCHORS_UNSHRUNK).
// - `append` runs under the agent's lock.

import AgentMachine
import SharedLayout

struct AnchoredSection {
  private static let pageSize = UInt64(ALLOCS_PAGE_SIZE)

  let section: UnsafeMutablePointer<allocs_section>
  let anchor: UnsafeMutablePointer<allocs_anchor>
  /// Where the entries are mapped, in the order of their making.
  let mappings: UnsafeMutablePointer<UnsafeMutablePointer<UInt8>?>

  // MARK: the three sections

  static func arenas(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>
  ) -> AnchoredSection {
    AnchoredSection(
      section: Segment.section(header, ALLOCS_SECTION_ARENAS),
      anchor: withUnsafeMutablePointer(to: &shared.pointee.arena_anchor) { $0 }, mappings: allocs_arena_mappings())
  }

  static func nestedArenas(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>
  ) -> AnchoredSection {
    AnchoredSection(
      section: Segment.section(header, ALLOCS_SECTION_NESTED),
      anchor: withUnsafeMutablePointer(to: &shared.pointee.nested_anchor) { $0 }, mappings: allocs_nested_mappings())
  }

  static func rings(
    _ shared: UnsafeMutablePointer<allocs_shared>, _ header: UnsafeMutablePointer<allocs_header>
  ) -> AnchoredSection {
    AnchoredSection(
      section: Segment.section(header, ALLOCS_SECTION_RINGS),
      anchor: withUnsafeMutablePointer(to: &shared.pointee.ring_anchor) { $0 }, mappings: allocs_ring_mappings())
  }

  // MARK: entries

  /// How many entries have been made.
  var count: Int { Int(anchor.pointee.count) }

  /// Whether no entry can be made any more, or none could be from the start: the section has room
  /// for none, or the segment could not be anchored there.
  var isFull: Bool { anchor.pointee.count >= section.pointee.capacity || anchor.pointee.start == nil }

  /// Makes the next entry: maps it, backs its first `headSize` bytes with memory, has `fill` write
  /// to them, and shows it to readers. Gives where it is mapped, and its number. Nil if the section
  /// is full or there is no memory.
  func append(
    backing headSize: UInt64, _ fill: (_ start: Address, _ number: UInt64) -> Void
  ) -> (start: UnsafeMutablePointer<UInt8>, number: UInt64)? {
    guard !isFull, let page = anchor.pointee.start else { return nil }
    let number = anchor.pointee.count
    let stride = section.pointee.entry_size
    let size = number + 1 < section.pointee.capacity ? stride + Self.pageSize : stride
    guard let mapped = System.grow(UnsafeMutableRawPointer(page), from: anchor.pointee.size, to: size) else {
      return nil
    }
    let start = mapped.assumingMemoryBound(to: UInt8.self)
    // Before the first store to it: a child of fork puts memory of its own there
    // (ForkedChild.swift).
    mappings[Int(number)] = start
    guard System.commit(mapped, headSize) else {
      mappings[Int(number)] = nil
      shrinkBack(start, from: size)
      return nil
    }
    anchor.pointee.start = size > stride ? start + Int(stride) : nil
    anchor.pointee.size = Self.pageSize
    anchor.pointee.count = number + 1
    fill(mapped, number)
    allocs_store_release_u64(&section.pointee.used, number + 1)
    return (start, number)
  }

  /// Makes the mapping at `start` the anchor that it was before it grew to `size` bytes.
  private func shrinkBack(_ start: UnsafeMutablePointer<UInt8>, from size: UInt64) {
    if let shrunk = System.grow(UnsafeMutableRawPointer(start), from: size, to: Self.pageSize) {
      anchor.pointee.start = shrunk.assumingMemoryBound(to: UInt8.self)
      anchor.pointee.size = Self.pageSize
    } else {
      if anchor.pointee.size != size { Index.count(ALLOCS_COUNTER_ANCHORS_UNSHRUNK) }
      anchor.pointee.start = start
      anchor.pointee.size = size
    }
  }

  /// Anchors the section at `start`, a mapping of the first page of its first entry.
  func begin(at start: Address?) {
    anchor.pointee.start = start?.assumingMemoryBound(to: UInt8.self)
    anchor.pointee.size = Self.pageSize
    anchor.pointee.count = 0
  }
}
