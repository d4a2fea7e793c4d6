// The rings of one process's segment as a source: a place in each ring, and the entry in the control file that keeps
// events on.

import Glibc
import IndexReader
import SharedLayout

/// Reads the event rings of a process. Its creation turns the process's events on, its release turns them off again,
/// unless others want them. Used by one thread.
public final class RingSource: EventSource {
  private let shared: SharedSegment
  private let policy: EventConsumer.Policy
  private var entry: EventConsumer?
  private var cursors: [RingCursor] = []
  /// Of the last record of each ring, or when reading it began: what is lost was later.
  private var stamps: [UInt64] = []
  private let buffer: UnsafeMutableBufferPointer<allocs_event>
  /// Stamps count in the process's time namespace: this is what is added to the reader's clock.
  private let shift: UInt64
  private let began: UInt64
  /// What the process did not record, and when that was looked at.
  private var unrecorded: UInt64
  private var lastLook: UInt64
  private var nextBeat: UInt64 = 0
  /// Rings whose header lied.
  private var damaged: Set<Int> = []

  private static let beatInterval = ALLOCS_LEASE_NANOSECONDS / 5
  private static let bufferRecords = 8192

  /// Attaches to the process of `segment`, from the events of now on.
  public init(_ segment: SharedSegment, policy: DeliveryPolicy) throws(ExportError) {
    shared = segment
    self.policy = policy == .lossless ? .lossless(waitNanoseconds: 0) : .overwrite
    shift = UInt64(bitPattern: segment.segment.monotonicShift)
    began = DrainLoop.now() &+ shift
    (unrecorded, lastLook) = (segment.segment.unrecordedEvents, began)
    guard segment.segment.isProcessAlive else {
      throw ExportError(
        code: ESRCH,
        "process \(segment.segment.processID) has ended — "
          + "its last events are still there: `allocsctl history` shows those of an address")
    }
    guard segment.segment.ringCapacity > 0 else {
      throw ExportError(
        "process \(segment.segment.processID) has no event rings: there was no room for them when it started — "
          + "start it with more address space (ulimit -v)")
    }
    buffer = .allocate(capacity: Self.bufferRecords)
    buffer.initialize(repeating: allocs_event())
    try attach()
  }

  deinit { buffer.deallocate() }

  private func attach() throws(ExportError) {
    var fresh: [RingCursor] = []
    do throws(SegmentError) {
      entry = try EventConsumer(to: shared.segment, policy: policy, cursors: &fresh)
    } catch {
      throw ExportError(error)
    }
    // Where this is not the first time, reading goes on where it was: what came meanwhile is there, or is counted.
    for cursor in fresh.dropFirst(cursors.count) {
      cursors.append(cursor)
      stamps.append(began)
    }
  }

  public var processID: Int32 { shared.segment.processID }

  public var isLive: Bool {
    shared.segment.isInUse
  }

  public func read(
    limit: Int, now: UInt64, into receiver: inout some EventReceiver
  ) throws(ExportError) -> SourceStatus {
    if now >= nextBeat {
      try renew()
      nextBeat = now + Self.beatInterval
    }
    let now = now &+ shift
    guard !shared.segment.isBroken else {
      throw ExportError(
        "cannot read the events of process \(processID): its segment was cut short — run the process again")
    }
    while cursors.count < shared.segment.ringCount {
      cursors.append(RingCursor(ring: cursors.count))
      stamps.append(began)
    }
    var status = SourceStatus()
    for ring in cursors.indices {
      let written = shared.segment.written(toRing: ring)
      guard written != cursors[ring].position, !damaged.contains(ring) else { continue }
      // More than was ever announced: to read on would take for ever, and give what was not written.
      guard written <= shared.segment.oldestPosition(inRing: ring) &+ UInt64(shared.segment.ringCapacity) else {
        damaged.insert(ring)
        receiver.damaged(ring: ring)
        continue
      }
      let (count, waiting) = read(ring, limit: limit, now: now, into: &receiver)
      status.records += count
      status.waiting += waiting
      status.fullest = max(status.fullest, Double(count) / Double(shared.segment.ringCapacity))
    }
    let missing = shared.segment.unrecordedEvents
    if missing > unrecorded {
      receiver.lost(EventLoss(count: missing - unrecorded, from: lastLook, to: now), ring: nil)
      unrecorded = missing
    }
    lastLook = now
    return status
  }

  /// Reads one ring; returns how many records were new, lost ones included, and how many were not taken.
  private func read(
    _ ring: Int, limit: Int, now: UInt64, into receiver: inout some EventReceiver
  ) -> (done: Int, waiting: Int) {
    let before = stamps[ring]
    let part = UnsafeMutableBufferPointer(rebasing: buffer[..<max(1, min(limit, buffer.count))])
    let batch = shared.segment.read(&cursors[ring], into: part)
    let records = UnsafeBufferPointer(rebasing: buffer[batch.records])
    if let last = records.last { stamps[ring] = last.stamp }
    if batch.lost > 0 {
      receiver.lost(
        EventLoss(count: batch.lost, from: before, to: max(before, records.first?.stamp ?? now)), ring: ring)
    }
    if cursors[ring].isDamaged {
      damaged.insert(ring)
      receiver.damaged(ring: ring)
      return (0, 0)
    }
    guard !records.isEmpty else { return (Int(clamping: batch.lost), 0) }
    let done = receiver.receive(records.span, ring: ring, first: batch.position)
    if done < records.count {
      cursors[ring] = RingCursor(ring: ring, position: batch.position + UInt64(done))
      stamps[ring] = done == 0 ? before : records[done - 1].stamp
    }
    if case .lossless = policy, done > 0 || batch.lost > 0 {
      entry?.setPosition(cursors[ring].position, ofRing: ring, in: shared.segment)
    }
    return (Int(clamping: UInt64(done) &+ batch.lost), records.count - done)
  }

  /// Keeps the entry in the control file, or takes another where the process took this reader for dead.
  private func renew() throws(ExportError) {
    switch entry {
    case .some(let held): if held.keepAlive() { return }
    case nil: break
    }
    entry = nil
    try attach()
    guard case .lossless = policy else { return }
    for cursor in cursors { entry?.setPosition(cursor.position, ofRing: cursor.ring, in: shared.segment) }
  }
}

extension ExportError {
  init(_ error: SegmentError) {
    let code: Int32 =
      switch error {
      case .noSuchFile: ENOENT
      case .notPermitted: EACCES
      case .occupied: EBUSY
      case .system: EAGAIN
      default: 0
      }
    self.init(code: code, error.description)
  }
}
