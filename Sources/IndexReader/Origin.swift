// Where an allocation comes from, decoded: context, call stack, thread, module.

// FileState is a part of what Module says: importers of this module need not import another.
@_exported import FileFacts

/// Who made an allocation.
public struct Context: Hashable, Sendable {
  public var id: UInt32
  /// Innermost frame of the call stack, for `Segment.stack(ofNode:)`; 0 if there is none.
  public var node: UInt32
  /// Slot of the thread table, for `Segment.thread(slot:at:)`; nil if the thread had none.
  public var threadSlot: UInt32?
  /// The function that was called, such as "calloc" or "operator new[]"; nil if not known.
  public var function: String?
  /// Whose memory it is; nil if not known.
  public var allocator: Allocator?

  public init(id: UInt32, node: UInt32, threadSlot: UInt32?, function: String?, allocator: Allocator?) {
    self.id = id
    self.node = node
    self.threadSlot = threadSlot
    self.function = function
    self.allocator = allocator
  }
}

/// Whose memory a block is.
public struct Allocator: Hashable, Sendable {
  public enum Kind: Hashable, Sendable {
    /// It takes memory from the system: its blocks are chunks.
    case primary
    /// It carves up what others handed out.
    case suballocator
  }
  /// Index in the segment's table.
  public var number: UInt32
  /// That of its first entry: a pool that hands out in several ways has an entry for each.
  public var group: UInt32
  public var kind: Kind
  /// nil if it has no name but its module's.
  public var name: String?
  /// The function that hands out its blocks; nil if there are several.
  public var function: String?
  /// The module that has its code; nil if not known.
  public var module: Module?
  /// The program said so itself; else it was declared from outside.
  public var isAnnounced: Bool
  /// Its user prefers to see the chunk that its blocks lie in.
  public var isShownAsChunk: Bool

  public init(
    number: UInt32, group: UInt32? = nil, kind: Kind = .primary, name: String? = nil, function: String? = nil,
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

/// A call stack. Frames that are missing are said to be.
public struct Stack: Hashable, Sendable {
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
  /// How many frames were cut at the depth limit: at least so many, to 1 in 64; nil if none were, or it is not known.
  public var framesCut: UInt32?
  /// Indices of the addresses at which a signal interrupted the program: there the address is the instruction's own.
  public var interrupted: [Int]
  /// What the nodes say of the modules that the addresses lie in, one for each; empty if they say nothing.
  public var holders: [CallHolder] = []

  /// What is said of the module that address `index` lies in.
  public func holder(ofCallAt index: Int) -> CallHolder { index < holders.count ? holders[index] : .unsaid }

  public init(addresses: [UInt64], truncation: Truncation?, framesCut: UInt32? = nil, interrupted: [Int] = []) {
    self.addresses = addresses
    self.truncation = truncation
    self.framesCut = framesCut
    self.interrupted = interrupted
  }
}

/// What a node of the trie says of the module that its call lies in.
public enum CallHolder: Hashable, Sendable {
  /// Nothing: when it was made, no address had changed hands. The address says it, with the record's time.
  case unsaid
  /// The one with this index in the table.
  case module(UInt32)
  /// None that the dynamic linker has loaded: generated code, say.
  case none
  /// One that found no room in the table.
  case dropped
  /// One that was unloaded, and whose entry in the table another has now.
  case forgotten
}

/// One frame of the trie of call stacks.
public struct StackNode: Hashable, Sendable {
  /// Return address of the call; if `isInterrupted`, the instruction at which a signal interrupted the program.
  public var pc: UInt64
  /// Node of the caller, 0 for none: outermost, or cut.
  public var parent: UInt32
  public var isInterrupted: Bool
  /// Why the frames beyond this one are missing; nil if they are not.
  public var truncation: Stack.Truncation?
  /// How many they are, if they were cut at the depth limit; nil if that is not known.
  public var framesCut: UInt32?
  /// Which module the call lies in.
  public var holder: CallHolder

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

/// One holder of a thread slot.
public struct ThreadIdentity: Hashable, Sendable {
  public enum State: Hashable, Sendable {
    case live
    /// Ran its destructors; the kernel may not have ended it yet.
    case exiting
    case ended
  }
  /// The kernel's id, as in /proc/PID/task.
  public var id: UInt32
  public var name: String
  public var slot: UInt32
  public var state: State
  public var startTicks: UInt32
  /// nil while it runs.
  public var endTicks: UInt32?
  /// Bounds of its stack, if known.
  public var stack: Range<UInt64>?
  /// What its thread-local variables are found by; nil if not known.
  public var threadPointer: UInt64?
  /// Successful calls that returned a block.
  public var allocations: UInt64
  /// Blocks given back, the old block of a realloc included.
  public var frees: UInt64

  public init(
    id: UInt32, name: String, slot: UInt32, state: State, startTicks: UInt32, endTicks: UInt32?,
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
  /// Index in the segment's table: two modules may have the same path.
  public var index: UInt32
  /// The path, by its bytes (ByteText). Of a module whose file is not known: the name that the dynamic linker has for
  /// it.
  public var path: String
  /// GNU build id; empty if there is none.
  public var buildID: [UInt8]
  /// Lowest mapped address.
  public var start: UInt64
  /// One past the highest.
  public var end: UInt64
  /// What is added to an ELF address to get the mapped one.
  public var bias: UInt64
  public var loadTicks: UInt32
  /// nil while it is loaded.
  public var unloadTicks: UInt32?
  /// The executable.
  public var isMain: Bool
  public var isAgent: Bool
  /// Where each thread has its copy of the thread-local variables, if that is at one distance from all threads'
  /// pointers.
  public var threadLocal: ThreadLocal?
  /// The file that was mapped, as it was when the module was noted; nil if that is not known.
  public var file: FileState?
  /// Nanoseconds since 1970-01-01 UTC at which the agent asked for the file; 0 if it had no need to, or could not.
  public var notedNanoseconds: UInt64
  /// The path did not lead to the file any more when the module was noted.
  public var isDeleted: Bool
  /// It was noted when nodes said already which module they lie in: a node that says nothing is not in it.
  public var isLater: Bool

  public struct ThreadLocal: Hashable, Sendable {
    /// Added to a thread's pointer, with wrap-around.
    public var offset: UInt64
    /// Bytes.
    public var size: UInt64
  }

  public init(
    index: UInt32, path: String, buildID: [UInt8], start: UInt64, end: UInt64, bias: UInt64, loadTicks: UInt32,
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

/// Tells states of a module table apart. A later state is greater.
public struct ModuleTableVersion: Hashable, Comparable, Sendable {
  /// Changes of the table; 0 if the agent does not count them, and then nothing but additions and unloadings happens.
  public var changes: UInt64
  /// Modules in the table, and those of them that are unloaded; 0 where changes are counted.
  public var count = 0
  public var unloaded = 0

  public init(count: Int = 0, unloaded: Int = 0, changes: UInt64 = 0) {
    self.changes = changes
    self.count = count
    self.unloaded = unloaded
  }

  public static func < (a: Self, b: Self) -> Bool {
    (a.changes, a.count, a.unloaded) < (b.changes, b.count, b.unloaded)
  }
}
