// SPDX-License-Identifier: Apache-2.0
// A chunk of events as bytes: batches of records, each of one thread, split into columns.
// docs/recording.md describes the format.
//
//   op      bit   7         6          5 4         3 0
//               +---------+----------+-----------+---------+
//               | detail  | stamp +1 | guess     | kind    |
//               +---------+----------+-----------+---------+
//   kind:  15: the record is in the rest column.
//   guess: 0, 1, 2: the address is that guess of the model's (EventModel); 3: it is in a column.
//   detail: of a block that ends: the record differs from the model's knowledge of the block; its
//           context, origin, size and alignment are in the rest column.

import Bounds
import SharedLayout

/// The columns into which the events of a chunk are split. Values of one sort stand side by side,
/// which the compressor makes use of.
private enum Column: Int, CaseIterable { case ops, stamps, kinds, allocated, ended, freed, rest }

private enum Op {
  static let asItIs: UInt8 = 15
  static let noGuess: UInt8 = 3
  static let guessShift: UInt8 = 4
  static let stampIsNext: UInt8 = 0x40
  static let detail: UInt8 = 0x80

  static func begins(_ kind: UInt32) -> Bool {
    allocs_event_subject_of(kind) == ALLOCS_ABOUT_LIVE_BLOCK.rawValue
  }
  static func ends(_ kind: UInt32) -> Bool {
    allocs_event_subject_of(kind) == ALLOCS_ABOUT_ENDED_BLOCK.rawValue
  }
}

/// The difference of two addresses as a number. Most differences are multiples of 16: they are
/// divided by it.
private func distance(_ address: UInt64, from last: UInt64) -> UInt64 {
  let difference = Int64(bitPattern: address &- last)
  let zigzag = { (value: Int64) in UInt64(bitPattern: value << 1 ^ value >> 63) }
  return difference & 15 == 0 ? zigzag(difference >> 4) << 1 : zigzag(difference) << 1 | 1
}

private func blockAddress(at distance: UInt64, from last: UInt64) -> UInt64 {
  let zigzag = distance >> 1
  let value = Int64(bitPattern: zigzag >> 1) ^ (0 &- Int64(zigzag & 1))
  return last &+ UInt64(bitPattern: distance & 1 == 0 ? value << 4 : value)
}

/// The columns while they grow. An array would check for each byte whether its memory is shared.
private struct EncoderColumns: ~Copyable {
  private var bytes: UnsafeMutablePointer<UInt8>
  /// Bytes that each column has room for.
  private var capacity = 1 << 16
  private var counts = InlineArray<7, Int>(repeating: 0)

  init() { bytes = .allocate(capacity: capacity &* Column.allCases.count) }
  deinit { bytes.deallocate() }

  var total: Int { counts.indices.reduce(0) { $0 &+ counts[$1] } }

  @inline(__always)
  mutating func append(byte: UInt8, to column: Column) {
    if counts[column.rawValue] == capacity { grow() }
    bytes[column.rawValue &* capacity &+ counts[column.rawValue]] = byte
    counts[column.rawValue] &+= 1
  }

  @inline(__always)
  mutating func append(_ number: UInt64, to column: Column) {
    var rest = number
    while rest >= 0x80 {
      append(byte: UInt8(truncatingIfNeeded: rest) | 0x80, to: column)
      rest >>= 7
    }
    append(byte: UInt8(truncatingIfNeeded: rest), to: column)
  }

  @inline(never)
  private mutating func grow() {
    let larger = UnsafeMutablePointer<UInt8>.allocate(capacity: 2 &* capacity &* counts.count)
    for column in counts.indices {
      let place = column &* capacity
      larger.advanced(by: 2 &* place).initialize(from: bytes.advanced(by: place), count: counts[column])
    }
    bytes.deallocate()
    bytes = larger
    capacity &*= 2
  }

  /// Appends the sizes of all columns, then the columns, which are empty afterwards.
  mutating func move(to output: inout [UInt8]) {
    for column in counts.indices { output.append(number: UInt64(clamping: counts[column])) }
    for column in counts.indices {
      output.append(
        contentsOf: UnsafeBufferPointer(start: bytes.advanced(by: column &* capacity), count: counts[column]))
      counts[column] = 0
    }
  }
}

