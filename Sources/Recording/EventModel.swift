// SPDX-License-Identifier: Apache-2.0
// The guesses that the writer and the reader of a recording make about the next event. An event
// that is as guessed takes next to no room.
//
// Programs allocate and free in patterns. There are three guesses for the address of a new block:
// - 0: the block of its size class that was freed last.
// - 1: the block that followed the class's last block when that one was allocated the time before.
// - 2: the memory behind the last new block that was not a reused one.
//
// There are three guesses for the address of a freed block:
// - 0: the block that was freed after the last freed block when that one was freed the time before.
// - 1: the newest block of the freed block's kind.
// - 2: the block behind the last freed one.
//
// The recording has the number of the guess that was right, else the address. Nothing is assumed of
// the allocator: a guess that is never right costs nothing but room.
//
// An address has one entry for all that is known of it. With a table for each guess, each guess
// would cost the recorder a cache miss of its own.
//
// Invariant: encoder and decoder call `note…` with the same events in the same order, from the same
// empty state, so that they make the same guesses. All tables have a fixed size and are emptied at
// the start of each chunk.

import CPrefetch
import Glibc
import SharedLayout

/// The common part of all allocations of one kind: who made them, and the size and alignment that
/// were asked for.
struct AllocationKind: Hashable {
  var context: UInt32
  var origin: UInt32
  /// Bytes in the low 48 bits, the logarithm of the alignment above.
  var extent: UInt64

  var hash: UInt64 {
    var value = UInt64(context) | UInt64(origin) << 32
    value = (value ^ extent &* 0x9E37_79B9_7F4A_7C15) &* 0xBF58_476D_1CE4_E5B9
    return value ^ value >> 29
  }
}

struct EventModel: ~Copyable {
  /// Guesses have the numbers below this one; as a guess, it means that none is right.
  static let guessCount: UInt8 = 3

  private static let classCount = 128
  private static let stackDepth = 256
  private static let stackMask = stackDepth &- 1
  private static let entryBits: UInt64 = 19

  /// The knowledge about an address, and about the block there. A slot is an index in `entries`
  /// plus 1; 0 stands for none.
  private struct Entry: BitwiseCopyable {
    var address: UInt64 = 0
    /// Index of the block's kind, plus 1; 0: no block is known there.
    var kind: UInt32 = 0
    /// Slots of the next newer and the next older block of its kind.
    var newer: UInt32 = 0
    var older: UInt32 = 0
    /// Slots of the block of its size class that was allocated right after this one, and of the
    /// block that was freed right after this one.
    var allocatedNext: UInt32 = 0
    var freedNext: UInt32 = 0
  }

  /// A hash table of pairs: an address's hash selects a pair, whose two entries lie in one cache
  /// line.
  private var entries: ZeroedTable<Entry>
  /// A stack of freed blocks for each size class, the last freed one on top; a full stack forgets
  /// its oldest block.
  private var freed = ZeroedTable<UInt64>(classCount &* stackDepth)
  private var freedCounts = ZeroedTable<Int>(classCount)
  private var lastOfClass = ZeroedTable<UInt64>(classCount)
  /// Slot of the newest block of each kind.
  private var newest: [UInt32] = []
  private(set) var lastAllocated: UInt64 = 0
  private var behindAllocated: UInt64 = 0
  private(set) var lastFreed: UInt64 = 0
  private var behindFreed: UInt64 = 0
  /// The result of the loads in `touch`, without which the compiler would leave them out.
  private var touched: UInt64 = 0

  /// `hasLargePages`: of a chunk with so many events that all of the large table is written to,
  /// large pages spare thousands of page faults, and misses of the TLB with each event.
  init(hasLargePages: Bool = false) {
    entries = ZeroedTable(1 << Self.entryBits, hasLargePages: hasLargePages)
  }

  mutating func clear() {
    entries.clear()
    freed.clear()
    freedCounts.clear()
    lastOfClass.clear()
    newest.removeAll(keepingCapacity: true)
    (lastAllocated, behindAllocated, lastFreed, behindFreed) = (0, 0, 0, 0)
  }

  // MARK: guesses

  @inline(__always)
  func guessedAllocation(_ guess: UInt8, size: UInt64) -> UInt64 {
    switch guess {
    case 0:
      let kind = Self.sizeClass(size)
      let count = freedCounts[kind]
      return count == 0 ? 0 : freed[kind &* Self.stackDepth &+ (count &- 1) & Self.stackMask]
    case 1: return address(in: entry(of: lastOfClass[Self.sizeClass(size)])?.allocatedNext)
    default: return behindAllocated
    }
  }

