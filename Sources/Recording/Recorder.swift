// Records one process's events into a file: attaches to its rings, drains them, writes chunks.
//
// - The process's events are on from the creation of a recorder to its end. With the lossless policy the rings' threads
//   wait for it; else what it is too late for is counted as lost.
// - The file is appended to only; a recorder that is killed leaves every chunk that it wrote.

import ByteText
import Glibc
import IndexReader
import SharedLayout
import Symbols

/// Makes a recording. Used by one thread; `stop` may be asked for by anyone through the closure given to `run`.
public final class Recorder {
  public struct Options: Sendable {
    public var isLossless = true
    /// Milliseconds that a thread of the process waits at most; 0: what it was told at its start.
    public var waitMilliseconds: UInt64 = 0
    public var isCompressed = false
    /// Reads the rings from their first record on.
    public var isFromStart = false
    /// Whether names of functions are put at the end.
    public var names = true
    public init() {}
  }

  /// How it went.
  public struct Result: Hashable, Sendable {
    public var events: UInt64
    public var lost: UInt64
    public var bytes: UInt64
    public var seconds: Double
    public var end: RecordingEnd
  }

  private let shared: SharedSegment
  private let options: Options
  private let writer: RecordingWriter
  private var consumer: EventConsumer?
  private var cursors: [RingCursor] = []
  private var unrecorded: UInt64 = 0
  private var lastLook: UInt64 = 0
  private let buffer: UnsafeMutableBufferPointer<allocs_event>
  private let descriptor: Int32
  private let path: String
  private var bytes: UInt64 = 0
  private var lastBeat: UInt64 = 0

