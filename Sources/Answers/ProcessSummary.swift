// SPDX-License-Identifier: Apache-2.0
// All that a segment's header and thread table say of a process, for people and as JSON.

import IndexReader
import SystemAccess

/// Facts of one process.
public struct ProcessSummary: Hashable, Sendable {
  public struct Counter: Hashable, Sendable {
    public var name: String
    public var value: UInt64

    public init(name: String, value: UInt64) {
      self.name = name
      self.value = value
    }
  }

  public struct Thread: Hashable, Sendable {
    public var id: UInt32
    public var name: ForeignText
    public var state: ThreadIdentity.State
    /// Calls that returned a block.
    public var allocations: UInt64
    /// Blocks given back.
    public var frees: UInt64

    public init(id: UInt32, name: ForeignText, state: ThreadIdentity.State, allocations: UInt64, frees: UInt64) {
      self.id = id
      self.name = name
      self.state = state
      self.allocations = allocations
      self.frees = frees
    }
  }

  public var process: IndexedProcess
  /// Whether the index holds whole call stacks; else the call site of each allocation.
  public var hasFullStacks: Bool
  /// Whether the process runs and no longer writes this index, as after exec.
  public var isAbandoned: Bool
  /// In the segment's order; zeros included.
  public var counters: [Counter]
  /// The threads that the thread table holds, ended ones included, and those of its history.
  public var threads: [Thread]
  /// Sums over all threads, also over those that are no longer listed: calls that returned a block, blocks given back.
  public var allocations: UInt64
  public var frees: UInt64
  /// Modules that have allocated, unloaded ones included.
  public var moduleCount: Int
  /// The functions and allocators that the agent could not hook, and why, in words.
  public var bypasses: [ForeignText]

  public init(
    process: IndexedProcess, hasFullStacks: Bool, isAbandoned: Bool, counters: [Counter], threads: [Thread],
    allocations: UInt64, frees: UInt64, moduleCount: Int, bypasses: [ForeignText] = []
  ) {
    self.process = process
    self.hasFullStacks = hasFullStacks
    self.isAbandoned = isAbandoned
    self.counters = counters
    self.threads = threads
    self.allocations = allocations
    self.frees = frees
    self.moduleCount = moduleCount
    self.bypasses = bypasses
  }
}

extension ProcessView {
  /// The facts as of now. Reads the header and the thread table, no allocations.
  public func summary() throws(Complaint) -> ProcessSummary {
    let surroundings = Surroundings(of: self)
    let isAbandoned = surroundings.absence == .indexAbandoned
    let isAlive = surroundings.isAlive
    let counters = shared.segment.counters
    let ending = isAlive ? nil : ProcessEnding(ofSegment: path)
    var process = IndexedProcess(
      processID: processID, state: isAlive ? .live : shared.segment.state == .exited ? .exited : .dead, userID: ownerID,
      command: shared.segment.command, startTime: startTime,
      started: IndexedProcess.wallTime(ofStart: startTime, shared.segment.clockOffsets),
      segmentBytes: IndexedProcess.allocatedBytes(ofFile: path), path: ForeignText(path),
      lostBlocks: shared.segment.lostBlocks, ending: ending,
      unknownEnding: isAlive || ending != nil ? nil : ForeignText(UnknownEnding.reason(ofSegment: path)))
    process.losses = losses(isWriting: surroundings.isWriting)
    process.liveBlocks = IndexedProcess.liveBlocks(of: shared.segment)
    if isAlive {
      process.readPresent(of: shared.segment.process)
    } else {
      process.ended = IndexedProcess.endTime(ofSegment: path)
    }
    // Former holders of a thread slot are listed as far back as the history goes; their sums are in the counters.
    let present = shared.segment.threads
    let threads = [shared.segment.formerThreads, present].joined().map { thread in
      // No thread of a dead process lives, whatever it noted last.
      ProcessSummary.Thread(
        id: thread.id, name: thread.name, state: isAlive ? thread.state : .ended, allocations: thread.allocations,
        frees: thread.frees)
    }
    func counter(_ name: String) -> UInt64 { counters.first { $0.name == name }?.value ?? 0 }
    let summary = ProcessSummary(
      process: process, hasFullStacks: shared.segment.hasFullStacks, isAbandoned: isAbandoned,
      counters: counters.map { ProcessSummary.Counter(name: $0.name, value: $0.value) }, threads: threads,
      allocations: present.reduce(counter("ended_allocations")) { $0 &+ $1.allocations },
      frees: present.reduce(counter("ended_frees")) { $0 &+ $1.frees }, moduleCount: shared.segment.modules.count,
      bypasses: shared.segment.bypasses.map { "\(Losses.name(of: $0)): \($0.reason)" })
    try checkIntact()
    return summary
  }
}

// MARK: rendering

