// SPDX-License-Identifier: Apache-2.0
// Segments of other layout versions: the one before is read, any other is refused by name. docs/layout-versions.md is
// held against this.

import Foundation
import SharedLayout
import SystemAccess
import TestSupport
import Testing

@testable import IndexReader

@Suite("Layout versions", .bounded)
struct LayoutVersionTests {
  private static let readVersions = Array(ALLOCS_OLDEST_LAYOUT_VERSION...ALLOCS_LAYOUT_VERSION)
  private static let versionOffset = MemoryLayout<allocs_header>.offset(of: \.layout_version)!

  /// What lives when Segments/tiny.c ends, by size; beside it lives what the dynamic linker and libc keep.
  private static let sizes: [UInt64] = [24, 3100, 5000, 5100, 7100, 8192]

  #if arch(x86_64)
    @Test(
      "a segment that an agent of each readable version wrote is read: blocks, stacks, threads, events",
      arguments: readVersions)
    func stored(version: UInt32) throws {
      let stored = try StoredSegment("version-\(version)")
      let segment = try Segment(path: stored.path)
      let (command, state) = (segment.command, segment.state)
      #expect(command == ["/tmp/tiny"])
      #expect(state == .live, "it ended by _exit")

      var blocks: [UInt64: Allocation] = [:]
      segment.forEachAllocation { blocks[$0.size] = $0 }
      #expect(Self.sizes.allSatisfy { blocks[$0] != nil }, "\(blocks.keys.sorted())")
      #expect([100, 1100, 2100, 4100, 6100].allSatisfy { blocks[$0] == nil }, "\(blocks.keys.sorted())")
      let aligned = try #require(blocks[8192])
      #expect(aligned.alignment == 4096 && aligned.base % 4096 == 0)

      let block = try #require(blocks[3100])
      let found = segment.context(block.context)
      let context = try #require(found)
      #expect(context.function == "malloc")
      let holder = segment.thread(slot: try #require(context.threadSlot), at: block.ticks)
      #expect(holder?.name == "tiny")
      let stack = segment.stack(ofNode: context.node)
      #expect(stack.addresses.count >= 3, "allocate, main, and what calls main")
      let paths = stack.addresses.prefix(2).map { segment.module(containing: $0, at: aligned.ticks)?.path }
      #expect(paths == ["/tmp/tiny", "/tmp/tiny"])

      let events = Self.events(of: segment)
      #expect(events.count { $0.kind == .free } >= 4)
      #expect(events.contains { $0.kind == .reallocNew && $0.size == 5000 })
      #expect(events.contains { $0.kind == .alloc && $0.size == 8192 && $0.alignment == 4096 })
    }

    @Test("what the version before lacks is not known, not there or zero")
    func lacking() throws {
      let stored = try StoredSegment("version-\(ALLOCS_OLDEST_LAYOUT_VERSION)")
      // Where the older header ends, there may be anything.
      for offset in stride(from: Int(allocs_header_size(ALLOCS_OLDEST_LAYOUT_VERSION)), to: 4096, by: 4) {
        try stored.store(.max, at: offset)
      }
      let sections = MemoryLayout<allocs_header>.offset(of: \.sections)!
      for facts in (0..<UInt32(ALLOCS_SECTION_ROWS.rawValue)).map({ allocs_section_facts($0) })
      where facts.since == ALLOCS_LAYOUT_VERSION {
        let start = sections + Int(facts.id) * MemoryLayout<allocs_section>.stride
        for offset in stride(from: start, to: start + MemoryLayout<allocs_section>.stride, by: 4) {
          try stored.store(.max, at: offset)
        }
      }
      let segment = try Segment(path: stored.path)
      let (bypasses, modules) = (segment.bypasses, segment.modules)
      #expect(bypasses == [])
      #expect(modules.count >= 3 && modules.allSatisfy { $0.file == nil })
      let (offsets, isLocked) = (segment.geometry.clockOffsets, segment.geometry.isLockedByProcess)
      #expect(offsets == nil && !isLocked)
      let evidence = try #require(Self.evidence(stored.path))
      #expect(evidence.offsets == nil && !evidence.tellsUse)
    }
  #endif

  private static func events(of segment: borrowing Segment) -> [Event] {
    var cursor = RingCursor(ring: 0)
    return withUnsafeTemporaryAllocation(of: allocs_event.self, capacity: 512) { buffer in
      let batch = segment.read(&cursor, into: buffer)
      return batch.records.map { Event(buffer[$0]) }
    }
  }

  private static func evidence(_ path: String) -> SegmentEvidence? {
    let (directory, name) = OpenFile.split(path)
    let descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    defer { close(descriptor) }
    return SegmentEvidence(directory: descriptor, name: name)
  }

  @Test(
    "any other version is named, also when the rest of the header is unknown or cut",
    arguments: [0, 1, ALLOCS_OLDEST_LAYOUT_VERSION - 1, ALLOCS_LAYOUT_VERSION + 1, .max] as [UInt32])
  func otherVersion(version: UInt32) {
    let synthetic = SyntheticSegment()
    synthetic.header.pointee.layout_version = version
    synthetic.header.pointee.header_size = 17
    let known = ALLOCS_OLDEST_LAYOUT_VERSION...ALLOCS_LAYOUT_VERSION
    let error = Complaint.otherVersion(path: synthetic.path, found: version, known: known)
    #expect(openingError(synthetic.path) == error)
    truncate(synthetic.path, 20)
    #expect(openingError(synthetic.path) == error)
  }

  @Test("the message names both versions and the way out")
  func messages() {
    func message(_ found: UInt32) -> String {
      Complaint.otherVersion(path: "x.seg", found: found, known: 2...3).description
    }
    #expect(
      message(1) == "can't read segment x.seg: its layout is version 1, this build knows versions 2 to 3 — "
        + "its agent is of an older version: start the process again, or use the allocsctl of that version")
    #expect(
      message(4) == "can't read segment x.seg: its layout is version 4, this build knows versions 2 to 3 — "
        + "install the allocsctl of that version, which is newer, or start the process again under this one's agent")
  }

  @Test("a header is of the size of its version")
  func headerSize() {
    let synthetic = SyntheticSegment()
    synthetic.header.pointee.layout_version = ALLOCS_OLDEST_LAYOUT_VERSION
    #expect(openingError(synthetic.path).isNotASegment)
    synthetic.header.pointee.header_size = allocs_header_size(ALLOCS_OLDEST_LAYOUT_VERSION)
    #expect(openingError(synthetic.path) == nil)
    synthetic.header.pointee.layout_version = ALLOCS_LAYOUT_VERSION
    #expect(openingError(synthetic.path).isNotASegment)
  }
}
