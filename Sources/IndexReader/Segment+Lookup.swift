// SPDX-License-Identifier: Apache-2.0
// The look-up of an address: the search from regions down to slots.

import Bounds
import SharedLayout
import Synchronization

extension Segment {
  /// The start of the arena of a region whose bit is set; nil if the directory leads nowhere.
  @inline(__always)
  func arenaPlace(ofMarkedRegion region: Int) -> ArenaPlace? {
    // Pairs with the writer's store of the entry, which it makes before the region's bit.
    // bounded: the table has an entry for each region
    let entry = Int(truncatingIfNeeded: allocs_load_acquire_u32(directory + region))
    return arenas.place(ofEntry: entry &- 1)
  }

  /// The start of the nested arena whose number, from 1, stands at `word` in an arena; nil if there
  /// is none.
  @inline(__always)
  func nestedPlace(numberAt word: UnsafeRawPointer) -> ArenaPlace? {
    // Pairs with the agent's release, which it makes when the nested arena is complete.
    let number = Int(truncatingIfNeeded: allocs_load_acquire_u32(word.assumingMemoryBound(to: UInt32.self)))
    guard number >= 1, number <= used(ALLOCS_SECTION_NESTED) else { return nil }
    return nestedArenas.place(ofEntry: number &- 1)
  }

  /// The slots of a region whose bit is set; nil if it has none.
  @inline(__always)
  private func slots(ofMarkedRegion region: Int) -> RegionSlots? {
    guard let place = arenaPlace(ofMarkedRegion: region),
      let coarse = Arena(at: place, region: region, shape: .coarse)
    else { return nil }
    // bounded: the word lies in the arena's head
    let fine = nestedPlace(numberAt: place.start + MemoryLayout<allocs_arena>.offset(of: \.fine)!)
    return RegionSlots(coarse: coarse, fine: fine.flatMap { Arena(at: $0, region: region, shape: .nested) })
  }

  private func last(atOrBelow address: UInt64) -> Allocation? {
    let address = min(address, Layout.addressLimit &- 1)
    var region = Int(truncatingIfNeeded: allocs_region_of_address(address))
    if regions.contains(region), let slots = slots(ofMarkedRegion: region),
      let found = slots.last(atOrBelow: address &- slots.regionStart)
    {
      return found
    }
    var meter = BudgetMeter(interval: 256)
    while meter.goesOn(), let next = regions.last(atOrBelow: region &- 1) {
      if let found = slots(ofMarkedRegion: next)?.last(atOrBelow: Layout.regionSize &- 1) { return found }
      region = next
    }
    return nil
  }

  /// Calls `body` with each allocation whose base is at or above `address`, in order, until it
  /// returns false.
  @inline(__always)
  private func scan<Failure: Error>(
    from address: UInt64, _ body: (Allocation) throws(Failure) -> Bool
  ) throws(Failure) {
    guard address < Layout.addressLimit else { return }
    let own = Int(truncatingIfNeeded: allocs_region_of_address(address))
    var next = own
    var meter = BudgetMeter(interval: 256)
    while meter.goesOn(), let region = regions.first(atOrAbove: next) {
      if let slots = slots(ofMarkedRegion: region) {
        let offset = region == own ? address &- slots.regionStart : 0
        guard try slots.scan(from: offset, body) else { return }
      }
      next = region &+ 1
    }
  }

  /// The live allocation that `address` is in; nil if it is in none. In either case there was a
  /// moment during the call at which the answer was true. Any address may be asked for, by any
  /// thread.
  public func allocation(containing address: UInt64) -> Allocation? {
    guard let candidate = last(atOrBelow: address), candidate.contains(address) else { return nil }
    return candidate
  }

  /// The live allocation with the highest base below `address`; nil if there is none.
  public func allocation(before address: UInt64) -> Allocation? {
    address == 0 ? nil : last(atOrBelow: address &- 1)
  }

  /// The live allocation with the lowest base above `address`; nil if there is none.
  public func allocation(after address: UInt64) -> Allocation? {
    guard address < Layout.addressLimit else { return nil }
    var found: Allocation?
    scan(from: address &+ 1) { allocation in
      found = allocation
      return false
    }
    return found
  }

  /// The allocations at an address and beside it. Takes a microsecond or two; any thread may ask.
  public func lookup(_ address: UInt64) -> Lookup {
    let candidate = last(atOrBelow: address)
    let next = allocation(after: address)
    guard let candidate, candidate.contains(address) else {
      return Lookup(address: address, containing: nil, previous: candidate, next: next)
    }
    return Lookup(address: address, containing: candidate, previous: allocation(before: candidate.base), next: next)
  }

  /// Whether an allocation has ever started in the 2 KiB of heap around `address`. It tells heap
  /// that is free now from memory that was never heap.
  public func wasUsed(_ address: UInt64) -> Bool {
    guard address < Layout.addressLimit else { return false }
    let region = Int(truncatingIfNeeded: allocs_region_of_address(address))
    guard regions.contains(region), let slots = slots(ofMarkedRegion: region) else { return false }
    return slots.wasUsed(address)
  }

  /// Calls `body` with each live allocation whose base is in `range` (nil: everywhere), in order of
  /// address.
  ///
  /// The target goes on running: each allocation that is reported was live when its slot was read.
  /// An allocation that is made or freed meanwhile may be missed, and an allocation that realloc
  /// moves upwards may be seen at both places. To stop early, throw: the error is passed on.
  public func forEachAllocation<Failure: Error>(
    in range: ClosedRange<UInt64>? = nil, _ body: (Allocation) throws(Failure) -> Void
  ) throws(Failure) {
    let last = range?.upperBound ?? .max
    try scan(from: range?.lowerBound ?? 0) { (allocation) throws(Failure) -> Bool in
      guard allocation.base <= last else { return false }
      try body(allocation)
      return true
    }
  }

  /// Divides all live allocations among up to `threads` threads. `part` is called once on each,
  /// with a function that calls a body with one allocation after another, as `forEachAllocation`
  /// does: those of one region of the address space after those of another, which is any that no
  /// other thread has taken. Returns when all calls of `part` have returned.
  ///
  /// Of allocations that are made, freed or moved meanwhile, what `forEachAllocation` says is true.
  package func divideAllocations(among threads: Int, _ part: (_ forEach: ((Allocation) -> Void) -> Void) -> Void) {
    let next = Mutex(0)
    func takeRegion() -> Int? {
      next.withLock { next in
        guard let region = regions.first(atOrAbove: next) else { return nil }
        next = region &+ 1
        return region
      }
    }
    Concurrently.run(threads) { _ in
      part { body in
        var meter = BudgetMeter(interval: 256)
        while meter.goesOn(), let region = takeRegion() {
          guard let slots = slots(ofMarkedRegion: region) else { continue }
          _ = slots.scan(from: 0) { allocation in
            body(allocation)
            return true
          }
        }
      }
    }
  }

  /// Counts the live allocations whose base is in `range` (nil: everywhere), by reading every slot
  /// in use: a few milliseconds for a million allocations.
  public func totals(in range: ClosedRange<UInt64>? = nil) -> AllocationTotals {
    var totals = AllocationTotals()
    forEachAllocation(in: range) { allocation in
      totals.count &+= 1
      // Wraps rather than traps: sizes in a damaged segment may be anything.
      totals.bytes &+= allocation.size
    }
    return totals
  }
}
