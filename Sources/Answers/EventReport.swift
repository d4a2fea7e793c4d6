// SPDX-License-Identifier: Apache-2.0
// Events with names, as lines: what `allocsctl events` prints and the server streams. docs/json.md lists the fields.
//
// A report is made for each batch of events, as it sees threads and modules as of its start; names are those of the
// process's view, and live across batches.

import ByteText
import Glibc
import IndexReader
import Provenance
import SharedLayout
import Symbols
import SystemAccess

/// Writes events of one process as lines. Used from one thread, for events that have come before it was made.
public struct EventReport: ~Copyable {
  public enum Form: Sendable { case text, jsonLines }

  private let view: ProcessView
  private let form: Form
  private let stacks: Bool
  private let filter: EventFilter
  private let clock: SegmentClock
  private var origins: OriginCache
  private var attribution: StackNaming
  private var writer: ByteWriter
  /// Nanoseconds by which the wall clock is ahead of the stamps.
  private let wallOffset: Int64
  /// Earlier results: whether a context is wanted; names of sites by node and width; JSON of sites by node.
  private var wanted: [UInt32: Bool] = [:]
  private var siteNames: [UInt64: String] = [:]
  private var siteJSON: [UInt32: [UInt8]] = [:]

  /// `stacks`: whole call stacks, in JSON; else the allocation site alone.
  public init(
    _ view: ProcessView, form: Form, stacks: Bool, filter: EventFilter, wrappers: Wrappers = .standard
  ) {
    self.view = view
    self.form = form
    self.stacks = stacks
    self.filter = filter
    let surroundings = Surroundings(of: view)
    clock = view.shared.segment.clock(isAlive: surroundings.isAlive)
    origins = OriginCache(surroundings: surroundings, clock: clock, isAlive: surroundings.isAlive)
    attribution = StackNaming(view.tables, wrappers: wrappers)
    writer = ByteWriter(capacity: 1 << 16)
    wallOffset = Int64(bitPattern: nanoseconds(of: CLOCK_REALTIME) &- clock.stampNow)
  }

  /// The bytes that were appended since the last call.
  public mutating func take() -> [UInt8] { writer.take() }

  /// The line above the columns of the text form.
  public static let header = "time         event   address             size thread  site\n"

  // MARK: events

  /// Appends an event if the filter wants it. `position`: its number in its ring.
  public mutating func append(_ event: Event, ring: Int, position: UInt64) {
    guard isWanted(event) else { return }
    switch form {
    case .jsonLines: appendJSON(event, ring: ring, position: position)
    case .text: appendText(event)
    }
  }

  private mutating func isWanted(_ event: Event) -> Bool {
    if let kinds = filter.kinds, event.kind.map({ !kinds.contains($0) }) ?? true { return false }
    guard filter.needsNames else { return true }
    if !filter.threads.isEmpty {
      let thread = thread(of: event)
      let isNamed = thread.map {
        EventFilter.fits(ForeignText("\($0.id)"), filter.threads) || EventFilter.fits($0.name, filter.threads)
      }
      guard isNamed ?? false else { return false }
    }
    guard !filter.functions.isEmpty || !filter.sites.isEmpty else { return true }
    guard let kind = event.kind, kind.isAboutMemory else { return false }
    let context = kind.subject == .endedBlock ? event.origin : event.context
    if let known = wanted[context] { return known }
    var isWanted = false
    if let index = origins.originIndex(ofContext: context, in: view.shared.segment) {
      let origin = origins.origin(at: index)
      isWanted = EventFilter.fits(origin.function, filter.functions)
      if isWanted, !filter.sites.isEmpty {
        let site = origin.node == 0 ? nil : attribution.site(ofNode: origin.node, at: event.ticks)
        isWanted = site.map { $0.frames.contains { EventFilter.fits($0.function, filter.sites) } } ?? false
      }
    }
    wanted[context] = isWanted
    return isWanted
  }

  private mutating func thread(of event: Event) -> Answer.Thread? {
    origins.thread(ofSlot: event.slot, at: event.ticks, in: view.shared.segment)
  }

