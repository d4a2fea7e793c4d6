// SPDX-License-Identifier: Apache-2.0
// The table of allocation sites, for people and as JSON.

import Bounds
import ByteText
import Provenance
import Symbols

extension TopTable {
  /// A table of 80 columns: a line with the sums first, then the sites, a line that sums up the sites not shown, and
  /// the sums again.
  public var text: String {
    let count = UInt64(clamping: siteCount)
    var lines: [String] = Look.heading(look, processID, command, total, more: [Units.count(count, grouping.noun)])
    lines += marks?.lines ?? []
    if let totalSeconds {
      lines += totalLines(totalSeconds)
      return TextLayout.text(of: lines + losses.lines)
    }
    if let totalsProblem { lines += TextLayout.fill("totals: \(totalsProblem)", indent: "") }
    guard total.blocks > 0 else { return TextLayout.text(of: lines + mappedLines + losses.lines) }

    // bounded: digits of numbers, and columns of a line
    let bytesWidth = max(5, Units.grouped(total.bytes).count)
    let blocksWidth = max(6, Units.grouped(total.blocks).count)
    let agesWidth = ages == .none ? 0 : 12
    func line(_ sum: (total: Total, births: SiteTable.Births)?, _ rest: String) -> String {
      let bytes = sum.map { Units.grouped($0.total.bytes) } ?? "BYTES"
      let share = sum.map { Units.share($0.total.bytes, of: total.bytes) } ?? "SHARE"
      let blocks = sum.map { Units.grouped($0.total.blocks) } ?? "BLOCKS"
      let age = sum.map { self.age(of: $0.births) } ?? (ages == .newest ? "NEWEST" : "OLDEST")
      let head =
        TextLayout.padded(bytes, left: bytesWidth) + TextLayout.padded(share, left: 8)
        + TextLayout.padded(blocks, left: blocksWidth + 2)
        + TextLayout.padded(agesWidth > 0 ? age : "", left: agesWidth)
        + "  "
      return head + TextLayout.fit(rest, columns: max(8, TextLayout.columns - head.count))
    }
    let siteWidth = TextLayout.columns - bytesWidth - blocksWidth - agesWidth - 12
    lines.append(line(nil, grouping.title))
    let texts = Self.texts(of: sites, by: grouping, columns: siteWidth)
    var meter = BudgetMeter(interval: 16)
    for (site, text) in zip(sites, texts) {
      guard meter.goesOn() else { break }
      lines.append(line((site.total, site.births), text))
    }
    if other.blocks > 0 {
      let hidden = UInt64(clamping: siteCount &- sites.count)
      lines.append(line((other, table.otherBirths), Units.count(hidden, "other \(grouping.noun)")))
    }
    if sites.count > 1 || other.blocks > 0 { lines.append(line((total, table.births), "all")) }
    lines += mappedLines
    for problem in sites.flatMap(\.frames).problems {
      lines += TextLayout.fill("names: \(TextLayout.printable(problem))", indent: "")
    }
    return TextLayout.text(of: lines + losses.lines)
  }

  /// What an allocator of the program's own may hold, from a hundredth of what the table has on.
  private var mappedLines: [String] {
    guard mappedBeside.blocks > 0, mappedBeside.bytes >= total.bytes / 100 else { return [] }
    return TextLayout.fill(
      "besides: \(Units.bytes(mappedBeside.bytes)) in \(Units.count(mappedBeside.blocks, "mapping")) of the program's "
        + "own, listed by --mapped", indent: "")
  }

  private func age(of births: SiteTable.Births) -> String {
    (ages == .newest ? look?.newest(of: births) : look?.oldest(of: births)) ?? ""
  }

  /// One JSON object, without a newline.
  public var json: String {
    var writer = ByteWriter(capacity: 4096)
    writer.append("{\"pid\":")
    writer.append(decimal: UInt64(clamping: processID))
    writer.append(",\"command\":")
    writer.appendArray(command)
    look?.appendJSONField(to: &writer)
    writer.append(",\"total\":")
    total.appendJSONFields(table.births, look, to: &writer)
    append(table.allocated, to: &writer)
    writer.append("}")
    if let totalSeconds {
      writer.append(",\"total_seconds\":")
      writer.append(decimal: totalSeconds, places: 2)
      if withoutContext > 0 { writer.append(",\"uncounted_blocks\":", decimal: withoutContext) }
    }
    if grouping == .site {
      writer.append(",\"site_count\":", decimal: UInt64(clamping: siteCount))
      writer.append(",\"sites\":[")
    } else {
      writer.append(",\"group\":", string: grouping.rawValue)
      writer.append(",\"group_count\":", decimal: UInt64(clamping: siteCount))
      writer.append(",\"groups\":[")
    }
    for (index, site) in sites.enumerated() {
      if index > 0 { writer.append(",") }
      site.appendJSON(grouping, look, to: &writer) { append($0, to: &$1) }
    }
    writer.append("],\"other\":")
    other.appendJSONFields(table.otherBirths, look, to: &writer)
    append(table.otherAllocated, to: &writer)
    writer.append("}")
    writer.append(namesMissing: sites.flatMap(\.frames).problems)
    marks?.appendJSONField(to: &writer)
    look?.appendEnding(to: &writer)
    losses.appendJSONFields(to: &writer)
    writer.append("}")
    return writer.takeString()
  }
}

