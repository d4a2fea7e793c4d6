// SPDX-License-Identifier: Apache-2.0
// Indices by numbers of up to 32 bits: a table with open addressing, in one array. A request about one address comes to
// three numbers, among millions that an index may have; a batch comes to some thousands a million times.

struct IndexTable {
  /// A number in the upper half, 1 + its index in the lower one; 0 is empty. A power of two cells, of which half are
  /// empty at least.
  private var cells = [UInt64](repeating: 0, count: 16)
  private var count = 0

  /// The index of `number`; nil if it has none.
  @inline(__always)
  func index(of number: UInt32) -> Int? {
    var place = start(of: number)
    // bounded: half of the cells are empty
    while cells[place] != 0 {
      let cell = cells[place]
      if UInt32(truncatingIfNeeded: cell >> 32) == number { return Int(truncatingIfNeeded: cell & 0xFFFF_FFFF) &- 1 }
      place = (place &+ 1) & (cells.count &- 1)
    }
    return nil
  }

  /// Gives `number`, which has none, an index below 2^31.
  mutating func add(_ index: Int, of number: UInt32) {
    if (count &+ 1) &* 2 > cells.count {
      let old = cells
      cells = [UInt64](repeating: 0, count: old.count &* 2)  // bounded: a cell or three for each number put in
      for cell in old where cell != 0 { put(cell) }
    }
    put(UInt64(number) << 32 | (UInt64(truncatingIfNeeded: index) &+ 1) & 0xFFFF_FFFF)
    count &+= 1
  }

  private mutating func put(_ cell: UInt64) {
    var place = start(of: UInt32(truncatingIfNeeded: cell >> 32))
    // bounded: half of the cells are empty
    while cells[place] != 0 { place = (place &+ 1) & (cells.count &- 1) }
    cells[place] = cell
  }

  /// Where the search begins. Ids are given out in order: a multiple of a large odd number spreads them.
  @inline(__always)
  private func start(of number: UInt32) -> Int {
    Int(truncatingIfNeeded: (UInt64(number) &* 0x9E37_79B9_7F4A_7C15) >> 32) & (cells.count &- 1)
  }
}
