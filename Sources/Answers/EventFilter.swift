// SPDX-License-Identifier: Apache-2.0
// The events that a person wants to see: the conditions of `allocsctl events`, and of the parameters of its resource,
// as text.

import Bounds
import ByteText
import IndexReader
import Provenance
import SystemAccess

/// Conditions on events; all must be true. For a block that is freed or resized, function and site are those of its
/// allocation.
public struct EventFilter: Sendable {
  /// The names of conditions: options of the command, parameters of the resource.
  public static let names = ["size", "range", "kind", "function", "site", "thread"]

  /// Bytes of the block.
  public private(set) var sizes: ClosedRange<UInt64>?
  public private(set) var addresses: Range<UInt64>?
  /// The kinds of events; nil for all kinds.
  public private(set) var kinds: Set<Event.Kind>?
  /// Patterns of which one must fit: for the function that allocated, the allocation site, the thread.
  private(set) var functions: [[UInt8]] = []
  private(set) var sites: [[UInt8]] = []
  private(set) var threads: [[UInt8]] = []

  public init() {}

  /// A filter with all these conditions, each a name and a value.
  public init(_ conditions: [(name: String, value: String)]) throws(Complaint) {
    for (name, value) in conditions { try add(name, value) }
  }

  /// Whether names must be looked up, as the record alone can't tell.
  var needsNames: Bool { !functions.isEmpty || !sites.isEmpty || !threads.isEmpty }

  /// Adds the condition `name` with its value. Where a name is given several times, any of its values fulfils it.
  public mutating func add(_ name: String, _ value: String) throws(Complaint) {
    guard max(functions.count, sites.count, threads.count) < Wrappers.additionLimit else {
      throw Complaint(
        .usage, what: "there are more than \(Wrappers.additionLimit) names of one kind to look for",
        advice: "give fewer, with * for what they have in common")
    }
    switch name {
    case "size": sizes = try Self.sizes(value)
    case "range": addresses = try Self.range(value)
    case "kind": for part in value.split(separator: ",") { kinds = (kinds ?? []).union(try Self.kinds(String(part))) }
    case "function": functions.append(try Self.pattern(name, value))
    case "site": sites.append(try Self.pattern(name, value))
    case "thread": threads.append(try Self.pattern(name, value))
    default:
      throw Complaint(
        .usage, what: "events have no condition \"\(name)\"", advice: "there are: \(Self.names.joined(separator: ", "))"
      )
    }
  }

  /// `96`, `64-128`, `4K-`, `-64`: bytes, with K, M or G.
  private static func sizes(_ text: String) throws(Complaint) -> ClosedRange<UInt64> {
    let parts = text.split(separator: "-", maxSplits: 1, omittingEmptySubsequences: false)
    let low = parts[0].isEmpty ? 0 : Units.bytes(inSize: parts[0])
    let high = parts.count == 1 ? low : parts[1].isEmpty ? .max : Units.bytes(inSize: parts[1])
    guard let low, let high, low <= high, text != "-", !text.isEmpty else {
      throw Complaint(
        .usage, what: "\"\(text)\" is no size", advice: "give bytes, such as 96, 64-128, 4K- or -64 (K, M, G)")
    }
    return low...high  // bounded: the guard has compared them
  }

  /// `0x1000-0x2000`: from the first address to below the second address; or a single address.
  private static func range(_ text: String) throws(Complaint) -> Range<UInt64> {
    let parts = text.split(separator: "-", maxSplits: 1, omittingEmptySubsequences: false)
    let low = try parseAddress(parts[0])
    guard parts.count == 2 else {
      let (end, overflow) = low.addingReportingOverflow(1)
      return low..<(overflow ? low : end)  // bounded: the end is above low
    }
    let high = try parseAddress(parts[1])
    guard low < high else {
      throw Complaint(
        .usage, what: "the range \"\(text)\" is empty", advice: "give the lower address first: 0x1000-0x2000")
    }
    return low..<high  // bounded: the guard has compared them
  }

  private static func kinds(_ text: String) throws(Complaint) -> Set<Event.Kind> {
    let kinds = Event.Kind.allCases.filter { $0.filterWord == text }
    guard kinds.isEmpty else { return Set(kinds) }
    var words: [String] = []
    for word in Event.Kind.allCases.map(\.filterWord) where !words.contains(word) { words.append(word) }
    throw Complaint(
      .usage, what: "\"\(text)\" is no kind of event", advice: "there are: \(words.joined(separator: ", "))")
  }

  private static func pattern(_ name: String, _ text: String) throws(Complaint) -> [UInt8] {
    guard !text.isEmpty, text.utf8.count <= Wrappers.patternLimit else {
      throw Complaint(
        .usage, what: "the \(name) to look for has \(text.utf8.count) bytes",
        advice: "give a name of 1 to \(Wrappers.patternLimit) bytes; * and ? stand for any characters")
    }
    return Array(text.utf8)
  }

  /// Whether a name fits one of the patterns; true if there are none.
  static func fits(_ name: ForeignText?, _ patterns: [[UInt8]]) -> Bool {
    guard !patterns.isEmpty else { return true }
    guard let name else { return false }
    let whole = Array(name.unescaped.utf8)  // raw: compared with patterns
    let plain = FunctionName.plain(whole)
    // Name and pattern may be long, and made so that they nearly match.
    var meter = BudgetMeter(interval: 16)
    for pattern in patterns {
      guard meter.goesOn() else { return false }
      if Wrappers.matches(plain, pattern) || Wrappers.matches(whole, pattern) { return true }
    }
    return false
  }
}
