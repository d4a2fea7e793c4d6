// SPDX-License-Identifier: Apache-2.0
// Where the sections of a segment lie: from the header's table to bounds that are safe to use.
//
// - A layout version has one size for each entry; a header that says another is damaged, not newer.
// - Sections lie inside the file, behind the header's page, on page boundaries, and don't overlap.
// - The list of sections (allocs_section.h) says which facts of each section are checked; only the
//   size of an event ring is a choice of the process, and is checked by itself.

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

  subscript(id: allocs_section_id) -> SectionPlace { places[Int(id.rawValue)] }

  init(_ header: SegmentHeader, path: String) throws(Complaint) {
    let table = header.sections
    var ranges: [Range<UInt64>] = []
    for row in 0..<UInt32(ALLOCS_SECTION_ROWS.rawValue) {
      let facts = allocs_section_facts(row)
      let section = table[Int(facts.id)]
      if facts.presence == ALLOCS_SECTION_OPTIONAL.rawValue, section.offset == 0, section.entry_size == 0,
        section.capacity == 0
      {
        continue
      }
      if facts.id == ALLOCS_SECTION_RINGS.rawValue { ringRecords = try Self.ringRecords(section, path) }
      let range = try Self.range(of: section, facts, fileSize: header.fields.file_size, path)
      if !range.isEmpty { ranges.append(range) }
      places[Int(facts.id)] = SectionPlace(offset: Int(section.offset), capacity: Int(section.capacity))
    }
    ranges.sort { $0.lowerBound < $1.lowerBound }
    for (lower, upper) in zip(ranges, ranges.dropFirst()) where lower.upperBound > upper.lowerBound {
      throw .notASegment(path: path, why: "two of its sections overlap at \(upper.lowerBound)")
    }
  }

  /// The bytes of the file that a section takes.
  private static func range(
    of section: allocs_section, _ facts: allocs_section_facts, fileSize: UInt64, _ path: String
  ) throws(Complaint) -> Range<UInt64> {
    let words = String(cString: allocs_section_words(facts.id))
    let entrySize = facts.entry_size == UInt64(ALLOCS_ENTRY_SIZE_VARIES) ? section.entry_size : facts.entry_size
    guard section.entry_size == entrySize else {
      throw .notASegment(
        path: path, why: "an entry of its \(words) takes \(section.entry_size) bytes instead of \(entrySize)")
    }
    let (size, tooLarge) = section.capacity.multipliedReportingOverflow(by: section.entry_size)
    let (end, tooFar) = section.offset.addingReportingOverflow(size)
    guard !tooLarge, !tooFar, end <= fileSize, section.offset >= UInt64(ALLOCS_PAGE_SIZE),
      section.offset % UInt64(ALLOCS_PAGE_SIZE) == 0
    else {
      throw .notASegment(
        path: path, why: "its \(words) lie at \(section.offset), \(section.capacity) entries, outside the file")
    }
    let isWhole = facts.presence == ALLOCS_SECTION_WHOLE.rawValue
    guard section.capacity <= facts.most_accepted, !isWhole || section.capacity == facts.capacity else {
      throw .notASegment(path: path, why: "it has room for \(section.capacity) entries of its \(words)")
    }
    return section.offset..<end
  }

  /// Records of one ring, from the bytes that a ring takes.
  private static func ringRecords(_ section: allocs_section, _ path: String) throws(Complaint) -> Int {
    let size = section.entry_size
    let records = size > Layout.ringRecordsOffset ? (size - Layout.ringRecordsOffset) / Layout.eventSize : 0
    guard section.capacity > 0, records >= ALLOCS_RING_RECORDS_MIN, records <= ALLOCS_RING_RECORDS_MAX,
      records.nonzeroBitCount == 1, size == Layout.ringRecordsOffset + records * Layout.eventSize
    else {
      throw .notASegment(path: path, why: "it has \(section.capacity) event rings of \(size) bytes")
    }
    return Int(records)
  }
}
