// SPDX-License-Identifier: Apache-2.0
// The map of the address space: spans, cells, and who has most of each.

import Glibc
import IndexReader
import SharedLayout
import TestSupport
import Testing

@testable import Answers

@Suite("The map of the address space", .bounded)
struct AddressMapTests {
  private let directory = TemporaryDirectory()

  private func segment() -> (SyntheticSegment, contexts: [UInt32]) {
    let segment = SyntheticSegment(processID: 1, startTime: 1, in: directory.path, name: "1.1.seg")
    segment.addModule(path: "/lib/libexample.so", range: 0x1000_0000..<0x1001_0000)
    segment.addAllocator(module: 1)
    let thread = segment.addThread(id: 1, name: "a", from: 0)
    let contexts = [0x1000_0100, 0x1000_0200].map { pc in
      segment.addContext(node: segment.addNode(pc: pc), thread: thread)
    }
    return (segment, contexts)
  }

  @Test("blocks far apart are in spans of their own; each cell has the bytes, blocks and the site that lie in it")
  func cells() throws {
    let (segment, contexts) = segment()
    let base: UInt64 = 0x5555_0000_0000
    for index in 0..<64 as Range<UInt64> {
      segment.allocate(base + index * 64, size: 48, context: contexts[index < 40 ? 0 : 1])
    }
    segment.allocate(base + 0x4000_0000, size: 100_000, context: contexts[1])
    let view = try ProcessView(file: segment.path)
    let map = try view.addressMap(cells: 16_384)
    #expect(map.spans.map(\.start) == [base, base + 0x4000_0000])
    #expect(map.total.blocks == 65 && map.total.bytes == 64 * 48 + 100_000)
    #expect(map.cellBytes == 16 && map.cells.count <= 16_384)
    #expect(map.cells.reduce(0) { $0 + $1.total.bytes } == map.total.bytes)
    // 48 of 64 bytes: three cells of 16 bytes are full, and one is empty.
    #expect(map.cells.prefix(8).map(\.total.bytes) == [16, 16, 16, 0, 16, 16, 16, 0])
    #expect(map.cells[4].first == base + 64 && map.cells[5].first == base + 64)
    let names = map.sites.map { $0.frames.first?.pc }
    #expect(names == [0x1000_0200, 0x1000_0100])
    #expect(map.cells[0].site == 1 && map.cells[63 * 4].site == 0 && map.cells[3].site == -1)

    let coarse = try view.addressMap(cells: 256)
    #expect(coarse.cells.count <= 256 && coarse.cellBytes == 512)
    #expect(coarse.cells.reduce(0) { $0 + $1.total.bytes } == coarse.total.bytes)
    // Forty blocks of one site and twenty-four of the other: cells of eight.
    #expect(coarse.cells.prefix(8).map(\.site) == [1, 1, 1, 1, 1, 0, 0, 0])

    // A range that begins inside a block has the rest of that block.
    let part = try view.addressMap(in: base + 32...base + 127, cells: 256)
    #expect(part.cells.map(\.total.bytes) == [16, 0, 16, 16, 16] && part.total.blocks == 2)
    #expect(part.cells[0].first == base)
    #expect(try view.addressMap(in: 0x1000...0x2000, cells: 256).spans.isEmpty)
    for map in [map, coarse, part] {
      let value = try parseJSON(map.json)
      #expect(value["total"]?["blocks"]?.number == Double(map.total.blocks))
      #expect(map.text.split(separator: "\n").allSatisfy { $0.count <= 80 })
    }
  }

  @Test("there are no more spans and cells than the limits, however far blocks lie apart and whatever sizes they say")
  func bounds() throws {
    let (segment, contexts) = segment()
    for index in 0..<150 as Range<UInt64> {
      let size: UInt64 = index % 50 == 49 ? 1 << 46 : 64
      segment.allocate(0x1_0000_0000 + index * 0x18_0000, size: size, context: contexts[0])
    }
    let view = try ProcessView(file: segment.path)
    for cells in [1, 256, 300, 16_384, 1 << 40] {
      let map = try view.addressMap(cells: cells)
      #expect(map.cells.count <= max(256, min(cells, 16_384)) && map.spans.count <= 64)
      #expect(map.total.blocks == 150)
    }
  }
}
