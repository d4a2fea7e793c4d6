// SPDX-License-Identifier: Apache-2.0
// Segments that a script makes: from a sound one, with chains, slots, regions and texts that are built as an agent
// builds them, and hostile numbers in the fields that the script chooses. The header's shape stays sound in most
// scripts, so that what lies behind it is read.

import IndexReader
import SharedLayout
import TestSupport

enum MadeSegments {
  nonisolated(unsafe) private static let stage: Stage = {
    var capacities = SyntheticSegment.Capacities()
    capacities.mappings = 16
    capacities.nested = 4
    capacities.moduleFiles = 64
    let stage = Stage(name: "made", capacities: capacities)
    for level in 0..<2 { stage.synthetic.suballocate(Stage.heap + 0x100, size: 16, level: level) }
    return stage
  }()

  /// The tables, with the bytes of an entry.
  private static let tables: [(allocs_section_id, Int)] = [
    (ALLOCS_SECTION_MODULES, MemoryLayout<allocs_module>.stride),
    (ALLOCS_SECTION_MODULE_FILES, MemoryLayout<allocs_module_file>.stride),
    (ALLOCS_SECTION_THREADS, MemoryLayout<allocs_thread>.stride),
    (ALLOCS_SECTION_FORMER_THREADS, MemoryLayout<allocs_former_thread>.stride),
    (ALLOCS_SECTION_NODES, MemoryLayout<allocs_node>.stride), (ALLOCS_SECTION_CONTEXTS, 8),
    (ALLOCS_SECTION_ALLOCATORS, MemoryLayout<allocs_allocator>.stride),
    (ALLOCS_SECTION_MAPPINGS, MemoryLayout<allocs_mapping>.stride),
    (ALLOCS_SECTION_BYPASSES, MemoryLayout<allocs_bypass>.stride),
  ]

  static func run(_ bytes: ArraySlice<UInt8>) {
    var script = ScriptReader(bytes)
    make(&script)
    if let segment = try? Segment(path: stage.path) {
      ask(segment)
      make(&script)
      ask(segment)
      try? segment.checkIntact()
    }
    stage.restore()
  }

  private static let addresses: [UInt64] = [0, Stage.heap + 0x81, Stage.heap + 0x3FF_FFFF, 1 << 46, .max]

  private static func ask(_ segment: borrowing Segment) {
    for address in addresses {
      let found = segment.lookup(address)
      let blocks = segment.suballocations(containing: address, in: found.containing)
      if let block = blocks.first { _ = segment.neighbours(of: block, level: blocks.count - 1, in: found.containing) }
      if let allocation = found.containing, let context = segment.context(allocation.context) {
        _ = segment.stack(ofNode: context.node)
        if let slot = context.threadSlot { _ = segment.thread(slot: slot, at: allocation.ticks) }
      }
      _ = (segment.wasUsed(address), segment.module(containing: address, at: 2), segment.isAgent(address))
    }
    for id: UInt32 in 0..<12 {
      let stack = segment.stack(ofNode: id)
      precondition(stack.addresses.count <= Stack.depthLimit)
      for (index, address) in stack.addresses.enumerated().prefix(4) {
        _ = segment.module(of: stack.holder(ofCallAt: index), containing: address, at: id)
      }
      _ = (segment.context(id), segment.thread(slot: id, at: id))
    }
    var totals = AllocationTotals()
    segment.forEachAllocation { totals.bytes &+= $0.size }
    segment.forEachSuballocation { block, _, _ in totals.count &+= block.block.end }
    segment.forEachTotal { context, _ in _ = segment.total(ofContext: context) }
    _ = (segment.threads, segment.formerThreads, segment.modules, segment.allocators, segment.bypasses)
    _ = (segment.mappingRecords, segment.counters, segment.callSums, segment.moduleTableVersion, segment.state)
    let clock = segment.clock(isAlive: true)
    _ = (clock.age(ofTicks: 5), clock.wallTime(ofTicks: 1), clock.age(ofStamp: .max), segment.unrecordedEvents)
  }

