// SPDX-License-Identifier: Apache-2.0
// Settings: the agent's part of the environment. allocs_settings.h (SharedLayout) lists all
// settings, with the names of their variables and the ranges of their values.

import AgentMachine
import SharedLayout

/// The settings of this process. A variable is left out and counted if its value is none that its
/// setting can have.
struct Settings {
  /// ALLOCS_DIR; nil if it is not set or empty.
  var directory: UnsafePointer<CChar>?
  /// ALLOCS_VERBOSE
  var isVerbose = false
  /// ALLOCS_FOLLOW: children of fork get an index of their own.
  var follows = false
  /// ALLOCS_STACKS: whole stacks, else call sites alone; and whether each stack is checked.
  var wantsFullStacks = true
  var checksStacks = false
  /// ALLOCS_TOTALS: what was ever allocated in each context (allocs_total.h).
  var wantsTotals = true
  /// ALLOCS_EVENTS: events are on from the start and stay on.
  var wantsEvents = false
  /// ALLOCS_RECORDER: a process whose child has its events on from the start, until they were
  /// recorded; 0 if it is not set. Children of that child inherit the variable, but have another
  /// parent.
  var recorder: UInt32 = 0
  /// ALLOCS_FREE_STACKS: frees have a context of their own.
  var wantsFreeStacks = false
  /// ALLOCS_RING: records of a ring, a power of two.
  var ringRecords = UInt64(ALLOCS_RING_RECORDS_DEFAULT)
  /// ALLOCS_EVENTS_WAIT: nanoseconds that a thread waits at most for a lossless consumer.
  var eventsWait = ALLOCS_WAIT_NANOSECONDS_DEFAULT
  /// ALLOCS_DEPTH: frames of a stack that are kept.
  var depth = ALLOCS_DEPTH_DEFAULT
  /// ALLOCS_SUBALLOC and ALLOCS_LEVEL; nil if they are not set or empty.
  var suballocators: UnsafePointer<CChar>?
  var level: UnsafePointer<CChar>?
  /// How many variables were left out.
  var refused: UInt64 = 0

  init() {
    var settings = self
    Self.forEach { id, text, value, error in
      if error == ALLOCS_SETTING_READ { settings.take(id, text, value) } else { settings.refused += 1 }
    }
    self = settings
  }

  private mutating func take(_ id: UInt32, _ text: UnsafePointer<CChar>, _ value: UInt64) {
    switch id {
    case ALLOCS_SETTING_DIR.rawValue: directory = text
    case ALLOCS_SETTING_VERBOSE.rawValue: isVerbose = value != 0
    case ALLOCS_SETTING_FOLLOW.rawValue: follows = value != 0
    case ALLOCS_SETTING_STACKS.rawValue:
      wantsFullStacks = value != UInt64(ALLOCS_STACKS_SITE.rawValue)
      checksStacks = value == UInt64(ALLOCS_STACKS_CHECK.rawValue)
    case ALLOCS_SETTING_SUBALLOC.rawValue: suballocators = text
    case ALLOCS_SETTING_LEVEL.rawValue: level = text
    case ALLOCS_SETTING_DEPTH.rawValue: depth = UInt32(truncatingIfNeeded: value)
    case ALLOCS_SETTING_TOTALS.rawValue: wantsTotals = value != 0
    case ALLOCS_SETTING_EVENTS.rawValue: wantsEvents = value != 0
    case ALLOCS_SETTING_RECORDER.rawValue: recorder = UInt32(truncatingIfNeeded: value)
    case ALLOCS_SETTING_FREE_STACKS.rawValue: wantsFreeStacks = value != 0
    case ALLOCS_SETTING_RING.rawValue: ringRecords = Self.records(ofBytes: value)
    case ALLOCS_SETTING_EVENTS_WAIT.rawValue: eventsWait = value * 1_000_000
    default: break  // a setting of the programs that ask, not of the agent
    }
  }

  /// Says which variables were left out, if ALLOCS_VERBOSE asks for it.
  func sayRefused() {
    guard refused > 0 else { return }
    Self.forEach { id, text, _, error in
      guard error != ALLOCS_SETTING_READ else { return }
      var line = Text()
      line.append(" leaves ALLOCS_")
      if let name = allocs_setting_name(id) { line.append(cString: name) }
      line.append(error == ALLOCS_SETTING_OUT_OF_RANGE ? " out, which is out of range: " : " out, which can't be ")
      line.append(cString: text)
      line.sayOnRequest()
    }
  }

  /// Calls `body` for each variable that names a setting and isn't empty, with the value, or the
  /// error if the text is not one of the setting's values.
  private static func forEach(
    _ body: (_ id: UInt32, _ text: UnsafePointer<CChar>, _ value: UInt64, _ error: allocs_setting_error) -> Void
  ) {
    guard var next = allocs_environment() else { return }
    while let variable = next.pointee {
      next += 1
      var text: UnsafePointer<CChar>?
      let found = allocs_setting_of(variable, &text)
      guard found >= 0, let text, text.pointee != 0 else { continue }
      var value: UInt64 = 0
      let error = allocs_read_setting(UInt32(found), text, &value)
      body(UInt32(found), text, value, error)
    }
  }

  /// The least power of two of records that takes so many bytes, within the bounds of a ring.
  private static func records(ofBytes bytes: UInt64) -> UInt64 {
    var records = UInt64(ALLOCS_RING_RECORDS_MIN)
    while records < UInt64(ALLOCS_RING_RECORDS_MAX), records * UInt64(MemoryLayout<allocs_event>.stride) < bytes {
      records *= 2
    }
    return records
  }
}
