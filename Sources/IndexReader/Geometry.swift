// SPDX-License-Identifier: Apache-2.0
// The header's check: from a copy of it and the file's size to facts and section bounds that are
// safe to use. The copy is checked, and only the copy is used: the file may change between a check
// and a use.

import ByteText
import SharedLayout
import SystemAccess

/// The facts of a header, checked.
struct Geometry: Sendable {
  /// Bytes.
  let fileSize: UInt64
  let processID: Int32
  /// Clock ticks since boot, field 22 of /proc/PID/stat.
  let startTime: UInt64
  let forkedFrom: Int32?
  let programsBefore: UInt32
  let userID: UInt32
  /// The offsets that the process's time namespace adds to the machine's clocks; nil if they are
  /// not known.
  let clockOffsets: ClockOffsets?
  /// Whether the process holds a lock of the file for as long as it has it mapped.
  let isLockedByProcess: Bool
  let command: [ForeignText]
  let hasFullStacks: Bool
  let sections: SectionPlaces

  /// Reads the header of `file` and checks it.
  init(of file: borrowing OpenFile, path: String) throws(Complaint) {
    let header = try SegmentHeader(of: file, path: path)
    let fields = header.fields
    try Self.check(fields, actualSize: file.size, path)
    sections = try SectionPlaces(header, path: path)
    fileSize = fields.file_size
    processID = Int32(truncatingIfNeeded: fields.pid)  // `check` saw that it fits
    startTime = fields.start_time
    forkedFrom = fields.forked_from == 0 ? nil : Int32(truncatingIfNeeded: fields.forked_from)
    programsBefore = fields.programs_before
    userID = fields.uid
    clockOffsets = ClockOffsets(fields)
    isLockedByProcess = fields.identity & ALLOCS_IDENTITY_LOCKED.rawValue != 0
    hasFullStacks = fields.flags & ALLOCS_FLAG_FULL_STACKS.rawValue != 0
    command = Self.command(fields)
  }

  /// Checks the fields but for the sections.
  private static func check(
    _ header: allocs_header, actualSize: UInt64, _ path: String
  ) throws(Complaint) {
    func damaged(_ why: String) -> Complaint { .notASegment(path: path, why: why) }
    guard header.file_size > UInt64(ALLOCS_PAGE_SIZE), header.file_size <= SectionPlaces.mostFileBytes else {
      let most = SectionPlaces.mostFileBytes
      throw damaged("its header says that the file has \(header.file_size) bytes; an agent's have \(most) at most")
    }
    guard actualSize >= header.file_size else {
      throw .truncated(path: path, why: "it has \(actualSize) of \(header.file_size) bytes")
    }
    guard header.pid > 0, header.pid <= Int32.max else { throw damaged("its header has process id \(header.pid)") }
    guard header.state <= ALLOCS_STATE_EXITED.rawValue else { throw damaged("its header has state \(header.state)") }
    guard header.command_size <= ALLOCS_COMMAND_SIZE else {
      throw damaged("its header says that the command has \(header.command_size) bytes")
    }
  }

  /// The arguments, between which the header has zeros.
  private static func command(_ header: allocs_header) -> [ForeignText] {
    withUnsafeBytes(of: header.command) { bytes in
      // bounded: 32 bits hold no negative number
      var arguments = bytes.prefix(Int(truncatingIfNeeded: header.command_size)).split(
        separator: 0, omittingEmptySubsequences: false)
      if arguments.last?.isEmpty == true { arguments.removeLast() }
      return arguments.map { ForeignText(reversibly: $0) }
    }
  }
}
