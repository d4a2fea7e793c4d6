// SPDX-License-Identifier: Apache-2.0
// The net effect of a span: what the events between two stamps changed, without the events. A
// replay takes a whole span at once by it, and unpacks only the span that its moment lies in.
//
//   what happened to a block in the span     ended   born
//   ------------------------------------------------------
//   it was born and lives                              x
//   it was born and ended
//   it lived before, and ended                 x
//   it lived before, ended, and another        x       x
//   block at its base lives
//
// The history of a process is legal (allocs_ring.h): a block is born only where none lives. So the
// blocks of the second row need no row in an effect. But where an event is missing, a block may
// seem to live on until another is born at its base. So once events are missing, effects list bases
// of the second row, too (`passing`); and no other effects are used from the first missing event on
// (`Recording.effect`).
//
// Threat: a file may have any effect. It is applied to a state only if it fits it: all that ended
// lived, with the bytes that the effect has for it, and nothing lived where a block was born. If it
// doesn't fit, it is not used, and the events of its span are. An effect that fits and lies is
// believed, as a recording whose events lie is: the numbers stay those of the table of blocks, so
// nothing traps.

import IndexReader
import SharedLayout

/// The change that the events of a span made.
struct NetEffect: Equatable {
  /// The span: events with these stamps, the last one included.
  var from: UInt64
  var until: UInt64
  /// Events in the chunks that it was made of: events of later chunks are not in it.
  var seen: UInt64
  /// Whether `passing` has all bases that it should.
  var listsAll = false
  /// Events in the span, and of each kind.
  var events: UInt64 = 0
  var counts = [UInt64](repeating: 0, count: Self.kinds)
  /// Bases of blocks that lived before the span, and ended in it, by address; and their bytes.
  var ended: [UInt64] = []
  var endedBytes: UInt64 = 0
  /// Blocks that were born in it and live at its end, by address.
  var born: [ReplayedBlock] = []
  /// Bases of blocks that were born in it and ended in it, where none lived before, by address;
  /// empty unless it `listsAll`.
  var passing: [UInt64] = []
  /// The most by which live bytes grew within the span; 0 if they never were above those at its
  /// start. Then by how many blocks there were more, and the stamp of that moment.
  var peakBytes: UInt64 = 0
  var peakBlocks: Int64 = 0
  var peakStamp: UInt64 = 0

  /// Kinds of events that are counted: those with lower numbers.
  static let kinds = 16

  /// Bases and blocks that an effect has at most, all three lists together.
  static let rowLimit = 1 << 18

  /// Blocks and bases that it has.
  var rows: Int { ended.count &+ born.count &+ passing.count }
}

// MARK: coding

extension NetEffect {
  /// Bytes of a payload at most: of a row with a kind of its own, five numbers.
  static let payloadLimit = 512 &+ rowLimit &* 5 &* FastNumbers.longest

  /// Bytes of memory that a byte of a payload becomes at most, with itself: a block and its base of
  /// 32 bytes take three.
  static let unpackedMemory = 12

  private struct Kind: Hashable {
    var context: UInt32
    var size: UInt64
  }

  /// The distance to a greater address as a number. Most distances are multiples of 16.
  private static func coded(_ distance: UInt64) -> UInt64 {
    distance & 15 == 0 ? distance >> 3 : distance << 1 | 1
  }

  private static func distance(_ coded: UInt64) -> UInt64 { coded & 1 == 0 ? coded << 3 : coded >> 1 }

  func encoded() -> [UInt8] {
    var bytes: [UInt8] = []
    for number in [seen, from, until, events] + counts { bytes.append(number: number) }
    for number in [peakBytes, UInt64(bitPattern: peakBlocks), peakStamp] { bytes.append(number: number) }
    bytes.append(number: endedBytes)
    bytes.append(number: listsAll ? 1 : 0)
    bytes.append(number: UInt64(passing.count))
    bytes.append(number: UInt64(ended.count))
    bytes.append(number: UInt64(born.count))
    var kinds: [Kind: UInt64] = [:]
    var list: [Kind] = []
    let numbers = born.map { block in
      let kind = Kind(context: block.context, size: block.size)
      if let known = kinds[kind] { return known }
      let number = UInt64(list.count)
      kinds[kind] = number
      list.append(kind)
      return number
    }
    bytes.append(number: UInt64(list.count))
    for kind in list {
      bytes.append(number: UInt64(truncatingIfNeeded: kind.context))
      bytes.append(number: kind.size)
    }
    for bases in [passing, ended, born.map(\.base)] {
      var last: UInt64 = 0
      for base in bases {
        bytes.append(number: Self.coded(base &- last))
        last = base
      }
    }
    for number in numbers { bytes.append(number: number) }
    var ticks: UInt32 = 0
    for block in born {
      bytes.append(signed: Int64(truncatingIfNeeded: Int32(bitPattern: block.ticks &- ticks)))
      ticks = block.ticks
    }
    return bytes
  }