  /// `kind` is the kind of the freed block, for guess 1.
  @inline(__always)
  func guessedFree(_ guess: UInt8, kind: Int) -> UInt64 {
    switch guess {
    case 0: return address(in: entry(of: lastFreed)?.freedNext)
    case 1: return kind >= 0 && kind < newest.count ? address(in: newest[kind]) : 0
    default: return behindFreed
    }
  }

  /// The number of the first guess for an allocation that is right; `guessCount` if none is. A
  /// guess that is a slot is right if the address's own entry is in that slot: no other entry is
  /// read, as it might not be in the cache.
  @inline(__always)
  func guess(ofAllocation address: UInt64, size: UInt64) -> UInt8 {
    if guessedAllocation(0, size: size) == address { return 0 }
    if let slot = entry(of: lastOfClass[Self.sizeClass(size)])?.allocatedNext, holds(slot, address) { return 1 }
    return behindAllocated == address ? 2 : Self.guessCount
  }

  /// The number of the first guess for a free that is right; `guessCount` if none is.
  @inline(__always)
  func guess(ofFree address: UInt64, kind: Int?) -> UInt8 {
    if let slot = entry(of: lastFreed)?.freedNext, holds(slot, address) { return 0 }
    if let kind, kind < newest.count, holds(newest[kind], address) { return 1 }
    return behindFreed == address ? 2 : Self.guessCount
  }

  @inline(__always)
  private func holds(_ slot: UInt32, _ address: UInt64) -> Bool {
    let index = Int(truncatingIfNeeded: slot) &- 1
    return index & ~1 == Self.index(address) && entries[index].address == address
  }

  /// The index of the kind of the block at `address`; nil if the block was forgotten.
  @inline(__always)
  func kind(ofBlockAt address: UInt64) -> Int? {
    guard let entry = entry(of: address), entry.kind != 0 else { return nil }
    return Int(truncatingIfNeeded: entry.kind &- 1)
  }

  /// Brings the entries of the records' addresses into the cache. The processor fetches them all at
  /// once, as no load here waits for another.
  @inline(__always)
  mutating func touch(_ records: Slice<UnsafeBufferPointer<allocs_event>>) {
    var bits: UInt64 = 0
    for record in records { bits ^= entries[Self.index(allocs_event_address(record.place))].address }
    touched = bits
  }

  /// Brings the entry of an address that is likely next into the cache.
  @inline(__always)
  func prefetch(_ address: UInt64) { recording_prefetch(entries.start.advanced(by: Self.index(address))) }

  /// Brings the entry of the memory behind the last new block into the cache.
  @inline(__always)
  func prefetchBehindAllocated() { prefetch(behindAllocated) }

  @inline(__always)
  private func entry(of address: UInt64) -> Entry? { find(address).map { entries[$0] } }

  @inline(__always)
  private func find(_ address: UInt64) -> Int? {
    let index = Self.index(address)
    if entries[index].address == address { return index }
    return entries[index &+ 1].address == address ? index &+ 1 : nil
  }

  @inline(__always)
  private func address(in slot: UInt32?) -> UInt64 {
    guard let slot, slot != 0 else { return 0 }
    return entries[Int(truncatingIfNeeded: slot) &- 1].address
  }

  // MARK: events

  @inline(__always)
  mutating func noteAllocation(_ address: UInt64, size: UInt64, kind number: Int) {
    let kind = Self.sizeClass(size)
    let count = freedCounts[kind]
    let stack = freed.start.advanced(by: kind &* Self.stackDepth)
    // A block near the top of the stack is taken out of it, so that the next guesses are right
    // again.
    var isReused = false
    // bounded: counts of freed blocks are 0 or more, and below the events of a chunk
    for depth in 0..<min(count, 12) where stack[(count &- 1 &- depth) & Self.stackMask] == address {
      for above in stride(from: depth, to: 0, by: -1) {
        stack[(count &- 1 &- above) & Self.stackMask] = stack[(count &- above) & Self.stackMask]
      }
      freedCounts[kind] = count &- 1
      isReused = true
      break
    }
    let index = claim(address)
    let slot = UInt32(truncatingIfNeeded: index &+ 1)
    if let last = find(lastOfClass[kind]) { entries[last].allocatedNext = slot }
    lastOfClass[kind] = address
    lastAllocated = address
    // Allocators cut new blocks off a larger piece, and hand out freed blocks in between.
    if !isReused { behindAllocated = address &+ Self.footprint(size) }
    while newest.count <= number { newest.append(0) }
    let older = newest[number]
    entries[index].kind = UInt32(truncatingIfNeeded: number &+ 1)
    entries[index].older = older
    if older != 0 { entries[Int(truncatingIfNeeded: older) &- 1].newer = slot }
    newest[number] = slot
  }

