// SPDX-License-Identifier: Apache-2.0
// Pools: which blocks each pool has handed out, for allocators whose pools take all blocks back at
// once.
//
// A pool is known by an address, as the program names it, and by the group of its allocator. All of
// this is in private memory:
// - for each slot of a nested arena, the number of the pool that handed out the slot's block;
// - for each pool, the ranges of memory in which blocks of it lie, in the order in which the pool
//   began to use them. A range grows while blocks come in ascending order. It may hold blocks of
//   other pools, which the numbers tell apart. A reset looks through the pool's ranges and forgets
//   them: it takes time for the memory that the pool has used.
//
// The lock is taken here when a pool begins a new range or another 4 KiB, not for each block: a
// thread remembers its last pool and range. Only where a pool takes blocks back in the reverse
// order, as a stack does, ranges are exact and each block takes the lock.

import AgentMachine
import SharedLayout

enum Pools {
  typealias Shared = UnsafeMutablePointer<allocs_shared>
  private typealias Entry = UnsafeMutablePointer<allocs_pool_entry>
  private typealias Range = UnsafeMutablePointer<allocs_pool_range>

  /// A range ends at a multiple of this, beyond its last block, unless ranges have to be exact.
  /// Blocks that come up to this far behind the range extend it.
  private static let reach: UInt = 4096

  /// Notes that the pool at `pool`, of the allocator `group`, has handed out a block, which
  /// NestedIndex has recorded at `level`. `isStack`: the pool takes blocks back in the reverse
  /// order, so the order of its ranges matters.
  static func handedOut(
    _ shared: Shared, _ thread: Thread, _ pool: UInt64, _ group: UInt32, isStack: Bool, _ level: Int, _ base: UInt,
    _ end: UInt
  ) {
    // A reset of any pool may have been this pool's: what the thread remembers from before it does
    // not count.
    let epoch = allocs_load_acquire_u32(&shared.pointee.pool_epoch)
    let known = thread.pointee.last_pool
    if known.address == pool, known.group == group, known.epoch == epoch, base >= known.start, end <= known.end {
      own(shared, level, base, known.number)
      return
    }
    locked(shared) {
      guard let entry = entry(shared, pool, group) else {
        Index.count(ALLOCS_COUNTER_SUBALLOCATIONS_LOST)
        return
      }
      let (start, limit) = extend(shared, entry, isStack, base, end)
      own(shared, level, base, entry.pointee.number)
      thread.pointee.last_pool = allocs_last_pool(
        address: pool, start: start, end: limit, number: entry.pointee.number, group: group,
        epoch: shared.pointee.pool_epoch, unused: 0)
    }
  }

  /// The pool takes back all blocks that it has handed out; with `from`, only that block and those
  /// that came after it.
  static func reset(_ shared: Shared, _ pool: UInt64, _ group: UInt32, from block: UInt = 0) {
    locked(shared) {
      guard let entry = find(shared, pool, group) else { return }
      allocs_store_release_u32(&shared.pointee.pool_epoch, shared.pointee.pool_epoch &+ 1)
      // The newest range first, down to the range that holds the block, and there from the block
      // on.
      while let range = entry.pointee.ranges {
        let start = UInt(range.pointee.start)
        let end = UInt(range.pointee.end)
        let holds = block >= start && block < end
        NestedIndex.drop(shared, from: holds ? block : start, to: end, ofPool: entry.pointee.number)
        if holds, block > start {
          range.pointee.end = UInt64(block)
          return
        }
        entry.pointee.ranges = range.pointee.next
        entry.pointee.range_count -= 1
        range.pointee.next = shared.pointee.free_ranges
        shared.pointee.free_ranges = range
        if holds { break }
      }
      if entry.pointee.ranges == nil { remove(shared, entry) }
    }
  }

  /// The number of the pool that handed out the block at `base`, 0 if it is not known.
  static func owner(_ shared: Shared, _ level: Int, _ base: UInt) -> UInt32 {
    guard let arena = NestedIndex.arena(shared, level, base), let owners = owners(arena, makes: false) else { return 0 }
    return owners[NestedShape.slotIndex(base)]
  }

  // MARK: owners

  /// Notes that pool `number` has handed out the block at `base`.
  private static func own(_ shared: Shared, _ level: Int, _ base: UInt, _ number: UInt32) {
    guard let arena = NestedIndex.arena(shared, level, base) else { return }
    owners(arena, makes: true)?[NestedShape.slotIndex(base)] = number
  }

