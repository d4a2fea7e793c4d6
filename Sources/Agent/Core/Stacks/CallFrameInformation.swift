// SPDX-License-Identifier: Apache-2.0
// CallFrameInformation: what .eh_frame says about one program counter, as a rule.
//
// The sections of loaded modules are read in memory. The entry for a program counter is found
// through the module's .eh_frame_hdr with its sorted table; where a module has no such table,
// through a table that the agent makes of the module's .eh_frame (FrameTables.swift). Only three
// columns are kept track of: the canonical frame address, the frame pointer and the return address.
// A function that restores anything else in a way that matters for these ends the stack. The
// standard is DWARF 4, section 6.4, with the Linux Standard Base's "Exception Frames".
//
// Invariants, as a damaged table must not crash the host:
// - Every read is checked against the end of the segment that it is in. A module may have room
//   between its segments, where nothing can be read, and a table lies in another segment than the
//   code.
// - Every loop is bounded.
//
// FrameEntry.swift reads an entry, FrameInstructions.swift runs its instructions.

import AgentMachine
import SharedLayout

enum CallFrameInformation {
  /// The rule for the call that returns to `pc`; if `isExact`, the rule for the instruction at
  /// `pc`, which a signal interrupted.
  static func rule(for pc: UInt64, isExact: Bool) -> FrameRule {
    let address = isExact ? pc : pc &- 1
    var start: UInt64 = 0
    var end: UInt64 = 0
    var table: UInt64 = 0
    var map: UnsafeMutablePointer<link_map>?
    guard allocs_find_frame_table(address, &start, &end, &map, &table), let map else { return .withoutInformation }
    var segment = FrameSegment(start: start, end: end)
    switch find(address, table, map, &segment) {
    case .entry(let entryAddress):
      guard segment.moved(to: entryAddress, of: map) else { return .unsupported }
      guard let entry = FrameEntry(covering: address, at: entryAddress, in: segment) else {
        return withoutEntry(address)
      }
      return entry.rule(at: address)
    case .nothing: return withoutEntry(address)
    case .unreadable: return .unsupported
    }
  }

  private static func withoutEntry(_ address: UInt64) -> FrameRule {
    allocs_is_entry(address) ? .outermost : .withoutInformation
  }

  private static func find(
    _ address: UInt64, _ table: UInt64, _ map: UnsafeMutablePointer<link_map>, _ segment: inout FrameSegment
  ) -> FrameEntry.Found {
    if table != 0 {
      guard segment.moved(to: table, of: map) else { return .unreadable }
      switch FrameEntry.find(address, inTable: table, end: segment.end) {
      case .unreadable: break
      case let found: return found
      }
    }
    return FrameTables.find(address, map)
  }
}

/// A part of a module that can be read.
struct FrameSegment {
  var start: UInt64
  var end: UInt64

  /// Makes it the segment around `address`; false if no segment of the module lies there.
  mutating func moved(to address: UInt64, of map: UnsafeMutablePointer<link_map>) -> Bool {
    address >= start && address < end || allocs_find_segment(address, map, &start, &end)
  }
}