  @inline(__always)
  mutating func noteFree(_ address: UInt64, size: UInt64) {
    let index = claim(address)
    if let last = find(lastFreed) { entries[last].freedNext = UInt32(truncatingIfNeeded: index &+ 1) }
    lastFreed = address
    behindFreed = address &+ Self.footprint(size)
    let kind = Self.sizeClass(size)
    let count = freedCounts[kind]
    freed[kind &* Self.stackDepth &+ count & Self.stackMask] = address
    // Not by +=, which Swift 6.3.1 can't compile here for the thread sanitizer.
    freedCounts[kind] = count &+ 1
  }

  /// Gives the address an entry, with no block in it, and returns the entry's index. A pair in
  /// which the address has no entry loses its first entry, or its second if that alone has no
  /// block.
  @inline(__always)
  private mutating func claim(_ address: UInt64) -> Int {
    if let index = find(address) {
      unlink(index)
      return index
    }
    var index = Self.index(address)
    if entries[index].kind != 0, entries[index &+ 1].kind == 0 { index &+= 1 }
    unlink(index)
    entries[index] = Entry(address: address)
    return index
  }

  /// Takes the block that an entry has, if any, out of its kind's list.
  @inline(__always)
  private mutating func unlink(_ index: Int) {
    let entry = entries[index]
    guard entry.kind != 0 else { return }
    if entry.newer != 0 {
      entries[Int(truncatingIfNeeded: entry.newer) &- 1].older = entry.older
    } else {
      newest[Int(truncatingIfNeeded: entry.kind) &- 1] = entry.older
    }
    if entry.older != 0 { entries[Int(truncatingIfNeeded: entry.older) &- 1].newer = entry.newer }
    (entries[index].kind, entries[index].newer, entries[index].older) = (0, 0, 0)
  }

  /// The size of glibc's chunk for a block of so many bytes: a good enough guess for other
  /// allocators.
  private static func footprint(_ size: UInt64) -> UInt64 { max(32, (size &+ 23) & ~15) }

  @inline(__always)
  private static func sizeClass(_ size: UInt64) -> Int {
    let chunks = (size &+ 23) >> 4
    if chunks < 96 { return Int(truncatingIfNeeded: chunks) }
    return 96 &+ Int(truncatingIfNeeded: (chunks &* 0x9E37_79B9_7F4A_7C15) >> 59)
  }

  @inline(__always)
  private static func index(_ address: UInt64) -> Int {
    Int(truncatingIfNeeded: (address &* 0x9E37_79B9_7F4A_7C15) >> (64 &- entryBits)) & ~1
  }
}

/// A table whose entries begin as zeros, at the start of a page. Pages of it that are never written
/// cost nothing: a chunk may have few events.
private struct ZeroedTable<Entry: BitwiseCopyable>: ~Copyable {
  private let size: Int
  private(set) var start: UnsafeMutablePointer<Entry>

  /// MADV_HUGEPAGE of madvise(2), which <sys/mman.h> has for GNU's sources only.
  private static var largePages: Int32 { 14 }

  init(_ count: Int, hasLargePages: Bool = false) {
    size = count &* MemoryLayout<Entry>.stride
    start = Self.zeros(size)
    // Where the kernel has none, there are small pages.
    if hasLargePages { madvise(start, size, Self.largePages) }
  }

  deinit { munmap(start, size) }

  private static func zeros(_ size: Int) -> UnsafeMutablePointer<Entry> {
    let memory = mmap(nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    // Swift's own allocations end the process in this case, too. It is a tool's process, not the
    // target.
    // bounded: the sizes of these tables are constants
    guard let memory, memory != MAP_FAILED else { fatalError("no memory for a table of \(size) bytes") }
    return memory.assumingMemoryBound(to: Entry.self)
  }

  mutating func clear() {
    munmap(start, size)
    start = Self.zeros(size)
  }

  subscript(_ index: Int) -> Entry {
    @inline(__always) get { start[index] }
    @inline(__always) nonmutating set { start[index] = newValue }
  }
}