  /// For each slot of the arena, the number of the pool that handed out its block. Nil if there is
  /// no such table and `makes` does not ask for one, or if there is no memory for it.
  private static func owners(_ arena: NestedArena, makes: Bool) -> UnsafeMutablePointer<UInt32>? {
    let number = Int(arena.head.pointee.number)
    guard number < Int(ALLOCS_NESTED_CAPACITY) else { return nil }
    let word = allocs_nested_owners() + number
    if let owners = allocs_load_acquire_pointer(word) { return owners.assumingMemoryBound(to: UInt32.self) }
    guard makes else { return nil }
    let size = UInt64(ALLOCS_NESTED_SLOTS) * 4
    guard let made = System.map(size) else { return nil }
    if !allocs_compare_exchange_pointer(word, nil, made) { System.unmap(made, size) }
    return allocs_load_acquire_pointer(word)?.assumingMemoryBound(to: UInt32.self)
  }

  // MARK: ranges

  /// Sees to it that a range of the pool holds the block, and gives that range's bounds.
  private static func extend(_ shared: Shared, _ entry: Entry, _ isStack: Bool, _ base: UInt, _ end: UInt)
    -> (UInt64, UInt64)
  {
    // Ranges of a stack do not reach beyond their blocks: they might seem to hold a block of an
    // older range.
    let slack = isStack ? 64 : reach
    let reachEnd = isStack ? UInt64(end) : UInt64((end + reach - 1) & ~(reach - 1))
    if let last = entry.pointee.ranges, UInt64(base) >= last.pointee.start,
      UInt64(base) <= last.pointee.end &+ UInt64(slack)
    {
      last.pointee.end = max(last.pointee.end, reachEnd)
      return (last.pointee.start, last.pointee.end)
    }
    // A pool that has blocks freed one by one uses the same memory again and again. Where the order
    // matters, a block in an older range stays in it: had the stack taken that memory back, the
    // range would be gone.
    if isStack {
      var known = entry.pointee.ranges?.pointee.next
      while let range = known {
        if UInt64(base) >= range.pointee.start, UInt64(end) <= range.pointee.end {
          return (range.pointee.start, range.pointee.end)
        }
        known = range.pointee.next
      }
    }
    if !isStack, entry.pointee.range_count >= entry.pointee.range_limit {
      coalesce(shared, entry)
      entry.pointee.range_limit = max(64, 2 * entry.pointee.range_count)
    }
    guard let range = newRange(shared) else {
      Index.count(ALLOCS_COUNTER_SUBALLOCATIONS_LOST)
      return (0, 0)
    }
    range.pointee.start = UInt64(base)
    range.pointee.end = reachEnd
    range.pointee.next = entry.pointee.ranges
    entry.pointee.ranges = range
    entry.pointee.range_count += 1
    return (range.pointee.start, range.pointee.end)
  }

  /// Sorts the pool's ranges by address and joins ranges that meet.
  private static func coalesce(_ shared: Shared, _ entry: Entry) {
    entry.pointee.ranges = sorted(entry.pointee.ranges, entry.pointee.range_count)
    var range = entry.pointee.ranges
    while let current = range, let next = current.pointee.next {
      guard next.pointee.start <= current.pointee.end &+ UInt64(reach) else {
        range = next
        continue
      }
      current.pointee.end = max(current.pointee.end, next.pointee.end)
      current.pointee.next = next.pointee.next
      next.pointee.next = shared.pointee.free_ranges
      shared.pointee.free_ranges = next
      entry.pointee.range_count -= 1
    }
  }

  /// The first `count` ranges of the list in ascending order, by merging halves.
  private static func sorted(_ list: Range?, _ count: UInt32) -> Range? {
    guard count > 1, let list else {
      list?.pointee.next = nil
      return list
    }
    var second: Range? = list
    for _ in 0..<count / 2 { second = second?.pointee.next }
    var right = sorted(second, count - count / 2)
    var left = sorted(list, count / 2)
    var result: Range?
    var last: Range?
    while left != nil || right != nil {
      let takesLeft = right == nil || (left != nil && left!.pointee.start <= right!.pointee.start)
      let taken = takesLeft ? left : right
      if takesLeft { left = left?.pointee.next } else { right = right?.pointee.next }
      if let last { last.pointee.next = taken } else { result = taken }
      last = taken
    }
    last?.pointee.next = nil
    return result
  }