/// Collects events until they are a chunk. Used by one thread.
struct EventEncoder: ~Copyable {
  private struct Batch {
    var ring: UInt32
    var slot: UInt32
    var first: UInt64
    var stamp: UInt64
    var count = 0
  }

  private var model = EventModel()
  private var columns = EncoderColumns()
  private var batches: [Batch] = []
  /// The stamp of the batch's last record.
  private var stamp: UInt64 = 0
  private var kinds: [AllocationKind] = []
  /// Indices of kinds, plus 1, by the kind's hash. A kind whose entry another one takes gets a new
  /// index when it comes again.
  private var kindTable: UnsafeMutablePointer<UInt32>
  private static let kindBits: UInt64 = 17
  /// For so many records at a time the entries of the model are brought into the cache.
  private static let lookAhead = 16
  private(set) var count = 0
  private(set) var firstStamp = UInt64.max
  private(set) var lastStamp: UInt64 = 0

  init() {
    kindTable = .allocate(capacity: 1 << Self.kindBits)
    kindTable.initialize(repeating: 0, count: 1 << Self.kindBits)
  }

  deinit { kindTable.deallocate() }

  var isFull: Bool { count >= RecordingFormat.eventsPerChunk }

  /// Adds records of one ring, of which the first has the position `first`. Returns how many of
  /// them the chunk had room for. `number` gives a context's number in the recording.
  mutating func add(
    _ records: UnsafeBufferPointer<allocs_event>, ring: Int, first: UInt64, number: (UInt32) -> UInt32 = { $0 }
  ) -> Int {
    let room = min(records.count, RecordingFormat.eventsPerChunk &- count)
    let number32 = UInt32(clamping: ring)
    // Positions are foreign: a ring may have any.
    var next =
      batches.last.map { $0.ring == number32 ? $0.first &+ UInt64(truncatingIfNeeded: $0.count) : .max } ?? .max
    // bounded: a chunk that is full has no room, and never less than none
    for index in 0..<room {
      if index % Self.lookAhead == 0 { model.touch(records[index..<min(index &+ Self.lookAhead, room)]) }
      let record = records[index]
      let slot = allocs_event_slot(record.extent)
      let position = first &+ UInt64(truncatingIfNeeded: index)
      if batches.isEmpty || position != next || batches[batches.count &- 1].slot != slot {
        batches.append(Batch(ring: number32, slot: slot, first: position, stamp: record.stamp))
        stamp = record.stamp &- 1
      }
      next = position &+ 1
      batches[batches.count &- 1].count &+= 1
      encode(record, number)
    }
    count &+= room
    return room
  }

  @inline(__always)
  private mutating func put(_ column: Column, _ number: UInt64) { columns.append(number, to: column) }

