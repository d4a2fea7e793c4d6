// SPDX-License-Identifier: Apache-2.0
// The memory of heaps by the allocator that holds it, and that of the C library by its arenas.
//
// What is known, and what is inferred: a live block names its allocator. A page belongs to the allocator of the first
// live block in it; a page without one to that of the nearest block below it, else above it, in the piece of address
// space that the page is of: what one call has mapped, or one of glibc's heaps. A piece in which nothing lives belongs
// to glibc by its shape alone, or to the allocator whose code made the call that mapped it; else to nobody known.
//
// glibc's arenas have a shape (malloc/arena.c): the program break belongs to the first; heaps of further arenas begin
// at multiples of 64 MiB, their greatest size, and what they do not use yet is reserved above; a chunk with a mapping
// of its own begins 16 bytes into a page. Other allocators' arenas have no shape that is seen from outside.
//
// By how much an allocator rounds a block up is known of glibc on 64-bit machines alone, where it has been one rule for
// twenty years: a chunk is the request and a word of 8 bytes, rounded up to a multiple of 16, 32 at least; one with a
// mapping of its own is rounded up to whole pages. (A chunk whose rest would be too small to be one is 16 bytes larger:
// nothing outside tells.) The classes of other allocators depend on how they were built.

import Bounds
import ByteText
import IndexReader
import Provenance

extension MemoryAccount {
  /// What of the heaps one allocator holds, or one arena.
  public struct Holding: Hashable, Sendable {
    /// Live blocks, and their bytes as asked for, resident or not.
    public var live: UInt64 = 0
    public var blocks: UInt64 = 0
    /// Resident memory is the sum of these four: live bytes; what the allocator's rule rounds them up by; the rest of
    /// their pages; pages without a live block.
    public var residentLive: UInt64 = 0
    public var rounded: UInt64 = 0
    public var gaps: UInt64 = 0
    public var free: UInt64 = 0

    public var resident: UInt64 { residentLive &+ rounded &+ gaps &+ free }

    mutating func add(_ other: Holding) {
      live &+= other.live
      blocks &+= other.blocks
      residentLive &+= other.residentLive
      rounded &+= other.rounded
      gaps &+= other.gaps
      free &+= other.free
    }

    /// Takes `bytes` away, as far as they are here: of what is least sure first. Returns what was not here.
    mutating func take(_ bytes: UInt64) -> UInt64 {
      var rest = bytes
      for field in [\Holding.free, \.gaps, \.rounded, \.residentLive] {
        let taken = min(rest, self[keyPath: field])
        self[keyPath: field] &-= taken
        rest &-= taken
      }
      return rest
    }
  }

  /// Part of the address space of an allocator whose parts have a shape.
  public struct Arena: Hashable, Sendable {
    public enum Kind: String, Hashable, Sendable {
      /// The program break: the C library's first arena.
      case main
      /// A heap of one of the C library's arenas for further threads, of which an arena may have several.
      case thread
      /// Chunks that the C library mapped each by itself, all together.
      case single
      /// All else: blocks at a large alignment with a mapping of their own, and memory that the C library mapped where
      /// the break could not grow.
      case other
    }
    public var kind: Kind
    /// Where it begins; nil if it is not one piece.
    public var start: UInt64?
    public var holding: Holding
  }

  /// What one allocator holds.
  public struct AllocatorPart: Hashable, Sendable {
    /// Its name as answers have it; nil for memory that no live block tells the allocator of.
    public var name: ForeignText?
    /// Path of the module with its code; nil if not known.
    public var module: ForeignText?
    public var holding: Holding
    /// Empty if its arenas can't be told apart. Those that hold most come first.
    public var arenas: [Arena]
  }
}

/// Who holds the pieces of heaps: numbers for pairs of an allocator and an arena, and what each holds.
struct HeapOwners {
  private struct Key: Hashable {
    /// Index in `allocators`; nil: not known.
    var allocator: Int?
    var kind: MemoryAccount.Arena.Kind?
    var start: UInt64?
  }

  private struct Known: Hashable {
    var name: ForeignText?
    var module: ForeignText?
  }

  private var allocators: [Known] = []
  private var allocatorNumbers: [Known: Int] = [:]
  private var keys: [Key] = []
  private var numbers: [Key: Int] = [:]
  private var holdings: [MemoryAccount.Holding] = []
  /// Allocators by context, one more than their index in `allocators`; 0: the context names none.
  private var allocatorOfContext = IndexTable()

