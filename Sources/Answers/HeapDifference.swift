// SPDX-License-Identifier: Apache-2.0
// What has become more, and what less, between two looks at live memory: of one process at two moments, or of two
// processes.
//
// Sites and stacks are told apart by names (function, file and line, the module's file name) and not by addresses,
// which differ from one process to the next. Functions without a name are told apart by their place in the module.

import Bounds
import ByteText
import Provenance
import Symbols
import SystemAccess

/// The difference between two looks at live memory.
public struct HeapDifference: Sendable {
  /// What the rows are about.
  public enum Grouping: String, CaseIterable, Sendable { case site, stack }

  /// A site or a stack whose live memory is not what it was.
  public struct Row: Sendable {
    /// Innermost first: the site's frames, or those of the whole stack from the site on. Empty if not known.
    public var frames: [Frame]
    public var function: ForeignText?
    public var before = SiteTable.Total()
    public var after = SiteTable.Total()
    /// What was ever allocated there, as of each look.
    fileprivate var everBefore = SiteTable.Total()
    fileprivate var everAfter = SiteTable.Total()

    /// What was allocated between two looks at one process. The numbers of a damaged index may contradict each other.
    var made: SiteTable.Total {
      SiteTable.Total(
        bytes: everAfter.bytes > everBefore.bytes ? everAfter.bytes &- everBefore.bytes : 0,
        blocks: everAfter.blocks > everBefore.blocks ? everAfter.blocks &- everBefore.blocks : 0)
    }

    /// `new`, `gone`, `grown`, `shrunk`; `moved` where the blocks are others and the bytes as many; `same` where what
    /// lives is as much, though something was allocated.
    var kind: String {
      if before == after { return "same" }
      if before.blocks == 0 { return "new" }
      if after.blocks == 0 { return "gone" }
      return after.bytes > before.bytes ? "grown" : after.bytes < before.bytes ? "shrunk" : "moved"
    }

    /// How many bytes more, less than 0 if fewer.
    var change: Int64 { HeapDifference.change(before.bytes, after.bytes) }
    var blockChange: Int64 { HeapDifference.change(before.blocks, after.blocks) }
  }

  public var before: SiteTable.Total
  public var after: SiteTable.Total
  /// The names of the two looks.
  public var names: (before: String, after: String)
  public var grouping: Grouping
  /// The rows that changed, the largest change first.
  public var rows: [Row]
  /// How many rows are shown at most.
  public var limit: Int
  /// What the two looks have to do with each other, and the words for it; nil if it is not known, or nothing to tell.
  public var kinship: Kinship?
  public var kinshipWords: String?
  /// What each look lacks.
  public var losses: (before: Losses, after: Losses)
  /// Whether each is a look at a process that has ended.
  private let hasEnded: (before: Bool, after: Bool)

  /// Why the growth may be another one: blocks that lived in the second look and are not in its index, or were not in
  /// the first one's; nil where all are known, or as many are missing from both looks at one process.
  public var doubt: String? {
    let (first, second) = (losses.before.blocks, losses.after.blocks)
    guard max(first, second) > 0, !(kinship == .process && first == second) else { return nil }
    let count = kinship == .process && second > first ? second &- first : max(first, second)
    return "\(Losses.words(ofBlocks: count)) of \(second > 0 ? names.after : names.before)"
  }

  /// A look's name, and in which way the file that it was read from is not whole; nil if both looks are whole.
  public var problem: (name: String, words: ForeignText)? {
    if let words = losses.before.problems.first { return (names.before, words) }
    return losses.after.problems.first.map { (names.after, $0) }
  }

  /// What was allocated between the two looks; nil if that was not asked for, or is not known.
  public private(set) var made: SiteTable.Total?

  private struct Key: Hashable {
    var texts: [ForeignText]
    var function: ForeignText
  }

