// SPDX-License-Identifier: Apache-2.0
// Where an allocation comes from, decoded: context, allocator, call stack, thread, module.

// ForeignText and FileState are parts of what Module says: importers of this module need not import
// others.
@_exported import ByteText
@_exported import FileFacts

/// Who made an allocation: a call stack, a thread, a function and an allocator, under one id.
public struct Context: Hashable, Sendable {
  /// Its id in the segment, below 2^24.
  public var id: UInt32
  /// The node of the innermost frame of the call stack, for `Segment.stack(ofNode:)`; 0 if there is
  /// none.
  public var node: UInt32
  /// The thread's slot in the table of threads, for `Segment.thread(slot:at:)`; nil if it had none.
  public var threadSlot: UInt32?
  /// The function that was called, such as "calloc" or "operator new[]"; nil if not known.
  public var function: ForeignText?
  /// The allocator that handed out the block; nil if it is not known.
  public var allocator: Allocator?

  /// A context of these parts.
  public init(id: UInt32, node: UInt32, threadSlot: UInt32?, function: ForeignText?, allocator: Allocator?) {
    self.id = id
    self.node = node
    self.threadSlot = threadSlot
    self.function = function
    self.allocator = allocator
  }
}

/// An allocator, or one of the ways in which a pool hands out blocks.
public struct Allocator: Hashable, Sendable {
  /// Where an allocator has its memory from.
  public enum Kind: Hashable, Sendable {
    /// The allocator takes memory from the system: its blocks are chunks.
    case primary
    /// The allocator carves up blocks of other allocators.
    case suballocator
  }
  /// Its index in the segment's table of allocators, below 256.
  public var number: UInt32
  /// The number of its first entry. A pool that hands out blocks through several functions has an
  /// entry for each of them; all these entries have one group.
  public var group: UInt32
  /// Where it has its memory from.
  public var kind: Kind
  /// Its name; nil if it has none but its module's.
  public var name: ForeignText?
  /// The function that hands out its blocks; nil if there are several.
  public var function: ForeignText?
  /// The module that has its code; nil if not known.
  public var module: Module?
  /// Whether the program itself announced it; else it was declared from outside.
  public var isAnnounced: Bool
  /// Whether answers should begin with the chunk in which the block lies (ALLOCS_LEVEL).
  public var isShownAsChunk: Bool

  /// An allocator of these properties; `group` is `number` if it is nil.
  public init(
    number: UInt32, group: UInt32? = nil, kind: Kind = .primary, name: ForeignText? = nil, function: ForeignText? = nil,
    module: Module?, isAnnounced: Bool = false, isShownAsChunk: Bool = false
  ) {
    self.number = number
    self.group = group ?? number
    self.kind = kind
    self.name = name
    self.function = function
    self.module = module
    self.isAnnounced = isAnnounced
    self.isShownAsChunk = isShownAsChunk
  }
}

/// A call stack. It says so where frames are missing.
public struct Stack: Hashable, Sendable {
  /// Why frames are missing.
  public enum Truncation: Hashable, Sendable {
    /// The unwinder could go no further.
    case unwinder
    /// The stack was deeper than the agent's limit.
    case depthLimit
    /// The nodes in the segment form a circle, or lead outside the table.
    case damaged
  }
  /// Return addresses, innermost first.
  public var addresses: [UInt64]
  /// Why frames beyond the last one are missing; nil if the stack is whole.
  public var truncation: Truncation?
  /// How many frames were cut at the depth limit: at least so many, exact to 1 in 64. Nil if none
  /// were cut, or their number is not known.
  public var framesCut: UInt32?
  /// Indices of the addresses at which a signal interrupted the program. Such an address is the
  /// address of the interrupted instruction, not a return address.
  public var interrupted: [Int]
  /// For each address, the module in which it lies by the word of its node; empty if no node says
  /// anything.
  public var holders: [CallHolder] = []

