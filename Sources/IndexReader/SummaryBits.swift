// SPDX-License-Identifier: Apache-2.0
// A set of small numbers as bits in three levels, in shared memory: the regions that have an arena,
// and the 2 KiB groups of an arena that were ever used.
//
//   level 2   bit m: word m of level 1 is not zero
//   level 1   bit w of the whole level: word w of level 0 is not zero
//   level 0   bit n: n is in the set
//
// The writer sets level 2 first and never clears a bit, and a word is read only if the bit above it
// says that it was written: so no hole of the file is ever touched, and a search skips 64 or 4,096
// words at a step. The levels may lie: a bit above a zero word costs a step, nothing else.
//
// bounded: every number is a bit's or a word's place in a set of 2^22 bits at most: callers ask for
// numbers in the set, or one beside it, and a place that was found is in it

import SharedLayout

struct SummaryBits {
  let level2: UnsafePointer<UInt64>
  let level1: UnsafePointer<UInt64>
  let level0: UnsafePointer<UInt64>
  /// Words of level 0.
  let wordCount: Int

  /// A word of level 0 that is not zero.
  struct Word {
    var index: Int
    var bits: UInt64
  }

  @inline(__always)
  private func level1Word(_ index: Int) -> UInt64 {
    // Each load of a level pairs with the writer's setting of the bit (or with release): the memory
    // that the bit leads to got its backing before the bit was set.
    guard allocs_load_acquire_u64(level2 + index >> 6) >> UInt64(index & 63) & 1 != 0 else { return 0 }
    return allocs_load_acquire_u64(level1 + index)
  }

  /// Word `index` of level 0, without touching it if nothing was written there.
  @inline(__always)
  func word(_ index: Int) -> UInt64 {
    guard level1Word(index >> 6) >> UInt64(index & 63) & 1 != 0 else { return 0 }
    return allocs_load_acquire_u64(level0 + index)
  }

  @inline(__always)
  func contains(_ number: Int) -> Bool { word(number >> 6) >> UInt64(number & 63) & 1 != 0 }

  /// The last word at or below `index` that is not zero.
  func lastWord(atOrBelow index: Int) -> Word? {
    guard index >= 0 else { return nil }
    var middle = index >> 6
    var bits = level1Word(middle) & (~0 >> UInt64(63 - index & 63))
    while true {
      while bits != 0 {
        let bit = 63 - bits.leadingZeroBitCount
        let found = middle << 6 | bit
        let word = allocs_load_acquire_u64(level0 + found)
        if word != 0 { return Word(index: found, bits: word) }
        bits &= ~(1 << UInt64(bit))
      }
      guard let next = lastLevel1Word(below: middle) else { return nil }
      middle = next
      bits = allocs_load_acquire_u64(level1 + middle)
    }
  }

  /// The first word at or above `index` that is not zero.
  func firstWord(atOrAbove index: Int) -> Word? {
    guard index < wordCount else { return nil }
    var middle = index >> 6
    var bits = level1Word(middle) & (~0 << UInt64(index & 63))
    while true {
      while bits != 0 {
        let found = middle << 6 | bits.trailingZeroBitCount
        let word = allocs_load_acquire_u64(level0 + found)
        if word != 0 { return Word(index: found, bits: word) }
        bits &= bits - 1
      }
      guard let next = firstLevel1Word(above: middle) else { return nil }
      middle = next
      bits = allocs_load_acquire_u64(level1 + middle)
    }
  }

  /// The last number in the set at or below `number`.
  func last(atOrBelow number: Int) -> Int? {
    guard number >= 0 else { return nil }
    let own = word(number >> 6) & (~0 >> UInt64(63 - number & 63))
    if own != 0 { return number & ~63 | 63 - own.leadingZeroBitCount }
    guard let word = lastWord(atOrBelow: number >> 6 - 1) else { return nil }
    return word.index << 6 | 63 - word.bits.leadingZeroBitCount
  }

  /// The first number in the set at or above `number`.
  func first(atOrAbove number: Int) -> Int? {
    guard number < wordCount << 6 else { return nil }
    let own = word(number >> 6) & (~0 << UInt64(number & 63))
    if own != 0 { return number & ~63 | own.trailingZeroBitCount }
    guard let word = firstWord(atOrAbove: number >> 6 + 1) else { return nil }
    return word.index << 6 | word.bits.trailingZeroBitCount
  }

  private func lastLevel1Word(below index: Int) -> Int? {
    guard index > 0 else { return nil }
    var top = (index - 1) >> 6
    var bits = allocs_load_acquire_u64(level2 + top) & (~0 >> UInt64(63 - (index - 1) & 63))
    while bits == 0 {
      guard top > 0 else { return nil }
      top -= 1
      bits = allocs_load_acquire_u64(level2 + top)
    }
    return top << 6 | 63 - bits.leadingZeroBitCount
  }

  private func firstLevel1Word(above index: Int) -> Int? {
    let count = wordCount >> 6
    guard index + 1 < count else { return nil }
    var top = (index + 1) >> 6
    var bits = allocs_load_acquire_u64(level2 + top) & (~0 << UInt64((index + 1) & 63))
    while bits == 0 {
      top += 1
      guard top << 6 < count else { return nil }
      bits = allocs_load_acquire_u64(level2 + top)
    }
    let found = top << 6 | bits.trailingZeroBitCount
    return found < count ? found : nil
  }
}