  /// `wantsTotals`: what was allocated between the looks is told, too, where it is known; and the rows are then all in
  /// which something was, the most allocated first.
  public init(
    from before: StackSums, named first: String, to after: StackSums, named second: String, by grouping: Grouping,
    limit: Int, wantsTotals: Bool = false
  ) {
    let isOfOne = before.processID == after.processID && before.startTime == after.startTime
    let hasTotals = wantsTotals && isOfOne && before.hasTotals && after.hasTotals
    (self.before, self.after, self.grouping, self.limit) = (before.total, after.total, grouping, limit)
    names = (first, second)
    losses = (before.losses, after.losses)
    hasEnded = (before.look.hasEnded, after.look.hasEnded)
    kinship = Kinship(before, after)
    kinshipWords = kinship?.words(before, after)
    var rows: [Key: Row] = [:]
    let share = MemoryShare()
    var size = 0
    var meter = BudgetMeter(interval: 16)
    // What another build moved to another line is the same function still.
    let hasLines = kinship == .process || kinship == .program
    for (sums, isAfter) in [(before, false), (after, true)] {
      // Two names of one program are no two modules.
      let program = sums.modules.last(where: \.isMain)?.path
      for row in sums.rows {
        guard meter.goesOn() else { break }
        let whole = StackSums.frames(of: row)
        // The site's frame, and those it is inlined into.
        let count = (whole.firstIndex { !$0.inlined }).map { $0 &- whole.startIndex &+ 1 } ?? whole.count
        let frames = grouping == .stack ? whole : whole.prefix(count)  // bounded: 0 to the count of the frames
        let texts = frames.map { Self.text($0, hasLine: hasLines, isOfProgram: $0.module == program) }
        let key = Key(texts: texts, function: row.function ?? "")
        size &+= 256 &+ key.texts.count &* 64
        share.hold(size)
        var sum = rows[key] ?? Row(frames: Array(frames), function: row.function)
        if !hasLines {
          for (index, frame) in zip(sum.frames.indices, frames) where sum.frames[index].line != frame.line {
            sum.frames[index].line = nil
          }
        }
        if isAfter { sum.after.add(row.total) } else { sum.before.add(row.total) }
        if let ever = row.allocated, isAfter { sum.everAfter.add(ever) }
        if let ever = row.allocated, !isAfter { sum.everBefore.add(ever) }
        rows[key] = sum
      }
    }
    let changed = rows.filter { $0.value.before != $0.value.after || hasTotals && $0.value.made.blocks > 0 }
    if hasTotals { made = changed.values.reduce(into: SiteTable.Total()) { $0.add($1.made) } }
    self.rows = changed.sorted { a, b in
      if hasTotals, a.value.made.bytes != b.value.made.bytes { return a.value.made.bytes > b.value.made.bytes }
      let (left, right) = (a.value.change.magnitude, b.value.change.magnitude)
      if left != right { return left > right }
      return (a.key.texts.joined(separator: "|"), a.key.function) < (b.key.texts.joined(separator: "|"), b.key.function)
    }.map(\.value)
  }

  private static func text(_ frame: Frame, hasLine: Bool, isOfProgram: Bool) -> ForeignText {
    let module = isOfProgram ? "" : frame.module?.fileName ?? ""
    let file = (hasLine ? frame.file : frame.file?.fileName) ?? ""
    return "\(frame.nameOrPlace)|\(module)|\(file)|\(hasLine ? frame.line ?? 0 : 0)"
  }

  /// By how much the second number is greater.
  static func change(_ before: UInt64, _ after: UInt64) -> Int64 {
    after >= before ? Int64(clamping: after &- before) : 0 &- Int64(clamping: before &- after)
  }

  /// Throws if it is not what was asked for: a comparison of two programs, unless these are meant; or one without what
  /// was allocated between the looks.
  public func check(otherProgram: Bool, wantsTotals: Bool) throws(Complaint) {
    if kinship == Kinship.none, !otherProgram {
      throw Complaint(
        .usage, what: "\(names.before) and \(names.after) are of \(kinshipWords ?? "two programs")",
        advice: "give two of one program, or --other-program (other-program=true) to compare them all the same")
    }
    if wantsTotals, made == nil {
      throw Complaint(
        .noTotals, what: "what was allocated between \(names.before) and \(names.after) is not known",
        advice: "give two looks at one process that keeps totals: snapshots, or the process itself")
    }
  }