  /// The module in which address `index` lies by the word of its node; `.unsaid` for an index
  /// beyond the stack.
  public func holder(ofCallAt index: Int) -> CallHolder { index < holders.count ? holders[index] : .unsaid }

  /// A stack of these addresses, innermost first.
  public init(addresses: [UInt64], truncation: Truncation?, framesCut: UInt32? = nil, interrupted: [Int] = []) {
    self.addresses = addresses
    self.truncation = truncation
    self.framesCut = framesCut
    self.interrupted = interrupted
  }
}

/// The module in which a call lies, by the word of its node in the trie of call stacks.
public enum CallHolder: Hashable, Sendable {
  /// The node says nothing: when it was made, no address had changed hands. The address and the
  /// record's time tell the module.
  case unsaid
  /// The call lies in the module with this index in the table.
  case module(UInt32)
  /// The call lies in no module that the dynamic linker has loaded: it is generated code, say.
  case none
  /// The call lies in a module that found no room in the table.
  case dropped
  /// The call lies in a module that was unloaded, and whose entry in the table another module has
  /// now.
  case forgotten
}

/// A node of the trie of call stacks: one frame.
public struct StackNode: Hashable, Sendable {
  /// The return address of the call; if `isInterrupted`, the address of the instruction at which a
  /// signal interrupted the program.
  public var pc: UInt64
  /// The node of the caller; 0 if there is none, as the frame is the outermost, or the stack was
  /// cut.
  public var parent: UInt32
  /// Whether a signal handler ran here.
  public var isInterrupted: Bool
  /// Why the frames beyond this one are missing; nil if none is missing.
  public var truncation: Stack.Truncation?
  /// How many frames were cut at the depth limit: at least so many; nil if that is not known.
  public var framesCut: UInt32?
  /// The module in which the call lies, by the word of this node.
  public var holder: CallHolder

  /// A node of these properties.
  public init(
    pc: UInt64, parent: UInt32, isInterrupted: Bool = false, truncation: Stack.Truncation? = nil,
    framesCut: UInt32? = nil, holder: CallHolder = .unsaid
  ) {
    self.holder = holder
    self.pc = pc
    self.parent = parent
    self.isInterrupted = isInterrupted
    self.truncation = truncation
    self.framesCut = framesCut
  }
}

/// A thread, as one holder of a thread slot: slots are used again when their threads have ended.
public struct ThreadIdentity: Hashable, Sendable {
  /// Whether a thread runs, as far as the index knows: after a crash or a kill it says `live`
  /// still.
  public enum State: Hashable, Sendable {
    /// The thread runs.
    case live
    /// The thread ran its destructors; the kernel may not have ended it yet.
    case exiting
    /// The thread has ended.
    case ended
  }
  /// The kernel's id of the thread, as in /proc/PID/task, in the process's pid namespace.
  public var id: UInt32
  /// The thread's name, at most 15 bytes, as of its first allocation or its end
  /// (pthread_setname_np(3)).
  public var name: ForeignText
  /// The slot that it holds or held, an index into the table of threads.
  public var slot: UInt32
  /// Whether it runs.
  public var state: State
  /// When it made its first call that the agent saw, in ticks of 1/64 s modulo 2^31.
  public var startTicks: UInt32
  /// When it ended, in ticks; nil while it runs.
  public var endTicks: UInt32?
  /// The addresses of its stack; nil if they are not known.
  public var stack: Range<UInt64>?
  /// The thread pointer, by which its thread-local variables are found; nil if it is not known.
  public var threadPointer: UInt64?
  /// Its successful calls that returned a block.
  public var allocations: UInt64
  /// Blocks that it gave back, the old block of each realloc included.
  public var frees: UInt64

  /// A thread of these properties.
  public init(
    id: UInt32, name: ForeignText, slot: UInt32, state: State, startTicks: UInt32, endTicks: UInt32?,
    stack: Range<UInt64>? = nil, threadPointer: UInt64? = nil, allocations: UInt64 = 0, frees: UInt64 = 0
  ) {
    self.id = id
    self.name = name
    self.slot = slot
    self.state = state
    self.startTicks = startTicks
    self.endTicks = endTicks
    self.stack = stack
    self.threadPointer = threadPointer
    self.allocations = allocations
    self.frees = frees
  }
}

