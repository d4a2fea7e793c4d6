// SPDX-License-Identifier: Apache-2.0
// Records one process's events into a file: reads its rings (RingSource) and writes chunks.
//
// - The process's events are on from the creation of a recorder to its end. With the lossless
//   policy the threads of the process wait for the recorder; else events for which the recorder
//   comes too late are counted as lost.
// - The file is at its name as soon as its first chunks are written, and is only appended to. A
//   recorder that is killed leaves every chunk that it has written; a recorder that can't begin
//   leaves a file that was there as it was.

import Bounds
import ByteText
import EventExport
import Glibc
import IndexReader
import Symbols
import SystemAccess

/// Makes a recording. Used by one thread; other threads stop it through the closure that is given
/// to `run`.
public final class Recorder {
  /// How a recording is made.
  public struct Options: Sendable {
    /// Whether threads of the process wait where the recorder is too slow.
    public var isLossless = true
    /// Milliseconds that a thread of the process waits at most; 0: as long as the process was told
    /// at its start.
    public var waitMilliseconds: UInt64 = 0
    /// Whether chunks are compressed, with zstd.
    public var isCompressed = false
    /// Whether the rings are read from their first records on, also of a process that has ended.
    public var isFromStart = false
    /// Whether names of functions are put at the end.
    public var names = true
    public init() {}
  }

  /// How it went.
  public struct Result: Hashable, Sendable {
    /// Events that are in the file.
    public var events: UInt64
    /// Events that are missing.
    public var lost: UInt64
    /// Rings whose headers contradicted themselves: what their threads did is not recorded to the
    /// end.
    public var damagedRings: Int
    /// Bytes of the file.
    public var bytes: UInt64
    public var seconds: Double
    /// Why it ended.
    public var end: RecordingEnd
  }

  private let shared: SharedSegment
  private let writesNames: Bool
  private let source: RingSource
  private let writer: RecordingWriter
  private var file: OutputFile
  private var isPublished = false
  private let path: String
  private var bytes: UInt64 = 0
  /// Why the file could not be written while records were received.
  private var failure: Complaint?

  /// So many bytes are collected before they are written.
  private static let bufferBytes = 1 << 20

  /// Opens the file, which replaces one that was there, and turns events on. Throws if the file
  /// cannot be written, or the process's rings cannot be read.
  public init(_ shared: SharedSegment, to path: String, options: Options) throws(Complaint) {
    self.shared = shared
    self.path = path
    writesNames = options.names
    guard shared.segment.ringCapacity > 0 else {
      throw Complaint(
        .obstacle,
        what: "process \(shared.segment.processID) has no event rings: there was no room for them when it started",
        advice: "start it with more address space (ulimit -v)")
    }
    do throws(OutputFile.Failure) {
      file = try OutputFile(path: path)
    } catch {
      throw Complaint(
        .obstacle, what: "cannot write a recording to \(path): \(error.words)", advice: "name another file")
    }
    writer = RecordingWriter(shared, isCompressed: options.isCompressed, isFromStart: options.isFromStart)
    let began = writer.stampNow
    do throws(Complaint) {
      source = try RingSource(
        shared, policy: options.isLossless ? .lossless : .overwrite,
        waitNanoseconds: (Foreign(options.waitMilliseconds) * 1_000_000).saturated(),
        from: options.isFromStart ? .programStart : .now)
    } catch {
      throw Self.cannotRecord(shared, error)
    }
    let unindexed = shared.segment.lostBlocks
    if !options.isFromStart, unindexed > 0 {
      // These blocks may live, and the state at the start lacks them.
      writer.lose(RecordedLoss(reason: .unrecorded, ring: .max, count: unindexed, from: began, to: began))
    }
    // Also of a recording from the start: the state has the blocks whose events the rings have
    // lost.
    writer.appendBlocks()
  }

  private static func cannotRecord(_ shared: SharedSegment, _ error: Complaint) -> Complaint {
    Complaint(
      .obstacle, what: "cannot record process \(shared.segment.processID): \(error.description)",
      advice: "check that it runs, and that its control file can be written")
  }

  /// Whether the index of another program is where this one was. An index that is gone was removed
  /// by somebody.
  private var isReplaced: Bool {
    shared.segment.isReplaced
  }

  // MARK: draining

