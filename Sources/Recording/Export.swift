// A recording in other programs' formats.

import Answers
import ByteText
import Glibc
import IndexReader

/// What `allocsctl export` can write.
public enum ExportFormat: String, CaseIterable, Sendable {
  /// One JSON object a line (docs/json.md).
  case jsonl
  /// heaptrack's own.
  case heaptrack
  /// A trace of Perfetto with heap profiles.
  case perfetto
}

extension Recording {
  /// Writes it all to a file, which is replaced; "-" is standard output.
  public func export(_ format: ExportFormat, to path: String) throws(RecordingError) {
    // Chunks of events are read as they are exported: the file must stay as it is.
    guard !isFile(at: path) else {
      throw RecordingError("cannot write \(path): it is the recording itself", advice: "name another file")
    }
    let descriptor =
      path == "-"
      ? fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0)
      : open(path.originalPath, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    func failed(_ code: Int32) -> RecordingError {
      RecordingError(
        "cannot write \(path == "-" ? "to standard output" : path): \(String(cString: strerror(code)))",
        advice: path == "-" ? "check where it is redirected to" : "name another file")
    }
    guard descriptor >= 0 else { throw failed(errno) }
    defer { close(descriptor) }
    func flush(_ bytes: [UInt8]) throws(RecordingError) {
      var written = 0
      while written < bytes.count {
        let result = bytes.withUnsafeBytes { write(descriptor, $0.baseAddress! + written, $0.count - written) }
        if result < 0, errno == EINTR { continue }
        guard result >= 0 else { throw failed(errno) }
        written += result
      }
    }
    switch format {
    case .jsonl: try exportLines(flush)
    case .heaptrack:
      // The file keeps the closure no longer than this call.
      try withoutActuallyEscaping(flush) { flush throws(RecordingError) in
        var file = HeaptrackFile(self, flush: flush)
        try file.write()
      }
    case .perfetto:
      try withoutActuallyEscaping(flush) { flush throws(RecordingError) in
        var file = PerfettoFile(self, flush: flush)
        try file.write()
      }
    }
  }

  private func exportLines(_ flush: ([UInt8]) throws(RecordingError) -> Void) throws(RecordingError) {
    var writer = ByteWriter(capacity: 1 << 20)
    writer.append("{\"recording\":{\"pid\":")
    writer.append(decimal: UInt64(max(0, process.processID)))
    writer.append(",\"start_time\":")
    writer.append(decimal: process.startTime)
    writer.append(",\"command\":")
    writer.append("[")
    for (index, part) in process.command.enumerated() {
      if index > 0 { writer.append(",") }
      writer.appendJSONString(part)
    }
    writer.append("],\"events\":")
    writer.append(decimal: eventCount)
    writer.append(",\"lost\":")
    writer.append(decimal: lostCount)
    writer.append("}}\n")
    let names = SiteNames(self)
    var told: Set<UInt32> = []
    for block in Replay(self).blocks.values.sorted(by: { $0.base < $1.base }) {
      if told.insert(block.context).inserted { append(context: block.context, at: block.ticks, names, to: &writer) }
      writer.append("{\"block\":")
      writer.append(quoted: block.base)
      writer.append(",\"size\":")
      writer.append(decimal: block.size)
      writer.append(",\"context\":")
      writer.append(decimal: UInt64(block.context))
      writer.append("}\n")
      if writer.count > 1 << 20 { try flush(writer.take()) }
    }
    var failure: RecordingError?
    forEachEvent { event in
      for context in [event.context, event.origin]
      where context != 0 && event.kind != .moduleLoad && event.kind != .moduleUnload && told.insert(context).inserted {
        append(context: context, at: event.ticks, names, to: &writer)
      }
      writer.append("{\"event\":")
      writer.appendJSONString(event.kind?.name ?? "unknown")
      writer.append(",\"time_ns\":")
      writer.append(decimal: event.stamp)
      writer.append(",\"base\":")
      writer.append(quoted: event.address)
      writer.append(",\"size\":")
      writer.append(decimal: event.size)
      if let thread = thread(slot: event.slot, at: event.ticks) {
        writer.append(",\"thread\":")
        writer.append(decimal: UInt64(thread.id))
      }
      if event.context != 0 {
        writer.append(",\"context\":")
        writer.append(decimal: UInt64(event.context))
      }
      if event.origin != 0 {
        writer.append(",\"origin\":")
        writer.append(decimal: UInt64(event.origin))
      }
      writer.append("}\n")
      if writer.count > 1 << 20 {
        do throws(RecordingError) { try flush(writer.take()) } catch { failure = error }
      }
      return failure == nil
    }
    if let failure { throw failure }
    try flush(writer.take())
  }

  /// The line that tells what the lines after it mean by a context's number.
  private func append(context id: UInt32, at ticks: UInt32, _ names: SiteNames, to writer: inout ByteWriter) {
    guard id != 0 else { return }
    writer.append("{\"context\":")
    writer.append(decimal: UInt64(id))
    if let function = context(id)?.function {
      writer.append(",\"function\":")
      writer.appendJSONString(function)
    }
    if let allocator = context(id)?.allocator {
      writer.append(",\"allocator\":")
      writer.appendJSONString(Answer.fileName(of: allocator))
    }
    writer.append(stack: names.stack(of: id, at: ticks))
    writer.append("}\n")
  }
}
