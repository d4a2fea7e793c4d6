// The blocks that hold an address, one in the other: a block of a pool lies in a chunk of malloc.
//
// An answer leads with one block of this chain and has the other blocks as containers. The reader chooses which block
// leads (`Level`), else the user who started the process (ALLOCS_LEVEL).

import IndexReader
import Provenance
import Symbols

/// The level at which memory of suballocators is shown.
public enum Level: String, Hashable, Sendable, CaseIterable {
  /// The block that the suballocator handed out.
  case block
  /// The chunk that holds the block, from an allocator that takes memory from the system.
  case chunk
}

extension Answer {
  /// A block of the chain that the answer does not lead with.
  public struct Container: Hashable, Sendable {
    public enum Kind: String, Hashable, Sendable {
      /// A block from an allocator that carves up another allocator's memory.
      case suballocation
      /// A block from an allocator that takes memory from the system.
      case chunk
    }
    public var kind: Kind
    public var block: Block
    /// The allocator's name, and the path of the module that has its code.
    public var allocator: String?
    public var allocatorModule: String?
    public var function: String?
    public var thread: Thread?
    /// Seconds since the allocation.
    public var age: Double?
    /// The calls that led to the allocation; nil if not known or not asked for.
    public var stack: NamedStack?

    public init(kind: Kind, block: Block) {
      self.kind = kind
      self.block = block
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
    if let stack { writer.append(stack: stack) }
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
  /// The block and its origin, in phrases.
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
    if let site = stack?.site { phrases.append("by \(Answer.describe(site, columns: columns - 4))") }
    if let age { phrases.append("\(Units.duration(age)) ago") }
    return phrases
  }
}
