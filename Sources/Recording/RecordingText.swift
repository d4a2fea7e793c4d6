// SPDX-License-Identifier: Apache-2.0
// A recording and an address's history as text, and as JSON (docs/json.md).

import Answers
import Bounds
import IndexReader
import Provenance
import Symbols

extension Recording {
  /// Seconds from the recording's start to a stamp.
  public func seconds(at stamp: UInt64) -> Double {
    stamp > startStamp ? Double(stamp &- startStamp) / 1e9 : 0
  }

  private var title: String {
    let program = process.command.first?.fileName.escaped ?? "process"
    return "\(program), process \(process.processID)"
  }

  /// The recording in a few lines of text: what and when was recorded, how many events, how much
  /// memory.
  public func text(of summary: RecordingSummary) -> String {
    let allocations = [Event.Kind.alloc, .reallocNew].reduce(0) { $0 &+ (summary.counts[$1] ?? 0) }
    let frees = [Event.Kind.free, .reallocOld].reduce(0) { $0 &+ (summary.counts[$1] ?? 0) }
    var lines = [TextLayout.fit(title, columns: TextLayout.columns)]
    if end == .snapshot {
      lines.append("  snapshot   looked at in \(Units.duration(seconds(at: max(startStamp, blocksUntil))))")
      lines.append("  holds      \(Units.bytes(summary.endBytes)) in \(Units.count(summary.endBlocks, "block"))")
      return TextLayout.text(of: lines.map { TextLayout.fit($0, columns: TextLayout.columns) } + problemLines)
    }
    lines.append("  duration   \(Units.duration(seconds(at: endStamp)))")
    let counts = "\(Units.count(allocations, "allocation")), \(Units.count(frees, "free"))"
    lines.append("  events     \(Units.grouped(eventCount)): \(counts)")
    lines.append("  lost       \(lostCount == 0 ? "none" : Units.grouped(lostCount))")
    lines.append(
      "  peak       \(Units.bytes(summary.peakBytes)) in \(Units.count(summary.peakBlocks, "block")) "
        + "after \(Units.duration(seconds(at: summary.peakStamp)))")
    lines.append("  at its end \(Units.bytes(summary.endBytes)) in \(Units.count(summary.endBlocks, "block"))")
    return TextLayout.text(of: lines.map { TextLayout.fit($0, columns: TextLayout.columns) } + problemLines)
  }

  /// The problems of the recording, each in lines of text; of many, the first few.
  public var problemLines: [String] {
    var lines = problems.prefix(5).flatMap { TextLayout.fill("note: \(TextLayout.printable($0))", indent: "  ") }
    if problems.count > 5 { lines.append("  note: \(problems.count - 5) more") }
    return lines
  }
}

/// Writes histories of addresses, as text and as JSON.
public struct HistoryReport {
  private let origins: any OriginTables
  private let naming: StackNaming
  /// How many seconds ago a stamp was.
  private let age: (UInt64) -> Double

  /// A report with names from `origins`. `age` says how many seconds ago a stamp was.
  public init(_ origins: any OriginTables, age: @escaping (UInt64) -> Double) {
    self.origins = origins
    self.age = age
    naming = StackNaming(origins)
  }

  private static func verb(_ kind: Event.Kind?) -> String {
    switch kind {
    case .alloc: "allocated"
    case .free: "freed"
    case .reallocOld: "given to realloc"
    case .reallocNew: "given out by realloc"
    case .reallocFailed: "kept, as realloc failed"
    case .threadStart, .threadEnd, .moduleLoad, .moduleUnload, .resumed, .map, .unmap, nil: "unknown"
    }
  }

  /// The context of the event itself; nil where it was not recorded.
  private static func who(_ event: Event) -> UInt32? { event.context == 0 ? nil : event.context }

  /// The context in which the block that `event` ends was allocated; nil if it ends none, or it is
  /// not known.
  private static func origin(of event: Event) -> UInt32? {
    guard event.kind == .free || event.kind == .reallocOld, event.origin != 0 else { return nil }
    return event.origin
  }

