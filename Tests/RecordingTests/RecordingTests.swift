// SPDX-License-Identifier: Apache-2.0
// Recordings made of events that are made up: what was put in comes out, and what is damaged is said, counted, and
// costs nothing else.

import CZstd
import IndexReader
import SharedLayout
import TestSupport
import Testing

@testable import Recording

private func record(
  _ kind: Event.Kind, _ address: UInt64, _ size: UInt64, slot: UInt32 = 1, context: UInt32 = 0, origin: UInt32 = 0,
  stamp: UInt64, alignment: UInt32 = 0
) -> allocs_event {
  allocs_event(
    place: allocs_event_place(kind.rawValue, address, alignment), extent: allocs_event_extent(size, slot),
    source: allocs_event_source(context, origin), stamp: stamp)
}

private func words(_ record: allocs_event) -> [UInt64] { [record.place, record.extent, record.source, record.stamp] }

/// A history of one thread that allocates and frees, with all kinds in it.
private func history(_ count: Int, seed: UInt64) -> [allocs_event] {
  var numbers = RandomNumbers(seed: seed)
  var live: [(base: UInt64, size: UInt64, context: UInt32)] = []
  var records: [allocs_event] = []
  var stamp: UInt64 = 1_000_000_000
  var top: UInt64 = 0x5555_0000_0000
  var freed: [UInt64] = []
  while records.count < count {
    stamp += numbers.next() % 4 == 0 ? numbers.next() % 1_000_000 : 1
    switch numbers.next() % 16 {
    case 0..<7:
      let size = numbers.next() % 3 == 0 ? numbers.next() % 100_000 : 24 + numbers.next() % 4 * 16
      let base = freed.popLast() ?? top
      if base == top { top += 131_072 }
      let context = UInt32(1 + numbers.next() % 20)
      live.append((base, size, context))
      records.append(record(.alloc, base, size, context: context, stamp: stamp, alignment: size % 7 == 0 ? 6 : 0))
    case 7..<14:
      guard !live.isEmpty else { continue }
      let block = live.remove(at: Int(numbers.next() % UInt64(live.count)))
      freed.append(block.base)
      // One free in ten says who freed; one in twenty contradicts what was said of the block.
      let context = numbers.next() % 10 == 0 ? UInt32(7) : 0
      let size = numbers.next() % 20 == 0 ? block.size + 1 : block.size
      records.append(record(.free, block.base, size, context: context, origin: block.context, stamp: stamp))
    case 14: records.append(record(.free, numbers.next() & 0xFFFF_FFFF_FFFF, 48, origin: 3, stamp: stamp))
    default:
      records.append(
        allocs_event(
          place: allocs_event_place(UInt32(6 + numbers.next() % 200), numbers.next() & 0xFFFF_FFFF_FFFF, 5),
          extent: allocs_event_extent(numbers.next() >> 16, 1), source: numbers.next(), stamp: stamp))
    }
  }
  return records
}

/// A trie as programs have them: most calls come from few places, and lead to few others.
private func trie(_ count: Int, from first: UInt32, seed: UInt64) -> [StackNode] {
  var numbers = RandomNumbers(seed: seed)
  return (0..<count).map { index in
    let number = first + UInt32(index)
    let parent = numbers.next() % 3 == 0 ? UInt32(numbers.next() % UInt64(number)) : number - 1
    var node = StackNode(pc: 0x5555_0000_0000 + numbers.next() % 40 * 64, parent: parent)
    switch numbers.next() % 50 {
    case 0: node.truncation = .unwinder
    case 1: (node.truncation, node.framesCut) = (.depthLimit, UInt32(1 + numbers.next() % 100))
    case 2: node.truncation = .damaged
    case 3: node.isInterrupted = true
    case 4: node.pc = numbers.next()
    default: break
    }
    return node
  }
}

@Suite("tables of a recording", .bounded)
struct TableCodingTests {
  @Test("nodes come out as they went in, whether their parents are in the same chunk or not", arguments: 1...10)
  func nodes(seed: UInt64) throws {
    for first: UInt32 in [1, 1000] {
      let nodes = trie(3000, from: first, seed: seed)
      var reader = NumberReader(TableCoding.encode(nodes, from: first))
      let read = try TableCoding.nodes(&reader)
      #expect(read.first == first)
      #expect(read.nodes == nodes)
      #expect(reader.isAtEnd)
    }
  }

  @Test("more addresses called from one than ranks are kept for")
  func manyCallees() throws {
    // All are children of the first node; each address comes twice, the second time after it was forgotten.
    var nodes = [StackNode(pc: 1, parent: 0)]
    for index: UInt64 in 0..<1400 { nodes.append(StackNode(pc: 0x1000 + index % 700 * 16, parent: 1)) }
    var reader = NumberReader(TableCoding.encode(nodes, from: 1))
    #expect(try TableCoding.nodes(&reader).nodes == nodes)
  }

  @Test("contexts come out as they went in")
  func contexts() throws {
    let contexts = (0..<500).map { (index: UInt32) in
      var context = RecordedContext(node: index * 7 % 300)
      if index % 3 != 0 { context.threadSlot = index % 40 }
      if index % 5 != 0 { context.function = "function \(index % 4)" }
      if index % 7 == 0 { context.allocator = "pool" }
      return context
    }
    var reader = NumberReader(TableCoding.encode(contexts, from: 77))
    let (first, read) = try TableCoding.contexts(&reader)
    #expect(first == 77)
    #expect(read == contexts)
    #expect(reader.isAtEnd)
  }

