// SPDX-License-Identifier: Apache-2.0
// Blocks by their bases: a hash table with open addressing, at most half full. A replay looks up a
// block for each event of a recording, tens of millions of times, mostly beyond the processor's
// caches: so a look-up is one place of memory as a rule, and nothing is allocated but when the
// table grows.
//
// A block that is removed leaves no mark: the blocks behind it that could not have their own places
// move up.
//
// A file may have any bases. The multiplier is another one for each table, so that no file can be
// made whose bases all want one place.

import Bounds
import CPrefetch

/// Live blocks by their bases.
public struct BlockTable: Sequence, Sendable {
  private var slots: [ReplayedBlock]
  public private(set) var count = 0
  /// The number of slots is 2 to the power of 64 less this.
  private var shift: UInt64
  private let multiplier = UInt64.random(in: 0 ... .max) | 1

  private static let leastBits: UInt64 = 10
  /// No block has this size: sizes have 48 bits.
  private static let empty = ReplayedBlock(base: 0, size: .max, context: 0, ticks: 0)

  public init() {
    shift = 64 &- Self.leastBits
    slots = Array(repeating: Self.empty, count: 1 << Self.leastBits)  // bounded: it is a constant
  }

  /// Bytes of memory.
  var memory: Int { slots.count &* MemoryLayout<ReplayedBlock>.stride }

  private static func isEmpty(_ slot: ReplayedBlock) -> Bool { slot.size == .max }

  @inline(__always)
  private func home(_ base: UInt64) -> Int { Int(truncatingIfNeeded: (base &* multiplier) >> shift) }

  private var mask: Int { slots.count &- 1 }

  /// The slot of the block at `base`; where there is none, the empty slot that it would have.
  @inline(__always)
  private func find(_ base: UInt64) -> Int {
    var slot = home(base)
    while !Self.isEmpty(slots[slot]), slots[slot].base != base { slot = (slot &+ 1) & mask }
    return slot
  }

  /// The block at `base`; nil if there is none.
  public subscript(base: UInt64) -> ReplayedBlock? {
    let slot = slots[find(base)]
    return Self.isEmpty(slot) ? nil : slot
  }

  /// Puts a block in; returns the block that was there. Sizes of more than 48 bits are no sizes.
  @inline(__always)
  mutating func update(_ block: ReplayedBlock) -> ReplayedBlock? {
    var block = block
    block.size = Swift.min(block.size, ReplayedBlock.sizeLimit)
    let slot = find(block.base)
    let old = slots[slot]
    slots[slot] = block
    guard Self.isEmpty(old) else { return old }
    count &+= 1
    if count &* 2 > slots.count { grow() }
    return nil
  }

  /// Brings the slot of the block at `base`, or that where it would be, into the cache.
  @inline(__always)
  mutating func prefetch(_ base: UInt64) {
    let slot = home(base)
    slots.withUnsafeMutableBufferPointer { slots in
      if let start = slots.baseAddress { recording_prefetch(start.advanced(by: slot)) }
    }
  }

  /// Takes the block at `base` out and returns it; nil if there is none.
  @inline(__always)
  mutating func remove(_ base: UInt64) -> ReplayedBlock? {
    var hole = find(base)
    let found = slots[hole]
    guard !Self.isEmpty(found) else { return nil }
    count &-= 1
    var next = (hole &+ 1) & mask
    while !Self.isEmpty(slots[next]) {
      // A block moves up if its own place is not behind the hole, as the table goes round.
      let home = home(slots[next].base)
      if (next &- home) & mask >= (next &- hole) & mask {
        slots[hole] = slots[next]
        hole = next
      }
      next = (next &+ 1) & mask
    }
    slots[hole] = Self.empty
    return found
  }

  @inline(never)
  private mutating func grow() {
    let old = slots
    shift &-= 1
    slots = Array(repeating: Self.empty, count: old.count &* 2)  // bounded: twice what is in memory
    for block in old where !Self.isEmpty(block) { slots[find(block.base)] = block }
  }

  public func makeIterator() -> some IteratorProtocol<ReplayedBlock> {
    slots.lazy.filter { !Self.isEmpty($0) }.makeIterator()
  }

  /// The blocks by address.
  public var sorted: [ReplayedBlock] { self.sorted(by: { $0.base < $1.base }) }
}