  /// Up to the script's mark, or to its end.
  private static func make(_ script: inout ScriptReader) {
    let synthetic = stage.synthetic
    while !script.isAtEnd {
      switch script.choice(below: 13) {
      case 0: return
      case 1:
        // A word of the header, but for its shape: magic, sizes, sections.
        let first = MemoryLayout<allocs_header>.offset(of: \.pid)!
        let words = (MemoryLayout<allocs_header>.size - first) / 4
        let offset = first + Int(script.number(bytes: 2)) % words * 4
        let sections = MemoryLayout<allocs_header>.offset(of: \.sections)!
        guard !(sections..<sections + Int(ALLOCS_SECTION_SPACE) * 32).contains(offset) else { continue }
        store32(at: offset, script.extreme(bits: 32))
      case 2: storeInSection(script.choice(below: Int(ALLOCS_SECTION_SPACE)), field: 3, script.extreme())
      case 3:
        // The header's shape, sometimes.
        guard script.byte() & 3 == 0 else { continue }
        storeInSection(
          script.choice(below: Int(ALLOCS_SECTION_SPACE)), field: script.choice(below: 3), script.extreme())
      case 4, 5:
        let (id, size) = tables[script.choice(below: tables.count)]
        let entry = script.choice(below: 12)
        let word = script.choice(below: size / 4)
        let offset = stage.place(id) + entry * size + word * 4
        if script.byte() & 1 != 0 {
          store32(at: offset, script.extreme(bits: 32))
        } else {
          stage.store(at: offset, script.extreme())
        }
      case 6:
        // A chain of nodes: straight, a circle, itself, or one that leads out of the table.
        let first = script.choice(below: 250)
        let count = script.choice(below: 64) + 1
        let shape = script.choice(below: 4)
        for number in 0..<count {
          let id = first + number
          let isLast = number == count - 1
          let parent = shape == 2 ? id : isLast ? [0, first, id, 0xFFFF_FFFF][shape] : id + 1
          let offset = stage.place(ALLOCS_SECTION_NODES) + id % 256 * 16
          stage.store(at: offset, 0x4000_1000 &+ UInt64(id))
          stage.store(at: offset + 8, UInt64(UInt32(truncatingIfNeeded: parent)))
        }
        storeInSection(Int(ALLOCS_SECTION_NODES.rawValue), field: 3, 256)
      case 7:
        // A slot as an agent writes it, with a tail that fits or doesn't.
        let base = Stage.heap &+ script.extreme(bits: 26)
        let size = script.extreme(bits: 47)
        let offset =
          stage.place(ALLOCS_SECTION_ARENAS) + Int(ALLOCS_ARENA_SLOTS_OFFSET) + Int(allocs_slot_index(base)) * 8
        mark(stage.place(ALLOCS_SECTION_ARENAS), bit: Int(allocs_summary_index(base)))
        let ticks = UInt32(script.extreme(bits: 31))
        let context = UInt32(script.extreme(bits: 24))
        stage.store(
          at: offset,
          allocs_slot_head(UInt32(script.choice(below: 4)), allocs_granule_of_address(base), size, context, ticks))
        stage.store(
          at: offset + 8, allocs_slot_tail(size &+ UInt64(script.byte() & 1), script.byte() & 1 == 0 ? 0 : 63, ticks))
      case 8:
        // Summary words of a nested arena, or the numbers by which an arena names its nested ones.
        if script.byte() & 1 != 0 {
          let nested = stage.place(ALLOCS_SECTION_NESTED) + script.choice(below: 4) * SyntheticSegment.nestedStride
          mark(nested, bit: Int(script.number(bytes: 2)))
          stage.store(
            at: nested + 5 * Int(ALLOCS_PAGE_SIZE) + Int(script.number(bytes: 2)) * 8, script.extreme() << 2 | 1)
        } else {
          let words = MemoryLayout<allocs_arena>.offset(of: \.nested)!
          store32(
            at: stage.place(ALLOCS_SECTION_ARENAS) + words + script.choice(below: 3) * 4, script.extreme(bits: 32))
        }
      case 9:
        // A region, which leads to an arena that is its own, another's, or outside.
        let region = Int(script.extreme(bits: 21))
        let levels = stage.place(ALLOCS_SECTION_REGION_BITS)
        store32(at: stage.place(ALLOCS_SECTION_DIRECTORY) + region * 4, script.extreme(bits: 32))
        orBit(MemoryLayout<allocs_header>.offset(of: \.region_level2)!, region >> 12)
        orBit(levels, region >> 6)
        orBit(levels + Int(ALLOCS_REGION_LEVEL0_OFFSET), region)
        let arena = stage.place(ALLOCS_SECTION_ARENAS) + script.choice(below: 8) * SyntheticSegment.arenaStride
        if script.byte() & 1 != 0 { stage.store(at: arena, UInt64(region)) }
      case 10:
        // A chain of former threads.
        let number = UInt64(script.choice(below: 32))
        let offset =
          stage.place(ALLOCS_SECTION_FORMER_THREADS) + Int(number) * MemoryLayout<allocs_former_thread>.stride
        stage.store(at: offset, number + 1)
        stage.store(at: offset + 8, script.extreme())
        storeInSection(Int(ALLOCS_SECTION_FORMER_THREADS.rawValue), field: 3, UInt64(script.byte()))
      case 11:
        stage.store(at: stage.place(ALLOCS_SECTION_STRINGS) + Int(script.byte()) * 8, script.number(bytes: 8))
      default:
        // A group of slots that are said to be in use, and are a hole.
        mark(stage.place(ALLOCS_SECTION_ARENAS), bit: Int(script.number(bytes: 2)) % Int(ALLOCS_SUMMARY_BITS))
      }
    }
    _ = synthetic
  }

  private static func storeInSection(_ number: Int, field: Int, _ value: UInt64) {
    let sections = MemoryLayout<allocs_header>.offset(of: \.sections)!
    stage.store(at: sections + number * MemoryLayout<allocs_section>.size + field * 8, value)
  }

  private static func load(at offset: Int) -> UInt64 {
    guard offset >= 0, offset & 7 == 0, offset + 8 <= stage.synthetic.size else { return 0 }
    return (stage.synthetic.start + offset).assumingMemoryBound(to: UInt64.self).pointee
  }

  private static func store32(at offset: Int, _ value: UInt64) {
    let word = offset & ~7
    let shift = UInt64(offset & 4) * 8
    stage.store(at: word, load(at: word) & ~(0xFFFF_FFFF << shift) | (value & 0xFFFF_FFFF) << shift)
  }

  private static func orBit(_ words: Int, _ bit: Int) {
    let word = words + bit / 64 * 8
    stage.store(at: word, load(at: word) | 1 << UInt64(bit % 64))
  }

  /// Marks a group as used in the summary of the arena, or nested arena, at `arena`.
  private static func mark(_ arena: Int, bit: Int) {
    orBit(arena + 8, bit >> 12)
    orBit(arena + 16, bit >> 6)
    orBit(arena + Int(ALLOCS_PAGE_SIZE), bit)
  }
}