/// An executable or shared object that was mapped while the agent watched.
public struct Module: Hashable, Sendable {
  /// Its index in the segment's table of modules. Two modules may have one path.
  public var index: UInt32
  /// The path of the file, by its bytes. For a module whose file is not known, the name
  /// that the dynamic linker has for it.
  public var path: ForeignText
  /// The GNU build id, at most 32 bytes; empty if the module has none.
  public var buildID: [UInt8]
  /// Lowest mapped address.
  public var start: UInt64
  /// One past the highest mapped address.
  public var end: UInt64
  /// The number that is added to an address of the ELF file to get the mapped address, with
  /// wrap-around.
  public var bias: UInt64
  /// When it was noted, in ticks of 1/64 s modulo 2^31.
  public var loadTicks: UInt32
  /// When it was unloaded, in ticks; nil while it is loaded.
  public var unloadTicks: UInt32?
  /// Whether it is the executable.
  public var isMain: Bool
  /// Whether it is the agent.
  public var isAgent: Bool
  /// Where each thread has its copy of the module's thread-local variables; nil if the module has
  /// none, or they do not lie at one distance from the pointer of every thread.
  public var threadLocal: ThreadLocal?
  /// The file that was mapped, as it was when the module was noted; nil if that is not known.
  public var file: FileState?
  /// When the agent asked the kernel for the file, in nanoseconds since 1970-01-01 UTC; 0 if it did
  /// not need to ask, or could not.
  public var notedNanoseconds: UInt64
  /// Whether the path did not lead to the file any more when the module was noted.
  public var isDeleted: Bool
  /// Whether it was noted at a time when nodes said already in which module they lie: a node that
  /// says nothing is not in it.
  public var isLater: Bool

  /// Where each thread has its copy of a module's thread-local variables.
  public struct ThreadLocal: Hashable, Sendable {
    /// The number that is added to a thread's pointer, with wrap-around.
    public var offset: UInt64
    /// Bytes.
    public var size: UInt64
  }

  /// A module of these properties.
  public init(
    index: UInt32, path: ForeignText, buildID: [UInt8], start: UInt64, end: UInt64, bias: UInt64, loadTicks: UInt32,
    unloadTicks: UInt32?, isMain: Bool, isAgent: Bool, threadLocal: ThreadLocal? = nil,
    file: FileState? = nil, notedNanoseconds: UInt64 = 0, isDeleted: Bool = false, isLater: Bool = false
  ) {
    self.index = index
    self.path = path
    self.file = file
    self.notedNanoseconds = notedNanoseconds
    self.isDeleted = isDeleted
    self.isLater = isLater
    self.buildID = buildID
    self.start = start
    self.end = end
    self.bias = bias
    self.loadTicks = loadTicks
    self.unloadTicks = unloadTicks
    self.isMain = isMain
    self.isAgent = isAgent
    self.threadLocal = threadLocal
  }
}

/// A state of a table of modules: two equal values mean that the table did not change between them.
/// A later state is greater.
public struct ModuleTableVersion: Hashable, Comparable, Sendable {
  /// Changes of the table; 0 if the agent does not count them. Then modules are only added and
  /// unloaded.
  public var changes: UInt64
  /// Modules in the table; 0 where changes are counted.
  public var count = 0
  /// Modules of the table that are unloaded; 0 where changes are counted.
  public var unloaded = 0

  /// A state of these numbers.
  public init(count: Int = 0, unloaded: Int = 0, changes: UInt64 = 0) {
    self.changes = changes
    self.count = count
    self.unloaded = unloaded
  }

  /// Whether `a` is the earlier state of the two.
  public static func < (a: Self, b: Self) -> Bool {
    (a.changes, a.count, a.unloaded) < (b.changes, b.count, b.unloaded)
  }
}
