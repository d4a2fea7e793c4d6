// SPDX-License-Identifier: Apache-2.0
// A flame graph as one SVG file, which needs nothing else: the outermost callers at the top, each function below its
// caller and as wide as the bytes that live of what was allocated from there on. In a browser a click shows a part at
// full width, and a search marks functions; without scripts it is a picture with titles.
//
// The script is constant text. Names are in text nodes and titles, escaped as XML asks: nothing of them is ever markup.

import Bounds
import ByteText
import Provenance

struct FlameGraph {
  private static let width = 1200
  private static let rowHeight = 17
  /// Columns of the font in which names are written.
  private static let characterWidth = 7.0
  /// Frames narrower than this part of the whole are left out, as in a picture they would be no pixel wide.
  private static let leastShare = 0.0002

  private struct Box {
    var node: Int
    /// The bytes to its left.
    var start: UInt64
  }

  private let tree: CallTree
  private let title: String
  private let missing: String?
  private var boxes: [Box] = []
  private var depth = 0

  init(of sums: StackSums) {
    tree = CallTree(of: sums, isInverted: false, limit: .max)
    title = sums.profileTitle
    missing = sums.lossSentence
    let whole = Double(tree.nodes[0].total.bytes)
    var starts = [0: UInt64(0)]
    var meter = BudgetMeter(interval: 64)
    for node in tree.shown {
      guard meter.goesOn() else { break }
      let bytes = tree.nodes[node].total.bytes
      let start = starts[node] ?? 0
      // The nodes below it begin where it begins; the next node beside it, behind it.
      starts[node] = start
      if node != 0 {
        let own = starts[tree.nodes[node].parent] ?? 0
        boxes.append(Box(node: node, start: own))
        starts[node] = own
        starts[tree.nodes[node].parent] = own &+ bytes
      }
      guard whole > 0, Double(bytes) / whole >= Self.leastShare else {
        if node != 0 { boxes.removeLast() }
        continue
      }
      depth = max(depth, tree.nodes[node].depth)
    }
  }

  func render() -> [UInt8] {
    var writer = ByteWriter(capacity: 1 << 16)
    // bounded: the depth of a stack, and columns of a picture
    let height = (depth + 5) * Self.rowHeight
    writer.append(
      text: """
        <?xml version="1.0" encoding="UTF-8"?>
        <svg xmlns="http://www.w3.org/2000/svg" width="\(Self.width)" height="\(height)">
        \(Self.style)
        <rect class="ground" width="100%" height="100%"/>
        <text class="title" x="8" y="20">\(Self.escaped(title))</text>
        <text id="search" x="\(Self.width - 8)" y="20" text-anchor="end">search (/)</text>
        <text id="details" x="8" y="38"></text>
        <g id="frames">

        """)
    let whole = Double(max(tree.nodes[0].total.bytes, 1))
    frame(&writer, title: "all", total: tree.nodes[0].total, start: 0, share: 1, row: 0)
    var meter = BudgetMeter(interval: 16)
    for box in boxes {
      guard meter.goesOn() else { break }
      let node = tree.nodes[box.node]
      frame(
        &writer, title: tree.frame(of: node)?.profileName ?? "[callers not known]", total: node.total,
        start: Double(box.start) / whole, share: Double(node.total.bytes) / whole, row: node.depth)
    }
    writer.append(text: "</g>\n")
    if let missing {
      writer.append(
        text: "<text class=\"missing\" x=\"8\" y=\"\(height - 8)\">missing: \(Self.escaped(missing))</text>\n")
    }
    writer.append(text: "\(Self.script)\n</svg>\n")
    return writer.take()
  }

