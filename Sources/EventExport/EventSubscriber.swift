// SPDX-License-Identifier: Apache-2.0
// Subscribers of the export: a stream of records to a file or socket, a queue that another thread empties.

import SystemAccess

/// Whether a process waits for its subscribers.
public enum DeliveryPolicy: Sendable, Equatable {
  /// The process never waits. Records that are not read in time are overwritten, and counted as lost.
  case overwrite
  /// The process waits until its records were taken, for at most the time that its control file says. Then it
  /// overwrites them, and they are counted as lost.
  case lossless
}

/// Why a subscriber gets no more events.
public enum DeliveryEnd: Sendable, Equatable {
  /// The process ended; everything that it recorded was delivered, or counted as lost.
  case processEnded
  /// The subscriber was removed, or the export stopped.
  case removed
  /// The reader of the pipe, or the peer of the socket, is gone.
  case destinationGone
  /// The destination can't be written to.
  case destinationFailed(Complaint)
  /// The rings can't be read.
  case sourceFailed(Complaint)
}

/// Takes the events of one process, as bytes for a destination or in any other way.
///
/// All calls come from the drain loop's thread, one at a time, and hold up every other subscriber while they last: a
/// subscriber must neither wait nor look up names in them.
public protocol EventSubscriber: AnyObject, Sendable {
  /// Is called once, before all other calls.
  func begin(_ output: inout EventOutput)

  /// Takes records of the ring with number `ring`, in their order; `first` is the position of the first one in its
  /// ring. Returns how many it took; fewer than all only for want of room. With the policy `overwrite` the other
  /// records are lost, and counted; with `lossless` they come again.
  func take(_ records: Span<EventRecord>, ring: Int, first: UInt64, _ output: inout EventOutput) -> Int

  /// Says that events were lost at this point of the stream. Returns false if there is no room to say so: then the call
  /// comes again, and further losses are added.
  func lost(_ loss: EventLoss, _ output: inout EventOutput) -> Bool

  /// Says that a ring can't be believed any more: no events of its thread come from here on. Other rings go on.
  func damaged(ring: Int, _ output: inout EventOutput)

  /// Is called after each turn of the loop: the moment to put out what was collected. `isIdle` says that no records
  /// were found in any ring.
  func turn(isIdle: Bool, _ output: inout EventOutput)

  /// Says that no more events come. Returns false if there is no room for the last bytes: then the call comes again.
  func finish(_ end: DeliveryEnd, _ output: inout EventOutput) -> Bool

  /// Is called once, after all other calls: the destination has taken all the bytes that it will take, and is closed.
  func ended(_ end: DeliveryEnd)
}

extension EventSubscriber {
  public func begin(_ output: inout EventOutput) {}
  public func damaged(ring: Int, _ output: inout EventOutput) {}
  public func turn(isIdle: Bool, _ output: inout EventOutput) {}
  public func finish(_ end: DeliveryEnd, _ output: inout EventOutput) -> Bool { true }
  public func ended(_ end: DeliveryEnd) {}
}

/// The place for a subscriber's bytes: they wait in bounded memory until the destination takes them. A subscriber
/// without a destination has no room here.
public struct EventOutput: ~Copyable {
  var ring: ByteRing?
  /// The bytes so far are to be on the device, not only in the system's cache, before more bytes are written.
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

  /// Appends all of `bytes`, of which there must not be more than `room`.
  public mutating func append(_ bytes: [UInt8]) {
    bytes.withUnsafeBytes { ring?.append($0) }
  }

  /// Has the bytes that were appended so far synced to their device (fdatasync), as a part of their last write. For
  /// files.
  public mutating func sync() { wantsSync = true }
}
