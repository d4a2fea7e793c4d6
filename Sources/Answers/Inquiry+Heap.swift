// SPDX-License-Identifier: Apache-2.0
// Addresses in live blocks of the heap. A struct of references (`HeapReferences`) holds all that is known of such an
// address, and is filled in one place. It is printed in two ways: as an `Answer`, from which text is made; or straight
// as JSON, from parts that were rendered before, for batches of millions of addresses. A test compares both byte for
// byte (InquiryTests).

import IndexReader
import Symbols

/// All that is known of an address in a live block, by references into what the inquiry has read.
struct HeapReferences {
  var address: UInt64
  var allocation: Allocation
  /// The nearest live blocks.
  var previous: Allocation?
  var next: Allocation?
  /// Whether the answer says who allocated these.
  var namesNeighbours = false
  /// Index of the origin in the inquiry's `OriginCache`; nil if the context of the block is not known.
  var origin: Int?
  /// Node of the innermost frame; 0 if there is none, or the stack was not asked for.
  var node: UInt32 = 0
  /// The thread slot that the block's thread held when it allocated.
  var threadSlot: UInt32?
  var arena: Answer.Arena?
  /// Index in the inquiry's `mappedRecords`. An index, as a copy of the record would cost a batch more than its text.
  var mappedBy: Int?
  /// Index in the inquiry's `mappings`.
  var mapping: Int?
}

extension Inquiry {
  /// The references for `address`, which is in the block `allocation`.
  @inline(__always)
  mutating func heap(
    _ address: UInt64, _ allocation: Allocation, previous: Allocation?, next: Allocation?, stacks: Bool
  ) -> HeapReferences {
    var heap = HeapReferences(address: address, allocation: allocation, previous: previous, next: next)
    heap.mapping = mappingIndex(of: address)
    heap.namesNeighbours = stacks
    if let origin = origins.originIndex(ofContext: allocation.context, in: shared.segment) {
      heap.origin = origin
      if stacks { heap.node = origins.node(ofOriginAt: origin) }
      heap.threadSlot = origins.threadSlot(ofOriginAt: origin)
      // Most blocks of a batch lie in one arena. To find it anew takes copies of texts and of the mapping.
      if let mainArena, mainArena.index == heap.mapping, origins.isLibc(ofOriginAt: origin) {
        heap.arena = mainArena.arena
      } else {
        heap.arena = arena(
          at: address, of: Answer.Block(allocation), allocator: origins.allocator(ofOriginAt: origin))
      }
    }
    heap.mappedBy = recordIndex(at: address, mapping: heap.mapping)
    return heap
  }

  /// Index in `mappings` of the mapping that holds `address`; nil if none does.
  @inline(__always)
  private mutating func mappingIndex(of address: UInt64) -> Int? {
    if let index = mappings.index(containing: address) { return index }
    guard surroundings.knowsSome else { return nil }
    readAllMappings()
    return mappings.index(containing: address)
  }

  /// The answer with all names.
  mutating func answer(_ heap: HeapReferences) -> Answer {
    let ticks = heap.allocation.ticks
    var answer = Answer(address: heap.address, kind: .heap)
    answer.block = Answer.Block(heap.allocation)
    answer.alignment = heap.allocation.alignment
    if let index = heap.origin {
      let origin = origins.origin(at: index)
      answer.function = origin.function
      answer.allocator = origin.allocator
      answer.allocatorModule = origin.allocatorModule
    }
    if let slot = heap.threadSlot { answer.thread = origins.thread(ofSlot: slot, at: ticks, in: shared.segment) }
    answer.age = clock.age(ofTicks: ticks)
    if heap.node != 0 { answer.stack = attribution.stack(ofNode: heap.node, at: ticks) }
    answer.hasFullStack = hasFullStacks
    answer.previous = heap.previous.map { neighbour($0, isNamed: heap.namesNeighbours) }
    answer.next = heap.next.map { neighbour($0, isNamed: heap.namesNeighbours) }
    answer.arena = heap.arena
    if let index = heap.mappedBy { answer.mappedBy = mappedBy(mappedRecords[index], stacks: false) }
    answer.mapping = heap.mapping.map { mappings.mappings[$0] }
    return answer
  }