  /// Bytes more of all that lives; less than 0 if fewer.
  public var growth: Int64 { Self.change(before.bytes, after.bytes) }
}

extension HeapDifference {
  private static func signed(_ number: Int64) -> String {
    number == 0 ? "0" : (number > 0 ? "+" : "-") + Units.grouped(number.magnitude)
  }

  /// A row's text among others. Of stacks, the first line alone.
  private static func distinct(_ row: Row) -> DistinctRows.Row {
    DistinctRows.Row(ofSite: row.frames.first, called: row.function, all: row.frames)
  }

  private static let leastNameWidth = 16

  /// A table of 80 columns: both looks, what changed, and the sums.
  public var text: String {
    func heading(_ word: String, _ name: String, _ total: SiteTable.Total, _ hasEnded: Bool) -> [String] {
      let title = "\(word) \(TextLayout.printable(name))\(hasEnded ? ", which has ended" : "")"
      let sums = "\(Units.count(total.blocks, "live block")) of \(Units.bytes(total.bytes))"
      let line = "\(title): \(sums)"
      if TextLayout.width(line) <= TextLayout.columns { return [line] }
      return [TextLayout.fit(title, columns: TextLayout.columns)] + TextLayout.fill(sums, indent: "     ")
    }
    var lines: [String] = heading("from", names.before, before, hasEnded.before)
    lines += heading("to  ", names.after, after, hasEnded.after)
    if let kinshipWords { lines += TextLayout.fill("These are \(kinshipWords).", indent: "") }
    if let made {
      lines += TextLayout.fill(
        "between: \(Units.count(made.blocks, "block")) of \(Units.bytes(made.bytes)) allocated", indent: "")
    }
    guard !rows.isEmpty else {
      return TextLayout.text(of: lines + ["Each \(grouping.rawValue) has what it had."] + lossLines)
    }
    let rest = rows.dropFirst(max(0, limit))
    let restChange = rest.reduce(0) { $0 &+ $1.change }
    let restBlocks = rest.reduce(0) { $0 &+ $1.blockChange }
    let restNow = rest.reduce(0) { $0 &+ $1.after.bytes }
    let changes = rows.map(\.change) + [growth, restChange]
    let blockChanges = rows.map(\.blockChange) + [Self.change(before.blocks, after.blocks), restBlocks]
    func width(_ texts: some Sequence<String>, _ least: Int) -> Int { texts.reduce(least) { max($0, $1.count) } }
    let blocksWidth = width(blockChanges.lazy.map(Self.signed), 6)
    // bounded: columns of a line
    let madeWidth = made == nil ? 0 : 11
    /// Columns that the names have; where exact bytes leave too few, they are rounded.
    func nameWidth(_ widths: (change: Int, now: Int)) -> Int {
      // bounded: digits of numbers, and columns of a line
      TextLayout.columns - widths.change - blocksWidth - widths.now - madeWidth - 14
    }
    var (bytesChange, bytesNow): ((Int64) -> String, (UInt64) -> String) = (Self.signed, Units.grouped)
    func widths() -> (change: Int, now: Int) {
      (width(changes.lazy.map(bytesChange), 6), width([max(after.bytes, 1), restNow].map(bytesNow), 3))
    }
    if nameWidth(widths()) < Self.leastNameWidth {
      bytesChange = { $0 == 0 ? "0" : ($0 > 0 ? "+" : "-") + Units.rounded($0.magnitude) }
      bytesNow = Units.rounded
    }
    let (changeWidth, nowWidth) = widths()
    let room = max(8, nameWidth((changeWidth, nowWidth)))
    // bounded: digits of numbers, and columns of a line
    func line(
      _ change: String, _ blocks: String, _ now: String, _ made: String, _ kind: String, _ rest: String
    ) -> String {
      TextLayout.padded(change, left: changeWidth) + TextLayout.padded(blocks, left: blocksWidth + 2)
        + TextLayout.padded(now, left: nowWidth + 2) + (madeWidth > 0 ? TextLayout.padded(made, left: madeWidth) : "")
        + "  " + TextLayout.padded(kind, right: 8) + rest
    }
    func words(_ made: SiteTable.Total) -> String { Units.rounded(made.bytes) }
    lines.append(line("BYTES", "BLOCKS", "NOW", "MADE", "", "ALLOCATED BY"))
    let shown = rows.prefix(max(0, limit))  // bounded: at least 0
    var meter = BudgetMeter(interval: 16)
    for (row, name) in zip(shown, DistinctRows.texts(shown.map(Self.distinct), columns: room)) {
      guard meter.goesOn() else { break }
      lines.append(
        line(
          bytesChange(row.change), Self.signed(row.blockChange), bytesNow(row.after.bytes), words(row.made),
          row.kind, name))
      guard grouping == .stack else { continue }
      for caller in row.frames.dropFirst() {
        lines.append(line("", "", "", "", "", "  " + Answer.describe(caller, columns: room - 2)))
      }
    }
    if !rest.isEmpty {
      lines.append(
        line(
          bytesChange(restChange), Self.signed(restBlocks), bytesNow(restNow),
          words(rest.reduce(into: SiteTable.Total()) { $0.add($1.made) }), "",
          Units.count(UInt64(clamping: rest.count), "other \(grouping.rawValue)")))
    }
    lines.append(
      line(
        bytesChange(growth), Self.signed(Self.change(before.blocks, after.blocks)), bytesNow(after.bytes),
        words(made ?? SiteTable.Total()), "", "all"))
    return TextLayout.text(of: lines + lossLines)
  }

