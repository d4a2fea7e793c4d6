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
    var lines: [String] = Look.heading(
      look, processID, command, total, more: [Units.count(UInt64(clamping: siteCount), "site")])
    guard total.blocks > 0 else { return TextLayout.text(of: lines + losses.lines) }

    // bounded: digits of numbers, and columns of a line
    let bytesWidth = max(5, Units.grouped(total.bytes).count)
    let blocksWidth = max(6, Units.grouped(total.blocks).count)
    let agesWidth = showsAges ? 12 : 0
    func line(_ sum: (total: Total, births: SiteTable.Births)?, _ rest: String) -> String {
      let bytes = sum.map { Units.grouped($0.total.bytes) } ?? "BYTES"
      let share = sum.map { Units.share($0.total.bytes, of: total.bytes) } ?? "SHARE"
      let blocks = sum.map { Units.grouped($0.total.blocks) } ?? "BLOCKS"
      let age = sum.map { look?.oldest(of: $0.births) ?? "" } ?? "OLDEST"
      let head =
        TextLayout.padded(bytes, left: bytesWidth) + TextLayout.padded(share, left: 8)
        + TextLayout.padded(blocks, left: blocksWidth + 2)
        + TextLayout.padded(agesWidth > 0 ? age : "", left: agesWidth)
        + "  "
      return head + TextLayout.fit(rest, columns: max(8, TextLayout.columns - head.count))
    }
    let siteWidth = TextLayout.columns - bytesWidth - blocksWidth - agesWidth - 12
    lines.append(line(nil, "ALLOCATED BY"))
    var meter = BudgetMeter(interval: 16)
    for site in sites {
      guard meter.goesOn() else { break }
      lines.append(line((site.total, site.births), site.description(columns: siteWidth)))
    }
    if other.blocks > 0 {
      let hidden = UInt64(clamping: siteCount &- sites.count)
      lines.append(
        line((other, table.otherBirths), hidden == 1 ? "1 other site" : "\(Units.grouped(hidden)) other sites"))
    }
    if sites.count > 1 || other.blocks > 0 { lines.append(line((total, table.births), "all")) }
    for problem in sites.flatMap(\.frames).problems {
      lines += TextLayout.fill("names: \(TextLayout.printable(problem))", indent: "")
    }
    return TextLayout.text(of: lines + losses.lines)
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
    writer.append("}")
    writer.append(",\"site_count\":", decimal: UInt64(clamping: siteCount))
    writer.append(",\"sites\":[")
    for (index, site) in sites.enumerated() {
      if index > 0 { writer.append(",") }
      site.appendJSON(look, to: &writer)
    }
    writer.append("],\"other\":")
    other.appendJSONFields(table.otherBirths, look, to: &writer)
    writer.append("}")
    writer.append(namesMissing: sites.flatMap(\.frames).problems)
    losses.appendJSONFields(to: &writer)
    writer.append("}")
    return writer.takeString()
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
  /// The call site with the function that was called, in at most `columns`.
  func description(columns: Int) -> String {
    let called = function.map { ": \(TextLayout.fit(TextLayout.printable($0), columns: 20))" } ?? ""
    guard let site = frames.first else {
      return function == nil ? "not known" : TextLayout.fit("caller not known\(called)", columns: columns)
    }
    let room = max(12, columns &- TextLayout.width(called))
    // An inlined function is named by the function that contains it: gc_alloc in PyObject_New tells more than a line of
    // gc_alloc.
    guard let outer = frames.last?.function, outer != site.function, site.function != nil else {
      return "\(Answer.describe(site, columns: room))\(called)"
    }
    let whole = TextLayout.printable(outer)
    for form in [whole] + FunctionName.shorterForms(of: whole) {
      let suffix = " in \(form)"
      if let inner = Answer.whole(site, columns: room &- TextLayout.width(suffix)) {
        return "\(inner)\(suffix)\(called)"
      }
    }
    return "\(Answer.describe(site, columns: room))\(called)"
  }

  fileprivate func appendJSON(_ look: Look?, to writer: inout ByteWriter) {
    total.appendJSONFields(births, look, to: &writer)
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
