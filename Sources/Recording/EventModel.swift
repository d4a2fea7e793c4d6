// What both ends of a recording guess about the next event: so that an event which comes as guessed takes next to nothing.
//
// Programs allocate and free in patterns. For a new block the guesses are the last block of that size class that was freed,
// the one that followed the class's last one before, and the memory behind the last new block that was none of the freed
// ones; for a free, the block whose free followed that of the last freed one before, the newest block of its kind, and the
// one behind the last freed one. Which guess was right is written; else the address. Nothing is assumed of the allocator: a
// guess that is never right costs nothing but room.
//
// Invariant: encoder and decoder call `note…` with the same events in the same order, from the same empty state, so that
// they guess the same. All tables have a fixed size and are emptied at the start of each chunk.

import SharedLayout

/// What the allocations of a kind have in common.
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
  /// Guesses, as the format numbers them: the last of them is none.
  static let guessCount: UInt8 = 3

  private static let classCount = 128
  private static let stackDepth = 256
  private static let followerBits: UInt64 = 18
  private static let blockBits: UInt64 = 18

  struct Block {
    var address: UInt64 = 0
    /// Index of its kind, plus 1; 0: empty.
    var kind: UInt32 = 0
    /// Slots of the next newer and the next older block of its kind, plus 1; 0: none.
    var newer: UInt32 = 0
    var older: UInt32 = 0
  }
  private struct Follower {
    var key: UInt64 = 0
    var address: UInt64 = 0
  }

  /// Freed blocks of each size class, the last on top; the oldest is forgotten.
  private var freed: UnsafeMutablePointer<UInt64>
  private var freedCounts: UnsafeMutablePointer<Int>
  private var lastOfClass: UnsafeMutablePointer<UInt64>
  private var followers: UnsafeMutablePointer<Follower>
  private var freeFollowers: UnsafeMutablePointer<Follower>
  private var blocks: UnsafeMutablePointer<Block>
  /// Slot of the newest block of each kind, plus 1.
  private var newest: [UInt32] = []
  private(set) var lastAllocated: UInt64 = 0
  private var behindAllocated: UInt64 = 0
  private(set) var lastFreed: UInt64 = 0
  private var behindFreed: UInt64 = 0

  init() {
    freed = .allocate(capacity: Self.classCount * Self.stackDepth)
    freedCounts = .allocate(capacity: Self.classCount)
    lastOfClass = .allocate(capacity: Self.classCount)
    followers = .allocate(capacity: 1 << Self.followerBits)
    freeFollowers = .allocate(capacity: 1 << Self.followerBits)
    blocks = .allocate(capacity: 1 << Self.blockBits)
    freed.initialize(repeating: 0, count: Self.classCount * Self.stackDepth)
    clear()
  }

  deinit {
    freed.deallocate()
    freedCounts.deallocate()
    lastOfClass.deallocate()
    followers.deallocate()
    freeFollowers.deallocate()
    blocks.deallocate()
  }

  mutating func clear() {
    freedCounts.initialize(repeating: 0, count: Self.classCount)
    lastOfClass.initialize(repeating: 0, count: Self.classCount)
    followers.initialize(repeating: Follower(), count: 1 << Self.followerBits)
    freeFollowers.initialize(repeating: Follower(), count: 1 << Self.followerBits)
    blocks.initialize(repeating: Block(), count: 1 << Self.blockBits)
    newest.removeAll(keepingCapacity: true)
    (lastAllocated, behindAllocated, lastFreed, behindFreed) = (0, 0, 0, 0)
  }

  // MARK: guesses

  @inline(__always)
  func guessedAllocation(_ guess: UInt8, size: UInt64) -> UInt64 {
    let kind = Self.sizeClass(size)
    switch guess {
    case 0:
      let count = freedCounts[kind]
      return count == 0 ? 0 : freed[kind * Self.stackDepth + (count - 1) % Self.stackDepth]
    case 1:
      let key = Self.key(lastOfClass[kind], kind)
      let entry = followers[Self.slot(key, Self.followerBits)]
      return entry.key == key ? entry.address : 0
    default: return behindAllocated
    }
  }

  /// `kind`: of the block, for guess 1.
  @inline(__always)
  func guessedFree(_ guess: UInt8, kind: Int) -> UInt64 {
    switch guess {
    case 0:
      let key = Self.key(lastFreed, 0)
      let entry = freeFollowers[Self.slot(key, Self.followerBits)]
      return entry.key == key ? entry.address : 0
    case 1:
      guard kind >= 0, kind < newest.count, newest[kind] != 0 else { return 0 }
      return blocks[Int(newest[kind]) - 1].address
    default: return behindFreed
    }
  }

  /// The index of the kind of the block at `address`; nil if that was forgotten.
  @inline(__always)
  func kind(ofBlockAt address: UInt64) -> Int? {
    let block = blocks[Self.slot(address, Self.blockBits)]
    return block.address == address && block.kind != 0 ? Int(block.kind - 1) : nil
  }

  // MARK: what came

  @inline(__always)
  mutating func noteAllocation(_ address: UInt64, size: UInt64, kind index: Int) {
    let kind = Self.sizeClass(size)
    let count = freedCounts[kind]
    let stack = freed + kind * Self.stackDepth
    // What lies near the top is taken out, so that the rest is guessed right again.
    var isReused = false
    for depth in 0..<min(count, 12) where stack[(count - 1 - depth) % Self.stackDepth] == address {
      for above in stride(from: depth, to: 0, by: -1) {
        stack[(count - 1 - above) % Self.stackDepth] = stack[(count - above) % Self.stackDepth]
      }
      freedCounts[kind] = count - 1
      isReused = true
      break
    }
    let key = Self.key(lastOfClass[kind], kind)
    followers[Self.slot(key, Self.followerBits)] = Follower(key: key, address: address)
    lastOfClass[kind] = address
    lastAllocated = address
    // Allocators cut new blocks off a larger piece, and hand out freed ones in between.
    if !isReused { behindAllocated = address &+ Self.footprint(size) }
    let slot = Self.slot(address, Self.blockBits)
    unlink(slot)
    while newest.count <= index { newest.append(0) }
    let older = newest[index]
    blocks[slot] = Block(address: address, kind: UInt32(truncatingIfNeeded: index + 1), newer: 0, older: older)
    if older != 0 { blocks[Int(older) - 1].newer = UInt32(slot + 1) }
    newest[index] = UInt32(slot + 1)
  }

  /// Takes the block in a slot out of its kind's list, and forgets it.
  @inline(__always)
  private mutating func unlink(_ slot: Int) {
    let block = blocks[slot]
    guard block.kind != 0 else { return }
    if block.newer != 0 {
      blocks[Int(block.newer) - 1].older = block.older
    } else {
      newest[Int(block.kind) - 1] = block.older
    }
    if block.older != 0 { blocks[Int(block.older) - 1].newer = block.newer }
    blocks[slot] = Block()
  }

  @inline(__always)
  mutating func noteFree(_ address: UInt64, size: UInt64) {
    let key = Self.key(lastFreed, 0)
    freeFollowers[Self.slot(key, Self.followerBits)] = Follower(key: key, address: address)
    lastFreed = address
    behindFreed = address &+ Self.footprint(size)
    let kind = Self.sizeClass(size)
    freed[kind * Self.stackDepth + freedCounts[kind] % Self.stackDepth] = address
    freedCounts[kind] += 1
    let slot = Self.slot(address, Self.blockBits)
    if blocks[slot].address == address { unlink(slot) }
  }

  /// glibc's chunk for so many bytes: of other allocators a good enough guess.
  private static func footprint(_ size: UInt64) -> UInt64 { max(32, (size &+ 23) & ~15) }

  @inline(__always)
  private static func sizeClass(_ size: UInt64) -> Int {
    let chunks = (size &+ 23) >> 4
    if chunks < 96 { return Int(chunks) }
    return 96 + Int((chunks &* 0x9E37_79B9_7F4A_7C15) >> 59)
  }

  @inline(__always)
  private static func key(_ address: UInt64, _ kind: Int) -> UInt64 { address | UInt64(kind) << 48 }

  @inline(__always)
  private static func slot(_ key: UInt64, _ bits: UInt64) -> Int {
    Int((key &* 0x9E37_79B9_7F4A_7C15) >> (64 - bits))
  }
}
