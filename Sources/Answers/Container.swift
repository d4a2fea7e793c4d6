// SPDX-License-Identifier: Apache-2.0
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
    public var allocator: ForeignText?
    public var allocatorModule: ForeignText?
    public var function: ForeignText?
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
