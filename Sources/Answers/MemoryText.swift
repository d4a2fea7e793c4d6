// SPDX-License-Identifier: Apache-2.0
// The account of a process's resident memory, for people and as JSON.

import Bounds
import ByteText
import Provenance
import Symbols

extension MemoryAccount {
  /// Sites of pinned pages that are shown.
  private static let pinLimit = 20

  /// A table of 80 columns; with the table of pinned pages, if that was asked for.
  public var text: String {
    let title = IndexedProcess.title(processID, command)
    let total = total
    var sums = ["\(title): \(Units.bytes(total.resident)) resident"]
    if total.swapped > 0 { sums.append("\(Units.bytes(total.swapped)) swapped out") }
    var lines: [String] = TextLayout.wrap(sums, indent: "")
    // bounded: digits of numbers, and columns of a line
    let width = max(8, Units.grouped(max(total.resident, heap.live)).count)
    func line(_ bytes: String, _ share: String, _ swapped: String, _ words: String) -> String {
      TextLayout.padded(bytes, left: width) + TextLayout.padded(share, left: 8)
        + TextLayout.padded(swapped, left: width + 2) + "  " + TextLayout.fit(words, columns: 80 - 2 * width - 12)
    }
    func line(_ bytes: UInt64, _ words: String, swapped: UInt64? = nil) -> String {
      line(
        Units.grouped(bytes), Units.share(bytes, of: total.resident), swapped.map { Units.grouped($0) } ?? "", words)
    }
    lines.append(line("RESIDENT", "SHARE", "SWAPPED", "OF WHAT"))
    for part in Part.allCases {
      guard let sum = parts[part], sum.resident > 0 || sum.swapped > 0 else { continue }
      lines.append(line(sum.resident, part.words, swapped: sum.swapped))
      guard part == .heap else { continue }
      if heap.knowsPages {
        let blocks = Units.count(heap.blocks, "live block")
        lines.append(
          line(
            heap.residentLive,
            heap.live > heap.residentLive ? "  resident part of \(blocks)" : "  \(blocks), as asked for"))
        lines.append(line(heap.beside, "  the rest of their pages: rounding, gaps"))
        lines.append(line(heap.free, "  pages without a live block"))
      } else {
        lines.append(line("", "", "", "  \(Units.count(heap.blocks, "live block")) of \(Units.bytes(heap.live))"))
      }
    }
    lines.append(line(total.resident, "all", swapped: total.swapped))
    if heap.knowsPages, heap.live > heap.residentLive {
      lines += TextLayout.fill(
        "\(Units.bytes(heap.live - heap.residentLive)) of live blocks are not resident: never written to, or swapped "
          + "out.", indent: "  ")
    }
    if let pageTables { lines.append("  Page tables take \(Units.bytes(pageTables)) more.") }
    if showsPins { lines += pinLines }
    return TextLayout.text(of: lines + losses.lines)
  }

  private var pinLines: [String] {
    let pages = pins.reduce(mixedPins.pages) { $0 &+ $1.pages }
    guard heap.knowsPages, pages > 0 else {
      return ["No page is held by \(Self.pinnedBytes) live bytes or fewer."]
    }
    var lines = TextLayout.fill(
      "\(Units.countOf(pages, "resident page has", "resident pages have")) at most "
        + "\(Self.pinnedBytes) live bytes. Freeing all that a site has in the pages that it alone holds would let "
        + "the allocator give these pages back:", indent: "")
    // bounded: digits of numbers, and columns of a line
    let width = max(10, Units.grouped(pages &* Self.pageSize).count)
    func line(_ bytes: String, _ live: String, _ blocks: String, _ words: (Int) -> String) -> String {
      let head =
        TextLayout.padded(bytes, left: width) + TextLayout.padded(live, left: width + 2)
        + TextLayout.padded(blocks, left: 11) + "  "
      return head + words(max(8, TextLayout.columns - head.count))
    }
    lines.append(line("GIVES BACK", "LIVE BYTES", "BLOCKS", { _ in "ALLOCATED BY" }))
    func row(_ pin: Pin, _ words: (Int) -> String) -> String {
      line(Units.grouped(pin.bytes), Units.grouped(pin.total.bytes), Units.grouped(pin.total.blocks), words)
    }
    let shown = pins.prefix(Self.pinLimit)  // bounded: it is a constant
    let names = DistinctRows.texts(
      shown.map { DistinctRows.Row(ofSite: $0.site.first, called: $0.function, all: $0.site) },
      columns: max(8, TextLayout.columns - 2 * width - 15))
    for (pin, name) in zip(shown, names) { lines.append(row(pin) { _ in name }) }
    var others = Pin(site: [])
    for pin in pins.dropFirst(Self.pinLimit) {
      others.pages &+= pin.pages
      others.total.add(pin.total)
    }
    if others.pages > 0 {
      lines.append(row(others) { _ in Units.count(UInt64(clamping: pins.count - Self.pinLimit), "other site") })
    }
    if mixedPins.pages > 0 { lines.append(row(mixedPins) { _ in "several sites in one page" }) }
    return lines
  }

  /// One JSON object, without a newline.
  public var json: String {
    var writer = ByteWriter(capacity: 4096)
    writer.append("{\"pid\":")
    writer.append(decimal: UInt64(clamping: processID))
    writer.append(",\"command\":")
    writer.appendArray(command)
    func append(_ name: String, _ sum: Sum) {
      writer.appendJSONString(name)
      writer.append(":{\"resident\":", decimal: sum.resident)
      writer.append(",\"swapped\":", decimal: sum.swapped)
      writer.append(",\"size\":", decimal: sum.size)
      writer.append("}")
    }
    writer.append(",")
    append("total", total)
    writer.append(",\"parts\":{")
    for (index, part) in Part.allCases.enumerated() {
      if index > 0 { writer.append(",") }
      append(part.rawValue, parts[part] ?? Sum())
    }
    writer.append("},\"heap\":{\"live_bytes\":", decimal: heap.live)
    writer.append(",\"live_blocks\":", decimal: heap.blocks)
    if heap.knowsPages {
      writer.append(",\"resident_live\":", decimal: heap.residentLive)
      writer.append(",\"resident_beside\":", decimal: heap.beside)
      writer.append(",\"resident_free\":", decimal: heap.free)
    }
    writer.append("}")
    if let pageTables { writer.append(",\"page_tables\":", decimal: pageTables) }
    if showsPins {
      writer.append(",\"pinned\":[")
      for (index, pin) in pins.enumerated() {
        writer.append(text: index > 0 ? ",{" : "{")
        appendJSONFields(of: pin, to: &writer)
        if let function = pin.function { writer.append(",\"function\":", string: function) }
        if let site = pin.site.first { site.appendSite(to: &writer) }
        writer.append("}")
      }
      writer.append("],\"pinned_by_several\":{")
      appendJSONFields(of: mixedPins, to: &writer)
      writer.append("}")
    }
    losses.appendJSONFields(to: &writer)
    writer.append("}")
    return writer.takeString()
  }

  private func appendJSONFields(of pin: Pin, to writer: inout ByteWriter) {
    writer.append("\"pages\":", decimal: pin.pages)
    writer.append(",\"live_bytes\":", decimal: pin.total.bytes)
    writer.append(",\"blocks\":", decimal: pin.total.blocks)
  }
}