  // MARK: who

  /// The index of the allocator that this context names; nil if it names none.
  mutating func allocator(ofContext id: UInt32, in tables: some OriginTables) -> Int? {
    if let known = allocatorOfContext.index(of: id) { return known == 0 ? nil : known &- 1 }
    // A context that is not there yet may be there soon, and is looked up again.
    guard let origin = tables.context(id) else { return nil }
    let index = origin.allocator.map { self.allocator(called: $0, of: origin.allocatorModule) }
    allocatorOfContext.add(index.map { $0 &+ 1 } ?? 0, of: id)
    return index
  }

  mutating func allocator(called name: ForeignText, of module: ForeignText?) -> Int {
    let known = Known(name: name, module: module)
    if let index = allocatorNumbers[known] { return index }
    allocators.append(known)
    allocatorNumbers[known] = allocators.count - 1
    return allocators.count - 1
  }

  func isLibc(_ allocator: Int) -> Bool {
    allocators.indices.contains(allocator) && allocators[allocator].name.map { Inquiry.isLibc($0) } ?? false
  }

  /// The number of an owner.
  mutating func owner(_ allocator: Int?, _ kind: MemoryAccount.Arena.Kind? = nil, start: UInt64? = nil) -> Int {
    let key = Key(allocator: allocator, kind: kind, start: start)
    if let number = numbers[key] { return number }
    keys.append(key)
    holdings.append(MemoryAccount.Holding())
    numbers[key] = keys.count - 1
    return keys.count - 1
  }

  // MARK: what

  mutating func add(_ holding: MemoryAccount.Holding, to owner: Int) {
    guard holdings.indices.contains(owner) else { return }
    holdings[owner].add(holding)
  }

  /// Makes what owners hold of one mapping agree with the kernel's account of it, which was made a moment earlier, and
  /// leaves out pages that are nothing but zeros. What is too little is free memory of whoever holds most; what is too
  /// much goes from those who hold most.
  mutating func settle(_ holdings: [Int: MemoryAccount.Holding], resident: UInt64) {
    var holdings = holdings
    var order = holdings.keys.sorted { a, b in
      let (one, other) = (holdings[a]?.resident ?? 0, holdings[b]?.resident ?? 0)
      return one != other ? one > other : a < b
    }
    let sum = holdings.values.reduce(0) { $0 &+ $1.resident }
    if sum < resident {
      if order.isEmpty { order = [owner(nil)] }
      holdings[order[0], default: MemoryAccount.Holding()].free &+= resident &- sum
    }
    var excess = sum > resident ? sum &- resident : 0
    for index in order {
      guard var holding = holdings[index] else { continue }
      excess = holding.take(excess)
      add(holding, to: index)
    }
  }

  /// All allocators that hold something, those that hold most first; memory of nobody known comes last.
  var parts: [MemoryAccount.AllocatorPart] {
    var parts: [Int?: MemoryAccount.AllocatorPart] = [:]
    for (key, holding) in zip(keys, holdings) where holding.resident > 0 || holding.blocks > 0 {
      let known = key.allocator.map { allocators[$0] }
      var part =
        parts[key.allocator]
        ?? MemoryAccount.AllocatorPart(
          name: known?.name, module: known?.module, holding: MemoryAccount.Holding(), arenas: [])
      part.holding.add(holding)
      if let kind = key.kind {
        part.arenas.append(MemoryAccount.Arena(kind: kind, start: key.start, holding: holding))
      }
      parts[key.allocator] = part
    }
    func weight(_ holding: MemoryAccount.Holding) -> (UInt64, UInt64) { (holding.resident, holding.live) }
    return parts.values.map { part in
      var part = part
      part.arenas.sort { a, b in
        weight(a.holding) != weight(b.holding)
          ? weight(a.holding) > weight(b.holding) : (a.start ?? 0, a.kind.rawValue) < (b.start ?? 0, b.kind.rawValue)
      }
      return part
    }.sorted { a, b in
      if (a.name == nil) != (b.name == nil) { return b.name == nil }
      return weight(a.holding) != weight(b.holding)
        ? weight(a.holding) > weight(b.holding) : a.name.map(\.escaped) ?? "" < b.name.map(\.escaped) ?? ""
    }
  }
}

