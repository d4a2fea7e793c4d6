// SPDX-License-Identifier: Apache-2.0
// The binary form of an event stream: records as they lie in the rings, in frames, for tools that decode them
// themselves.
//
//   | magic "ALLOCEVS" | version u32 = 1 | bytes of a record u32 = 32 |         16 bytes, once
//   | kind u32 | ring u32 | a u64 | b u64 | c u64 | payload |                  a frame: 32 bytes, then its payload
//
//   kind         ring       a                    b                    c              payload
//   1 records    number     position of the      number of records    0              the records, struct allocs_event
//                           first in its ring
//   2 loss       2^32 - 1   number of events     first time           last time      none
//   3 damaged    number     0                    0                    0              none: no more of this ring follows
//   4 end        2^32 - 1   why: 1 the process   0                    0              none: the last frame
//                           ended, 2 it was
//                           asked for, 3 failed
//
// All numbers are little-endian; times are nanoseconds of CLOCK_MONOTONIC, in the time namespace of the process. Frames
// of unknown kinds have no payload. A stream that stops without an end was cut.

import Glibc
import IndexReader
import SharedLayout

/// Writes the records of a process to a destination.
public final class RecordStream: EventSubscriber, @unchecked Sendable {
  /// "ALLOCEVS" in the stream's order.
  public static let magic: UInt64 = 0x5356_4543_4F4C_4C41
  /// Bytes of a frame without its payload.
  public static let frameBytes = 32

  private enum Kind: UInt32 {
    case records = 1
    case loss, damaged, end
  }

  private let onEnd: @Sendable (DeliveryEnd) -> Void
  /// Damaged rings that were not told yet, for want of room. Used on the export's thread alone.
  private var untold: [Int] = []

  /// `onEnd` is called on the export's thread.
  public init(onEnd: @escaping @Sendable (DeliveryEnd) -> Void = { _ in }) { self.onEnd = onEnd }

  public func begin(_ output: inout EventOutput) {
    append(Self.magic, UInt64(1) | UInt64(MemoryLayout<EventRecord>.size) << 32, to: &output)
  }

  public func take(_ records: Span<EventRecord>, ring: Int, first: UInt64, _ output: inout EventOutput) -> Int {
    let size = MemoryLayout<EventRecord>.size
    let room = max(0, output.room &- Self.frameBytes)
    let count = min(records.count, room / size)  // bounded: a record has 32 bytes
    // A frame with few records would mostly be its head.
    guard count == records.count || count >= 64 else { return 0 }
    frame(.records, ring: UInt32(truncatingIfNeeded: ring), first, UInt64(truncatingIfNeeded: count), 0, to: &output)
    output.append(records.extracting(first: count).bytes)
    return count
  }

  public func lost(_ loss: EventLoss, _ output: inout EventOutput) -> Bool {
    // Room is left for frames of records, so that a stream with little room has more than frames of losses.
    guard output.room >= min(64 << 10, output.capacity / 4) else { return false }
    frame(.loss, ring: .max, loss.count, loss.from, loss.to, to: &output)
    return true
  }

  public func damaged(ring: Int, _ output: inout EventOutput) {
    untold.append(ring)
    tellDamage(&output)
  }

  public func turn(isIdle: Bool, _ output: inout EventOutput) { tellDamage(&output) }

  private func tellDamage(_ output: inout EventOutput) {
    let count = min(untold.count, output.room / Self.frameBytes)  // bounded: frameBytes is a constant
    for ring in untold.prefix(count) {  // bounded: the count is at most the array's
      frame(.damaged, ring: UInt32(truncatingIfNeeded: ring), 0, 0, 0, to: &output)
    }
    untold.removeFirst(count)  // bounded: the count is at most the array's
  }

  public func finish(_ end: DeliveryEnd, _ output: inout EventOutput) -> Bool {
    tellDamage(&output)
    guard untold.isEmpty, output.room >= Self.frameBytes else { return false }
    let reason: UInt64 =
      switch end {
      case .processEnded: 1
      case .removed, .destinationGone: 2
      case .destinationFailed, .sourceFailed: 3
      }
    frame(.end, ring: .max, reason, 0, 0, to: &output)
    return true
  }

  public func ended(_ end: DeliveryEnd) { onEnd(end) }

  private func frame(
    _ kind: Kind, ring: UInt32, _ a: UInt64, _ b: UInt64, _ c: UInt64, to output: inout EventOutput
  ) {
    append(UInt64(kind.rawValue) | UInt64(truncatingIfNeeded: ring) << 32, a, to: &output)
    append(b, c, to: &output)
  }

  private func append(_ first: UInt64, _ second: UInt64, to output: inout EventOutput) {
    var words = (first.littleEndian, second.littleEndian)
    withUnsafeBytes(of: &words) { output.append($0.bytes) }
  }
}
