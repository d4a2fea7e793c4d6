// SPDX-License-Identifier: Apache-2.0
// The list of indexed processes, live and dead, for people and as JSON.

import Glibc
import IndexReader
import SystemAccess

/// All processes that have a segment, by process id and start time.
public struct ProcessList: Hashable, Sendable {
  public var processes: [IndexedProcess]
  /// Segments that are not listed, as their owner has too many, and names in common directories that nobody looked at.
  public var omitted: Int

  public init(_ processes: [IndexedProcess], omitted: Int = 0) {
    self.processes = processes
    self.omitted = omitted
  }

  /// The processes whose segments are in `directories` (by default where agents put them), as user `reader` may see
  /// them: root sees all, other users their own, and nothing of others. Nil for `reader` means the user who runs this
  /// program.
  public init(readableBy reader: UInt32? = nil, in directories: [String]? = nil) throws(Complaint) {
    let survey = try SegmentDirectory.survey(in: directories)
    let reader = reader ?? geteuid()
    processes = survey.files.filter { reader == 0 || $0.ownerID == reader }.map { IndexedProcess($0) }
    omitted = survey.omitted.reduce(survey.unread) { $0 &+ (reader == 0 || $1.key == reader ? $1.value : 0) }
  }

  /// The processes whose segments belong to user `owner`; nil: all, whoever owns them.
  public init(ownedBy owner: UInt32?, in directories: [String]? = nil) throws(Complaint) {
    let survey = try SegmentDirectory.survey(in: directories)
    processes = survey.files.filter { owner == nil || $0.ownerID == owner }.map { IndexedProcess($0) }
    omitted = survey.omitted.reduce(survey.unread) { $0 &+ (owner == nil || $1.key == owner ? $1.value : 0) }
  }

  /// A table of 80 columns; the live processes first.
  public var text: String {
    guard !processes.isEmpty || omitted > 0 else {
      return "no process is indexed — start one with `allocsctl run -- COMMAND`\n"
    }
    struct Row {
      var cells: [String]
      var command: String
    }
    let header = Row(cells: ["PID", "STATE", "USER", "STARTED", "INDEX", "LOST"], command: "COMMAND")
    let ordered = [processes.filter { $0.state == .live }, processes.filter { $0.state != .live }].flatMap { $0 }
    var rows: [Row] = [header]
    rows += ordered.map { process in
      // bounded: seconds in floating point
      let started = process.started.map { "\(Units.duration(SystemClock.now() - $0)) ago" } ?? "?"
      return Row(
        cells: [
          String(process.processID), process.stateText,
          TextLayout.fit(TextLayout.printable(IndexedProcess.name(ofUser: process.userID)), columns: 10), started,
          Units.rounded(process.segmentBytes), Self.lost(process),
        ], command: process.commandLine)
    }
    // Numbers are aligned at the right, words at the left.
    let isNumber = [true, false, false, true, true, true]
    let widths = isNumber.indices.map { column in rows.map { TextLayout.width($0.cells[column]) }.max() ?? 0 }
    var text = ""
    for row in rows {
      var line = ""
      for (column, cell) in row.cells.enumerated() {
        line +=
          isNumber[column]
          ? TextLayout.padded(cell, left: widths[column]) : TextLayout.padded(cell, right: widths[column])
        line += "  "
      }
      line += TextLayout.fit(row.command, columns: max(12, TextLayout.columns &- TextLayout.width(line)))
      while line.hasSuffix(" ") { line.removeLast() }
      text += line + "\n"
    }
    if let lost = processes.compactMap(\.lostBlocks).max(), lost > 0 {
      text += "LOST counts blocks that were allocated and are not in the index.\n"
    }
    for process in ordered where Self.hasMore(process.losses) {
      var more = process.losses
      more.blocks = 0
      text += TextLayout.wrap(more.phrases, indent: "  ").enumerated()
        .map { ($0 == 0 ? "\(process.processID)" + $1 : $1) + "\n" }.joined()
    }
    for process in ordered where process.state == .unreadable {
      if let problem = process.problem {
        text += TextLayout.fill("\(process.processID): \(TextLayout.printable(problem))", indent: "").map { $0 + "\n" }
          .joined()
      }
    }
    if omitted > 0 {
      let words =
        "\(Units.count(UInt64(clamping: omitted), "more file")) in the directories: too many to look at; see prune."
      text += TextLayout.fill(words, indent: "").map { $0 + "\n" }.joined()
    }
    return TextLayout.text(ofWhole: text)
  }

  /// Lost blocks, with a `+` where losses are known that can't be counted in blocks.
  private static func lost(_ process: IndexedProcess) -> String {
    guard let blocks = process.lostBlocks else { return "?" }
    let more = hasMore(process.losses) ? "+" : ""
    return blocks > 0 ? "\(Units.grouped(blocks))\(more)" : more.isEmpty ? "-" : more
  }
  private static func hasMore(_ losses: Losses) -> Bool {
    losses.innerBlocks > 0 || losses.unknownFrees > 0 || losses.imbalance != 0 || !losses.mayPassBy.isEmpty
  }

  /// `{"processes":[…]}`, without a newline.
  public var json: String {
    var writer = ByteWriter(capacity: 4096)
    writer.append("{\"processes\":[")
    for (index, process) in processes.enumerated() {
      if index > 0 { writer.append(",") }
      writer.append("{")
      process.appendJSONFields(to: &writer)
      writer.append("}")
    }
    writer.append("]")
    if omitted > 0 { writer.append(",\"omitted\":", decimal: UInt64(clamping: omitted)) }
    writer.append("}")
    return writer.takeString()
  }
}