  @Test("a table with any byte changed or missing gives rows or an error, never more rows than were promised")
  func damaged() {
    let nodes = TableCoding.encode(trie(40, from: 1, seed: 3), from: 1)
    let contexts = TableCoding.encode(
      [RecordedContext(node: 1, function: "malloc"), RecordedContext(node: 2)], from: 1)
    var (read, refused) = (0, 0)
    for bytes in [nodes, contexts] {
      for index in bytes.indices {
        var variants = (0..<8).map { bit in
          var changed = bytes
          changed[index] ^= 1 << UInt8(bit)
          return changed
        }
        variants.append(Array(bytes[..<index]))
        for variant in variants {
          var reader = NumberReader(variant)
          let nodes = try? TableCoding.nodes(&reader)
          reader = NumberReader(variant)
          let contexts = try? TableCoding.contexts(&reader)
          for rows in [nodes?.nodes.count, contexts?.1.count] {
            #expect(rows ?? 0 <= variant.count)
            if rows == nil { refused += 1 } else { read += 1 }
          }
        }
      }
    }
    #expect(read > 100 && refused > 100, "\(read) were read, \(refused) refused")
  }
}

@Suite("events of a recording", .bounded)
struct EventCodingTests {
  @Test("events come out as they went in, whatever they are", arguments: 1...20)
  func roundTrip(seed: UInt64) throws {
    let records = history(5000, seed: seed)
    var encoder = EventEncoder()
    records.withUnsafeBufferPointer { buffer in
      var position = 0
      while position < buffer.count {
        let piece = UnsafeBufferPointer(rebasing: buffer[position..<min(position + 700, buffer.count)])
        #expect(encoder.add(piece, ring: position % 1400 == 0 ? 0 : 3, first: UInt64(position)) == piece.count)
        position += piece.count
      }
    }
    let payload = encoder.take()
    let batches = try EventDecoder.decode(payload, count: records.count)
    #expect(batches.flatMap(\.records).map(words) == records.map(words))
    // The encoder begins anew.
    records.withUnsafeBufferPointer { _ = encoder.add($0, ring: 0, first: 0) }
    let again = try EventDecoder.decode(encoder.take(), count: records.count)
    #expect(again.flatMap(\.records).map(words) == records.map(words))
  }

  @Test("a payload with any byte changed or missing gives events or an error, never more than were promised")
  func damaged() throws {
    let records = history(30, seed: 5)
    var encoder = EventEncoder()
    records.withUnsafeBufferPointer { _ = encoder.add($0, ring: 0, first: 0) }
    let payload = encoder.take()
    for index in payload.indices {
      for change in [UInt8(1), 0x80, 0xFF] {
        var other = payload
        other[index] ^= change
        let batches = (try? EventDecoder.decode(other, count: records.count)) ?? []
        #expect(batches.reduce(0) { $0 + $1.records.count } <= records.count)
      }
      #expect(throws: MalformedChunk.self) { try EventDecoder.decode(Array(payload[..<index]), count: records.count) }
    }
  }

  @Test("the checksum is CRC-32C")
  func checksum() {
    // RFC 3720, appendix B.4.
    #expect(CRC32C.of([UInt8](repeating: 0, count: 32)) == 0x8A91_36AA)
    #expect(CRC32C.of([UInt8](repeating: 0xFF, count: 32)) == 0x62A8_AB43)
    #expect(CRC32C.of((0..<32).map { UInt8($0) }) == 0x46DD_794E)
    #expect(CRC32C.of(Array("123456789".utf8)) == 0xE306_9283)
  }
}

@Suite("compression beside the recorder", .bounded)
struct ChunkCompressorTests {
  private func unpack(_ frame: [UInt8], _ size: Int) -> [UInt8] {
    [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
      let result = ZSTD_decompress(buffer.baseAddress, buffer.count, frame, frame.count)
      count = ZSTD_isError(result) != 0 ? 0 : result
    }
  }

  @Test("chunks come out whole and in their order, whether they were waited for or not", arguments: 1...4)
  func order(seed: UInt64) throws {
    var numbers = RandomNumbers(seed: seed)
    let compressor = try #require(ChunkCompressor())
    var expected: [[UInt8]] = []
    var taken = 0
    func take(all: Bool) throws {
      while let (chunk, frame) = compressor.take(all: all) {
        #expect(chunk.header.number == UInt32(taken))
        #expect(chunk.payload == expected[taken])
        #expect(unpack(try #require(frame), chunk.payload.count) == chunk.payload)
        taken += 1
      }
    }
    for number in 0..<40 {
      // Runs of bytes, from none to a megabyte.
      let run = 1 + Int(numbers.next() % 50)
      let size = Int(numbers.next() >> (44 + numbers.next() % 20))
      expected.append((0..<size).map { UInt8(truncatingIfNeeded: $0 / run) })
      var header = ChunkHeader(kind: RecordingFormat.ChunkKind.events.rawValue)
      header.number = UInt32(number)
      compressor.put(header, expected[number])
      if numbers.next() % 2 == 0 { try take(all: false) }
    }
    try take(all: true)
    #expect(taken == 40)
  }

  @Test("what is left when it is given up is not waited for in vain")
  func givenUp() throws {
    let compressor = try #require(ChunkCompressor())
    for _ in 0..<3 { compressor.put(ChunkHeader(kind: 7), [UInt8](repeating: 7, count: 1 << 20)) }
  }
}