extension ProcessSummary {
  /// One screen of 80 columns, the process first.
  public var text: String {
    var lines: [String] = []
    let state = isAbandoned ? "no longer writes this index" : process.stateText
    let title = IndexedProcess.title(process.processID, process.command)
    lines.append(
      "\(TextLayout.fit(title, columns: TextLayout.columns &- TextLayout.width(state) &- 2)): \(state)")
    if !process.command.isEmpty {
      lines.append("  command   \(process.command.joined(separator: " "))")
    }
    lines.append("  user      \(TextLayout.printable(IndexedProcess.name(ofUser: process.userID)))")
    if let title = process.title { lines.append("  title     \(TextLayout.printable(title))") }
    if let reason = process.unknownEnding {
      lines.append("  ended     \(process.state == .exited ? "in order, its status" : "how") is not known: \(reason)")
    }
    let now = SystemClock.now()
    if let ended = process.ended {
      lines.append("  end seen  \(Units.duration(now - ended)) ago")  // bounded: seconds in floating point
    }
    if let started = process.started {
      let parent = process.parentID.map { ", by process \($0)" } ?? ""
      lines.append("  started   \(Units.duration(now - started)) ago\(parent)")  // bounded: seconds in floating point
    }
    lines.append("  index     \(TextLayout.printable(process.path)), \(Units.rounded(process.segmentBytes))")
    lines.append("  records   \(hasFullStacks ? "call stacks" : "call sites")")
    lines.append("  modules   \(Units.grouped(UInt64(clamping: moduleCount))) that allocated")
    let live = threads.count { $0.state == .live }
    lines.append(
      "  threads   \(Units.grouped(UInt64(clamping: live))) live, "
        + "\(Units.grouped(UInt64(clamping: threads.count &- live))) ended; "
        + "\(Units.count(allocations, "allocation")), \(Units.count(frees, "free"))")
    let busiest = threads.sorted { ($0.allocations, $1.id) > ($1.allocations, $0.id) }.prefix(5)
    for thread in busiest where thread.allocations > 0 {
      let name = Answer.name(of: Answer.Thread(id: thread.id, name: thread.name))
      let ended = thread.state == .ended ? ", ended" : ""
      lines.append(
        "            \(name)\(ended): \(Units.count(thread.allocations, "allocation")), "
          + "\(Units.count(thread.frees, "free"))")
    }
    // The sums of ended threads are in the line of threads.
    let nonzero = counters.filter { $0.value > 0 && IndexCounter.named($0.name)?.kind != .sums }
    let isWhole = process.losses.isEmpty && nonzero.allSatisfy { IndexCounter.named($0.name)?.kind == .figures }
    var sentences: [String] = isWhole ? ["no loss is known"] : []
    if process.losses.imbalance != 0 {
      sentences.append("the index is not whole: \(process.losses.imbalanceText)")
    }
    sentences += nonzero.map { Self.sentence(of: $0) }
    lines += Self.lines("counters", sentences)
    lines += Self.lines("passes by", bypasses.map { TextLayout.printable($0) })
    return TextLayout.text(of: lines.map { TextLayout.fit($0, columns: TextLayout.columns) })
  }

  /// Sentences, one below the other, the first behind a title.
  private static func lines(_ title: String, _ sentences: [String]) -> [String] {
    let indent = String(repeating: " ", count: 12)
    var lines: [String] = []
    for (index, sentence) in sentences.enumerated() {
      var filled = TextLayout.fill(sentence, indent: indent)
      if index == 0, let first = filled.first {
        filled[0] = "  \(TextLayout.padded(title, right: 10))\(first.dropFirst(indent.count))"
      }
      lines += filled
    }
    return lines
  }

  /// A counter in words (allocs_counter.h); a counter of a later version is given by its name.
  static func sentence(of counter: Counter) -> String {
    IndexCounter.named(counter.name)?.sentence(of: counter.value, grouped: Units.grouped)
      ?? "\(Units.grouped(counter.value)) \(TextLayout.printable(counter.name))"
  }

  /// One JSON object, without a newline.
  public var json: String {
    var writer = ByteWriter(capacity: 4096)
    writer.append("{")
    process.appendJSONFields(to: &writer)
    if isAbandoned { writer.append(",\"abandoned\":true") }
    writer.append(hasFullStacks ? ",\"stacks\":\"full\"" : ",\"stacks\":\"site\"")
    writer.append(",\"module_count\":", decimal: UInt64(max(0, moduleCount)))
    writer.append(",\"counters\":{")
    for (index, counter) in counters.enumerated() {
      if index > 0 { writer.append(",") }
      writer.appendJSONString(counter.name)
      writer.append(":", decimal: counter.value)
    }
    writer.append("},\"allocations\":", decimal: allocations)
    writer.append(",\"frees\":", decimal: frees)
    writer.append(",\"threads\":[")
    for (index, thread) in threads.enumerated() {
      if index > 0 { writer.append(",") }
      writer.append("{\"id\":", decimal: UInt64(truncatingIfNeeded: thread.id))
      if !thread.name.isEmpty { writer.append(",\"name\":", string: thread.name) }
      switch thread.state {
      case .live: writer.append(",\"state\":\"live\"")
      case .exiting: writer.append(",\"state\":\"exiting\"")
      case .ended: writer.append(",\"state\":\"ended\"")
      }
      writer.append(",\"allocations\":", decimal: thread.allocations)
      writer.append(",\"frees\":", decimal: thread.frees)
      writer.append("}")
    }
    writer.append("]}")
    return writer.takeString()
  }
}
