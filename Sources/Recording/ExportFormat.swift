// SPDX-License-Identifier: Apache-2.0
// The formats of other programs in which a recording can be written. A format is a file with its
// renderer (a type that conforms to ExportRenderer) and a row here. The command's help, its errors
// and its option list the rows.

import Answers
import Bounds
import IndexReader
import SharedLayout
import SystemAccess

/// A format that `allocsctl export` can write.
public enum ExportFormat: String, CaseIterable, Sendable {
  case jsonl
  case heaptrack
  case perfetto

  private var row: (purpose: String, renderer: any ExportRenderer.Type) {
    switch self {
    case .jsonl: ("one JSON object a line", JSONLinesFile.self)
    case .heaptrack: ("for heaptrack_print and heaptrack_gui", HeaptrackFile.self)
    case .perfetto:
      (
        "heap profiles of \(PerfettoFile.moments) moments and of the peak, for ui.perfetto.dev and its trace processor",
        PerfettoFile.self
      )
    }
  }

  /// The purpose of the format, in the words of the command's help.
  public var purpose: String { row.purpose }

  var renderer: any ExportRenderer.Type { row.renderer }

  /// `jsonl, heaptrack or perfetto`.
  public static var list: String {
    let names = allCases.map(\.rawValue)
    return names.dropLast().joined(separator: ", ") + " or " + names[names.count - 1]
  }
}

/// A moment of a recording that an export is of.
public struct ExportedMoment: Hashable, Sendable {
  public var stamp: UInt64
  /// When the blocks were made that are meant; all its moments are placed (`Recording.placed`).
  public var window: TimeWindow

  public init(stamp: UInt64, window: TimeWindow = TimeWindow()) { (self.stamp, self.window) = (stamp, window) }
}

/// Writes a recording in one format, or the blocks of one moment of it.
protocol ExportRenderer {
  /// `moment`: then the blocks that lived at it are written, and no events.
  init(_ recording: Recording, at moment: ExportedMoment?, to output: ExportOutput)
  /// Writes all of it, once.
  mutating func render() throws(Complaint)
}

/// Where a renderer puts its bytes: a file, or standard output.
public final class ExportOutput {
  private var file: OutputFile
  private let path: String

  /// The output at `path` (OutputFile.swift); "-" is standard output.
  public init(path: String) throws(Complaint) {
    self.path = path
    do throws(OutputFile.Failure) {
      file = try path == "-" ? .standardOutput() : OutputFile(path: path)
    } catch {
      throw Self.error(path, error)
    }
  }

  public func write(_ bytes: [UInt8]) throws(Complaint) {
    do throws(OutputFile.Failure) { try file.write(bytes) } catch { throw Self.error(path, error) }
  }

  /// Puts the file at its name, where nothing of it was until now.
  public func finish() throws(Complaint) {
    do throws(OutputFile.Failure) { try file.publish(isWhole: true) } catch { throw Self.error(path, error) }
  }

  private static func error(_ path: String, _ failure: OutputFile.Failure) -> Complaint {
    Complaint(
      .obstacle, what: "cannot write \(path == "-" ? "to standard output" : path): \(failure.words)",
      advice: path == "-" ? "check where it is redirected to" : "name another file")
  }
}

extension Recording {
  /// The blocks that an export begins with, by address: those of its moment, or of the recording's
  /// start.
  func firstBlocks(at moment: ExportedMoment?) -> [ReplayedBlock] {
    let blocks = stillBlocks ?? (moment.map { replay(until: $0.stamp) } ?? Replay(self)).blocks.sorted
    guard let moment, !moment.window.isAll else { return blocks }
    let now = allocs_event_ticks(moment.stamp)
    let oldest = blocks.reduce(0) { min($0, Self.place(ofTicks: $1.ticks, from: now)) }
    let clock = clock(at: moment.stamp, oldest: oldest)
    guard let orders = moment.window.orders(on: clock) else { return blocks }
    return blocks.filter { orders.contains(clock.order(ofTicks: $0.ticks)) }
  }

  /// Writes the recording in `format` to a file, which is replaced when the new one is whole; "-"
  /// is standard output. `moment`: then the blocks that lived at it are written, and no events.
  public func export(_ format: ExportFormat, at moment: ExportedMoment? = nil, to path: String) throws(Complaint) {
    // A file that is written in place, such as a pipe's, must not be the recording itself.
    guard !isFile(at: path) else {
      throw Complaint(.obstacle, what: "cannot write \(path): it is the recording itself", advice: "name another file")
    }
    let output = try ExportOutput(path: path)
    var renderer = format.renderer.init(self, at: moment, to: output)
    try renderer.render()
    // A renderer whose budget is exhausted has written a part only.
    try Budget.current?.check()
    try output.finish()
  }
}