/// The owners of the blocks of one piece, which are few, counted from 0.
struct PieceOwners {
  /// Their numbers among all owners.
  private(set) var numbers: [Int] = []

  mutating func index(ofOwner number: Int) -> Int {
    if let index = numbers.firstIndex(of: number) { return index }
    numbers.append(number)
    return numbers.count - 1
  }
}

/// A piece of a heap's address space in which the nearest block tells whose a page is.
struct HeapPiece: Equatable {
  /// Heaps of glibc's arenas for threads begin at multiples of this.
  static let heapSize: UInt64 = 64 << 20

  enum Shape: Equatable {
    /// The program break.
    case programBreak
    /// A heap of one of glibc's arenas, if it is glibc's.
    case heap
    case other
  }
  var range: Range<UInt64>
  var shape: Shape
  /// The context of the call that mapped it; 0 if none is known.
  var context: UInt32 = 0

  /// The pieces of `mapping`, in order of address: cut where what a call has mapped begins and ends, and between heaps
  /// of glibc's. `records`: in order of address.
  static func pieces(of mapping: Mapping, before next: Mapping?, records: [MappingRecord]) -> [HeapPiece] {
    guard !mapping.isBreak else { return [HeapPiece(range: mapping.range, shape: .programBreak)] }
    let isCut: (MappingRecord) -> Bool = { record in
      !record.isBreak && record.isAnonymous && record.range.overlaps(mapping.range)
    }
    // Records overlap each other hardly ever: those before the last that begins below the mapping end before it.
    let first = records.partitioningIndex { $0.range.lowerBound >= mapping.start }
    var cuts: Set<UInt64> = [mapping.start, mapping.end]
    var inside: [MappingRecord] = []
    var meter = BudgetMeter(interval: 64)
    for record in records[max(0, first &- 1)...] where meter.goesOn() {  // bounded: first is an index or the count
      if record.range.lowerBound >= mapping.end { break }
      guard isCut(record) else { continue }
      inside.append(record)
      let range = record.range.clamped(to: mapping.range)
      cuts.formUnion([range.lowerBound, range.upperBound])
    }
    let isHeap = inside.isEmpty && Self.isHeap(mapping, before: next)
    if isHeap {
      var cut = mapping.start
      while cut < mapping.end, meter.goesOn() {
        cuts.insert(cut)
        cut = (Foreign(cut) + Self.heapSize).saturated()
      }
    }
    let sorted = cuts.sorted()
    let holders = AddressRanges(inside.lazy.map { ($0.range.lowerBound, $0.range.upperBound) })
    return zip(sorted, sorted.dropFirst()).map { start, end in
      HeapPiece(
        range: start..<max(start, end), shape: isHeap ? .heap : .other,
        context: holders.first(holding: start).map { inside[$0].context } ?? 0)
    }
  }

  /// Whether a mapping has the shape of heaps of glibc's arenas: it begins at a multiple of their greatest size, and
  /// ends at one, or the rest is reserved.
  private static func isHeap(_ mapping: Mapping, before next: Mapping?) -> Bool {
    // bounded: the size is no zero
    guard mapping.isAnonymous, mapping.start % heapSize == 0, mapping.start < mapping.end else { return false }
    let rest = mapping.end % heapSize
    guard rest != 0 else { return true }
    let end = mapping.end &- rest &+ heapSize
    return next.map { $0.start == mapping.end && $0.isInaccessible && $0.end >= end } ?? false
  }

  /// The arena of glibc's that a block of it in this piece lies in.
  func arena(of block: Allocation) -> (kind: MemoryAccount.Arena.Kind, start: UInt64?) {
    switch shape {
    case .programBreak: (.main, range.lowerBound)
    case .heap: (.thread, range.lowerBound)
    case .other: (block.base & 4095 == 16 ? .single : .other, nil)
    }
  }

  /// By how many bytes glibc rounds a block up: its chunk ends 8 bytes behind what it can hold.
  static func libcRounding(of block: Allocation, _ kind: MemoryAccount.Arena.Kind) -> UInt64 {
    let chunk = max(32, (block.size &+ 8 &+ 15) & ~15)
    let usable = kind == .single ? ((chunk &+ 8 &+ 4095) & ~4095) &- 16 : chunk &- 8
    return usable > block.size ? usable &- block.size : 0
  }
}
