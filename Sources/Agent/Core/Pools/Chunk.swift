// SPDX-License-Identifier: Apache-2.0
// Chunk: the live allocation that an address lies in. A *chunk* is an allocation of the index as a
// pool sees it: memory that the pool carves up into suballocations. Hooks know where their blocks
// start; only NestedIndex has to search.

import AgentMachine
import SharedLayout

enum Chunk {
  /// How many regions below the region of the address may be looked through, as a chunk may begin
  /// in an earlier region: 64 GiB, which takes a microsecond.
  private static let regionLimit = 1024

  /// The live allocation that `address` lies in, nil if it lies in none.
  static func containing(_ address: UInt, _ shared: UnsafeMutablePointer<allocs_shared>) -> IndexedBlock? {
    guard let regions = shared.pointee.regions, address >> UInt(ALLOCS_ADDRESS_BITS) == 0 else { return nil }
    let coarse = IndexedBlock.containing(address, regionLimit: regionLimit) { regions[$0].map { Arena($0) } }
    guard coarse == nil, Fine.isUsed else { return coarse }
    return IndexedBlock.containing(address, regionLimit: regionLimit) {
      regions[$0].flatMap { Fine.arena(of: Arena($0)) }
    }
  }

  /// The chunk at `base`, erased from the index already, is about to go back to its allocator:
  /// the blocks that pools have handed out of it go with it.
  @inline(never)
  static func drop(_ base: UInt, _ size: UInt) {
    guard let shared = allocs_process().pointee.shared else { return }
    NestedIndex.drop(shared, from: base, to: base &+ max(size, 1))
  }
}
