// What an index is known to lack. It stands in every answer that comes from the index, as text and as JSON, in the same
// words.

import IndexReader

/// What is missing from an index, as far as that is known; all zero where nothing is.
public struct Losses: Hashable, Sendable {
  /// Blocks that were allocated and are not in the index, since the start.
  public var blocks: UInt64 = 0
  /// Blocks that are not in the index either, allocated inside a call of the allocator: its own, or a signal handler's.
  public var innerBlocks: UInt64 = 0
  /// Frees of blocks whose allocation was not seen, since the start: it came before the agent, or passed it by.
  public var unknownFrees: UInt64 = 0
  /// By how much allocations less frees exceed the live blocks: so many blocks were given back unseen, and their memory
  /// handed out again. Of others given back unseen the index still says that they live.
  public var imbalance: Int64 = 0
  /// Functions and allocators that the agent could not hook.
  public var mayPassBy: [String] = []

  public init() {}

  public var isEmpty: Bool { self == Losses() }

  /// What a person is told, in the order of weight.
  var phrases: [String] {
    var phrases: [String] = []
    func verb(_ count: UInt64) -> String { count == 1 ? "is" : "are" }
    if blocks > 0 { phrases.append("\(Units.count(blocks, "block")) \(verb(blocks)) not in the index") }
    if innerBlocks > 0 {
      phrases.append("\(Units.count(innerBlocks, "block")) made inside allocation calls \(verb(innerBlocks)) not")
    }
    if unknownFrees > 0 {
      phrases.append("\(Units.count(unknownFrees, "free")) where no block was known")
    }
    if imbalance != 0 { phrases.append(imbalanceText) }
    if !mayPassBy.isEmpty {
      phrases.append("allocations may pass by: \(mayPassBy.map { TextLayout.printable($0) }.joined(separator: ", "))")
    }
    return phrases
  }

  var imbalanceText: String {
    let count = Units.grouped(imbalance.magnitude)
    return "allocations less frees are \(count) \(imbalance > 0 ? "more" : "fewer") than the live blocks"
  }

  /// Lines of text that say all of it; none where nothing is missing.
  package var lines: [String] {
    guard !isEmpty else { return [] }
    var lines = TextLayout.wrap(phrases, indent: "           ")
    lines[0] = "  missing  " + lines[0].dropFirst(11)
    return lines
  }

  /// The first words about an address that no block in the index holds.
  package var reservation: String? {
    guard !isEmpty else { return nil }
    return blocks > 0
      ? "unless it is one of the \(Units.grouped(blocks)) blocks not in the index"
      : "unless its allocation was not seen"
  }

  /// The JSON fields, each with the comma before it. `blocks` is left out where the caller has written it.
  package func appendJSONFields(withBlocks: Bool = true, to writer: inout ByteWriter) {
    if withBlocks, blocks > 0 { writer.append(",\"lost_blocks\":", decimal: blocks) }
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
  }
}

extension Losses {
  /// What the counters and the table of what could not be hooked say; a few loads where there is nothing.
  init(countedIn segment: borrowing Segment) {
    blocks = segment.lostBlocks
    innerBlocks = segment.innerBlocks
    unknownFrees = segment.unknownFrees
    // The same allocator may have been left alone in several modules.
    for bypass in segment.bypasses {
      let name = Self.name(of: bypass)
      if !mayPassBy.contains(name) { mayPassBy.append(name) }
    }
  }

  /// `mallocx of libjemalloc.so.2`, `the allocator of php`.
  static func name(of bypass: Bypass) -> String {
    "\(bypass.function ?? "the allocator") of \(bypass.module.map { Answer.lastComponent($0) } ?? "the executable")"
  }
}