  /// Whether the next entry of the history is the allocation of the block that the entry at `index`
  /// ends.
  private static func hasBeginning(_ index: Int, in history: AddressHistory) -> Bool {
    guard index &+ 1 < history.entries.count else { return false }
    let (event, older) = (history.entries[index].event, history.entries[index &+ 1].event)
    return older.address == event.address && (older.kind == .alloc || older.kind == .reallocNew)
  }

  private func stack(of context: UInt32, at event: Event, _ word: String, _ problems: inout [ForeignText]) -> [String] {
    var lines: [String] = []
    let origin = origins.context(context)
    if let function = origin?.function { lines.append("  \(word) \(TextLayout.printable(function))") }
    let frames = naming.stack(of: origin, at: event.ticks).frames.prefix(Self.printedFrames)
    for frame in frames { lines.append("    \(Answer.describe(frame, columns: TextLayout.columns &- 4))") }
    problems += Array(frames).problems
    return lines
  }

  /// Frames of a stack that are printed; JSON has all.
  private static let printedFrames = 64

  /// The history in lines of text, with at most `limit` events.
  public func text(of history: AddressHistory, limit: Int) -> String {
    var lines: [String] = ["\(hex(history.address))"]
    var problems: [ForeignText] = []
    let shown = UInt64(clamping: min(limit, history.entries.count))
    var meter = BudgetMeter(interval: 1)
    for (index, entry) in history.entries.prefix(max(0, limit)).enumerated() {
      guard meter.goesOn() else { break }
      let event = entry.event
      let offset = entry.offset == 0 ? "" : ", \(entry.offset) into it"
      lines.append(
        "\(Self.verb(event.kind)) \(Units.duration(age(event.stamp))) ago: "
          + "\(Units.bytes(event.size)) at \(hex(event.address))\(offset)")
      if let thread = origins.thread(slot: event.slot, at: event.ticks) {
        let name = thread.name.isEmpty ? "" : " \"\(TextLayout.printable(thread.name))\""
        lines.append("  thread   \(thread.id)\(name)")
      }
      if let context = Self.who(event) {
        lines += stack(of: context, at: event, "by      ", &problems)
      } else {
        let isEnd = event.kind == .free || event.kind == .reallocOld
        lines.append("  by       not recorded" + (isEnd ? ": `run --free-stacks` records who frees" : ""))
      }
      if let origin = Self.origin(of: event), !Self.hasBeginning(index, in: history) {
        lines += stack(of: origin, at: event, "from    ", &problems)
      }
    }
    if history.covering > shown {
      lines.append("… and \(Units.count(history.covering &- shown, "older event"))")
    }
    if history.entries.isEmpty { lines.append("  no block that covered it was allocated or freed in what is recorded") }
    var told: Set<ForeignText> = []
    for problem in problems where told.insert(problem).inserted {
      lines += TextLayout.fill("names: \(TextLayout.printable(problem))", indent: "  ")
    }
    lines += TextLayout.fill(reach(of: history), indent: "  ")
    lines += history.losses.lines
    return TextLayout.text(of: lines.map { TextLayout.fit($0, columns: TextLayout.columns) })
  }

  private func reach(of history: AddressHistory) -> String {
    guard history.events > 0 else { return "there are no events" }
    var text = "looked through \(Units.count(history.events, "event")), "
    text += "the oldest \(Units.duration(age(history.firstStamp))) ago"
    if history.lost > 0 {
      text +=
        "; \(Units.countOf(history.lost)) lost, all of them older than \(Units.duration(age(history.completeFrom)))"
    } else {
      text += history.unrecorded == 0 ? "; none are lost" : "; none of them are lost"
    }
    if history.unrecorded > 0 {
      let count = Units.countOf(history.unrecorded, "was", "were")
      text += "; \(count) never recorded, at any time: `allocsctl info` has the reasons"
    }
    if history.damagedRings > 0 {
      let count = UInt64(clamping: history.damagedRings)
      text += "; \(Units.count(count, "ring")) \(count == 1 ? "is" : "are") damaged, and not read to the end"
    }
    if history.offUntil > 0 { text += "; events were off at times, until \(Units.duration(age(history.offUntil))) ago" }
    if history.isOff {
      let last = Units.duration(age(history.lastStamp))
      text += "; events are off: what came after the last one, \(last) ago, is not known"
    }
    return text
  }