  // MARK: JSON

  private mutating func appendJSON(_ event: Event, ring: Int, position: UInt64) {
    writer.append("{\"event\":\"")
    writer.append(text: event.kind?.name ?? "unknown")
    writer.append("\",\"time_ns\":", decimal: event.stamp)
    writer.append(",\"time\":")
    writer.append(decimal: Double(max(0, Int64(clamping: event.stamp) &+ wallOffset)) / 1e9, places: 6)
    writer.append(",\"ring\":", decimal: UInt64(clamping: ring))
    writer.append(",\"sequence\":", decimal: position)
    if let kind = event.kind, kind.isAboutMemory || kind == .moduleLoad || kind == .moduleUnload {
      writer.append(",\"address\":\"")
      writer.append(address: event.address)
      writer.append("\",\"size\":", decimal: event.size)
      if let alignment = event.alignment { writer.append(",\"alignment\":", decimal: alignment) }
    }
    origins.appendThread(ofSlot: event.slot, at: event.ticks, in: view.shared.segment, to: &writer)
    switch event.kind {
    case .alloc, .reallocNew, .reallocFailed, .map, .unmap: appendOrigin(event.context, event.ticks)
    case .free, .reallocOld:
      appendOrigin(event.context, event.ticks)
      if event.origin != 0 {
        writer.append(",\"allocated\":{\"context\":", decimal: UInt64(truncatingIfNeeded: event.origin))
        appendOrigin(event.origin, event.ticks)
        writer.append("}")
      }
    case .moduleLoad, .moduleUnload:
      if let path = modulePath(event) { writer.append(",\"module\":", string: path) }
    case .threadStart, .threadEnd, .resumed, nil: break
    }
    writer.append("}\n")
  }

  private func modulePath(_ event: Event) -> ForeignText? {
    // Another module may have the entry by now.
    view.shared.segment.module(index: Int(truncatingIfNeeded: event.context)).flatMap {
      $0.start == event.address ? $0.path : nil
    }
  }

  private mutating func appendOrigin(_ context: UInt32, _ ticks: UInt32) {
    guard context != 0, let index = origins.originIndex(ofContext: context, in: view.shared.segment) else { return }
    origins.appendOrigin(at: index, to: &writer)
    let node = origins.node(ofOriginAt: index)
    guard node != 0 else { return }
    if stacks {
      attribution.appendJSON(ofNode: node, at: ticks, to: &writer)
      return
    }
    if let known = siteJSON[node] {
      writer.append(bytes: known)
      return
    }
    guard let frame = attribution.site(ofNode: node, at: ticks)?.frames.first else { return }
    var part = ByteWriter(capacity: 256)
    frame.appendSite(to: &part)
    let json = part.take()
    siteJSON[node] = json
    writer.append(bytes: json)
  }

  // MARK: text

  /// `14:03:07.123 alloc   0x7f61987de4a0        96 4242    createObject (object.c:44)`, in 80 columns.
  private mutating func appendText(_ event: Event) {
    let address: String
    let size: String
    if let kind = event.kind, kind.isAboutMemory || kind == .moduleLoad || kind == .moduleUnload {
      address = hex(event.address)
      size = event.size < 1_000_000_000 ? String(event.size) : Units.rounded(event.size)
    } else {
      address = ""
      size = ""
    }
    let thread = thread(of: event)
    var line = "\(wallTime(event.stamp)) \(TextLayout.padded(event.kind?.word ?? "?", right: 7)) "
    line += "\(TextLayout.padded(address, right: 14)) \(TextLayout.padded(size, left: 9))"
    line += " " + TextLayout.padded(thread.map { "\($0.id)" } ?? "-", right: 7) + " "
    let room = TextLayout.columns &- line.count
    line += TextLayout.fit(remark(event, thread: thread, columns: room), columns: room)
    while line.last == " " { line.removeLast() }
    writer.append(line: line)
  }

