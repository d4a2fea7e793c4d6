// SPDX-License-Identifier: Apache-2.0
// A test program that keeps a record, running under the agent, and the check points at which the two are compared.

import Foundation
import IndexReader
import TestSupport
import Testing

final class RecordingProgram {
  let directory: TestDirectory
  let records: TestDirectory
  let process: ChildProcess
  /// Lines that the program wrote before the check point that was waited for last.
  private(set) var said: [String] = []

  /// `underAgent`: with the agent preloaded. `linked`: with that linked into it asked to be active.
  init(
    _ arguments: [String], below: String? = nil, environment: [String: String] = [:], underAgent: Bool = true,
    linked: Bool = false
  ) throws {
    directory = try TestDirectory()
    records = try TestDirectory()
    // Also for programs that give up being root.
    chmod(directory.path, 0o1777)
    chmod(records.path, 0o777)
    var variables = ChildProcess.baseEnvironment
    if underAgent { variables.merge(try Installation.agentEnvironment(directory.path, below: below)) { $1 } }
    if linked { variables.merge(["ALLOCS": "1", "ALLOCS_DIR": directory.path]) { $1 } }
    variables["RECORD_DIR"] = records.path
    // A recorder that is held up for a moment loses nothing.
    variables["ALLOCS_EVENTS_WAIT"] = "10000"
    variables.merge(environment) { $1 }
    process = try ChildProcess(arguments, environment: variables, conversing: true)
  }

  /// Waits for a check point and reads its record.
  func reach(_ checkpoint: Int) throws -> Record {
    said = try process.readLines(until: "checkpoint \(checkpoint)")
    return try Record(directory: records.path, checkpoint: checkpoint)
  }

  /// Lets the program go on after a check point.
  func proceed() throws { try process.send("\n") }

  /// Opens the index of the program, or of another process with an index in the same directory.
  func openSegment(of pid: Int32? = nil) throws -> Segment {
    try Segment(path: directory.segment(of: pid ?? process.pid))
  }

  /// Expects that nothing is missing from the index by its own counters, that it has as many blocks as the record and
  /// the baseline, and that no memory of the program is writable and executable.
  func expectComplete(
    _ segment: borrowing Segment, _ record: Record, baseline: [Allocation],
    sourceLocation: SourceLocation = #_sourceLocation
  ) throws {
    #expect(segment.unindexed == [], sourceLocation: sourceLocation)
    let count = segment.totals().count
    #expect(count == UInt64(record.blocks.count + baseline.count), sourceLocation: sourceLocation)
    let maps = try String(contentsOfFile: "/proc/\(process.pid)/maps", encoding: .utf8)
    #expect(!maps.contains(" rwx"), "nothing is writable and executable", sourceLocation: sourceLocation)
  }

  /// Waits for the end, which must be as after a plain run.
  func finish(sourceLocation: SourceLocation = #_sourceLocation) throws {
    let outcome = try process.wait()
    #expect(outcome.ending == .exit(0), "\(outcome.output) \(outcome.errors)", sourceLocation: sourceLocation)
    #expect(outcome.errors == "", sourceLocation: sourceLocation)
    said = outcome.output.split(separator: "\n").map(String.init)
  }
}

extension Segment {
  /// A counter of the header, by the name that allocs_counter_name gives it.
  func counter(_ name: String) -> UInt64? { counters.first { $0.name == name }?.value }

  /// The counters that say that a block is missing from the index, or its call site or module, if they are not zero.
  var unindexed: [String] {
    let others: Set = ["unknown_contexts", "modules_dropped"]
    let ofBlocks = IndexCounter.all.filter { $0.kind == .lostBlocks || $0.kind == .innerBlocks }.map(\.name)
    return counters.filter { (ofBlocks.contains($0.name) || others.contains($0.name)) && $0.value != 0 }
      .map { "\($0.name) \($0.value)" }
  }

  /// Blocks that were ever recorded, by the totals of all contexts.
  var allocatedBlocks: UInt64 {
    var sum: UInt64 = 0
    forEachTotal { _, total in sum += total.blocks }
    return sum
  }

  /// The totals of contexts whose stacks begin at the record's sites, by the site's function.
  func totalsBySite(of record: Record) -> [String: AllocatedTotal] {
    var sums: [String: AllocatedTotal] = [:]
    forEachTotal { id, total in
      guard let context = context(id), let pc = stack(ofNode: context.node).addresses.first,
        let site = record.sites.values.first(where: { $0.start < pc && pc <= $0.end })
      else { return }
      sums[site.function, default: AllocatedTotal(bytes: 0, blocks: 0)].bytes += total.bytes
      sums[site.function, default: AllocatedTotal(bytes: 0, blocks: 0)].blocks += total.blocks
    }
    return sums
  }

  /// Contexts in which more lives than was ever allocated.
  func contextsWithMoreLiveThanTotal() -> [UInt32] {
    var live: [UInt32: (bytes: UInt64, blocks: UInt64)] = [:]
    forEachAllocation { block in
      live[block.context, default: (0, 0)].bytes += block.size
      live[block.context, default: (0, 0)].blocks += 1
    }
    return live.filter { context, live in
      guard let total = total(ofContext: context) else { return true }
      return total.blocks < live.blocks || total.bytes < live.bytes
    }.map(\.key).sorted()
  }

  /// Allocations less frees over all threads that the index remembers.
  var balance: Int64 { (threads + formerThreads).reduce(0) { $0 + Int64($1.allocations) - Int64($1.frees) } }
}