  @inline(__always)
  private mutating func encode(_ record: allocs_event, _ number: (UInt32) -> UInt32) {
    let kind = allocs_event_kind_of(record.place)
    let address = allocs_event_address(record.place)
    let size = allocs_event_size(record.extent)
    var op: UInt8
    firstStamp = min(firstStamp, record.stamp)
    lastStamp = max(lastStamp, record.stamp)
    if Op.begins(kind) {
      let extent = size | UInt64(truncatingIfNeeded: allocs_event_alignment(record.place)) << 48
      let what = AllocationKind(
        context: allocs_event_context(record.source), origin: allocs_event_origin(record.source), extent: extent)
      let index = put(what, number)
      let guess = model.guess(ofAllocation: address, size: size)
      op = UInt8(truncatingIfNeeded: kind) | guess << Op.guessShift
      if guess == Op.noGuess { put(.allocated, distance(address, from: model.lastAllocated)) }
      model.noteAllocation(address, size: size, kind: index)
    } else if Op.ends(kind) {
      let index = model.kind(ofBlockAt: address)
      let guess = model.guess(ofFree: address, kind: index)
      op = UInt8(truncatingIfNeeded: kind) | guess << Op.guessShift
      if guess == 1, let index { put(.ended, UInt64(truncatingIfNeeded: index)) }
      if guess == Op.noGuess { put(.freed, distance(address, from: model.lastFreed)) }
      let known = index.map { kinds[$0] }
      let isKnown =
        known.map { $0.context == allocs_event_origin(record.source) && $0.extent & 0xFFFF_FFFF_FFFF == size } ?? false
      if !isKnown || allocs_event_context(record.source) != 0 || allocs_event_alignment(record.place) != 0 {
        op |= Op.detail
        put(.rest, UInt64(truncatingIfNeeded: number(allocs_event_context(record.source))))
        put(.rest, UInt64(truncatingIfNeeded: number(allocs_event_origin(record.source))))
        put(.rest, size)
        put(.rest, UInt64(truncatingIfNeeded: allocs_event_alignment(record.place)))
      }
      model.noteFree(address, size: size)
    } else {
      op = Op.asItIs
      let isMapping = allocs_event_subject_of(kind) == ALLOCS_ABOUT_MAPPING.rawValue
      let context = allocs_event_context(record.source)
      put(.rest, record.place)
      put(.rest, size)
      put(
        .rest,
        isMapping ? allocs_event_source(number(context), allocs_event_origin(record.source)) : record.source)
    }
    if record.stamp == stamp &+ 1 {
      op |= Op.stampIsNext
    } else {
      let difference = Int64(bitPattern: record.stamp &- stamp)
      put(.stamps, UInt64(bitPattern: difference << 1 ^ difference >> 63))
    }
    stamp = record.stamp
    columns.append(byte: op, to: .ops)
  }

  @inline(__always)
  private mutating func put(_ kind: AllocationKind, _ number: (UInt32) -> UInt32) -> Int {
    let slot = Int(truncatingIfNeeded: kind.hash >> (64 &- Self.kindBits))
    let found = kindTable[slot]
    let index = Int(truncatingIfNeeded: found) &- 1
    guard found != 0, kinds[index] == kind else { return putNew(kind, slot, number) }
    put(.kinds, UInt64(truncatingIfNeeded: found))
    return index
  }

  @inline(never)
  private mutating func putNew(_ kind: AllocationKind, _ slot: Int, _ number: (UInt32) -> UInt32) -> Int {
    put(.kinds, 0)
    put(.kinds, UInt64(truncatingIfNeeded: number(kind.context)))
    put(.kinds, UInt64(truncatingIfNeeded: number(kind.origin)))
    put(.kinds, kind.extent)
    kinds.append(kind)
    kindTable[slot] = UInt32(truncatingIfNeeded: kinds.count)
    return kinds.count - 1
  }

  /// The payload of the chunk; the encoder begins an empty one.
  mutating func take() -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(columns.total &+ 64 &+ batches.count &* 16)
    bytes.append(number: UInt64(batches.count))
    for batch in batches {
      bytes.append(number: UInt64(truncatingIfNeeded: batch.ring))
      bytes.append(number: UInt64(truncatingIfNeeded: batch.slot))
      bytes.append(number: batch.first)
      bytes.append(number: batch.stamp)
      bytes.append(number: UInt64(batch.count))
    }
    columns.move(to: &bytes)
    batches.removeAll(keepingCapacity: true)
    kinds.removeAll(keepingCapacity: true)
    kindTable.initialize(repeating: 0, count: 1 << Self.kindBits)
    model.clear()
    (count, firstStamp, lastStamp) = (0, .max, 0)
    return bytes
  }
}

/// Records of one ring, decoded.
struct EventBatch {
  var ring: UInt32
  var slot: UInt32
  /// Position of the first record in its ring.
  var first: UInt64
  var records: [allocs_event]
}

enum EventDecoder {
  /// The events of a chunk whose header says that it has `count` of them, by their batches.
  static func decode(_ payload: [UInt8], count: Int) throws(MalformedChunk) -> [EventBatch] {
    var records: [allocs_event] = []
    let batches = try batches(payload, count: count, into: &records)
    var start = 0
    return batches.map { batch, count in
      defer { start &+= count }
      var batch = batch
      batch.records = Array(records[start..<max(start, start &+ count)])
      return batch
    }
  }