  /// Opens the file and turns events on. Replaces a file that was there.
  public init(_ shared: SharedSegment, to path: String, options: Options) throws(RecordingError) {
    self.shared = shared
    self.options = options
    self.path = path
    guard shared.segment.ringCapacity > 0 else {
      throw RecordingError(
        "process \(shared.segment.processID) has no event rings: there was no room for them when it started",
        advice: "start it with more address space (ulimit -v)")
    }
    descriptor = open(path.originalPath, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else {
      throw RecordingError("cannot write a recording to \(path): \(Self.words(errno))", advice: "name another file")
    }
    buffer = .allocate(capacity: 1 << 14)
    buffer.initialize(repeating: allocs_event())
    writer = RecordingWriter(shared, isCompressed: options.isCompressed, isFromStart: options.isFromStart)
    lastLook = writer.stampNow
    if !options.isFromStart { unrecorded = shared.segment.unrecordedEvents }
    try attach()
    if options.isFromStart {
      cursors = cursors.map { RingCursor(ring: $0.ring) }
      consumer?.takeOver(shared.segment)
    }
    let unindexed = shared.segment.lostBlocks
    if !options.isFromStart, unindexed > 0 {
      // They may live, and are not in the state.
      writer.lose(RecordedLoss(reason: .unrecorded, ring: .max, count: unindexed, from: lastLook, to: lastLook))
    }
    // Also then: what the rings have lost already is not missing in the state.
    writer.appendBlocks()
  }

  deinit {
    close(descriptor)
    buffer.deallocate()
  }

  private static func words(_ code: Int32) -> String { String(cString: strerror(code)) }

  private func attach() throws(RecordingError) {
    // The last events of a dead process are there to be read; there is nobody to be told anything.
    guard shared.segment.isProcessAlive else { return }
    var fresh: [RingCursor] = []
    do throws(SegmentError) {
      consumer = try EventConsumer(
        to: shared.segment,
        policy: options.isLossless
          ? .lossless(waitNanoseconds: options.waitMilliseconds * 1_000_000) : .overwrite,
        cursors: &fresh)
    } catch {
      guard shared.segment.isProcessAlive else { return }
      throw RecordingError(
        "cannot record process \(shared.segment.processID): \(error.description)",
        advice: "check that it runs, and that its control file can be written")
    }
    cursors += fresh.dropFirst(cursors.count)
  }

  /// Whether the index of another program is where this one was: one that is gone was removed by somebody.
  private var isReplaced: Bool { !shared.segment.isAtItsPath && access(shared.segment.path.originalPath, F_OK) == 0 }

  // MARK: draining

  /// Drains until the process ends, or becomes another program, or `shouldStop` says so, which is asked every few
  /// milliseconds.
  public func run(until shouldStop: () -> RecordingEnd?) throws(RecordingError) -> Result {
    let began = RecordingWriter.now(CLOCK_MONOTONIC)
    var lastChunk = began
    var pause: UInt32 = 50
    var reason: RecordingEnd?
    var count = 0
    while true {
      // In this order: what was written before the end is there after it was seen. A process whose events come has not
      // ended.
      let isAlive = count > 0 || shared.segment.isProcessAlive
      count = try drain()
      let now = RecordingWriter.now(CLOCK_MONOTONIC)
      // What was recorded is in the file within a second.
      if now - lastChunk > 1_000_000_000 {
        writer.appendEvents()
        lastChunk = now
      }
      try write()
      if shared.segment.isBroken { reason = .sourceFailed }
      // The first also when it has ended: then the other program has, and its own index is at the path.
      if reason == nil, count == 0 || !isAlive, isReplaced { reason = .replaced }
      if reason == nil, !isAlive { reason = .processEnded }
      if reason == nil { reason = shouldStop() }
      if let reason, count == 0 || ![.processEnded, .replaced].contains(reason) { break }
      if count == 0 {
        // An idle process costs a hundred looks a second.
        usleep(pause)
        pause = min(pause * 2, 10_000)
      } else {
        pause = 50
      }
    }
    // Events go off first; then what the rings still hold is the rest.
    consumer = nil
    for _ in 0..<64 { if try drain() == 0 { break } }
    writer.finish(reason!, symbolizer: options.names ? Symbolizer() : nil)
    try write()
    let seconds = Double(RecordingWriter.now(CLOCK_MONOTONIC) - began) / 1e9
    return Result(events: writer.events, lost: writer.lost, bytes: bytes, seconds: seconds, end: reason!)
  }

  /// Reads every ring once; returns how many records there were.
  private func drain() throws(RecordingError) -> Int {
    let now = writer.stampNow
    if now &- lastBeat > ALLOCS_LEASE_NANOSECONDS / 5 {
      lastBeat = now
      try renew()
    }
    while cursors.count < shared.segment.ringCount { cursors.append(RingCursor(ring: cursors.count)) }
    var count = 0
    for ring in cursors.indices where !cursors[ring].isDamaged {
      let before = cursors[ring].lastStamp
      // A ring is read until it is empty, but not for longer than it can be filled once: others wait.
      var limit = shared.segment.ringCapacity
      while limit > 0 {
        let batch = shared.segment.read(&cursors[ring], into: buffer)
        let records = UnsafeBufferPointer(rebasing: buffer[batch.records])
        if batch.lost > 0 {
          writer.lose(
            RecordedLoss(
              reason: .overwritten, ring: UInt32(ring), count: batch.lost, from: before,
              to: records.first?.stamp ?? now))
        }
        // The records were copied: the thread may go on while they are encoded.
        if options.isLossless { consumer?.setPosition(cursors[ring].position, ofRing: ring, in: shared.segment) }
        guard !records.isEmpty else { break }
        writer.append(records, ring: ring, first: batch.position)
        count += records.count
        limit -= records.count
        if writer.output.count > 1 << 20 { try write() }
      }
    }
    let missing = shared.segment.unrecordedEvents
    if missing > unrecorded {
      writer.lose(
        RecordedLoss(reason: .unrecorded, ring: .max, count: missing - unrecorded, from: lastLook, to: now))
      unrecorded = missing
    }
    lastLook = now
    return count
  }

  /// Stays attached; attaches again where the process took this recorder for dead.
  private func renew() throws(RecordingError) {
    guard consumer?.keepAlive() == false else { return }
    consumer = nil
    try attach()
  }

  private func write() throws(RecordingError) {
    let output = writer.takeOutput()
    var written = 0
    while written < output.count {
      let result = output.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress! + written, $0.count - written) }
      if result < 0 {
        if errno == EINTR { continue }
        throw RecordingError(
          "cannot write the recording to \(path): \(Self.words(errno)); what was written before can be read",
          advice: "make room there, or name another file")
      }
      written += result
    }
    bytes += UInt64(output.count)
  }
}
