// SPDX-License-Identifier: Apache-2.0
// An index compared with a record: every block, both directions, every class of address.

import Foundation
import IndexReader

/// Differences, the first of them in words. Empty if index and record agree.
struct Differences: CustomStringConvertible {
  private(set) var count = 0
  private var first: [String] = []

  var isEmpty: Bool { count == 0 }
  mutating func add(_ difference: @autoclosure () -> String) {
    count += 1
    if first.count < 12 { first.append(difference()) }
  }
  var description: String { "\(count) differences, first: " + first.joined(separator: "; ") }
}

extension Segment {
  /// All live allocations by base.
  func allAllocations() -> [Allocation] {
    var all: [Allocation] = []
    forEachAllocation { all.append($0) }
    return all.sorted { $0.base < $1.base }
  }
}

struct Comparison {
  var record: Record
  /// The blocks of the index before the program's own allocations began: the libraries'.
  var baseline: [Allocation]
  /// How the allocator below is called; nil if it is not checked.
  var allocatorPrefix: String?
  /// `allocatorPrefix` by the number of a block's site, for a program with several allocators; nil if it has one.
  var allocatorPrefixOfSite: ((UInt32) -> String)?
  /// Whether blocks that are neither in the record nor in the baseline are a difference.
  var isComplete = true
  /// Whether every thread must be known: not so when more threads came and went than the history holds.
  var requiresThreads = true
  /// Whether the function called is recorded by its own name: not so where one function of the allocator has several.
  var tellsFunctions = true

  private func hex(_ value: UInt64) -> String { "0x" + String(value, radix: 16) }
  private func words(_ allocation: Allocation?) -> String {
    allocation.map { "\(hex($0.base))+\($0.size)" } ?? "nothing"
  }

  /// Whether each address class of each block is looked up.
  var looksUp = true

  /// Whether each byte of each block is looked up as well, for programs whose blocks are small.
  var looksAtEachByte = false

  /// Compares the index with the record. The program must be at a check point.
  func differences(in segment: borrowing Segment) -> Differences {
    var differences = Differences()
    let found = segment.allAllocations()
    compareBlocks(found, in: segment, &differences)
    compareOrigins(found, in: segment, &differences)
    if looksUp { compareLookups(found, in: segment, &differences) }
    if segment.isBroken { differences.add("the segment is broken") }
    return differences
  }

  /// The index's list is the record and the baseline: base and size of each, no more and no less.
  private func compareBlocks(_ found: [Allocation], in segment: borrowing Segment, _ differences: inout Differences) {
    for (one, next) in zip(found, found.dropFirst()) where one.base + max(one.size, 1) > next.base {
      differences.add("\(words(one)) and \(words(next)) overlap")
    }
    var expected: [UInt64: UInt64] = [:]
    for allocation in baseline { expected[allocation.base] = allocation.size }
    for block in record.blocks {
      if isComplete, expected[block.base] != nil {
        differences.add("\(hex(block.base)) is the libraries' and the program's")
      }
      expected[block.base] = block.size
    }
    for allocation in found {
      guard let size = expected.removeValue(forKey: allocation.base) else {
        if isComplete {
          let context = segment.context(allocation.context)
          let pc = context.map { segment.stack(ofNode: $0.node).addresses.first ?? 0 } ?? 0
          let module = segment.module(containing: pc, at: allocation.ticks)
          differences.add(
            "\(words(allocation)) is in the index, but no live block; it is from \(context?.function ?? "nothing"),"
              + " called at \(hex(pc &- (module?.bias ?? 0))) of \(module?.path ?? "no module")")
        }
        continue
      }
      if size != allocation.size { differences.add("\(hex(allocation.base)) has size \(allocation.size), not \(size)") }
    }
    for block in record.blocks where expected.removeValue(forKey: block.base) != nil {
      let function = record.sites[block.site]?.function ?? "site \(block.site)"
      differences.add("\(hex(block.base))+\(block.size) from \(function) is not in the index")
    }
    for (base, size) in expected where isComplete {
      differences.add("the libraries' \(hex(base))+\(size) is not in the index")
    }
  }

