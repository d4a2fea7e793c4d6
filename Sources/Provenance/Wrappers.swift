// SPDX-License-Identifier: Apache-2.0
// Which functions allocate on behalf of their callers: the list in Wrappers.txt, and the patterns that the person who
// asks adds to it (Answers/Wrappers+Additions.swift).
//
// A name is compared with the patterns once for each address of a request (StackNaming), so the search is plain: whole
// names are found by hash, and the other patterns are tried one after another, as long as the question's budget allows:
// 100 patterns of a person's and a name of a file's can take a second.

import Bounds
import ByteText

/// Patterns of functions that are passed over in the search for an allocation site. Wrappers.txt says how they are
/// written.
public struct Wrappers: Sendable {
  /// The longest pattern that a person may add, in bytes.
  public static let patternLimit = 1000
  /// Patterns that a person may add.
  public static let additionLimit = 100

  /// The patterns of Wrappers.txt.
  public static let standard: Wrappers = {
    var wrappers = Wrappers()
    for pattern in patterns(in: PackageResources.Wrappers_txt) { wrappers.insert(pattern) }
    return wrappers
  }()

  /// No patterns.
  public static let none = Wrappers()

  /// Whether all patterns come from Wrappers.txt.
  package private(set) var isStandard = true
  private var names: Set<[UInt8]> = []
  /// Patterns that are compared with plain names, and patterns that are compared with whole names.
  private var plainGlobs: [[UInt8]] = []
  private var wholeGlobs: [[UInt8]] = []

  private init() {}

  /// Adds a pattern that is not empty. `patternLimit` and `additionLimit` are for the caller to check, who tells a
  /// person about them.
  package mutating func add(_ pattern: [UInt8]) {
    isStandard = false
    insert(pattern)
  }

  /// Whether the function with the demangled name `function` is a wrapper.
  public func contains(_ function: ForeignText) -> Bool {
    let whole = Array(function.unescaped.utf8)  // raw: compared with patterns
    let plain = FunctionName.plain(whole)
    return names.contains(plain) || plainGlobs.contains { Self.matches(plain, $0) }
      || wholeGlobs.contains { Self.matches(whole, $0) }
  }

  /// The patterns in a list: one pattern a line, without the blanks around it; empty lines and lines that begin with #
  /// are left out.
  static func patterns(in list: [UInt8]) -> [[UInt8]] {
    list.split(separator: UInt8(ascii: "\n")).compactMap { line in
      let pattern = trimmed(line)
      return pattern.isEmpty || pattern.first == UInt8(ascii: "#") ? nil : Array(pattern)
    }
  }

  /// `line` without the blanks around it.
  package static func trimmed(_ line: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
    let isBlank = { (byte: UInt8) in byte == 0x20 || byte == 0x09 || byte == 0x0D || byte == 0x0A }
    var line = line.drop(while: isBlank)
    while let last = line.last, isBlank(last) { line.removeLast() }
    return line
  }

  private mutating func insert(_ pattern: [UInt8]) {
    if pattern.contains(where: { $0 == UInt8(ascii: "<") || $0 == UInt8(ascii: "(") }) {
      wholeGlobs.append(pattern)
    } else if pattern.contains(where: { $0 == UInt8(ascii: "*") || $0 == UInt8(ascii: "?") }) {
      plainGlobs.append(pattern)
    } else {
      names.insert(pattern)
    }
  }

  /// Whether `pattern` stands for all of `name`. Goes back to the last star alone, so that the time is bounded by the
  /// product of both lengths.
  package static func matches(_ name: [UInt8], _ pattern: [UInt8]) -> Bool {
    let star = UInt8(ascii: "*")
    var inName = 0
    var inPattern = 0
    var retry: (inName: Int, inPattern: Int)?
    var meter = BudgetMeter(interval: 4096)
    while inName < name.count, meter.goesOn() {
      if inPattern < pattern.count, pattern[inPattern] == star {
        inPattern &+= 1
        retry = (inName, inPattern)
      } else if inPattern < pattern.count, pattern[inPattern] == UInt8(ascii: "?") {
        inPattern &+= 1
        inName &+= 1
        while inName < name.count, name[inName] & 0xC0 == 0x80 { inName &+= 1 }
      } else if inPattern < pattern.count, pattern[inPattern] == name[inName] {
        inPattern &+= 1
        inName &+= 1
      } else if let last = retry {
        inName = last.inName &+ 1
        inPattern = last.inPattern
        retry?.inName = inName
      } else {
        return false
      }
    }
    return inName >= name.count && pattern[inPattern...].allSatisfy { $0 == star }
  }
}
