// Who gets events: a recording, a stream to a socket, a queue that another thread empties.

/// Whether a process waits for its subscribers.
public enum DeliveryPolicy: Sendable, Equatable {
  /// The process never waits; what is not read in time is overwritten, and counted.
  case overwrite
  /// The process waits until its events were taken, for at most the time that its control file says; then as above.
  case lossless
}

/// Why a subscriber gets no more events.
public enum DeliveryEnd: Sendable, Equatable {
  /// The process ended; everything that it recorded was delivered, or counted as lost.
  case processEnded
  /// It was removed, or the export stopped.
  case removed
  /// The reader of the pipe, or the peer of the socket, is gone.
  case destinationGone
  /// The destination can't be written to.
  case destinationFailed(ExportError)
  /// The rings can't be read.
  case sourceFailed(ExportError)
}

/// Takes the events of one process, as bytes for a destination or in any other way.
///
/// All calls come from the drain loop's thread, one at a time, and hold up every other subscriber while they last:
/// nothing may be waited for, and nothing symbolized, in them.
public protocol EventSubscriber: AnyObject, Sendable {
  /// Before all others, once.
  func begin(_ output: inout EventOutput)

  /// Takes records of the thread whose ring is number `ring`, in their order; `first` is the sequence number of the
  /// first. Returns how many it took; fewer than all only for want of room. With the policy `overwrite` the rest is
  /// lost and counted; with `lossless` it comes again.
  func take(_ records: Span<EventRecord>, ring: Int, first: UInt64, _ output: inout EventOutput) -> Int

  /// Says that events were lost at this point of the stream. false if there is no room to say it: it comes again, with
  /// what was lost meanwhile added.
  func lost(_ loss: EventLoss, _ output: inout EventOutput) -> Bool

  /// Says that a ring can't be believed any more: what its thread does from here on is not told. Other rings go on.
  func damaged(ring: Int, _ output: inout EventOutput)

  /// After each turn of the loop: the moment to send what was collected. `isIdle`: nothing new was found.
  func turn(isIdle: Bool, _ output: inout EventOutput)

  /// Says that no more events come: false if there is no room for what it still has to write: it comes again.
  func finish(_ end: DeliveryEnd, _ output: inout EventOutput) -> Bool

  /// After all others, once: the destination has taken what it will take, and is closed.
  func ended(_ end: DeliveryEnd)
}

extension EventSubscriber {
  public func begin(_ output: inout EventOutput) {}
  public func damaged(ring: Int, _ output: inout EventOutput) {}
  public func turn(isIdle: Bool, _ output: inout EventOutput) {}
  public func finish(_ end: DeliveryEnd, _ output: inout EventOutput) -> Bool { true }
  public func ended(_ end: DeliveryEnd) {}
}

/// Where a subscriber puts its bytes: they wait in bounded memory until the destination takes them. A subscriber
/// without a destination has no room here.
public struct EventOutput: ~Copyable {
  var ring: ByteRing?
  /// The bytes so far are to be on the device, not only in the system's cache, before anything more is written.
  var wantsSync = false

  /// Bytes that can be appended now.
  public var room: Int {
    switch ring {
    case .some(let ring): ring.room
    case nil: 0
    }
  }

  /// Bytes that wait to be written.
  public var waiting: Int {
    switch ring {
    case .some(let ring): ring.waiting
    case nil: 0
    }
  }

  var capacity: Int {
    switch ring {
    case .some(let ring): ring.capacity
    case nil: 0
    }
  }

  /// See `ByteRing.contiguous`.
  var contiguous: Range<Int> {
    switch ring {
    case .some(let ring): ring.contiguous
    case nil: 0..<0
    }
  }

  var memory: UnsafeMutableRawBufferPointer {
    switch ring {
    case .some(let ring): UnsafeMutableRawBufferPointer(start: ring.start, count: ring.capacity)
    case nil: UnsafeMutableRawBufferPointer(start: nil, count: 0)
    }
  }

  /// Appends all of `bytes`, of which there must not be more than `room`.
  public mutating func append(_ bytes: RawSpan) {
    bytes.withUnsafeBytes { ring?.append($0) }
  }

  public mutating func append(_ bytes: [UInt8]) {
    bytes.withUnsafeBytes { ring?.append($0) }
  }

  /// Has what was appended so far synced to its device (fdatasync), as a part of its last write. For files.
  public mutating func sync() { wantsSync = true }
}