extension HeapGrouping {
  /// The noun of one row.
  var noun: String {
    switch self {
    case .size: "size range"
    case .age: "age range"
    case .site, .function, .module, .file, .thread, .allocator: rawValue
    }
  }

  /// The title of the rows' column.
  package var title: String { self == .site ? "ALLOCATED BY" : rawValue.uppercased() }
}

extension TopTable {
  var grouping: HeapGrouping { table.grouping }

  /// The names of rows, in `columns` each; no two of them alike.
  package static func texts(of rows: [Site], by grouping: HeapGrouping, columns: Int) -> [String] {
    DistinctRows.texts(rows.map { $0.row(by: grouping, showsFunction: true) }, columns: columns)
  }

  /// The names of rows where there is little room: without the function that was called, unless it tells them apart.
  package static func shortTexts(of rows: [Site], by grouping: HeapGrouping, columns: Int) -> [DistinctRows.Text] {
    DistinctRows.distinct(rows.map { $0.row(by: grouping, showsFunction: false) }, columns: columns)
  }
}

extension TopTable.Total {
  fileprivate func appendJSONFields(
    _ births: SiteTable.Births, _ look: Look?, to writer: inout ByteWriter
  ) {
    writer.append("{\"bytes\":", decimal: bytes)
    writer.append(",\"blocks\":", decimal: blocks)
    look?.appendJSONFields(of: births, to: &writer)
  }
}

extension TopTable.Site {
  fileprivate func row(by grouping: HeapGrouping, showsFunction: Bool) -> DistinctRows.Row {
    var shown = self
    if !showsFunction, !frames.isEmpty { shown.function = nil }
    return DistinctRows.Row(
      text: { shown.name(by: grouping, columns: $0) }, least: { leastColumns(by: grouping) },
      whole: wholeName(by: grouping), tags: tags)
  }

  /// The columns in which what must stay of a name is whole: the own name of a function, and its line.
  package func leastColumns(by grouping: HeapGrouping) -> Int {
    switch (grouping, key) {
    case (.site, _): return frames.first.map { Answer.leastColumns(of: $0) } ?? 0
    case (.function, .name(let name)):
      let text = TextLayout.printable(name)
      return TextLayout.width(FunctionName.ownName(of: FunctionName.shorterForms(of: text).last ?? text))
    case _: return 0
    }
  }

  /// What the row's blocks have in common, in at most `columns`.
  func name(by grouping: HeapGrouping, columns: Int) -> String {
    switch (grouping, key) {
    case (.site, _): return description(columns: columns)
    case (_, .bucket(let number)):
      let text = grouping == .size ? Self.sizes(number) : Self.ages(number)
      return TextLayout.fit(text, columns: columns)
    case (.thread, _):
      guard let thread else { return TextLayout.fit("not known", columns: columns) }
      let name = Answer.name(of: Answer.Thread(id: thread.id, name: thread.name))
      return TextLayout.fit(thread.state == .ended ? "\(name), ended" : name, columns: columns)
    case (_, .name(let name)) where !name.isEmpty:
      let text = TextLayout.printable(name)
      let forms = grouping == .function ? [text] + FunctionName.shorterForms(of: text) : [text]
      if let form = forms.first(where: { TextLayout.width($0) <= columns }) { return form }
      return TextLayout.fitPath(text, columns: columns) ?? TextLayout.fit(forms.last ?? text, columns: columns)
    case _: return TextLayout.fit("not known", columns: columns)
    }
  }

  /// All that tells the row from others, in words.
  fileprivate func wholeName(by grouping: HeapGrouping) -> String {
    guard grouping == .site else { return name(by: grouping, columns: .max) }
    return (frames.map(Answer.wholeText) + [function?.escaped ?? "", allocator?.escaped ?? ""]).joined(separator: " ")
  }

  /// Short texts that tell the row from others whose names are equal.
  fileprivate var tags: [String] {
    guard case .site(let pc, let module, let allocator, _) = key else {
      return [key.map { $0.text.escaped } ?? ""]
    }
    return [hex(pc), "\(hex(pc)) \(module).\(allocator)"]
  }