  private mutating func remark(_ event: Event, thread: Answer.Thread?, columns: Int) -> String {
    switch event.kind {
    case .alloc, .reallocNew, .reallocFailed, .map, .unmap: return siteName(event.context, event.ticks, columns) ?? ""
    case .free, .reallocOld:
      // The site that freed, if that was recorded; else the site that allocated the block.
      if let site = siteName(event.context, event.ticks, columns) { return site }
      return siteName(event.origin, event.ticks, columns &- 3).map { "of \($0)" } ?? ""
    case .threadStart, .threadEnd, .resumed: return thread?.name.map { "\"\(TextLayout.printable($0))\"" } ?? ""
    case .moduleLoad, .moduleUnload:
      return modulePath(event)?.fileName.escaped ?? ""
    case nil: return ""
    }
  }

  private mutating func siteName(_ context: UInt32, _ ticks: UInt32, _ columns: Int) -> String? {
    guard context != 0, let index = origins.originIndex(ofContext: context, in: view.shared.segment) else { return nil }
    let node = origins.node(ofOriginAt: index)
    guard node != 0 else { return nil }
    let key = UInt64(truncatingIfNeeded: node) << 8 | UInt64(clamping: columns & 0xFF)
    if let known = siteNames[key] { return known }
    guard let frame = attribution.site(ofNode: node, at: ticks)?.frames.first else { return nil }
    let name = Answer.describe(frame, columns: columns)
    siteNames[key] = name
    return name
  }

  /// Hours, minutes, seconds and milliseconds of the local time zone.
  private func wallTime(_ stamp: UInt64) -> String {
    let nanoseconds = max(0, Int64(clamping: stamp) &+ wallOffset)
    var seconds = time_t(nanoseconds / 1_000_000_000)
    var parts = tm()
    localtime_r(&seconds, &parts)
    func two(_ value: Int32) -> String { value < 10 ? "0\(value)" : "\(value)" }
    let milliseconds = TextLayout.padded(String(nanoseconds / 1_000_000 % 1000), left: 3).map { $0 == " " ? "0" : $0 }
    return "\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec)).\(String(milliseconds))"
  }

  // MARK: what is not an event

  /// Says that `count` events were lost, between two stamps.
  public mutating func appendLoss(count: UInt64, from: UInt64, to: UInt64) {
    switch form {
    case .jsonLines:
      writer.append("{\"event\":\"lost\",\"count\":", decimal: count)
      writer.append(",\"from_ns\":", decimal: from)
      writer.append(",\"to_ns\":", decimal: to)
      writer.append("}\n")
    case .text:
      writer.append(
        line: "\(wallTime(to)) lost    \(Units.count(count, "event")) since \(wallTime(from)): not read or recorded")
    }
  }

  /// Says what the index is known to lack: blocks that it lacks have no events. Appends nothing where nothing is
  /// missing.
  public mutating func append(_ losses: Losses) {
    guard !losses.isEmpty else { return }
    switch form {
    case .jsonLines:
      writer.append("{\"event\":\"missing\"")
      losses.appendJSONFields(to: &writer)
      writer.append("}\n")
    case .text: for line in losses.lines { writer.append(line: line) }
    }
  }

  /// Says that a ring can't be believed, and is not read any more.
  public mutating func appendDamage(ring: Int) {
    switch form {
    case .jsonLines:
      writer.append("{\"event\":\"damaged\",\"ring\":", decimal: UInt64(clamping: ring))
      writer.append("}\n")
    case .text: writer.append(line: "ring \(ring) is damaged: what its thread does is not told from here on")
    }
  }

  /// Says that no more events come, and why.
  public mutating func appendEnd(reason: String) {
    switch form {
    case .jsonLines:
      writer.append("{\"event\":\"end\",\"reason\":", string: reason)
      writer.append("}\n")
    case .text: writer.append(line: reason)
    }
  }

  /// Says that no more events come, as they can't be read.
  public mutating func append(_ error: Complaint) {
    switch form {
    case .jsonLines:
      writer.append(text: error.json)
      writer.append("\n")
    case .text: writer.append(line: error.description)
    }
  }
}
