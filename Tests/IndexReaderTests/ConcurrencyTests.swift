// SPDX-License-Identifier: Apache-2.0
// Readers against a writer that never rests: every answer is one that was true.

import Glibc
import IndexReader
import SharedLayout
import Synchronization
import TestSupport
import Testing

private let heap: UInt64 = 0x5555_0000_0000

/// The allocation that the writer records at a block in a generation. Everything follows from the block and the
/// context, so a reader can tell an answer that mixes two generations.
private func truth(block: Int, generation: UInt32) -> Allocation {
  let context = generation & 0xFF_FFFF
  // The low six bits of the size and the time stay alike over many generations: then only the head's second reading
  // keeps a tail of one from being taken with the head of another.
  let size: UInt64 = generation % 5 == 0 ? UInt64(generation % 64) : 64 + UInt64(generation % 1000) * 64
  let alignment: UInt32 = size >= 64 ? generation % 20 : 0
  let base = heap + UInt64(block) * 0x2_0000 + UInt64(generation / 7 % 2) * 16
  return Allocation(
    base: base, size: size, alignment: alignment == 0 ? nil : 1 << UInt64(alignment), context: context,
    ticks: generation / 1000)
}

private func isTrue(_ allocation: Allocation) -> Bool {
  let block = Int((allocation.base - heap) / 0x2_0000)
  // Contexts repeat after 2^24 generations; no test runs as long.
  return allocation == truth(block: block, generation: allocation.context)
}

@Suite("Concurrency", .bounded)
struct ConcurrencyTests {
  @Test("look-ups and iterations while every block changes all the time")
  func hammer() throws {
    let synthetic = SyntheticSegment()
    let blocks = 64
    // Every second block never changes, and has to be found at any moment.
    let constant = stride(from: 1, to: blocks, by: 2).map { truth(block: $0, generation: UInt32($0)) }
    for allocation in constant { write(allocation, to: synthetic) }
    for block in stride(from: 0, to: blocks, by: 2) { synthetic.summarize(heap + UInt64(block) * 0x2_0000) }
    let segment = try SharedSegment(path: synthetic.path)
    let tally = Tally()
    let slots = (0..<blocks).map { SendablePointer(synthetic.slot(of: heap + UInt64($0) * 0x2_0000)) }
    var bodies: [@Sendable () -> Void] = [
      {
        // Until the readers have had their share; the bound keeps contexts apart.
        for generation in UInt32(0)..<0xFF_FFFF {
          if tally.answers.load(ordering: .relaxed) >= 100_000 { break }
          let block = Int(generation % UInt32(blocks / 2)) * 2
          let allocation = truth(block: block, generation: generation)
          let slot = slots[block].pointer
          allocs_store_release_u64(slot, 0)
          synthetic.store(
            at: slot, allocation.base, size: allocation.size,
            alignment: UInt32(allocation.alignment?.trailingZeroBitCount ?? 0), context: allocation.context,
            ticks: allocation.ticks)
        }
        tally.isDone.store(true, ordering: .releasing)
      }
    ]
    for reader in 0..<2 {
      bodies.append {
        var generator = RandomNumbers(seed: UInt64(reader))
        while !tally.isDone.load(ordering: .acquiring) {
          for _ in 0..<200 {
            let address = heap + generator.next() % UInt64(blocks * 0x2_0000)
            let answer = segment.segment.lookup(address)
            for allocation in [answer.containing, answer.previous, answer.next].compactMap({ $0 }) {
              tally.answers.add(1, ordering: .relaxed)
              if !isTrue(allocation) { tally.wrong.add(1, ordering: .relaxed) }
            }
            let fixed = constant[Int(generator.next() % UInt64(constant.count))]
            if segment.segment.allocation(containing: fixed.base) != fixed {
              tally.missing.add(1, ordering: .relaxed)
            }
          }
          var met: [Allocation] = []
          segment.segment.forEachAllocation { met.append($0) }
          tally.answers.add(met.count, ordering: .relaxed)
          tally.wrong.add(met.filter { !isTrue($0) }.count, ordering: .relaxed)
          let unordered = zip(met, met.dropFirst()).filter { $0.base >= $1.base }.count
          tally.wrong.add(unordered, ordering: .relaxed)
          let fixed = met.filter { ($0.base - heap) / 0x2_0000 % 2 == 1 }
          if fixed != constant { tally.missing.add(1, ordering: .relaxed) }
        }
      }
    }
    runOnThreads(bodies)
    #expect(tally.answers.load(ordering: .relaxed) >= 100_000)
    #expect(tally.wrong.load(ordering: .relaxed) == 0)
    #expect(tally.missing.load(ordering: .relaxed) == 0)
  }

  @Test("a thread slot that changes hands all the time shows whole holders only")
  func threads() throws {
    let synthetic = SyntheticSegment()
    let slot = synthetic.addThread(id: 1, name: "thread-1", from: 10)
    let segment = try SharedSegment(path: synthetic.path)
    let tally = Tally()
    runOnThreads([
      {
        // Until the reader has had its share; the bound keeps ten ticks a thread below the wrap.
        for id in UInt32(2)..<50_000_000 {
          if tally.answers.load(ordering: .relaxed) >= 30_000 { break }
          synthetic.replaceThread(slot: slot, endingAt: id * 10 - 2, by: id, name: "thread-\(id)", from: id * 10)
        }
        tally.isDone.store(true, ordering: .releasing)
      },
      {
        while !tally.isDone.load(ordering: .acquiring) {
          guard let present = segment.segment.threads.first else { continue }
          tally.answers.add(1, ordering: .relaxed)
          if present.name != "thread-\(present.id)" || present.startTicks != present.id * 10 {
            tally.wrong.add(1, ordering: .relaxed)
          }
          for id in present.id - min(present.id - 1, 20)...present.id {
            guard let holder = segment.segment.thread(slot: slot, at: id * 10 + 3) else { continue }
            tally.answers.add(1, ordering: .relaxed)
            // The present holder has no end, so an older one that is looked for too late is nobody.
            if holder.id != id || holder.name != "thread-\(id)" { tally.wrong.add(1, ordering: .relaxed) }
          }
        }
      },
    ])
    #expect(tally.answers.load(ordering: .relaxed) >= 30_000)
    #expect(tally.wrong.load(ordering: .relaxed) == 0)
  }
}

/// The counts that the threads of a test keep together.
private final class Tally: Sendable {
  let isDone = Atomic(false)
  let answers = Atomic(0)
  let wrong = Atomic(0)
  let missing = Atomic(0)
}

private struct SendablePointer: @unchecked Sendable {
  let pointer: UnsafeMutablePointer<UInt64>
  init(_ pointer: UnsafeMutablePointer<UInt64>) { self.pointer = pointer }
}

private func write(_ allocation: Allocation, to synthetic: SyntheticSegment) {
  synthetic.allocate(
    allocation.base, size: allocation.size, alignment: UInt32(allocation.alignment?.trailingZeroBitCount ?? 0),
    context: allocation.context, ticks: allocation.ticks)
}