  private func append(_ origin: Origin?, at ticks: UInt32, to writer: inout ByteWriter) {
    if let function = origin?.function {
      writer.append(",\"function\":")
      writer.appendJSONString(function)
    }
    writer.append(stack: naming.stack(of: origin, at: ticks))
  }

  /// One JSON object a line: at most `limit` events, then the events that were looked through.
  public func jsonLines(of history: AddressHistory, limit: Int) -> String {
    var writer = ByteWriter()
    var meter = BudgetMeter(interval: 1)
    let share = MemoryShare()
    for entry in history.entries.prefix(max(0, limit)) {
      share.hold(writer.count)
      guard meter.goesOn() else { break }
      let event = entry.event
      writer.append("{\"event\":")
      writer.appendJSONString(event.kind?.name ?? "unknown")
      writer.append(",\"base\":")
      writer.append(quoted: event.address)
      writer.append(",\"size\":")
      writer.append(decimal: event.size)
      writer.append(",\"offset\":")
      writer.append(decimal: entry.offset)
      writer.append(",\"time_ns\":")
      writer.append(decimal: event.stamp)
      writer.append(",\"age_seconds\":")
      writer.append(decimal: max(0, age(event.stamp)), places: 6)
      if let thread = origins.thread(slot: event.slot, at: event.ticks) {
        writer.append(",\"thread\":{\"id\":")
        writer.append(decimal: UInt64(truncatingIfNeeded: thread.id))
        writer.append(",\"name\":")
        writer.appendJSONString(thread.name)
        writer.append("}")
      }
      if let context = Self.who(event) {
        append(origins.context(context), at: event.ticks, to: &writer)
      }
      if let origin = Self.origin(of: event) {
        writer.append(",\"allocated_by\":{")
        writer.append("\"context\":")
        writer.append(decimal: UInt64(truncatingIfNeeded: origin))
        append(origins.context(origin), at: event.ticks, to: &writer)
        writer.append("}")
      }
      writer.append("}\n")
    }
    writer.append("{\"address\":")
    writer.append(quoted: history.address)
    writer.append(",\"events\":")
    writer.append(decimal: history.events)
    writer.append(",\"lost\":")
    writer.append(decimal: history.lost)
    if history.events > 0 {
      writer.append(",\"oldest_seconds\":")
      writer.append(decimal: max(0, age(history.firstStamp)), places: 6)
      if history.unrecorded == 0 {
        writer.append(",\"complete_seconds\":")
        let complete = max(history.completeFrom, history.firstStamp, history.offUntil)
        writer.append(decimal: max(0, age(complete)), places: 6)
      }
      if history.isOff {
        writer.append(",\"newest_seconds\":")
        writer.append(decimal: max(0, age(history.lastStamp)), places: 6)
      }
    }
    if history.unrecorded > 0 {
      writer.append(",\"unrecorded\":")
      writer.append(decimal: history.unrecorded)
    }
    if history.damagedRings > 0 {
      writer.append(",\"damaged_rings\":")
      writer.append(decimal: UInt64(clamping: history.damagedRings))
    }
    if history.isOff { writer.append(",\"events_off\":true") }
    history.losses.appendJSONFields(to: &writer)
    writer.append("}\n")
    return writer.takeString()
  }
}

extension ByteWriter {
  /// Appends an address as a JSON string.
  mutating func append(quoted address: UInt64) {
    append("\"")
    append(address: address)
    append("\"")
  }
}