  private static func whole(_ seconds: Double) -> UInt64 { Foreign<UInt64>(wholePartOf: seconds).saturated() }

  private static func sizes(_ number: UInt32) -> String {
    let sizes = GroupKey.sizes(ofClass: number)
    guard sizes.upperBound > sizes.lowerBound else { return Units.count(sizes.lowerBound, "byte") }
    return "\(Units.grouped(sizes.lowerBound)) to \(Units.grouped(sizes.upperBound)) bytes"
  }

  private static func ages(_ number: UInt32) -> String {
    let bounds = GroupKey.ageBounds
    let index = Int(clamping: number)
    guard index < bounds.count else { return "\(Units.duration(bounds[bounds.count &- 1])) and older" }
    let most = Units.duration(bounds[index])
    return index == 0 ? "younger than \(most)" : "\(Units.duration(bounds[index &- 1])) to \(most)"
  }

  /// The call site with the function that was called, in at most `columns`. Where there is no room for both, the site
  /// goes before the function, and its own name and line before what it is inlined into.
  func description(columns: Int) -> String {
    let called = function.map { ": \(TextLayout.fit(TextLayout.printable($0), columns: 20))" } ?? ""
    guard let site = frames.first else {
      return TextLayout.fit(function == nil ? "not known" : "caller not known\(called)", columns: columns)
    }
    let room = columns &- TextLayout.width(called)
    // An inlined function is named by the function that contains it: gc_alloc in PyObject_New tells more than a line of
    // gc_alloc.
    if let outer = frames.last?.function, outer != site.function, site.function != nil {
      let whole = TextLayout.printable(outer)
      for form in [whole] + FunctionName.shorterForms(of: whole) {
        let suffix = " in \(form)"
        if let inner = Answer.whole(site, columns: room &- TextLayout.width(suffix)) {
          return "\(inner)\(suffix)\(called)"
        }
      }
    }
    if let whole = Answer.whole(site, columns: room) { return "\(whole)\(called)" }
    return Answer.describe(site, columns: columns)
  }

  /// `appendAllocated`: writes what was ever allocated.
  fileprivate func appendJSON(
    _ grouping: HeapGrouping, _ look: Look?, to writer: inout ByteWriter,
    _ appendAllocated: (SiteTable.Allocated?, inout ByteWriter) -> Void
  ) {
    total.appendJSONFields(births, look, to: &writer)
    appendAllocated(allocated, &writer)
    if let key { writer.append(",\"key\":", string: key.text) }
    switch (grouping, key) {
    case (.thread, _):
      if let thread {
        writer.append(thread: Answer.Thread(id: thread.id, name: thread.name.isEmpty ? nil : thread.name))
        if thread.state == .ended { writer.append(",\"ended\":true") }
      }
    case (.size, .bucket(let number)):
      let sizes = GroupKey.sizes(ofClass: number)
      writer.append(",\"min_size\":", decimal: sizes.lowerBound)
      writer.append(",\"max_size\":", decimal: sizes.upperBound)
    case (.age, .bucket(let number)):
      let bounds = GroupKey.ageBounds
      let index = Int(clamping: number)
      writer.append(",\"min_seconds\":", decimal: index > 0 ? Self.whole(bounds[min(index, bounds.count) &- 1]) : 0)
      if index < bounds.count { writer.append(",\"max_seconds\":", decimal: Self.whole(bounds[index])) }
    case (.function, .name(let name)), (.module, .name(let name)), (.file, .name(let name)),
      (.allocator, .name(let name)):
      if !name.isEmpty { writer.append(",\"name\":", string: name) }
    case _: break
    }
    if !parts.isEmpty {
      writer.append(",\"parts\":[")
      for (index, part) in parts.enumerated() {
        writer.append(text: index > 0 ? ",[" : "[")
        writer.append(decimal: part.bytes)
        writer.append(",", decimal: part.blocks)
        writer.append("]")
      }
      writer.append("]")
    }
    if let allocator { writer.append(",\"allocator\":", string: allocator) }
    if let function { writer.append(",\"function\":", string: function) }
    if let site = frames.first {
      site.appendSite(to: &writer)
      writer.append(",\"stack\":[")
      for (index, frame) in frames.enumerated() {
        if index > 0 { writer.append(",") }
        frame.appendJSON(to: &writer)
      }
      writer.append("]")
    }
    writer.append("}")
  }
}

extension ByteWriter {
  /// A JSON array of strings.
  package mutating func appendArray(_ strings: [ForeignText]) {
    append("[")
    for (index, string) in strings.enumerated() {
      if index > 0 { append(",") }
      appendJSONString(string)
    }
    append("]")
  }
}
