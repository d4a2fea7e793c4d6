// SPDX-License-Identifier: Apache-2.0
// The settings as allocsctl shows and checks them. allocs_settings.h lists them and says how their values are written,
// for the agent as well; this file adds the words for people, but for the purposes, which are in the list.

import Answers
import ByteText
import SharedLayout

/// A setting: a variable of the environment, and a key of the configuration if it is not the environment's alone.
struct SettingKind {
  let id: UInt32
  /// The variable, such as ALLOCS_RING.
  let variable: String
  let kind: allocs_setting_kind
  let scope: allocs_setting_scope
  let range: ClosedRange<UInt64>
  let words: [Substring]

  /// The key of the configuration file, such as `ring`.
  var key: String { variable.dropFirst(ALLOCS_SETTING_PREFIX.count).lowercased() }

  static let all: [SettingKind] = (0..<UInt32(ALLOCS_SETTING_COUNT.rawValue)).compactMap { id in
    guard let setting = allocs_setting_at(id)?.pointee else { return nil }
    let words = String(cString: allocs_setting_words(id))
    return SettingKind(
      id: id, variable: ALLOCS_SETTING_PREFIX + String(cString: allocs_setting_name(id)),
      kind: allocs_setting_kind(setting.kind), scope: allocs_setting_scope(setting.scope),
      range: setting.least...max(setting.least, setting.most), words: words.split(separator: "|"))
  }

  /// The settings that a configuration file may have.
  static let configured = all.filter { $0.scope == ALLOCS_SCOPE_CONFIGURED }

  /// The purpose of the setting, in a line of `run --help`.
  var meaning: String {
    let purpose = String(cString: allocs_setting_purpose(id))
    return switch kind {
    case ALLOCS_KIND_WORD: "\(purpose): \(Self.list(words.map(String.init)))"
    case ALLOCS_KIND_NUMBER, ALLOCS_KIND_SIZE: "\(purpose): \(rangeText)"
    default: purpose
    }
  }

  // MARK: values

  enum Reading {
    /// The value as the agent is to get it.
    case value(String)
    case unreadable
    case outOfRange
  }

  func read(_ text: String) -> Reading {
    var value: UInt64 = 0
    switch allocs_read_setting(id, text.originalPath, &value) {
    case ALLOCS_SETTING_READ: break
    case ALLOCS_SETTING_OUT_OF_RANGE: return .outOfRange
    default: return .unreadable
    }
    switch kind {
    case ALLOCS_KIND_FLAG, ALLOCS_KIND_NUMBER, ALLOCS_KIND_SIZE: return .value("\(value)")
    // The number of a word of the list, as the agent's own reader tells it.
    case ALLOCS_KIND_WORD: return .value(String(words[Int(truncatingIfNeeded: value)]))
    default: return .value(text)
    }
  }

  /// The words for a value that can't be read: `"8X" is no size of a ring`.
  var complaint: String {
    switch allocs_setting_id(id) {
    case ALLOCS_SETTING_STACKS: "says nothing about stacks"
    case ALLOCS_SETTING_DEPTH: "is no depth of stacks"
    case ALLOCS_SETTING_RING: "is no size of a ring"
    case ALLOCS_SETTING_EVENTS_WAIT: "is no time in milliseconds"
    default: kind == ALLOCS_KIND_FLAG ? "is neither true nor false" : "is no number"
    }
  }

  /// The words for what to write instead.
  var advice: String {
    switch kind {
    case ALLOCS_KIND_FLAG: "give 1, true, yes or on; or 0, false, no or off"
    case ALLOCS_KIND_WORD: "give \(Self.list(words.map(String.init)))"
    case ALLOCS_KIND_SIZE: "give a number of bytes from \(rangeText), such as 512K or 8M"
    default: "give a number from \(rangeText)"
    }
  }

  private var rangeText: String {
    guard kind == ALLOCS_KIND_SIZE else { return "\(range.lowerBound) to \(range.upperBound)" }
    return "\(Units.size(range.lowerBound)) to \(Units.size(range.upperBound))"
  }

  /// "full, site or check"
  private static func list(_ words: [String]) -> String {
    guard let last = words.last, words.count > 1 else { return words.first ?? "" }
    return words.dropLast().joined(separator: ", ") + " or " + last
  }

  // MARK: names that are nearly right

  /// The setting of which `variable` is a misspelt name; nil if it resembles none: then it belongs to another program.
  static func meant(by variable: String) -> SettingKind? {
    let name = variable.originalBytes.dropFirst(ALLOCS_SETTING_PREFIX.utf8.count).map {
      UInt8(ascii: "a")...UInt8(ascii: "z") ~= $0 ? $0 & ~0x20 : $0
    }
    let offered = all.filter { $0.scope != ALLOCS_SCOPE_INTERNAL }
    let ranked = offered.map { setting in
      (setting, distance(name, Array(setting.variable.dropFirst(ALLOCS_SETTING_PREFIX.count).utf8)))
    }
    guard let (setting, steps) = ranked.min(by: { $0.1 < $1.1 }) else { return nil }
    let length = setting.variable.utf8.count - ALLOCS_SETTING_PREFIX.utf8.count
    if steps <= max(1, (min(length, name.count) + 1) / 3) { return setting }
    // Names that begin or end as a setting's name does: ALLOCS_RING_SIZE, ALLOCS_DIRECTORY; ALLOCS_STACK_DEPTH;
    // ALLOCS_VERBOSITY.
    let longest = offered.sorted { $0.variable.utf8.count > $1.variable.utf8.count }
    func known(_ setting: SettingKind) -> [UInt8] {
      Array(setting.variable.dropFirst(ALLOCS_SETTING_PREFIX.count).utf8)
    }
    let whole = longest.first {
      let known = known($0)
      return name.starts(with: known) || known.count > 3 && name.suffix(known.count).elementsEqual(known)
    }
    return whole ?? longest.first { known($0).count > 5 && name.starts(with: known($0).prefix(5)) }
  }

  /// The number of letters to insert, remove, replace, or swap with their neighbour to turn one name into the other
  /// (optimal string alignment).
  private static func distance(_ one: [UInt8], _ other: [UInt8]) -> Int {
    // A long name resembles no setting.
    guard one.count < 64 else { return one.count }
    var before: [Int] = []
    var last = Array(0...other.count)
    for (row, letter) in one.enumerated() {
      // bounded: places in two words, and no more steps than both have letters
      var line = [row + 1]
      for (column, otherLetter) in other.enumerated() {
        var steps = min(last[column] + (letter == otherLetter ? 0 : 1), last[column + 1] + 1, line[column] + 1)
        if row > 0, column > 0, letter == other[column - 1], one[row - 1] == otherLetter {
          steps = min(steps, before[column - 1] + 1)
        }
        line.append(steps)
      }
      (before, last) = (last, line)
    }
    return last[other.count]
  }
}
