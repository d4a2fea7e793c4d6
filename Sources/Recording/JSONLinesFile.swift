// SPDX-License-Identifier: Apache-2.0
// A recording as lines of JSON, one object each: the recording, the blocks of its start, the
// events, and each context before the first line that refers to it. docs/json.md lists the fields.

import Answers
import IndexReader
import Provenance
import SystemAccess

/// Writes the lines.
struct JSONLinesFile: ExportRenderer {
  private let recording: Recording
  private let moment: ExportedMoment?
  private let output: any ExportSink
  private let naming: StackNaming
  /// The contexts whose lines were written; context 0 is nobody, and has none.
  private var told: Set<UInt32> = [0]

  /// So many bytes are collected before they are written.
  private static let bufferBytes = 1 << 20

  init(_ recording: Recording, at moment: ExportedMoment?, wrappers: Wrappers, to output: any ExportSink) {
    self.recording = recording
    self.moment = moment
    self.output = output
    naming = StackNaming(recording, wrappers: wrappers)
  }

  mutating func render() throws(Complaint) {
    var writer = ByteWriter(capacity: Self.bufferBytes)
    appendHead(to: &writer)
    try recording.forEachFirstBlock(at: moment) { block throws(Complaint) in
      append(block, to: &writer)
      if writer.count > Self.bufferBytes { try output.write(writer.take()) }
    }
    if moment == nil {
      try recording.forEachEvent { event throws(Complaint) in
        append(event, to: &writer)
        if writer.count > Self.bufferBytes { try output.write(writer.take()) }
        return true
      }
    }
    try output.write(writer.take())
  }

  private func appendHead(to writer: inout ByteWriter) {
    writer.append("{\"recording\":{\"pid\":")
    writer.append(decimal: UInt64(truncatingIfNeeded: max(0, recording.process.processID)))
    writer.append(",\"start_time\":")
    writer.append(decimal: recording.process.startTime)
    writer.append(",\"command\":")
    writer.appendArray(recording.process.command)
    writer.append(",\"events\":")
    writer.append(decimal: moment == nil ? recording.eventCount : 0)
    writer.append(",\"lost\":")
    writer.append(decimal: recording.lostCount)
    if let moment {
      writer.append(",\"moment_ns\":")
      writer.append(decimal: moment.stamp)
    }
    writer.append("}}\n")
  }

  private mutating func append(_ block: ReplayedBlock, to writer: inout ByteWriter) {
    append(context: block.context, at: block.ticks, to: &writer)
    writer.append("{\"block\":")
    writer.append(quoted: block.base)
    writer.append(",\"size\":")
    writer.append(decimal: block.size)
    writer.append(",\"context\":")
    writer.append(decimal: UInt64(truncatingIfNeeded: block.context))
    writer.append("}\n")
  }

  private mutating func append(_ event: Event, to writer: inout ByteWriter) {
    // The event of a module has the module's index in place of a context.
    if event.kind != .moduleLoad, event.kind != .moduleUnload {
      append(context: event.context, at: event.ticks, to: &writer)
      append(context: event.origin, at: event.ticks, to: &writer)
    }
    writer.append("{\"event\":")
    writer.appendJSONString(event.kind?.name ?? "unknown")
    writer.append(",\"time_ns\":")
    writer.append(decimal: event.stamp)
    writer.append(",\"base\":")
    writer.append(quoted: event.address)
    writer.append(",\"size\":")
    writer.append(decimal: event.size)
    if let thread = recording.thread(slot: event.slot, at: event.ticks) {
      writer.append(",\"thread\":")
      writer.append(decimal: UInt64(truncatingIfNeeded: thread.id))
    }
    if event.context != 0 {
      writer.append(",\"context\":")
      writer.append(decimal: UInt64(truncatingIfNeeded: event.context))
    }
    if event.origin != 0 {
      writer.append(",\"origin\":")
      writer.append(decimal: UInt64(truncatingIfNeeded: event.origin))
    }
    writer.append("}\n")
  }

  /// The line that says what the number of a context means in the lines after it; nothing if it was
  /// written before.
  private mutating func append(context id: UInt32, at ticks: UInt32, to writer: inout ByteWriter) {
    guard told.insert(id).inserted else { return }
    let origin = recording.context(id)
    writer.append("{\"context\":")
    writer.append(decimal: UInt64(truncatingIfNeeded: id))
    if let function = origin?.function {
      writer.append(",\"function\":")
      writer.appendJSONString(function)
    }
    if let allocator = origin?.allocator {
      writer.append(",\"allocator\":")
      writer.appendJSONString(allocator)
    }
    writer.append(stack: naming.stack(of: origin, at: ticks))
    writer.append("}\n")
  }
}

extension StackNaming {
  /// The call stack of an origin, in a record with `ticks`; one without frames if it is not known.
  func stack(of origin: Origin?, at ticks: UInt32) -> NamedStack {
    stack(ofNode: origin?.node ?? 0, at: ticks)
      ?? NamedStack(frames: [], interrupted: [], siteIndex: nil, truncation: nil, framesCut: nil)
  }
}
