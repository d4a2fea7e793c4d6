// SPDX-License-Identifier: Apache-2.0
// An answer: what an address of a process is. Its fields are those of docs/json.md; each is nil where it isn't known.

import IndexReader
import Provenance
import Symbols

/// The answer to "what is at this address?".
public struct Answer: Hashable, Sendable {
  public enum Kind: String, Hashable, Sendable {
    /// The address is in a live allocation.
    case heap
    /// The address is in memory of the heap, and in no live allocation.
    case free
    /// The address is in an executable or shared object: code, a constant, a variable.
    case `static`
    /// The address is in a thread's stack.
    case stack
    /// The address is in some other mapping.
    case mapping
    /// The address is in no mapping.
    case unmapped
  }

  /// Where an allocation lies.
  public struct Block: Hashable, Sendable {
    public var base: UInt64
    /// Bytes asked for.
    public var size: UInt64

    public init(base: UInt64, size: UInt64) {
      self.base = base
      self.size = size
    }

    /// The address behind the last byte; a block of no bytes still owns its base.
    public var end: UInt64 {
      let (end, overflow) = base.addingReportingOverflow(max(size, 1))
      return overflow ? .max : end
    }
  }

  /// A live block beside the one that an address is in, or beside the address: who runs over the end of a block
  /// damages the next one, so that of a damaged block the neighbour below is the first suspect.
  public struct Neighbour: Hashable, Sendable {
    public var block: Block
    /// Seconds since its allocation; nil if no stacks were asked for, as all below.
    public var age: Double?
    /// The function that was called, such as `calloc`.
    public var function: ForeignText?
    /// Who allocated it.
    public var site: Frame?

    public init(_ block: Block) { self.block = block }
    public init(base: UInt64, size: UInt64) { self.init(Block(base: base, size: size)) }

    public var base: UInt64 { block.base }
    public var size: UInt64 { block.size }
    public var end: UInt64 { block.end }
  }

  public struct Thread: Hashable, Sendable {
    /// The kernel's id, as in /proc/PID/task.
    public var id: UInt32
    public var name: ForeignText?

    public init(id: UInt32, name: ForeignText?) {
      self.id = id
      self.name = name
    }
  }

  /// A variable or function.
  public struct Symbol: Hashable, Sendable {
    public var name: ForeignText
    /// Bytes; nil if the symbol table does not say.
    public var size: UInt64?
    /// Bytes from the symbol's start to the address.
    public var offset: UInt64

    public init(name: ForeignText, size: UInt64?, offset: UInt64) {
      self.name = name
      self.size = size
      self.offset = offset
    }
  }

  /// Something that the answer cannot say, and why; text and JSON have the same words.
  public enum Note: Hashable, Sendable {
    /// The memory was heap, and is no longer mapped.
    case givenBack
    /// The process is gone: nobody knows its other mappings.
    case processEnded
    /// The process runs and has another index or none, as after exec: its present mappings have nothing to do with this
    /// index.
    case indexAbandoned
    /// /proc/PID/maps may not be read by the caller.
    case mappingsNotPermitted
    /// The reader was short of descriptors or memory to read /proc/PID/maps.
    case mappingsNotRead
    /// The process runs in a pid namespace whose processes the caller does not see.
    case processNotVisible
    /// The address is below the main thread's stack, where the kernel lets nothing be mapped: a stack that overflows
    /// ends here.
    case stackGap
    /// The address is at or above 2^47, where no memory of a process can be.
    case outsideUserSpace

    var text: String {
      // The words are short enough for the first line of an answer.
      switch self {
      case .givenBack: "its pages were given back to the system"
      case .processEnded: "the process has ended, its mappings are not known"
      case .indexAbandoned: "its process left this index: mappings not known"
      case .mappingsNotPermitted: "its mappings may not be read: ask as its user or root"
      case .mappingsNotRead: "can't read its mappings: descriptors or memory short"
      case .processNotVisible: "its mappings aren't seen: another namespace or group"
      case .stackGap: "in the gap below the main stack: did it overflow?"
      case .outsideUserSpace: "beyond user space, which ends at 0x7fffffffffff"
      }
    }
  }

  public var address: UInt64
  public var kind: Kind
  /// The allocation that the address is in (heap).
  public var block: Block?
  /// Bytes, if the call asked for an alignment (heap).
  public var alignment: UInt64?
  /// The allocator whose memory it is: its name, else its module's file name, such as `libc.so.6` (heap).
  public var allocator: ForeignText?
  /// Path of the module that has the allocator's code (heap).
  public var allocatorModule: ForeignText?
  /// The function that was called, such as `calloc` (heap).
  public var function: ForeignText?
  /// The thread that allocated (heap), or whose stack it is (stack).
  public var thread: Thread?
  /// Seconds since the allocation (heap); of a process that is gone, until now as well.
  public var age: Double?
  /// The calls that led to the allocation; nil if not known or not asked for (heap).
  public var stack: NamedStack?
  /// Whether `stack` was recorded as a whole stack; else it is the call site, with the functions inlined there.
  public var hasFullStack = false
  /// The other blocks that the address is in (heap). `containers`: blocks around the block that the answer leads with,
  /// from the inside to the outside. `contents`: where the answer leads with a container, the blocks inside it,
  /// innermost first.
  public var containers: [Container] = []
  public var contents: [Container] = []
  /// The nearest live allocations (heap, free); of a suballocation, the nearest in its container.
  public var previous: Neighbour?
  public var next: Neighbour?
  /// The variable or function that the address is in (static).
  public var symbol: Symbol?
  /// Section of the module, such as `.bss` (static).
  public var section: ForeignText?
  /// Path of the module (static).
  public var module: ForeignText?
  /// Why no symbol of the module is known (static).
  public var unnamed: NameLoss?
  /// The part of a variable, by debug information (static).
  public var variable: Variable?
  /// The source of the code (static).
  public var source: SourceLine?
  /// Whether the variable is `thread`'s own copy (static).
  public var isThreadLocal = false
  /// The arena of the allocator that holds the block (heap), or the gap (free).
  public var arena: Arena?
  /// The call that mapped the memory.
  public var mappedBy: MappedBy?
  /// The part of the process that the kernel, libc or the agent has there.
  public var part: Part?
  /// The frame of the stack, if its thread was stopped to find out.
  public var frame: StackFrame?
  /// Why the frame isn't known, though it was asked for.
  public var frameFailure: String?
  /// The mapping that holds the address.
  public var mapping: Mapping?
  /// The nearest mappings below and above (unmapped).
  public var mappingBelow: Mapping?
  public var mappingAbove: Mapping?
  public var note: Note?
  /// The known losses of the index that gave this answer.
  public var losses = Losses()

  /// Why a variable's name may be incomplete, with its module. Frames have such reasons of their own.
  public var variableProblem: ForeignText?

  public init(address: UInt64, kind: Kind) {
    self.address = address
    self.kind = kind
  }

  /// Bytes from the start of the block, or of the symbol, that the address is in.
  public var offset: UInt64? {
    if let block { return address &- block.base }
    return symbol?.offset
  }

}