  private func frame(
    _ writer: inout ByteWriter, title: String, total: SiteTable.Total, start: Double, share: Double, row: Int
  ) {
    // bounded: the depth of a stack, and columns of a picture
    let y = (row + 3) * Self.rowHeight
    let (x, width) = (start * Double(Self.width), share * Double(Self.width))
    let columns = Int(exactly: (width / Self.characterWidth).rounded(.down)) ?? 0
    let label = columns < 3 ? "" : TextLayout.fit(title, columns: columns - 1)
    let words =
      "\(title): \(Units.bytes(total.bytes)), \(Units.share(total.bytes, of: tree.nodes[0].total.bytes)), "
      + Units.count(total.blocks, "block")
    writer.append(
      text: """
        <g data-x="\(start)" data-w="\(share)"><title>\(Self.escaped(words))</title>\
        <rect x="\(Self.tenths(x))" y="\(y)" width="\(Self.tenths(width))" height="\(Self.rowHeight - 1)" \
        fill="\(Self.colour(of: title))"/>\
        <text x="\(Self.tenths(x + 3))" y="\(y + 12)">\(Self.escaped(label))</text></g>

        """)
  }

  private static func tenths(_ value: Double) -> String { "\((value * 10).rounded() / 10)" }

  /// A warm colour, always the same one for a name.
  private static func colour(of name: String) -> String {
    var hash: UInt32 = 2_166_136_261
    for byte in name.utf8 { hash = (hash ^ UInt32(truncatingIfNeeded: byte)) &* 16_777_619 }
    return "hsl(\(hash % 50) \(70 + hash / 64 % 20)% \(62 + hash / 4096 % 12)%)"  // bounded: sums of remainders
  }

  /// Text for XML 1.0, which has no way to write some characters at all.
  static func escaped(_ text: String) -> String {
    var result = ""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "<": result += "&lt;"
      case ">": result += "&gt;"
      case "&": result += "&amp;"
      case "\"": result += "&quot;"
      case "\u{20}"..."\u{D7FF}", "\u{E000}"..."\u{FFFD}", "\u{10000}"..."\u{10FFFF}":
        result.unicodeScalars.append(scalar)
      default: result += "\u{FFFD}"
      }
    }
    return result
  }

  private static let style = """
    <style>
    svg { font: 12px ui-monospace, monospace; background: #fff; }
    .ground { fill: #fff; } text { fill: #111; } .title { font-weight: bold; }
    #frames g { cursor: pointer; } #frames text { pointer-events: none; }
    #frames g:hover rect { stroke: #111; } .found rect { fill: #c4f; } #search { cursor: pointer; }
    @media (prefers-color-scheme: dark) {
      svg { background: #161616; } .ground { fill: #161616; }
      text { fill: #eee; } #frames text { fill: #111; } #frames g:hover rect { stroke: #eee; }
    }
    </style>
    """

  private static let script = """
    <script><![CDATA[
    const width = 1200, frames = [...document.querySelectorAll("#frames > g")];
    const details = document.getElementById("details");
    for (const g of frames) {
      [g.x, g.w] = [Number(g.dataset.x), Number(g.dataset.w)];
      [g.box, g.label] = [g.querySelector("rect"), g.querySelector("text")];
      g.words = g.querySelector("title").textContent;
      g.name = g.words.slice(0, g.words.lastIndexOf(": "));
      g.addEventListener("mouseenter", () => { details.textContent = g.words; });
      g.addEventListener("click", () => show(g));
    }
    function show(chosen) {
      for (const g of frames) {
        const from = Math.max(0, (g.x - chosen.x) / chosen.w), to = Math.min(1, (g.x + g.w - chosen.x) / chosen.w);
        const w = (to - from) * width, columns = Math.floor(w / 7) - 1;
        g.style.display = w < 0.2 ? "none" : "";
        g.box.setAttribute("x", from * width);
        g.box.setAttribute("width", Math.max(0, w));
        g.label.setAttribute("x", from * width + 3);
        g.label.textContent = columns < 2 ? "" : g.name.length <= columns ? g.name : g.name.slice(0, columns - 1) + "…";
      }
    }
    function search() {
      const text = prompt("Functions whose name contains:", "");
      if (text === null) return;
      let found = 0;
      for (const g of frames) {
        const fits = text !== "" && g.name.toLowerCase().includes(text.toLowerCase());
        g.classList.toggle("found", fits);
        if (fits) found++;
      }
      details.textContent = text === "" ? "" : `${found} found`;
    }
    document.getElementById("search").addEventListener("click", search);
    addEventListener("keydown", (event) => {
      if (event.key === "/") { event.preventDefault(); search(); }
      if (event.key === "Escape") show(frames[0]);
    });
    ]]></script>
    """
}
