// SPDX-License-Identifier: Apache-2.0
// A segment's header, read from the file into a private copy, and the one place that knows of
// layout versions.
//
// - A reader takes segments of its own layout version and of the version before
//   (ALLOCS_LAYOUT_VERSION_TABLE). Fields that the older header lacks, and sections that the older
//   version did not have, read as zero: "not known", "not there". Nothing behind this file asks
//   which version a segment is of.
// - The magic, the version and the header's size stand at the file's start in every version, so
//   that a segment of any other version is named as such, whatever else is in it.
// - The file may change between a check and a use: only the copy is checked and used.
//
// docs/layout-versions.md tells how agents and readers of different versions treat each other's
// files.

import Glibc
import SharedLayout
import SystemAccess

/// The header of a segment that this reader can read: a copy, of which the magic, the version and
/// the size are checked. All other fields are as the file has them.
package struct SegmentHeader {
  package private(set) var fields: allocs_header

  /// Bytes at the file's start that hold a header of any version that this reader takes.
  package static let size = MemoryLayout<allocs_header>.size

  /// The header of `file`, as it was when the file was opened.
  package init(of file: borrowing OpenFile, path: String) throws(Complaint) {
    self = try file.withStart { (bytes) throws(Complaint) in try SegmentHeader(bytes, path: path) }
  }

  /// Of an open file; nil if this reader can't read it.
  package init?(descriptor: Int32) {
    let header = withUnsafeTemporaryAllocation(byteCount: Self.size, alignment: 8) { bytes in
      let count = max(0, pread(descriptor, bytes.baseAddress, bytes.count, 0))
      return try? SegmentHeader(UnsafeRawBufferPointer(rebasing: bytes[..<count]), path: "")
    }
    guard let header else { return nil }
    self = header
  }

  /// `bytes`: the file's start, `size` bytes of it unless the file is shorter.
  private init(_ bytes: UnsafeRawBufferPointer, path: String) throws(Complaint) {
    try Self.checkMagic(bytes, path: path)
    let versionEnd = 12
    guard bytes.count >= versionEnd else {
      throw .truncated(path: path, why: "it has only \(bytes.count) bytes")
    }
    let version = bytes.loadUnaligned(fromByteOffset: 8, as: UInt32.self)
    let presentSize = Int(truncatingIfNeeded: allocs_header_size(version))
    guard presentSize > 0 else {
      let known = ALLOCS_OLDEST_LAYOUT_VERSION...ALLOCS_LAYOUT_VERSION
      throw .otherVersion(path: path, found: version, known: known)
    }
    guard bytes.count == Self.size else {
      throw .truncated(path: path, why: "it has \(bytes.count) bytes, a header alone takes \(Self.size)")
    }
    fields = allocs_header()
    withUnsafeMutableBytes(of: &fields) { $0.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[..<presentSize])) }
    guard fields.header_size == presentSize else {
      throw .notASegment(
        path: path, why: "its header says that it takes \(fields.header_size) bytes instead of \(presentSize)")
    }
    leaveOutLaterSections()
  }

  private static func checkMagic(_ bytes: UnsafeRawBufferPointer, path: String) throws(Complaint) {
    guard !bytes.isEmpty else {
      throw .truncated(path: path, why: "it is empty: the process is about to write it, or someone cut it")
    }
    let present = bytes.prefix(8)
    let magic = withUnsafeBytes(of: ALLOCS_MAGIC.littleEndian) { Array($0) }
    if present.elementsEqual(magic.prefix(present.count)) { return }
    if present.allSatisfy({ $0 == 0 }) {
      if present.count == 8 { throw .halfWritten(path: path) }
      throw .truncated(path: path, why: "it has only \(present.count) bytes")
    }
    throw .notASegment(path: path, why: "it does not begin with a segment's magic")
  }

  /// A section that a later layout version added is not there, whatever stands at its number.
  private mutating func leaveOutLaterSections() {
    for row in 0..<UInt32(ALLOCS_SECTION_ROWS.rawValue) {
      let facts = allocs_section_facts(row)
      guard facts.since > fields.layout_version else { continue }
      withUnsafeMutableBytes(of: &fields.sections) { bytes in
        bytes.storeBytes(
          // bounded: a row's number is a constant below ALLOCS_SECTION_SPACE
          of: allocs_section(), toByteOffset: Int(facts.id) * MemoryLayout<allocs_section>.stride,
          as: allocs_section.self)
      }
    }
  }

  /// The header's table of sections, by number: foreign numbers, not checked.
  package var sections: [allocs_section] {
    withUnsafeBytes(of: fields.sections) { Array($0.bindMemory(to: allocs_section.self)) }
  }
}