  init(_ payload: [UInt8]) throws(MalformedChunk) {
    var reader = NumberReader(payload)
    seen = try reader.number()
    from = try reader.number()
    until = try reader.number()
    events = try reader.number()
    for kind in counts.indices { counts[kind] = try reader.number() }
    peakBytes = try reader.number()
    peakBlocks = Int64(bitPattern: try reader.number())
    peakStamp = try reader.number()
    endedBytes = try reader.number()
    listsAll = try reader.number() != 0
    let (passingCount, endedCount, bornCount) = (try reader.count(), try reader.count(), try reader.count(of: 3))
    // bounded: counts are not more than a payload has bytes
    guard passingCount &+ endedCount &+ bornCount <= Self.rowLimit else { throw MalformedChunk() }
    let kindCount = try reader.count(of: 2)
    var list: [Kind] = []
    list.reserveCapacity(kindCount)
    for _ in 0..<max(kindCount, 0) {
      let kind = Kind(context: try reader.number32(), size: try reader.number())
      guard kind.size <= ReplayedBlock.sizeLimit else { throw MalformedChunk() }
      list.append(kind)
    }
    passing = try Self.bases(passingCount, from: &reader)
    ended = try Self.bases(endedCount, from: &reader)
    let bases = try Self.bases(bornCount, from: &reader)
    born.reserveCapacity(bases.count)
    for base in bases {
      guard let number = Int(exactly: try reader.number()), number < list.count else { throw MalformedChunk() }
      born.append(ReplayedBlock(base: base, size: list[number].size, context: list[number].context, ticks: 0))
    }
    var ticks: UInt32 = 0
    for index in born.indices {
      ticks = ticks &+ UInt32(truncatingIfNeeded: try reader.signed())
      born[index].ticks = ticks & ALLOCS_TICK_MASK
    }
    guard reader.isAtEnd, from <= until, peakBytes == 0 || from <= peakStamp && peakStamp <= until else {
      throw MalformedChunk()
    }
  }

  /// Bases that rise.
  private static func bases(_ count: Int, from reader: inout NumberReader) throws(MalformedChunk) -> [UInt64] {
    var bases: [UInt64] = []
    guard count <= reader.remaining else { throw MalformedChunk() }
    bases.reserveCapacity(count)
    var last: UInt64?
    for _ in 0..<max(count, 0) {  // bounded: a count is not negative
      let step = distance(try reader.number())
      let base = (last ?? 0) &+ step
      guard base >> 48 == 0, last.map({ base > $0 }) ?? true else { throw MalformedChunk() }
      bases.append(base)
      last = base
    }
    return bases
  }
}

// MARK: replay

extension Replay {
  /// Moves on by a whole span. Returns false, and changes nothing, if the effect doesn't fit.
  mutating func apply(_ effect: NetEffect) -> Bool {
    var bytes: UInt64 = 0
    for base in effect.ended {
      guard let block = blocks[base] else { return false }
      bytes &+= block.size
    }
    guard bytes == effect.endedBytes, effect.passing.allSatisfy({ blocks[$0] == nil }) else { return false }
    var place = 0
    for block in effect.born where blocks[block.base] != nil {
      // `born` and `ended` are sorted.
      while place < effect.ended.count, effect.ended[place] < block.base { place &+= 1 }
      guard place < effect.ended.count, effect.ended[place] == block.base else { return false }
    }
    for base in effect.ended { _ = remove(base) }
    for block in effect.born { add(block) }
    return true
  }
}
