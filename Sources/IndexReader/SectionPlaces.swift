// SPDX-License-Identifier: Apache-2.0
// Where the sections of a segment lie: from the header's table to bounds that are safe to use.
//
// - A layout version has one size for each entry; a header that says another is damaged, not newer.
// - The file is no larger than the largest that an agent makes; the tables end near its start, so
//   that they may be mapped whole.
// - Sections lie inside the file, behind the header's page, on page boundaries, and don't overlap.
// - The list of sections (allocs_section.h) says which facts of each section are checked; only the
//   size of an event ring is a choice of the process, and is checked by itself.

import Bounds
import SharedLayout
import SystemAccess

/// A section's checked place.
struct SectionPlace: Sendable {
  /// Bytes from the file's start.
  var offset = 0
  /// Entries; 0 if the segment does not have the section.
  var capacity = 0
}

/// The checked places of all sections.
struct SectionPlaces: Sendable {
  /// By the section's number: as many as the header's table has (ALLOCS_SECTION_SPACE).
  private var places = InlineArray<16, SectionPlace>(repeating: SectionPlace())
  /// Records of one event ring, a power of two; 0 if there are no rings.
  private(set) var ringRecords = 0

  /// Bytes of one event ring, its records included; at least a page.
  private(set) var ringStride = Int(ALLOCS_PAGE_SIZE)
  /// Where the tables end: all sections but the arenas and the rings, of which windows are mapped.
  private(set) var tablesEnd = Int(ALLOCS_PAGE_SIZE)

  /// The tables of a segment without limits take seven tenths of this.
  private static let mostTableBytes: UInt64 = 1 << 30

  subscript(id: allocs_section_id) -> SectionPlace { places[Int(truncatingIfNeeded: id.rawValue)] }

  init(_ header: SegmentHeader, path: String) throws(Complaint) {
    let table = header.sections
    var ranges: [Range<UInt64>] = []
    for row in 0..<UInt32(ALLOCS_SECTION_ROWS.rawValue) {
      let facts = allocs_section_facts(row)
      let number = Int(truncatingIfNeeded: facts.id)  // below 16, as allocs_section.h asserts
      let section = table[number]
      if facts.presence == ALLOCS_SECTION_OPTIONAL.rawValue, section.offset == 0, section.entry_size == 0,
        section.capacity == 0
      {
        continue
      }
      if facts.id == ALLOCS_SECTION_RINGS.rawValue {
        ringRecords = try Self.ringRecords(section, path)
        ringStride = Int(truncatingIfNeeded: section.entry_size)
      }
      let range = try Self.range(of: section, facts, fileSize: header.fields.file_size, path)
      if !range.isEmpty { ranges.append(range) }
      places[number] = SectionPlace(
        offset: Int(truncatingIfNeeded: section.offset), capacity: Int(truncatingIfNeeded: section.capacity))
      guard !Self.windowed.contains(facts.id) else { continue }
      guard range.upperBound <= Self.mostTableBytes else {
        throw .notASegment(
          path: path, why: "its \(Self.words(facts.id)) end at \(range.upperBound), too far from its start")
      }
      tablesEnd = max(tablesEnd, Int(truncatingIfNeeded: range.upperBound))
    }
    ranges.sort { $0.lowerBound < $1.lowerBound }
    for (lower, upper) in zip(ranges, ranges.dropFirst()) where lower.upperBound > upper.lowerBound {
      throw .notASegment(path: path, why: "two of its sections overlap at \(upper.lowerBound)")
    }
  }

  /// The bytes of a file of which each section has the list's capacity, and each ring the most
  /// records.
  static let mostFileBytes: UInt64 = {
    let ringBytes = Layout.ringRecordsOffset &+ UInt64(ALLOCS_RING_RECORDS_MAX) &* Layout.eventSize
    let page = UInt64(ALLOCS_PAGE_SIZE)
    return (0..<UInt32(ALLOCS_SECTION_ROWS.rawValue)).reduce(page) { sum, row in
      let facts = allocs_section_facts(row)
      let entry = facts.entry_size == UInt64(ALLOCS_ENTRY_SIZE_VARIES) ? ringBytes : facts.entry_size
      return sum &+ facts.capacity &* entry &+ page
    }
  }()

  /// The sections of which windows are mapped.
  private static let windowed: Set<UInt32> = [
    ALLOCS_SECTION_ARENAS.rawValue, ALLOCS_SECTION_NESTED.rawValue, ALLOCS_SECTION_RINGS.rawValue,
  ]

  private static func words(_ id: UInt32) -> String { String(cString: allocs_section_words(id)) }

  /// The bytes of the file that a section takes.
  private static func range(
    of section: allocs_section, _ facts: allocs_section_facts, fileSize: UInt64, _ path: String
  ) throws(Complaint) -> Range<UInt64> {
    let words = words(facts.id)
    let entrySize = facts.entry_size == UInt64(ALLOCS_ENTRY_SIZE_VARIES) ? section.entry_size : facts.entry_size
    guard section.entry_size == entrySize else {
      throw .notASegment(
        path: path, why: "an entry of its \(words) takes \(section.entry_size) bytes instead of \(entrySize)")
    }
    let end = Foreign(section.offset) + Foreign(section.capacity) * entrySize
    let isOnPage = section.offset & (UInt64(ALLOCS_PAGE_SIZE) &- 1) == 0
    guard let end = end.value(in: section.offset...max(section.offset, fileSize)), end <= fileSize,
      section.offset >= UInt64(ALLOCS_PAGE_SIZE), isOnPage
    else {
      throw .notASegment(
        path: path, why: "its \(words) lie at \(section.offset), \(section.capacity) entries, outside the file")
    }
    let isWhole = facts.presence == ALLOCS_SECTION_WHOLE.rawValue
    guard section.capacity <= facts.most_accepted, !isWhole || section.capacity == facts.capacity else {
      throw .notASegment(path: path, why: "it has room for \(section.capacity) entries of its \(words)")
    }
    return section.offset..<max(section.offset, end)
  }

  /// Records of one ring, from the bytes that a ring takes.
  private static func ringRecords(_ section: allocs_section, _ path: String) throws(Complaint) -> Int {
    let records = (Foreign(section.entry_size) - Layout.ringRecordsOffset) / Layout.eventSize
    let accepted = UInt64(ALLOCS_RING_RECORDS_MIN)...UInt64(ALLOCS_RING_RECORDS_MAX)
    guard section.capacity > 0, let count = records.value(in: accepted), count.nonzeroBitCount == 1,
      records * Layout.eventSize + Layout.ringRecordsOffset == section.entry_size
    else {
      throw .notASegment(
        path: path, why: "it has \(section.capacity) event rings of \(section.entry_size) bytes")
    }
    return Int(truncatingIfNeeded: count)
  }
}