  /// The events of all batches, one behind the other, in place of what `records` has.
  static func decode(
    _ payload: [UInt8], count: Int, into records: inout [allocs_event]
  ) throws(MalformedChunk) {
    _ = try batches(payload, count: count, into: &records)
  }

  private static func batches(
    _ payload: [UInt8], count: Int, into records: inout [allocs_event]
  ) throws(MalformedChunk) -> [(batch: EventBatch, count: Int)] {
    guard count <= RecordingFormat.eventsPerChunk else { throw MalformedChunk() }
    var head = NumberReader(payload)
    var batches: [(batch: EventBatch, count: Int)] = []
    var stamps: [UInt64] = []
    var total = 0
    for _ in 0..<(try head.count(of: 5)) {  // bounded: a count is not negative
      let batch = EventBatch(
        ring: try head.number32(), slot: try head.number32(), first: try head.number(), records: [])
      stamps.append(try head.number())
      let size = try head.number()
      // An empty batch would cost memory, and no event is its limit.
      guard size > 0, let size = Foreign(size).int(upTo: count &- total) else { throw MalformedChunk() }
      batches.append((batch, size))
      total &+= size
    }
    guard total == count else { throw MalformedChunk() }
    var sizes: [Int] = []
    for _ in Column.allCases { sizes.append(try head.count()) }
    var columns: [Range<Int>] = []
    for size in sizes { columns.append(try head.slice(size)) }
    guard sizes[Column.ops.rawValue] == count else { throw MalformedChunk() }
    records.removeLast(max(0, records.count &- count))  // bounded: no more than there are
    records.append(contentsOf: repeatElement(allocs_event(), count: max(0, count &- records.count)))
    try payload.withUnsafeBufferPointer { (bytes) throws(MalformedChunk) in
      var decoding = Decoding(bytes, columns, count: count)
      try records.withUnsafeMutableBufferPointer { (records) throws(MalformedChunk) in
        var place = 0
        for (index, (batch, size)) in batches.enumerated() {
          decoding.stamp = stamps[index] &- 1
          // bounded: a size is not negative, and all of them are `count`
          for _ in 0..<size {
            records[place] = try decoding.record(slot: batch.slot)
            place &+= 1
          }
        }
      }
    }
    return batches
  }
}

private struct Decoding: ~Copyable {
  var model: EventModel
  private let payload: UnsafeBufferPointer<UInt8>
  /// Of each column, the place of its next byte, and the place behind its last.
  private var places = InlineArray<7, Int>(repeating: 0)
  private var ends = InlineArray<7, Int>(repeating: 0)
  var kinds: [AllocationKind] = []
  var stamp: UInt64 = 0

  /// `count`: of the events. For many, the model takes large pages, which a few would be slowed
  /// down by.
  init(_ payload: UnsafeBufferPointer<UInt8>, _ columns: [Range<Int>], count: Int) {
    self.payload = payload
    model = EventModel(hasLargePages: count >= 1 << 17)
    for (index, column) in columns.enumerated() {
      (places[index], ends[index]) = (column.lowerBound, column.upperBound)
    }
  }

  @inline(__always)
  private mutating func byte(_ column: Column) throws(MalformedChunk) -> UInt8 {
    let place = places[column.rawValue]
    guard place < ends[column.rawValue] else { throw MalformedChunk() }
    places[column.rawValue] = place &+ 1
    return payload[place]
  }

  /// The number that stands next in a column, as long as it has two bytes at most.
  @inline(__always)
  private func nextNumber(_ column: Column) -> UInt64 {
    let place = places[column.rawValue]
    guard place &+ 1 < ends[column.rawValue] else { return 0 }
    let first = UInt64(truncatingIfNeeded: payload[place])
    return first < 0x80 ? first : first & 0x7F | UInt64(truncatingIfNeeded: payload[place &+ 1] & 0x7F) << 7
  }

  /// As NumberReader has it, which most numbers leave at their first byte.
  @inline(__always)
  private mutating func number(_ column: Column) throws(MalformedChunk) -> UInt64 {
    let first = try byte(column)
    return first < 0x80 ? UInt64(truncatingIfNeeded: first) : try longNumber(column, first)
  }