  /// A range that no pool uses; nil if there is no memory.
  private static func newRange(_ shared: Shared) -> Range? {
    if shared.pointee.free_ranges == nil {
      let size: UInt64 = 64 << 10
      guard let memory = System.map(size) else { return nil }
      let ranges = memory.assumingMemoryBound(to: allocs_pool_range.self)
      for index in 0..<Int(size) / MemoryLayout<allocs_pool_range>.stride {
        ranges[index].next = shared.pointee.free_ranges
        shared.pointee.free_ranges = ranges + index
      }
    }
    guard let range = shared.pointee.free_ranges else { return nil }
    shared.pointee.free_ranges = range.pointee.next
    return range
  }

  // MARK: the table of pools

  // A hash table with open addressing: an entry that is emptied is filled with an entry from
  // behind.

  private static func hash(_ pool: UInt64, _ group: UInt32) -> UInt64 {
    (pool ^ UInt64(group) << 48) &* 0x9E37_79B9_7F4A_7C15 >> 20
  }

  private static func find(_ shared: Shared, _ pool: UInt64, _ group: UInt32) -> Entry? {
    guard let table = shared.pointee.pools else { return nil }
    let mask = shared.pointee.pool_capacity - 1
    var index = hash(pool, group) & mask
    while table[Int(index)].number != 0 {
      let entry = table + Int(index)
      if entry.pointee.address == pool, entry.pointee.group == group { return entry }
      index = (index + 1) & mask
    }
    return nil
  }

  /// The pool's entry, which is made if there is none. Nil if there is no memory.
  private static func entry(_ shared: Shared, _ pool: UInt64, _ group: UInt32) -> Entry? {
    if let known = find(shared, pool, group) { return known }
    if shared.pointee.pool_count * 2 >= shared.pointee.pool_capacity, !grow(shared) { return nil }
    guard let table = shared.pointee.pools else { return nil }
    shared.pointee.pool_count += 1
    shared.pointee.last_pool_number &+= 1
    if shared.pointee.last_pool_number == 0 { shared.pointee.last_pool_number = 1 }
    let new = allocs_pool_entry(
      address: pool, ranges: nil, number: shared.pointee.last_pool_number, group: group, range_count: 0,
      range_limit: 64)
    return insert(table, shared.pointee.pool_capacity, new)
  }

  private static func insert(_ table: Entry, _ capacity: UInt64, _ new: allocs_pool_entry) -> Entry {
    var index = hash(new.address, new.group) & (capacity - 1)
    while table[Int(index)].number != 0 { index = (index + 1) & (capacity - 1) }
    table[Int(index)] = new
    return table + Int(index)
  }

  private static func grow(_ shared: Shared) -> Bool {
    let old = shared.pointee.pool_capacity
    let capacity = max(old * 2, 1024)
    let entrySize = UInt64(MemoryLayout<allocs_pool_entry>.stride)
    guard let memory = System.map(capacity * entrySize) else { return false }
    let table = memory.assumingMemoryBound(to: allocs_pool_entry.self)
    if let former = shared.pointee.pools {
      for index in 0..<Int(old) where former[index].number != 0 { _ = insert(table, capacity, former[index]) }
      System.unmap(UnsafeMutableRawPointer(former), old * entrySize)
    }
    shared.pointee.pools = table
    shared.pointee.pool_capacity = capacity
    return true
  }

  private static func remove(_ shared: Shared, _ entry: Entry) {
    guard let table = shared.pointee.pools else { return }
    let mask = shared.pointee.pool_capacity - 1
    shared.pointee.pool_count -= 1
    var hole = UInt64(entry - table)
    table[Int(hole)].number = 0
    var index = (hole + 1) & mask
    while table[Int(index)].number != 0 {
      let home = hash(table[Int(index)].address, table[Int(index)].group) & mask
      // The entry moves to the hole, unless its home lies behind the hole.
      if (index &- home) & mask >= (index &- hole) & mask {
        table[Int(hole)] = table[Int(index)]
        table[Int(index)].number = 0
        hole = index
      }
      index = (index + 1) & mask
    }
  }
}