  /// Drains until the process ends, or becomes another program, or its index is cut short, or
  /// `shouldStop` gives a reason to end. `shouldStop` is asked every few milliseconds.
  public func run(until shouldStop: () -> RecordingEnd?) throws(Complaint) -> Result {
    let began = nanoseconds(of: CLOCK_MONOTONIC)
    var lastChunk = began
    var pause: UInt32 = 50
    var reason: RecordingEnd?
    var count = 0
    while true {
      // The process is looked at before the rings: if it has ended, the rings have all its events.
      // A process whose events come has not ended.
      let isAlive = count > 0 || shared.segment.isProcessAlive
      count = try drain()
      let now = nanoseconds(of: CLOCK_MONOTONIC)
      // An event is in the file within a second.
      if now &- lastChunk > 1_000_000_000 {
        writer.appendEvents()
        lastChunk = now
      }
      try write()
      if shared.segment.isBroken { reason = .sourceFailed }
      // The check for another index is made also if the process has ended: exec puts a new index in
      // the place of this one, and the new program may have ended by now.
      if reason == nil, count == 0 || !isAlive, isReplaced { reason = .replaced }
      if reason == nil, !isAlive { reason = .processEnded }
      if reason == nil { reason = shouldStop() }
      if let reason, count == 0 || ![.processEnded, .replaced].contains(reason) { break }
      if count == 0 {
        // An idle process costs a hundred looks a second.
        usleep(pause)
        pause = min(pause &* 2, 10_000)
      } else {
        pause = 50
      }
    }
    // Events go off first; the records that the rings still hold then are the rest.
    source.detach()
    for _ in 0..<64 { if try drain() == 0 { break } }
    let end = shared.segment.isBroken ? .sourceFailed : reason ?? .stopped
    writer.finish(end, symbolizer: writesNames ? Symbolizer() : nil)
    try write()
    let seconds = Double(nanoseconds(of: CLOCK_MONOTONIC) &- began) / 1e9
    return Result(
      events: writer.events, lost: writer.lost, damagedRings: writer.damagedRings, bytes: bytes, seconds: seconds,
      end: end)
  }

  /// Reads every ring until it is empty, but not for longer than it can be filled once: other rings
  /// wait. Returns how many events there were; 0 if the index was cut short.
  private func drain() throws(Complaint) -> Int {
    var receiver = Receiver(recorder: self)
    var count = 0
    do throws(Complaint) {
      let now = nanoseconds(of: CLOCK_MONOTONIC)
      writer.beginRead()
      count = try source.read(limit: shared.segment.ringCapacity, now: now, into: &receiver).records
      writer.endRead()
    } catch {
      guard shared.segment.isBroken else { throw Self.cannotRecord(shared, error) }
    }
    if let failure { throw failure }
    return count
  }

  /// Hands the records and losses of the rings to the writer.
  private struct Receiver: EventReceiver {
    let recorder: Recorder

    var takesAll: Bool { true }

    mutating func receive(_ records: Span<EventRecord>, ring: Int, first: UInt64) -> Int {
      records.withUnsafeBufferPointer { recorder.writer.append($0, ring: ring, first: first) }
      recorder.writeIfMuch()
      return records.count
    }

    mutating func lost(_ loss: EventLoss, ring: Int?) {
      recorder.writer.lose(
        RecordedLoss(
          reason: ring == nil ? .unrecorded : .overwritten, ring: ring.map { UInt32(clamping: $0) } ?? .max,
          count: loss.count,
          from: loss.from, to: loss.to))
    }

    mutating func damaged(ring: Int) { recorder.writer.noteDamage(ofRing: ring) }
  }

  // MARK: writing

  private func writeIfMuch() {
    guard writer.output.count > Self.bufferBytes, failure == nil else { return }
    do throws(Complaint) { try write() } catch { failure = error }
  }

  private func write() throws(Complaint) {
    let output = writer.takeOutput()
    do throws(OutputFile.Failure) {
      try file.write(output)
      if !isPublished { try file.publish(isWhole: false) }
      isPublished = true
    } catch {
      throw Complaint(
        .obstacle, what: "cannot write the recording to \(path): \(error.words); what was written before can be read",
        advice: "make room there, or name another file")
    }
    bytes &+= UInt64(truncatingIfNeeded: output.count)
  }
}