  /// What both looks lack, or each by itself if they lack different things.
  private var lossLines: [String] {
    if losses.before == losses.after { return losses.after.lines }
    return [("from", losses.before), ("to", losses.after)].flatMap { title, losses in
      losses.lines(title: "  \(title): missing  ")
    }
  }

  /// One JSON object, without a newline.
  public var json: String {
    var writer = ByteWriter(capacity: 4096)
    func total(
      _ name: StaticString, _ total: SiteTable.Total, _ losses: Losses = Losses(), hasEnded: Bool = false
    ) {
      writer.append(name)
      writer.append("{\"bytes\":", decimal: total.bytes)
      writer.append(",\"blocks\":", decimal: total.blocks)
      if hasEnded { writer.append(",\"ended\":true") }
      losses.appendJSONFields(to: &writer)
      writer.append("}")
    }
    total("{\"before\":", before, losses.before, hasEnded: hasEnded.before)
    total(",\"after\":", after, losses.after, hasEnded: hasEnded.after)
    func append(made: SiteTable.Total) {
      writer.append(",\"allocated_bytes\":", decimal: made.bytes)
      writer.append(",\"allocated_blocks\":", decimal: made.blocks)
    }
    if let made { append(made: made) }
    writer.append(",\"by\":", string: grouping.rawValue)
    if let kinship { writer.append(",\"relation\":", string: kinship.rawValue) }
    writer.append(",\"row_count\":", decimal: UInt64(clamping: rows.count))
    writer.append(",\"rows\":[")
    for (index, row) in rows.prefix(max(0, limit)).enumerated() {
      writer.append(text: index > 0 ? ",{" : "{")
      writer.append("\"kind\":", string: row.kind)
      total(",\"before\":", row.before)
      total(",\"after\":", row.after)
      if made != nil { append(made: row.made) }
      if let function = row.function { writer.append(",\"function\":", string: function) }
      if !row.frames.isEmpty {
        writer.append(",\"stack\":[")
        for (index, frame) in row.frames.enumerated() {
          if index > 0 { writer.append(",") }
          frame.appendJSON(to: &writer)
        }
        writer.append("]")
      }
      writer.append("}")
    }
    writer.append("]")
    (losses.after.isEmpty ? losses.before : losses.after).appendJSONFields(to: &writer)
    writer.append("}")
    return writer.takeString()
  }
}
