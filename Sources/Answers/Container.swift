// What an address lies in, one in the other: a block of a pool in a chunk of malloc.
//
// An answer leads with one link of the chain; the others are here. Which one leads is the reader's choice (`Level`),
// else that of who started the process (ALLOCS_LEVEL).

import IndexReader
import Provenance
import Symbols

/// At which level memory that suballocators have handed out is shown.
public enum Level: String, Hashable, Sendable, CaseIterable {
  /// The block that the suballocator handed out.
  case block
  /// The chunk that the block lies in, of an allocator that takes memory from the system.
  case chunk
}

extension Answer {
  /// A link of the chain that the answer does not lead with.
  public struct Container: Hashable, Sendable {
    public enum Kind: String, Hashable, Sendable {
      /// Handed out by an allocator that carves up others' memory.
      case suballocation
      /// Handed out by an allocator that takes memory from the system.
      case chunk
    }
    public var kind: Kind
    public var block: Block
    /// Whose memory it is, and the path of the module that has the allocator's code.
    public var allocator: String?
    public var allocatorModule: String?
    public var function: String?
    public var thread: Thread?
    /// Seconds.
    public var age: Double?
    /// Innermost frame first; nil if not known or not asked for.
    public var stack: [Frame]?
    public var siteIndex: Int?
    public var interruptedFrames: [Int] = []
    public var stackTruncation: Stack.Truncation?
    public var stackFramesCut: UInt32?

    public init(kind: Kind, block: Block) {
      self.kind = kind
      self.block = block
    }

    public var site: Frame? {
      guard let stack, let siteIndex, stack.indices.contains(siteIndex) else { return nil }
      return stack[siteIndex]
    }
  }
}

// MARK: JSON

extension Answer.Container {
  func appendJSON(of address: UInt64, to writer: inout ByteWriter) {
    switch kind {
    case .suballocation: writer.append("{\"kind\":\"suballocation\"")
    case .chunk: writer.append("{\"kind\":\"chunk\"")
    }
    writer.append(block: block, offset: address &- block.base)
    writer.appendOrigin(allocator: allocator, module: allocatorModule, function: function)
    if let thread { writer.append(thread: thread) }
    if let age { writer.append(age: age) }
    if let stack {
      writer.append(
        stack: NamedStack(
          frames: stack, interrupted: interruptedFrames, siteIndex: siteIndex, truncation: stackTruncation,
          framesCut: stackFramesCut))
    }
    writer.append("}")
  }
}

extension ByteWriter {
  /// Appends `,"NAME":[…]`, nothing if there are none.
  mutating func append(_ name: StaticString, _ containers: [Answer.Container], of address: UInt64) {
    guard !containers.isEmpty else { return }
    append(name)
    append("[")
    for (index, container) in containers.enumerated() {
      if index > 0 { append(",") }
      container.appendJSON(of: address, to: &self)
    }
    append("]")
  }
}

// MARK: text

extension Answer.Container {
  /// What it is, and where it comes from, in phrases.
  func phrases(columns: Int) -> [String] {
    let what = kind == .chunk ? "a chunk" : "a block"
    let start = "\(what) of \(Units.bytes(block.size)) at \(hex(block.base))"
    var phrases = [start]
    let whose = Answer.words(of: allocator, module: allocatorModule, function: function)
    switch (function.map { TextLayout.printable($0) }, whose) {
    case (let function?, let allocator?): phrases.append("with \(function) of \(allocator)")
    case (let function?, nil): phrases.append("with \(function)")
    case (nil, let allocator?): phrases.append("of \(allocator)")
    case (nil, nil): break
    }
    if let site { phrases.append("by \(Answer.describe(site, columns: columns - 4))") }
    if let age { phrases.append("\(Units.duration(age)) ago") }
    return phrases
  }
}
