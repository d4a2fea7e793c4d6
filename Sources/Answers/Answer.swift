// What an address of a process is: the fields of the contract, each nil where it isn't known.

import IndexReader
import Symbols

/// The answer to "what is at this address?".
public struct Answer: Hashable, Sendable {
  public enum Kind: String, Hashable, Sendable {
    /// In a live allocation.
    case heap
    /// In memory of the heap, and in no live allocation.
    case free
    /// In an executable or shared object: code, constants, variables.
    case `static`
    /// In a thread's stack.
    case stack
    /// In some other mapping.
    case mapping
    /// In none.
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

    /// One past the last address; a block of no bytes still owns its base.
    public var end: UInt64 {
      let (end, overflow) = base.addingReportingOverflow(max(size, 1))
      return overflow ? .max : end
    }
  }

  public struct Thread: Hashable, Sendable {
    /// The kernel's id, as in /proc/PID/task.
    public var id: UInt32
    public var name: String?

    public init(id: UInt32, name: String?) {
      self.id = id
      self.name = name
    }
  }

  /// A variable or function.
  public struct Symbol: Hashable, Sendable {
    public var name: String
    /// Bytes; nil if the symbol table does not say.
    public var size: UInt64?
    /// Bytes from the symbol's start to the address.
    public var offset: UInt64

    public init(name: String, size: UInt64?, offset: UInt64) {
      self.name = name
      self.size = size
      self.offset = offset
    }
  }

  /// What the answer cannot say, and why; the same words in text and JSON.
  public enum Note: Hashable, Sendable {
    /// The memory was heap, and is mapped no longer.
    case givenBack
    /// The process is gone: nobody knows what else was mapped.
    case processEnded
    /// The process runs and has another index or none, as after exec: what is mapped now has nothing to do with this
    /// one.
    case indexAbandoned
    /// /proc/PID/maps may not be read by the caller.
    case mappingsNotPermitted
    /// Descriptors or memory were lacking to read them.
    case mappingsNotRead
    /// The process runs in a pid namespace whose processes the caller does not see.
    case processNotVisible
    /// Below the main thread's stack, where the kernel lets nothing be mapped: a stack that overflows ends here.
    case stackGap
    /// At or above 2^47, where no memory of a process can be.
    case outsideUserSpace

    var text: String {
      // Short enough for the first line of an answer.
      switch self {
      case .givenBack: "its pages were given back to the system"
      case .processEnded: "the process has ended, its mappings are not known"
      case .indexAbandoned: "its process left this index: mappings not known"
      case .mappingsNotPermitted: "its mappings may not be read: ask as its user or root"
      case .mappingsNotRead: "can't read its mappings: descriptors or memory short"
      case .processNotVisible: "its mappings aren't seen from this pid namespace"
      case .stackGap: "in the gap below the main stack: did it overflow?"
      case .outsideUserSpace: "beyond user space, which ends at 0x7fffffffffff"
      }
    }
  }

  public var address: UInt64
  public var kind: Kind
  /// The allocation that the address is in (heap).
  public var block: Block?
  /// Bytes, if the caller asked for an alignment (heap).
  public var alignment: UInt64?
  /// Whose memory it is: the allocator's name, else its module's file name, such as `libc.so.6` (heap).
  public var allocator: String?
  /// Path of the module that has the allocator's code (heap).
  public var allocatorModule: String?
  /// The function that was called, such as `calloc` (heap).
  public var function: String?
  /// Who allocated (heap), or whose stack it is (stack).
  public var thread: Thread?
  /// Seconds since it was allocated (heap); of a process that is gone, until its last known moment.
  public var age: Double?
  /// Innermost frame first; nil if not known or not asked for (heap).
  public var stack: [Frame]?
  /// Index in `stack` of the allocation site: the innermost function that is no wrapper; nil if there is no stack.
  public var siteIndex: Int?
  /// Indices in `stack` of the frames that a signal interrupted; what is there is not a call.
  public var interruptedFrames: [Int] = []
  /// Why frames beyond the last one are missing; nil if none are.
  public var stackTruncation: Stack.Truncation?
  /// At least so many frames were cut at the depth limit; nil if none were, or it is not known.
  public var stackFramesCut: UInt32?
  /// Whether `stack` was recorded as a whole stack; else it is the call site, with what is inlined there.
  public var hasFullStack = false
  /// What else the address is in: outwards, what holds what the answer leads with; and inwards, where it leads with a
  /// container, what is passed over, innermost first (heap).
  public var containers: [Container] = []
  public var contents: [Container] = []
  /// The nearest live allocations (heap, free); of a suballocation, those of its container.
  public var previous: Block?
  public var next: Block?
  /// What the address is in (static).
  public var symbol: Symbol?
  /// Section of the module, such as `.bss` (static).
  public var section: String?
  /// Path of the module (static).
  public var module: String?
  /// Why no symbol of the module is known (static).
  public var unnamed: NameLoss?
  /// The part of a variable, by debug information (static).
  public var variable: Variable?
  /// Of code (static).
  public var source: SourceLine?
  /// The variable is `thread`'s own copy (static).
  public var isThreadLocal = false
  /// Which arena of the allocator holds the block (heap), or the gap (free).
  public var arena: Arena?
  /// Who mapped the memory.
  public var mappedBy: MappedBy?
  /// What the kernel, libc or the agent has there.
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
  /// What the index that gave this answer is known to lack.
  public var losses = Losses()

  /// Why a variable's name may be less than it could be, with its module; frames have theirs.
  public var variableProblem: String?

  public init(address: UInt64, kind: Kind) {
    self.address = address
    self.kind = kind
  }

  /// Bytes from the start of what it is in: the block, or the symbol.
  public var offset: UInt64? {
    if let block { return address &- block.base }
    return symbol?.offset
  }

  /// The frame that the allocation is attributed to.
  public var site: Frame? {
    guard let stack, let siteIndex, stack.indices.contains(siteIndex) else { return nil }
    return stack[siteIndex]
  }
}
