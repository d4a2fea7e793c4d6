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
  /// The order that was asked for.
  private var order: ProcessOrder?

  public init(
    _ processes: [IndexedProcess], omitted: Int = 0, _ selection: ProcessSelection = ProcessSelection()
  ) {
    order = selection.order
    self.processes = processes.filter { !selection.isLiveOnly || $0.state == .live }
    self.omitted = omitted
    if let order { self.processes.sort { order.precedes($0, $1) } }
  }

  /// The processes whose segments are in `directories` (by default where agents put them), as user `reader` may see
  /// them: root sees all, other users their own, and nothing of others. Nil for `reader` means the user who runs this
  /// program.
  public init(
    _ selection: ProcessSelection = ProcessSelection(), readableBy reader: UInt32? = nil,
    in directories: [String]? = nil
  ) throws(Complaint) {
    let reader = reader ?? geteuid()
    try self.init(selection, in: directories) { reader == 0 || $0 == reader }
  }

  /// The processes whose segments belong to user `owner`; nil: all, whoever owns them.
  public init(
    _ selection: ProcessSelection = ProcessSelection(), ownedBy owner: UInt32?, in directories: [String]? = nil
  ) throws(Complaint) {
    try self.init(selection, in: directories) { owner == nil || $0 == owner }
  }

  private init(
    _ selection: ProcessSelection, in directories: [String]?, where isMeant: (UInt32) -> Bool
  ) throws(Complaint) {
    let survey = try SegmentDirectory.survey(in: directories)
    let files = survey.files.filter { isMeant($0.ownerID) && (!selection.isLiveOnly || $0.isLive) }
    self.init(
      files.map { IndexedProcess($0, countsBytes: selection.countsBytes) },
      omitted: survey.omitted.reduce(survey.unread) { $0 &+ (isMeant($1.key) ? $1.value : 0) }, selection)
  }

  private struct Column {
    var title: String
    var isNumber: Bool
    var cell: (IndexedProcess) -> String
    /// Where there is no room for all columns, those of less weight are left out; JSON has all.
    var weight = 9
    /// Whether the column says anything of these processes.
    var isWorthwhile = true
  }

  private var columns: [Column] {
    let now = SystemClock.now()
    func since(_ moment: Double?, _ unknown: String) -> String {
      moment.map { Units.roughDuration(now - $0) } ?? unknown  // bounded: seconds in floating point
    }
    func grouped(_ count: UInt64?) -> String { count.map { Units.grouped($0) } ?? "?" }
    return [
      Column(title: "PID", isNumber: true, cell: { String($0.processID) }),
      Column(
        title: "PARENT", isNumber: true, cell: { $0.parentID.map { String($0) } ?? "-" }, weight: 1,
        isWorthwhile: processes.contains { $0.parentID != nil }),
      Column(title: "STATE", isNumber: false, cell: { $0.stateText }),
      Column(
        title: "USER", isNumber: false,
        cell: { TextLayout.fit(TextLayout.printable(IndexedProcess.name(ofUser: $0.userID)), columns: 10) }, weight: 2),
      Column(title: "AGE", isNumber: true, cell: { since($0.started, "?") }),
      Column(
        title: "ENDED", isNumber: true, cell: { since($0.ended, "-") }, weight: 3,
        isWorthwhile: processes.contains { $0.ended != nil }),
      Column(title: "INDEX", isNumber: true, cell: { Units.rounded($0.segmentBytes) }, weight: 4),
      Column(
        title: "BLOCKS", isNumber: true, cell: { grouped($0.liveBlocks) }, weight: 5, isWorthwhile: order == .blocks),
      Column(
        title: "BYTES", isNumber: true, cell: { $0.liveBytes.map { Units.rounded($0) } ?? "?" }, weight: 5,
        isWorthwhile: order == .bytes),
      Column(title: "LOST", isNumber: true, cell: { Self.lost($0) }),
    ].filter(\.isWorthwhile)
  }

  /// A table of 80 columns; the live processes first, unless another order was asked for.
  public var text: String {
    guard !processes.isEmpty || omitted > 0 else {
      return "no process is indexed — start one with `allocsctl run -- COMMAND`\n"
    }
    let ordered =
      order == nil
      ? [processes.filter { $0.state == .live }, processes.filter { $0.state != .live }].flatMap { $0 } : processes
    var columns = columns.map { column in
      let cells = ordered.map(column.cell)
      return (column, cells, cells.reduce(TextLayout.width(column.title)) { max($0, TextLayout.width($1)) })
    }
    // What is left of a line is the command's, 20 columns at least.
    while columns.reduce(20, { $0 &+ $1.2 &+ 2 }) > TextLayout.columns,
      let least = columns.indices.min(by: { columns[$0].0.weight < columns[$1].0.weight }),
      columns[least].0.weight < 9
    {
      columns.remove(at: least)
    }
    var text = ""
    func line(_ command: String, _ cell: (Column, [String]) -> String) -> String {
      var line = ""
      for (column, cells, width) in columns {
        // Numbers are aligned at the right, words at the left.
        let cell = cell(column, cells)
        line += column.isNumber ? TextLayout.padded(cell, left: width) : TextLayout.padded(cell, right: width)
        line += "  "
      }
      line += TextLayout.fit(command, columns: max(12, TextLayout.columns &- TextLayout.width(line)))
      while line.hasSuffix(" ") { line.removeLast() }
      return "\(line)\n"
    }
    text += line("COMMAND") { column, _ in column.title }
    for (row, process) in ordered.enumerated() {
      let command = process.title.map { TextLayout.printable($0) } ?? process.commandLine
      text += line(command) { _, cells in cells[row] }
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