  /// Function, call site, thread, allocator, alignment and time of each block.
  private func compareOrigins(_ found: [Allocation], in segment: borrowing Segment, _ differences: inout Differences) {
    var contexts: [UInt32: (context: Context, stack: Stack)] = [:]
    let byBase = Dictionary(found.map { ($0.base, $0) }, uniquingKeysWith: { $1 })
    for block in record.blocks {
      guard let allocation = byBase[block.base] else { continue }  // said already
      if let alignment = allocation.alignment, alignment != block.alignment {
        differences.add(
          "\(words(allocation)) has alignment \(alignment), not \(block.alignment.map(String.init) ?? "none")")
      }
      if contexts[allocation.context] == nil, let context = segment.context(allocation.context) {
        contexts[allocation.context] = (context, segment.stack(ofNode: context.node))
      }
      guard let (context, stack) = contexts[allocation.context] else {
        differences.add("\(words(allocation)) has no context")
        continue
      }
      guard let site = record.sites[block.site] else {
        differences.add("the record has no site \(block.site)")
        continue
      }
      if tellsFunctions, context.function?.unescaped != site.function {
        differences.add("\(words(allocation)) is from \(context.function ?? "nothing"), not \(site.function)")
      }
      // The call itself ends at the return address, so this is above the start and may be the section's end.
      if let pc = stack.addresses.first {
        if pc <= site.start || pc > site.end {
          differences.add(
            "\(words(allocation)) was called from \(hex(pc)), not within \(hex(site.start))..<\(hex(site.end))")
        }
      } else {
        differences.add("\(words(allocation)) has no call site")
      }
      if let allocatorPrefix = allocatorPrefixOfSite?(block.site) ?? allocatorPrefix {
        let name = context.allocator?.module?.path.fileName ?? "nothing"
        if !name.hasPrefix(allocatorPrefix) { differences.add("\(words(allocation)) is from the allocator \(name)") }
      }
      if let thread = context.threadSlot.flatMap({ segment.thread(slot: $0, at: allocation.ticks) }) {
        if thread.id != block.thread {
          differences.add("\(words(allocation)) is of thread \(thread.id), not \(block.thread)")
        }
      } else if requiresThreads {
        differences.add("\(words(allocation)) has no thread")
      }
      let age: Double = segment.age(ofTicks: allocation.ticks)
      if !(age >= 0 && age < 3600) { differences.add("\(words(allocation)) is \(age) s old") }
    }
  }

  /// Each address class of each block against a search in the list: first, inner and last byte, one past the end, one
  /// before the base, and where blocks were freed.
  private func compareLookups(_ found: [Allocation], in segment: borrowing Segment, _ differences: inout Differences) {
    let bases = found.map(\.base)
    func compare(_ address: UInt64, _ differences: inout Differences) {
      var low = 0
      var high = bases.count
      while low < high {
        let middle = (low + high) / 2
        if bases[middle] <= address { low = middle + 1 } else { high = middle }
      }
      let containing = low > 0 && found[low - 1].contains(address) ? found[low - 1] : nil
      let previous = containing == nil ? low - 1 : low - 2
      let answer = segment.lookup(address)
      if answer.containing != containing || answer.previous != (previous >= 0 ? found[previous] : nil)
        || answer.next != (low < found.count ? found[low] : nil)
      {
        differences.add(
          "\(hex(address)) is in \(words(answer.containing)), not \(words(containing)),"
            + " between \(words(answer.previous))"
            + " and \(words(answer.next)), not \(words(previous >= 0 ? found[previous] : nil)) and"
            + " \(words(low < found.count ? found[low] : nil))")
      }
    }
    for block in record.blocks {
      for address in [block.base, block.base + block.size / 2, block.end - 1, block.end, block.base - 1] {
        compare(address, &differences)
      }
    }
    if looksAtEachByte {
      for block in record.blocks {
        for address in block.base..<block.end { compare(address, &differences) }
      }
    }
    for block in record.freed {
      compare(block.base, &differences)
      compare(block.base + block.size / 2, &differences)
    }
    for address in [0, 1, 4096, UInt64(1) << 46, (1 << 47) - 1, 1 << 47, 1 << 63, .max] {
      compare(address, &differences)
    }
  }
}
