// SPDX-License-Identifier: Apache-2.0
// The account of a process's resident memory, for people and as JSON.

import Bounds
import ByteText
import Provenance
import Symbols

extension MemoryAccount {
  /// Sites of pinned pages that are shown.
  private static let pinLimit = 20
  /// Arenas of an allocator that are shown, and those that JSON lists.
  private static let arenaLimit = 8
  private static let listedArenaLimit = 1000

  /// A table; with the table of pinned pages, if that was asked for.
  public var text: String {
    let title = IndexedProcess.title(processID, command)
    let total = total
    var sums = ["\(title): \(Units.bytes(total.resident)) resident"]
    if total.swapped > 0 { sums.append("\(Units.bytes(total.swapped)) swapped out") }
    var lines: [String] = TextLayout.wrap(sums, indent: "")
    // bounded: digits of numbers, and columns of a line
    let width = max(8, Units.grouped(total.resident).count)
    // Where the first column is wide, the third leaves its room to the words.
    let swappedWidth = 2 + max(min(width, 22 - width), "SWAPPED".count, Units.grouped(total.swapped).count)
    func line(_ bytes: String, _ share: String, _ swapped: String, _ words: String) -> String {
      TextLayout.padded(bytes, left: width) + TextLayout.padded(share, left: 8)
        + TextLayout.padded(swapped, left: swappedWidth) + "  "
        + TextLayout.fit(words, columns: TextLayout.columns - width - swappedWidth - 10)
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
        if heap.rounded > 0 { lines.append(line(heap.rounded, "  what glibc rounds its blocks up by")) }
        lines.append(
          line(heap.beside &- heap.rounded, "  the rest of their pages: \(heap.rounded > 0 ? "" : "rounding, ")gaps"))
        let known = losses.blocks > 0 ? "a live block that the index has" : "a live block"
        lines.append(line(heap.free, "  pages without \(known)"))
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
    lines += allocatorLines
    if let pageTables { lines.append("  Page tables take \(Units.bytes(pageTables)) more.") }
    if showsPins { lines += pinLines }
    return TextLayout.text(of: lines + losses.lines)
  }

  /// The heap by allocator and arena, where that says more than the rows above.
  private var allocatorLines: [String] {
    guard heap.knowsPages, !allocators.isEmpty else { return [] }
    func line(_ resident: String, _ live: String, _ rounded: String, _ gaps: String, _ free: String, _ words: String)
      -> String
    {
      let head = [resident, live, rounded, gaps, free].map { TextLayout.padded($0, left: 11) }.joined()
      return "\(head)  \(TextLayout.fit(words, columns: max(8, TextLayout.columns &- 57)))"
    }
    func short(_ bytes: UInt64) -> String {
      let text = Units.rounded(bytes)
      // 1,023.9 KiB would fill its column.
      return text.utf8.count > 10 ? "\(text.prefix { $0 != "." }) \(text.suffix(3))" : text
    }
    func row(_ holding: Holding, isKnown: Bool, _ words: String) -> String {
      line(
        short(holding.resident), short(holding.residentLive), isKnown ? short(holding.rounded) : "-",
        short(holding.gaps), short(holding.free), words)
    }
    var lines = ["The heap's resident memory by allocator:"]
    lines.append(line("RESIDENT", "LIVE", "ROUNDED UP", "GAPS", "FREE PAGES", "HELD BY"))
    for part in allocators {
      let isLibc = part.name.map { Inquiry.isLibc($0) } ?? false
      lines.append(row(part.holding, isKnown: isLibc, part.name.map { TextLayout.printable($0) } ?? "not known"))
      let shown = part.arenas.prefix(Self.arenaLimit)  // bounded: it is a constant
      for arena in shown { lines.append(row(arena.holding, isKnown: isLibc, "  \(arena.words)")) }
      guard part.arenas.count > shown.count else { continue }
      var others = Holding()
      for arena in part.arenas.dropFirst(shown.count) { others.add(arena.holding) }
      lines.append(
        row(
          others, isKnown: isLibc,
          "  \(Units.countOf(UInt64(clamping: part.arenas.count &- shown.count), "other part", "other parts"))"))
    }
    return lines
  }

  private var pinLines: [String] {
    let pages = pins.reduce(mixedPins.pages) { $0 &+ $1.pages }
    guard heap.knowsPages, pages > 0 else {
      let known = losses.blocks > 0 ? ", of blocks that the index has" : ""
      return ["No page is held by \(Self.pinnedBytes) live bytes or fewer\(known)."]
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
      writer.append(",\"resident_rounded\":", decimal: heap.rounded)
    }
    writer.append("}")
    appendAllocators(to: &writer)
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

  private func appendAllocators(to writer: inout ByteWriter) {
    writer.append(",\"allocators\":[")
    for (index, part) in allocators.enumerated() {
      writer.append(text: index > 0 ? ",{" : "{")
      if let name = part.name {
        writer.append("\"allocator\":", string: name)
        writer.append(",")
      }
      if let module = part.module {
        writer.append("\"allocator_module\":", string: module)
        writer.append(",")
      }
      appendJSONFields(of: part.holding, of: part, to: &writer)
      if !part.arenas.isEmpty {
        writer.append(",\"arena_count\":", decimal: UInt64(clamping: part.arenas.count))
        writer.append(",\"arenas\":[")
        let listed = part.arenas.prefix(Self.listedArenaLimit)  // bounded: it is a constant
        for (index, arena) in listed.enumerated() {
          writer.append(text: index > 0 ? ",{\"kind\":" : "{\"kind\":")
          writer.appendJSONString(arena.kind.rawValue)
          if let start = arena.start {
            writer.append(",\"start\":\"")
            writer.append(address: start)
            writer.append("\"")
          }
          writer.append(",")
          appendJSONFields(of: arena.holding, of: part, to: &writer)
          writer.append("}")
        }
        writer.append("]")
      }
      writer.append("}")
    }
    writer.append("]")
  }

  private func appendJSONFields(of holding: Holding, of part: AllocatorPart, to writer: inout ByteWriter) {
    writer.append("\"live_bytes\":", decimal: holding.live)
    writer.append(",\"live_blocks\":", decimal: holding.blocks)
    guard heap.knowsPages else { return }
    writer.append(",\"resident\":", decimal: holding.resident)
    writer.append(",\"resident_live\":", decimal: holding.residentLive)
    if part.name.map({ Inquiry.isLibc($0) }) ?? false {
      writer.append(",\"resident_rounded\":", decimal: holding.rounded)
    }
    writer.append(",\"resident_beside\":", decimal: holding.rounded &+ holding.gaps)
    writer.append(",\"resident_free\":", decimal: holding.free)
  }

  private func appendJSONFields(of pin: Pin, to writer: inout ByteWriter) {
    writer.append("\"pages\":", decimal: pin.pages)
    writer.append(",\"live_bytes\":", decimal: pin.total.bytes)
    writer.append(",\"blocks\":", decimal: pin.total.blocks)
  }
}

extension MemoryAccount.Arena {
  /// The words of the table's row.
  var words: String {
    switch kind {
    case .main: "the program break"
    case .thread: "heap 0x\(String(start ?? 0, radix: 16))"
    case .single: "mapped one by one"
    case .other: "other mappings"
    }
  }
}