  private mutating func longNumber(_ column: Column, _ first: UInt8) throws(MalformedChunk) -> UInt64 {
    var value = UInt64(truncatingIfNeeded: first & 0x7F)
    var shift: UInt64 = 7
    while true {
      let byte = try byte(column)
      guard shift < 63 || byte <= 1 else { throw MalformedChunk() }
      value |= UInt64(truncatingIfNeeded: byte & 0x7F) << shift
      if byte < 0x80 { return value }
      shift &+= 7
    }
  }

  private mutating func number32(_ column: Column) throws(MalformedChunk) -> UInt32 {
    guard let value = UInt32(exactly: try number(column)) else { throw MalformedChunk() }
    return value
  }

  @inline(__always)
  mutating func record(slot: UInt32) throws(MalformedChunk) -> allocs_event {
    let op = try byte(.ops)
    let kind = UInt32(op & 15)
    let guess = op >> Op.guessShift & 3
    var record = allocs_event()
    if op & 15 == Op.asItIs {
      record.place = try number(.rest)
      record.extent = allocs_event_extent(try number(.rest), slot)
      record.source = try number(.rest)
    } else if Op.begins(kind) {
      let (index, what) = try allocationKind()
      let size = what.extent & 0xFFFF_FFFF_FFFF
      let last = model.lastAllocated
      let address =
        guess == Op.noGuess
        ? blockAddress(at: try number(.allocated), from: last) : model.guessedAllocation(guess, size: size)
      guard address >> 48 == 0, what.extent >> 48 < 256 else { throw MalformedChunk() }
      record.place = allocs_event_place(kind, address, UInt32(truncatingIfNeeded: what.extent >> 48))
      record.extent = allocs_event_extent(size, slot)
      record.source = allocs_event_source(what.context, what.origin)
      model.noteAllocation(address, size: size, kind: index)
      // Most of the time went into waiting for the model's entries. The next new block is often
      // where the column says, or behind this one.
      model.prefetch(blockAddress(at: nextNumber(.allocated), from: address))
      model.prefetchBehindAllocated()
    } else if Op.ends(kind) {
      let last = model.lastFreed
      let index = guess == 1 ? Int(truncatingIfNeeded: try number32(.ended)) : -1
      let address =
        guess == Op.noGuess ? blockAddress(at: try number(.freed), from: last) : model.guessedFree(guess, kind: index)
      guard address >> 48 == 0 else { throw MalformedChunk() }
      var size: UInt64
      if op & Op.detail != 0 {
        let context = try number32(.rest)
        record.source = allocs_event_source(context, try number32(.rest))
        size = try number(.rest)
        let alignment = try number(.rest)
        guard size >> 48 == 0, alignment < 256 else { throw MalformedChunk() }
        record.place = allocs_event_place(kind, address, UInt32(truncatingIfNeeded: alignment))
      } else {
        guard let index = model.kind(ofBlockAt: address) else { throw MalformedChunk() }
        size = kinds[index].extent & 0xFFFF_FFFF_FFFF
        record.source = allocs_event_source(0, kinds[index].context)
        record.place = allocs_event_place(kind, address, 0)
      }
      record.extent = allocs_event_extent(size, slot)
      model.noteFree(address, size: size)
    } else {
      throw MalformedChunk()
    }
    if op & Op.stampIsNext != 0 {
      stamp = stamp &+ 1
    } else {
      let zigzag = try number(.stamps)
      stamp = stamp &+ (zigzag >> 1 ^ (0 &- (zigzag & 1)))
    }
    record.stamp = stamp
    return record
  }

  private mutating func allocationKind() throws(MalformedChunk) -> (Int, AllocationKind) {
    let number = try number(.kinds)
    if number == 0 {
      let context = try number32(.kinds)
      let origin = try number32(.kinds)
      kinds.append(AllocationKind(context: context, origin: origin, extent: try self.number(.kinds)))
      return (kinds.count - 1, kinds[kinds.count - 1])
    }
    guard number <= UInt64(kinds.count) else { throw MalformedChunk() }
    let index = Int(truncatingIfNeeded: number) &- 1
    return (index, kinds[index])
  }
}