  /// The JSON of the answer, from parts that were rendered before. `hasEnded`: whether it is said that the process has
  /// ended.
  @inline(__always)
  mutating func appendJSON(_ heap: HeapReferences, hasEnded: Bool = false, to writer: inout ByteWriter) {
    let ticks = heap.allocation.ticks
    writer.appendHead(heap.address, .heap)
    writer.append(block: Answer.Block(heap.allocation), offset: heap.address &- heap.allocation.base)
    if let alignment = heap.allocation.alignment { writer.append(",\"alignment\":", decimal: alignment) }
    if let index = heap.origin { origins.appendOrigin(at: index, to: &writer) }
    if let slot = heap.threadSlot { origins.appendThread(ofSlot: slot, at: ticks, in: shared.segment, to: &writer) }
    writer.append(age: clock.age(ofTicks: ticks))
    if heap.node != 0 { attribution.appendJSON(ofNode: heap.node, at: ticks, to: &writer) }
    if let previous = heap.previous {
      append(neighbour: previous, opening: ",\"previous\":{\"base\":\"", isNamed: heap.namesNeighbours, to: &writer)
    }
    if let next = heap.next {
      append(neighbour: next, opening: ",\"next\":{\"base\":\"", isNamed: heap.namesNeighbours, to: &writer)
    }
    if let arena = heap.arena { writer.append(arena: arena) }
    if let index = heap.mappedBy { writer.append(mappedBy: mappedBy(mappedRecords[index], stacks: false)) }
    if let index = heap.mapping {
      if mappingJSON[index].isEmpty { renderMapping(index) }
      writer.append(bytes: mappingJSON[index])
    }
    if hasEnded { writer.append(",\"ended\":true") }
    writer.append(bytes: lossesJSON)
    writer.append("}")
  }

  @inline(__always)
  private mutating func append(
    neighbour block: Allocation, opening: StaticString, isNamed: Bool, to writer: inout ByteWriter
  ) {
    if isNamed {
      writer.append(neighbour: neighbour(block, isNamed: true), opening: opening)
    } else {
      writer.append(neighbour: Answer.Block(block), opening: opening)
    }
  }

  /// A block beside an address; `isNamed`: with who allocated it, and when.
  mutating func neighbour(_ block: Allocation, isNamed: Bool) -> Answer.Neighbour {
    var neighbour = Answer.Neighbour(Answer.Block(block))
    guard isNamed else { return neighbour }
    neighbour.age = clock.age(ofTicks: block.ticks)
    guard let index = origins.originIndex(ofContext: block.context, in: shared.segment) else { return neighbour }
    let origin = origins.origin(at: index)
    neighbour.function = origin.function
    if origin.node != 0 { neighbour.site = attribution.site(ofNode: origin.node, at: block.ticks)?.frames.first }
    return neighbour
  }

  private mutating func renderMapping(_ index: Int) {
    var part = ByteWriter(capacity: 256)
    part.append(mapping: mappings.mappings[index])
    mappingJSON[index] = part.take()
  }

  // MARK: suballocations

  /// The answer for an address in a block of a suballocator; nil if it is in no such block.
  mutating func nested(_ address: UInt64, _ lookup: Lookup, stacks: Bool) -> Answer? {
    guard hasSuballocations else { return nil }
    if lookup.containing == nil { readAllMappings() }
    let blocks = shared.segment.suballocations(containing: address, in: lookup.containing)
    // Memory that was unmapped holds no block, whatever the pool said.
    guard let innermost = blocks.first, lookup.containing != nil || isMapped(address) else { return nil }
    var links = blocks.map { ($0.block, Answer.Container.Kind.suballocation) }
    if let chunk = lookup.containing { links.append((chunk, .chunk)) }
    let lead = isShownAsChunk(innermost) ? links.count - 1 : 0
    var previous = lookup.previous
    var next = lookup.next
    if lead < blocks.count {
      let place = blocks.count &- 1 &- lead
      let container = place > 0 ? blocks[lead &+ 1].block : lookup.containing
      (previous, next) = shared.segment.neighbours(of: blocks[lead], level: place, in: container)
    }
    var result = answer(heap(address, links[lead].0, previous: previous, next: next, stacks: stacks))
    for (index, (block, kind)) in links.enumerated() where index != lead {
      let container = Answer.Container(
        kind, answer(heap(address, block, previous: nil, next: nil, stacks: stacks)))
      if index < lead { result.contents.append(container) } else { result.containers.append(container) }
    }
    return result
  }

  private func isMapped(_ address: UInt64) -> Bool {
    surroundings.maps.map { $0.index(containing: address) != nil } ?? true
  }

  private func isShownAsChunk(_ block: Suballocation) -> Bool {
    if let level { return level == .chunk }
    return shared.segment.context(block.block.context)?.allocator?.isShownAsChunk ?? false
  }
}

extension Answer.Container {
  /// The part of a block's own answer that a container shows.
  fileprivate init(_ kind: Kind, _ answer: Answer) {
    self.init(kind: kind, block: answer.block ?? Answer.Block(base: answer.address, size: 0))
    allocator = answer.allocator
    allocatorModule = answer.allocatorModule
    function = answer.function
    thread = answer.thread
    age = answer.age
    stack = answer.stack
  }
}

extension Answer.Block {
  init(_ allocation: Allocation) { self.init(base: allocation.base, size: allocation.size) }
}
