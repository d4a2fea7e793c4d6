// SPDX-License-Identifier: Apache-2.0
// The known losses of an index, or of a recording. They stand in every answer that comes from it, in the same words in
// text and JSON, and this file alone has the words.

import ByteText
import IndexReader

/// The parts that are missing from an index or a recording, as far as that is known; all zero where nothing is missing.
public struct Losses: Hashable, Sendable {
  /// Blocks that were allocated and are not in the index, since the start.
  public var blocks: UInt64 = 0
  /// Of a recording: events that are missing from it.
  public var events: UInt64 = 0
  /// Blocks that were allocated inside a call of the allocator, by itself or by a signal handler, and are not in the
  /// index.
  public var innerBlocks: UInt64 = 0
  /// Frees of blocks whose allocation was not seen, since the start: it came before the agent, or passed it by.
  public var unknownFrees: UInt64 = 0
  /// The number by which allocations less frees exceed the live blocks: so many blocks were given back unseen, and
  /// their memory handed out again. Of other blocks that were given back unseen, the index still says that they live.
  public var imbalance: Int64 = 0
  /// Functions and allocators that the agent could not hook.
  public var mayPassBy: [ForeignText] = []
  /// Of a file: in which ways it is not what was written, or what was written is not all, in words.
  public var problems: [ForeignText] = []

  public init() {}

  public var isEmpty: Bool { self == Losses() }

  /// The phrases for people, the weightiest first.
  var phrases: [String] {
    var phrases: [String] = []
    func verb(_ count: UInt64) -> String { count == 1 ? "is" : "are" }
    if blocks > 0 { phrases.append(Self.words(ofBlocks: blocks)) }
    if events > 0 { phrases.append("\(Units.count(events, "event")) \(verb(events)) missing from the recording") }
    if innerBlocks > 0 {
      phrases.append("\(Units.count(innerBlocks, "block")) made inside allocation calls \(verb(innerBlocks)) not")
    }
    if unknownFrees > 0 {
      phrases.append("\(Units.count(unknownFrees, "free")) where no block was known")
    }
    if imbalance != 0 { phrases.append(imbalanceText) }
    if !mayPassBy.isEmpty {
      phrases.append("allocations may pass by: \(mayPassBy.joined(separator: ", "))")
    }
    return phrases
  }

  /// The words for the problems of a file; nil if it is whole.
  private var problemWords: String? {
    guard let first = problems.first else { return nil }
    let more = UInt64(problems.count &- 1)  // bounded: there is one at least
    return "parts of the file: \(first.escaped)" + (more > 0 ? "; and \(Units.count(more, "further problem"))" : "")
  }

  /// `12 blocks are not in the index`.
  package static func words(ofBlocks count: UInt64) -> String {
    "\(Units.count(count, "block")) \(count == 1 ? "is" : "are") not in the index"
  }

  /// All phrases in one line of any length; nil where nothing is missing.
  package var sentence: String? {
    isEmpty ? nil : ((problemWords.map { [$0] } ?? []) + phrases).joined(separator: ", ")
  }

  var imbalanceText: String {
    let count = Units.grouped(imbalance.magnitude)
    return "allocations less frees are \(count) \(imbalance > 0 ? "more" : "fewer") than the live blocks"
  }

  /// Lines of text with all losses; no lines where nothing is missing.
  package var lines: [String] { lines(title: "  missing  ") }

  package func lines(title: String) -> [String] {
    guard !isEmpty else { return [] }
    let indent = String(repeating: " ", count: title.count)
    var lines = (problemWords.map { TextLayout.fill($0, indent: indent) } ?? [])
    lines += TextLayout.wrap(phrases, indent: indent)
    lines[0] = title + lines[0].dropFirst(title.count)
    return lines
  }

  /// The other thing that an address may be which no block in the index holds, behind "free, or ".
  package var reservation: String? {
    guard !isEmpty else { return nil }
    switch blocks {
    case 0: return "a block whose allocation was not seen"
    case 1: return "the one block that is not in the index"
    default: return "one of \(Units.grouped(blocks)) blocks that are not in the index"
    }
  }

  /// The JSON fields, each with the comma before it. `blocks` is left out where the caller has written it.
  package func appendJSONFields(withBlocks: Bool = true, to writer: inout ByteWriter) {
    if withBlocks, blocks > 0 { writer.append(",\"lost_blocks\":", decimal: blocks) }
    if events > 0 { writer.append(",\"lost_events\":", decimal: events) }
    if innerBlocks > 0 { writer.append(",\"inner_blocks\":", decimal: innerBlocks) }
    if unknownFrees > 0 { writer.append(",\"unknown_frees\":", decimal: unknownFrees) }
    if imbalance != 0 {
      writer.append(imbalance < 0 ? ",\"imbalance\":-" : ",\"imbalance\":")
      writer.append(decimal: imbalance.magnitude)
    }
    if !mayPassBy.isEmpty {
      writer.append(",\"may_pass_by\":")
      writer.appendArray(mayPassBy)
    }
    if !problems.isEmpty {
      writer.append(",\"problems\":")
      writer.appendArray(problems)
    }
  }
}

extension Losses {
  /// The losses that the counters and the table of bypasses tell; a few loads where there are none.
  init(countedIn segment: borrowing Segment) {
    blocks = segment.lostBlocks
    innerBlocks = segment.innerBlocks
    unknownFrees = segment.unknownFrees
    // An allocator may have been left alone in several modules.
    for bypass in segment.bypasses {
      let name = Self.name(of: bypass)
      if !mayPassBy.contains(name) { mayPassBy.append(name) }
    }
  }

  /// `mallocx of libjemalloc.so.2`, `the allocator of php`.
  static func name(of bypass: Bypass) -> ForeignText {
    "\(bypass.function ?? "the allocator") of \(bypass.module?.fileName ?? "the executable")"
  }
}
