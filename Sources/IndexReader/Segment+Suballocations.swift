// SPDX-License-Identifier: Apache-2.0
// The blocks of suballocators, which lie in chunks, in mappings of a pool's own, or in each other.
//
// The agent erases the blocks in a chunk before the chunk goes back; but it does not see every
// free. So a block is believed only together with its container:
// - a block that was handed out of a chunk, if a live chunk holds all of it and is not younger than
//   it;
// - a block that was handed out elsewhere, if no chunk lies there now;
// - a block of level 1, if a block of level 0 that is believed holds all of it and is not younger.

import Bounds
import SharedLayout

/// A block that a suballocator has handed out, as its slot said at one moment.
public struct Suballocation: Hashable, Sendable {
  /// The block: its address, size, context and time.
  public var block: Allocation
  /// Whether it was handed out of a chunk; else of a mapping, or of static memory.
  public var isInChunk: Bool

  /// A block of these properties.
  public init(block: Allocation, isInChunk: Bool) {
    self.block = block
    self.isInChunk = isInChunk
  }
}

extension Segment {
  /// Whether suballocations may have been recorded. False if there is no nested arena; true also if
  /// all nested arenas hold fine slots only. One load.
  public var hasSuballocations: Bool { used(ALLOCS_SECTION_NESTED) > 0 }

  private func nestedArena(ofRegion region: Int, level: Int) -> NestedArena? {
    // bounded: the word lies in the arena's head, as `level` is below ALLOCS_NESTED_LEVELS
    guard regions.contains(region), let arena = arenaPlace(ofMarkedRegion: region),
      let place = nestedPlace(numberAt: arena.start + MemoryLayout<allocs_arena>.offset(of: \.nested)! + level * 4)
    else { return nil }
    return NestedArena(at: place, region: region)
  }

  /// The time of one record may be a second ahead of the time of another.
  private static func isNotYounger(_ container: Allocation, than block: Allocation) -> Bool {
    let lead = allocs_ticks_between(block.ticks, container.ticks)
    return lead <= ALLOCS_TICKS_PER_SECOND || lead >= 1 << (ALLOCS_TICK_BITS - 1)
  }

  private static func believes(_ block: Suballocation, level: Int, in container: Allocation?) -> Bool {
    guard level > 0 || block.isInChunk else { return container == nil }
    guard let container else { return false }
    return block.block.base >= container.base && block.block.end <= container.end
      && isNotYounger(container, than: block.block)
  }

  /// The blocks of suballocators in which `address` lies, innermost first, at most two. `chunk`:
  /// the live allocation in which the address lies; nil if it lies in none.
  public func suballocations(containing address: UInt64, in chunk: Allocation?) -> [Suballocation] {
    guard hasSuballocations, address < Layout.addressLimit else { return [] }
    var found: [Suballocation] = []
    var container = chunk
    for level in 0..<Int(ALLOCS_NESTED_LEVELS) {
      guard let block = suballocation(containing: address, level: level, in: container) else { break }
      found.insert(block, at: 0)
      container = block.block
    }
    return found
  }

  private func suballocation(containing address: UInt64, level: Int, in container: Allocation?) -> Suballocation? {
    var found: Suballocation?
    // A block that is not believed, or too short, may lie between the address and the block that
    // holds it: a few such blocks are passed over.
    var tries = 64
    var region = Int(truncatingIfNeeded: allocs_region_of_address(address))
    var offset = address & (Layout.regionSize &- 1)
    var regionTries = 16
    while region >= 0, regionTries > 0, tries > 0 {
      let goesOn =
        nestedArena(ofRegion: region, level: level)?.scanDown(from: offset) { block in
          if block.block.contains(address), Self.believes(block, level: level, in: container) {
            found = block
            return false
          }
          tries &-= 1
          if let container, block.block.base < container.base { tries = 0 }
          return tries > 0
        } ?? true
      guard goesOn, found == nil,
        container.map({ $0.base < allocs_address_of_region(UInt64(truncatingIfNeeded: region)) }) ?? true
      else { break }
      region &-= 1
      offset = Layout.regionSize &- 1
      regionTries &-= 1
    }
    return found
  }

  /// The nearest blocks below and above `block`, at its `level` (0, or 1 for blocks in blocks), in
  /// its `container`; in its region, if it has no container.
  public func neighbours(
    of block: Suballocation, level: Int, in container: Allocation?
  ) -> (previous: Allocation?, next: Allocation?) {
    let region = Int(truncatingIfNeeded: allocs_region_of_address(block.block.base))
    guard let arena = nestedArena(ofRegion: region, level: level) else { return (nil, nil) }
    var previous: Allocation?
    var next: Allocation?
    let offset = block.block.base &- arena.regionStart
    if offset >= 8 {
      _ = arena.scanDown(from: offset &- 8) { other in
        if Self.believes(other, level: level, in: container) { previous = other.block }
        return previous == nil && container.map { other.block.base >= $0.base } ?? true
      }
    }
    if offset < Layout.regionSize &- 8 {
      _ = arena.scanUp(from: offset &+ 8) { other in
        if Self.believes(other, level: level, in: container) { next = other.block }
        return next == nil && container.map { other.block.base < $0.end } ?? true
      }
    }
    return (previous, next)
  }

  /// Calls `body` with each suballocation that is believed, in order of address at each level, and
  /// with its container: a chunk, a block of the level below, or nil.
  ///
  /// The target goes on running, as with `forEachAllocation(in:_:)`: each block was live when its
  /// slot was read, and a block that is made or freed meanwhile may be missed.
  public func forEachSuballocation(_ body: (_ block: Suballocation, _ level: Int, _ container: Allocation?) -> Void) {
    guard hasSuballocations else { return }
    for level in 0..<Int(ALLOCS_NESTED_LEVELS) {
      var container: Allocation?
      var next = 0
      var meter = BudgetMeter(interval: 16)
      while meter.goesOn(), let region = regions.first(atOrAbove: next) {
        next = region &+ 1
        guard let arena = nestedArena(ofRegion: region, level: level) else { continue }
        _ = arena.scanUp(from: 0) { block in
          guard meter.goesOn() else { return false }
          if container?.contains(block.block.base) != true {
            let chunk = allocation(containing: block.block.base)
            container =
              level == 0
              ? chunk : suballocation(containing: block.block.base, level: 0, in: chunk)?.block
          }
          if Self.believes(block, level: level, in: container) { body(block, level, container) }
          return true
        }
      }
    }
  }
}
