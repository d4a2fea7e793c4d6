// SPDX-License-Identifier: Apache-2.0
// The formats of other programs in which a recording can be written. A format is a file with its
// renderer (a type that conforms to ExportRenderer) and a row here. The command's help, its errors
// and its option list the rows.

import Answers
import Bounds
import IndexReader
import Provenance
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

  /// The media type of the file, for HTTP.
  public var mediaType: String {
    switch self {
    case .jsonl: "application/x-ndjson"
    // Names in a file of heaptrack may be bytes that are no text.
    case .heaptrack, .perfetto: "application/octet-stream"
    }
  }

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
  /// `moment`: then the blocks that lived at it are written, and no events. `wrappers`: what tells
  /// the allocation sites, where the format has these.
  init(_ recording: Recording, at moment: ExportedMoment?, wrappers: Wrappers, to output: any ExportSink)
  /// Writes all of it, once.
  mutating func render() throws(Complaint)
}

/// Where a renderer puts its bytes.
public protocol ExportSink: AnyObject {
  func write(_ bytes: [UInt8]) throws(Complaint)
}

/// A file, or standard output.
public final class ExportOutput: ExportSink {
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
  /// Gives `body` the blocks that an export begins with, by address: those of its moment, or of the
  /// recording's start. The blocks of a snapshot pass by, and are never in memory all at once.
  func forEachFirstBlock(
    at moment: ExportedMoment?, _ body: (ReplayedBlock) throws(Complaint) -> Void
  ) throws(Complaint) {
    let kept =
      areStillBlocksSorted
      ? nil : stillBlocks ?? (moment.map { replay(until: $0.stamp) } ?? Replay(self)).blocks.sorted
    func forEach(_ body: (ReplayedBlock) throws(Complaint) -> Void) throws(Complaint) {
      var meter = BudgetMeter()
      if let kept {
        for block in kept {
          guard meter.goesOn() else { return }
          try body(block)
        }
        return
      }
      var failure: Complaint?
      forEachBlocks { blocks in
        guard failure == nil else { return }
        do throws(Complaint) {
          for block in blocks {
            guard meter.goesOn() else { return }
            try body(block)
          }
        } catch {
          failure = error
        }
      }
      if let failure { throw failure }
    }
    guard let moment, !moment.window.isAll else { return try forEach(body) }
    let now = allocs_event_ticks(moment.stamp)
    var oldest: Int64 = 0
    try forEach { oldest = min(oldest, Self.place(ofTicks: $0.ticks, from: now)) }
    let clock = clock(at: moment.stamp, oldest: oldest)
    guard let orders = moment.window.orders(on: clock) else { return try forEach(body) }
    try forEach { block throws(Complaint) in
      if orders.contains(clock.order(ofTicks: block.ticks)) { try body(block) }
    }
  }

  /// Writes the recording in `format` to a file, which is replaced when the new one is whole; "-"
  /// is standard output. `moment`: then the blocks that lived at it are written, and no events.
  public func export(
    _ format: ExportFormat, at moment: ExportedMoment? = nil, wrappers: Wrappers = .standard, to path: String
  ) throws(Complaint) {
    // A file that is written in place, such as a pipe's, must not be the recording itself.
    guard !isFile(at: path) else {
      throw Complaint(.obstacle, what: "cannot write \(path): it is the recording itself", advice: "name another file")
    }
    let output = try ExportOutput(path: path)
    try render(format, at: moment, wrappers, to: output)
    try output.finish()
  }

  fileprivate func render(
    _ format: ExportFormat, at moment: ExportedMoment?, _ wrappers: Wrappers, to output: any ExportSink
  ) throws(Complaint) {
    var renderer = format.renderer.init(self, at: moment, wrappers: wrappers, to: output)
    try renderer.render()
    // A renderer whose budget is exhausted has written a part only.
    try Budget.current?.check()
  }
}

extension ExportFormat {
  /// Writes the live blocks of a process, as they are now, in this format. Returns what the index
  /// lacks, in the words of every answer; nil where nothing is missing. The blocks of pools are not
  /// told, but the chunks that they lie in: a scope that asks for them is a fault of the caller's.
  public func write(
    liveBlocksOf view: ProcessView, _ scope: HeapScope, to output: any ExportSink
  ) throws(Complaint) -> String? {
    let name = "process \(view.processID)"
    guard scope.level != .block else {
      throw Complaint(
        .usage,
        what: "level block is asked of \(rawValue), which has the chunks of pools, and not the blocks in them",
        advice: "leave it out, or ask for \(ProfileFormat.allCases.map(\.rawValue).joined(separator: ", "))")
    }
    let bytes = try Snapshot.take(view, group: scope.group, wrappers: scope.wrappers).bytes
    let losses = view.knownLosses()
    let share = MemoryShare()
    share.hold(bytes.count)
    let recording = try Recording(snapshot: bytes, path: name)
    var moment: ExportedMoment?
    if !scope.window.isAll {
      let stamp = recording.endStamp
      moment = ExportedMoment(stamp: stamp, window: try recording.placed(scope.window, at: stamp))
    }
    try recording.render(self, at: moment, scope.wrappers, to: output)
    return losses.sentence.map { TextLayout.printable($0) }
  }
}

/// A form in which live memory is written for another program: sums by call stack, or all blocks.
public enum FileFormat: RawRepresentable, CaseIterable, Hashable, Sendable {
  case sums(ProfileFormat)
  case blocks(ExportFormat)

  public static let allCases: [FileFormat] =
    ProfileFormat.allCases.map { .sums($0) } + ExportFormat.allCases.map { .blocks($0) }  // bounded: lists, not numbers

  public init?(rawValue: String) {
    if let format = ProfileFormat(rawValue: rawValue) {
      self = .sums(format)
    } else if let format = ExportFormat(rawValue: rawValue) {
      self = .blocks(format)
    } else {
      return nil
    }
  }

  public var rawValue: String {
    switch self {
    case .sums(let format): format.rawValue
    case .blocks(let format): format.rawValue
    }
  }

  /// The media type of the file, for HTTP.
  public var mediaType: String {
    switch self {
    case .sums(let format): format.mediaType
    case .blocks(let format): format.mediaType
    }
  }
}
