// Which events a person wants to see: the conditions of `allocsctl events` and of the parameters of its resource, as
// text.

import IndexReader
import Provenance

/// Conditions on events; all must be true. Of a block that is freed or resized, function and site are those that
/// allocated it.
public struct EventFilter: Sendable {
  /// Names of conditions: options of the command, parameters of the resource.
  public static let names = ["size", "range", "kind", "function", "site", "thread"]

  /// Bytes.
  public private(set) var sizes: ClosedRange<UInt64>?
  public private(set) var addresses: Range<UInt64>?
  /// nil: all.
  public private(set) var kinds: Set<Event.Kind>?
  /// Patterns, of which one must fit: of the function that allocated, of the allocation site, of the thread.
  private(set) var functions: [[UInt8]] = []
  private(set) var sites: [[UInt8]] = []
  private(set) var threads: [[UInt8]] = []

  public init() {}

  /// Whether a record alone can't tell.
  var needsNames: Bool { !functions.isEmpty || !sites.isEmpty || !threads.isEmpty }

  /// Adds the condition `name` with its value. A name that may be given several times is fulfilled by any of its
  /// values.
  public mutating func add(_ name: String, _ value: String) throws(AnswerError) {
    switch name {
    case "size": sizes = try Self.sizes(value)
    case "range": addresses = try Self.range(value)
    case "kind": for part in value.split(separator: ",") { kinds = (kinds ?? []).union(try Self.kinds(String(part))) }
    case "function": functions.append(try Self.pattern(name, value))
    case "site": sites.append(try Self.pattern(name, value))
    case "thread": threads.append(try Self.pattern(name, value))
    default:
      throw AnswerError(
        .usage, what: "events have no condition \"\(name)\"", advice: "there are: \(Self.names.joined(separator: ", "))"
      )
    }
  }

  /// `96`, `64-128`, `4K-`, `-64`: bytes, with K, M or G.
  private static func sizes(_ text: String) throws(AnswerError) -> ClosedRange<UInt64> {
    let parts = text.split(separator: "-", maxSplits: 1, omittingEmptySubsequences: false)
    let low = parts[0].isEmpty ? 0 : size(parts[0])
    let high = parts.count == 1 ? low : parts[1].isEmpty ? .max : size(parts[1])
    guard let low, let high, low <= high, text != "-", !text.isEmpty else {
      throw AnswerError(
        .usage, what: "\"\(text)\" is no size", advice: "give bytes, such as 96, 64-128, 4K- or -64 (K, M, G)")
    }
    return low...high
  }

  private static func size(_ text: Substring) -> UInt64? {
    var digits = text
    var factor: UInt64 = 1
    switch text.last {
    case "K", "k": factor = 1 << 10
    case "M", "m": factor = 1 << 20
    case "G", "g": factor = 1 << 30
    default: break
    }
    if factor > 1 { digits.removeLast() }
    guard !digits.isEmpty, digits.utf8.allSatisfy({ $0 &- 0x30 < 10 }), let value = UInt64(digits) else { return nil }
    let (product, overflow) = value.multipliedReportingOverflow(by: factor)
    return overflow ? nil : product
  }

  /// `0x1000-0x2000`: from the first address to below the second; or one address.
  private static func range(_ text: String) throws(AnswerError) -> Range<UInt64> {
    let parts = text.split(separator: "-", maxSplits: 1, omittingEmptySubsequences: false)
    let low = try parseAddress(parts[0])
    guard parts.count == 2 else {
      let (end, overflow) = low.addingReportingOverflow(1)
      return low..<(overflow ? low : end)
    }
    let high = try parseAddress(parts[1])
    guard low < high else {
      throw AnswerError(
        .usage, what: "the range \"\(text)\" is empty", advice: "give the lower address first: 0x1000-0x2000")
    }
    return low..<high
  }

  private static func kinds(_ text: String) throws(AnswerError) -> Set<Event.Kind> {
    let kinds = Event.Kind.allCases.filter { $0.filterWord == text }
    guard kinds.isEmpty else { return Set(kinds) }
    var words: [String] = []
    for word in Event.Kind.allCases.map(\.filterWord) where !words.contains(word) { words.append(word) }
    throw AnswerError(
      .usage, what: "\"\(text)\" is no kind of event", advice: "there are: \(words.joined(separator: ", "))")
  }

  private static func pattern(_ name: String, _ text: String) throws(AnswerError) -> [UInt8] {
    guard !text.isEmpty, text.utf8.count <= Wrappers.patternLimit else {
      throw AnswerError(
        .usage, what: "the \(name) to look for has \(text.utf8.count) bytes",
        advice: "give a name of 1 to \(Wrappers.patternLimit) bytes; * and ? stand for any characters")
    }
    return Array(text.utf8)
  }

  /// Whether a name fits one of the patterns; true if there are none.
  static func fits(_ name: String?, _ patterns: [[UInt8]]) -> Bool {
    guard !patterns.isEmpty else { return true }
    guard let name else { return false }
    let whole = Array(name.utf8)
    let plain = FunctionName.plain(whole)
    return patterns.contains { Wrappers.matches(plain, $0) || Wrappers.matches(whole, $0) }
  }
}
