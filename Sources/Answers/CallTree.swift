// SPDX-License-Identifier: Apache-2.0
// Live memory as a tree of calls: from the outermost caller down to the functions that allocated, or inverted, from the
// functions that allocated to their callers.
//
// A node is a function in a module, below the node of its caller (inverted: of its callee); recursion makes nodes below
// each other. A stack goes into the tree from its outermost call to its allocation site: the functions inside the site
// (malloc, operator new) would be leaves that say nothing.

import Bounds
import ByteText
import Provenance
import Symbols

/// A tree of calls with the live memory that was allocated below each.
public struct CallTree: Sendable {
  /// A function below its caller or, inverted, its callee.
  public struct Node: Sendable {
    /// Index in `frames` of the first frame that was met of the function there; -1 at the root, and where no caller is
    /// known.
    fileprivate var frame: Int32 = -1
    /// Whether other frames of the function there have another line.
    fileprivate var hasLines = false
    /// Index of the node above; 0 for the root and the nodes right below it.
    public var parent: Int { Int(above) }  // bounded: of 32 bits
    fileprivate var above: Int32 = 0
    /// The number of nodes above.
    public var depth: Int { Int(level) }  // bounded: of 32 bits
    fileprivate var level: Int32 = 0
    /// Memory whose stacks lead through the node.
    public var total = SiteTable.Total()
    /// Memory whose stacks end in the node.
    public var own = SiteTable.Total()
  }

  public var processID: Int32
  public var command: [ForeignText]
  /// The root first; each node behind the node above it.
  public var nodes = [Node()]
  public var isInverted: Bool
  /// The number of nodes that are shown at most, chains not counted.
  public var limit: Int
  let look: Look
  public var losses: Losses
  let marks: MarkList?

  /// Every frame of the calls that were met.
  private var frames: [Frame] = []

  private struct Key: Hashable {
    var parent: Int32
    var symbol: Int32
  }

  /// A function in a module.
  private struct Symbol: Hashable {
    var name: ForeignText
    var module: ForeignText
  }

  /// The frames of calls, and their functions, as numbers: stacks have the same calls again and again.
  private struct Known {
    /// By a call's number: where its frames begin; nil as long as it was not met.
    var starts: [Int32?]
    var symbols: [Symbol: Int32] = [:]
    /// Of each frame.
    var symbolOfFrame: [Int32] = []
    var places: [Key: Int32] = [:]
  }

  /// The frame of a node, without a line if the node is several; nil at the root, and where no caller is known.
  func frame(of node: Node) -> Frame? {
    guard node.frame >= 0 else { return nil }
    var frame = frames[Int(node.frame)]  // bounded: an index of the frames
    if node.hasLines { frame.line = nil }
    return frame
  }

  /// The tree of all stacks of `sums`.
  public init(of sums: StackSums, isInverted: Bool, limit: Int) {
    processID = sums.processID
    command = sums.command
    self.isInverted = isInverted
    self.limit = limit
    look = sums.look
    losses = sums.losses
    marks = sums.marks
    var known = Known(starts: [Int32?](repeating: nil, count: sums.rows.stacks.calls.count))
    let share = MemoryShare()
    var meter = BudgetMeter(interval: 16)
    for row in sums.rows.entries {
      guard meter.goesOn() else { break }
      var stack = frames(of: row.stack, sums.rows.stacks, &known)
      // Where the outermost calls are missing, the rest of the stack must not look like the whole.
      let isCut = row.stack.truncation != nil || stack.isEmpty
      if !isInverted { stack.reverse() }
      nodes[0].total.add(row.total)
      var node: Int32 = 0
      if isCut, !isInverted { node = child(of: node, -1, row.total, &known) }
      for frame in stack { node = child(of: node, frame, row.total, &known) }
      if isCut, isInverted { node = child(of: node, -1, row.total, &known) }
      nodes[Int(node)].own.add(row.total)  // bounded: an index of the nodes
      // Lists grow by doubling, and tables, too.
      let nodeSize = MemoryLayout<Node>.stride &+ MemoryLayout<Key>.stride &+ 8
      share.hold(3 &* (nodes.count &* nodeSize &+ frames.count &* (MemoryLayout<Frame>.stride &+ 64)))
    }
  }

  /// The frames of a stack from its allocation site to its outermost caller.
  private mutating func frames(
    of entry: NamedStacks.Entry, _ stacks: NamedStacks, _ known: inout Known
  ) -> ArraySlice<Int32> {
    var result: [Int32] = []
    var site: Int?
    for number in stacks.numbers(of: entry) {
      let call = stacks.calls[Int(number)]  // bounded: an index of the calls
      if site == nil, let own = call.site { site = result.count &+ own }
      let start = known.starts[Int(number)] ?? add(call, Int(number), &known)  // bounded: an index of calls
      // bounded: the frames of a call
      for index in call.frames.indices { result.append(start &+ Int32(truncatingIfNeeded: index)) }
    }
    // bounded: 0 to the count of the frames
    let start = max(0, min(site ?? result.count &- 1, result.count))
    return result.dropFirst(start)  // bounded: one of these
  }

  private mutating func add(_ call: NamedStacks.Call, _ number: Int, _ known: inout Known) -> Int32 {
    let start = Int32(truncatingIfNeeded: frames.count)
    known.starts[number] = start
    for frame in call.frames {
      let symbol = Symbol(name: frame.nameOrPlace, module: frame.module ?? "")
      let new = Int32(truncatingIfNeeded: known.symbols.count)
      known.symbolOfFrame.append(known.symbols[symbol, default: new])
      known.symbols[symbol] = known.symbolOfFrame.last
      frames.append(frame)
    }
    return start
  }

  private mutating func child(
    of parent: Int32, _ frame: Int32, _ total: SiteTable.Total, _ known: inout Known
  ) -> Int32 {
    // bounded: an index of the frames
    let key = Key(parent: parent, symbol: frame < 0 ? -1 : known.symbolOfFrame[Int(frame)])
    let place = known.places[key] ?? Int32(truncatingIfNeeded: nodes.count)
    let index = Int(place)  // bounded: an index of the nodes
    if index == nodes.count {
      // bounded: an index of the nodes
      nodes.append(Node(frame: frame, above: parent, level: nodes[Int(parent)].level &+ 1))
      known.places[key] = place
    } else if frame >= 0, nodes[index].frame != frame {
      // Calls from several lines of a function are one node, which is none of these lines.
      // bounded: indices of the frames
      if frames[Int(nodes[index].frame)].line != frames[Int(frame)].line { nodes[index].hasLines = true }
    }
    nodes[index].total.add(total)
    return place
  }

  /// Whether a node has all the memory of the node above it, which no other node shares then.
  private func isChained(_ node: Node) -> Bool { node.parent != 0 && node.total == nodes[node.parent].total }

  /// The nodes that are shown, the root first, each before the nodes below it, which come by bytes: the `limit` largest
  /// of all nodes, and the chains below them. A node is never larger than the node above it, so those that are shown
  /// hang together.
  var shown: [Int] {
    func precedes(_ a: Int, _ b: Int) -> Bool {
      let (left, right) = (nodes[a].total, nodes[b].total)
      return left == right ? a < b : (left.bytes, left.blocks) > (right.bytes, right.blocks)
    }
    var children: [Int: [Int]] = [:]
    var count = 0
    for node in nodes.indices.sorted(by: precedes) where node != 0 {
      if !isChained(nodes[node]) {
        guard count < limit else { break }
        count &+= 1
      }
      children[nodes[node].parent, default: []].append(node)
    }
    var order: [Int] = []
    var stack = [0]
    while let node = stack.popLast() {
      order.append(node)
      stack.append(contentsOf: (children[node] ?? []).reversed())
    }
    return order
  }
}

extension CallTree {
  /// Functions of a chain that are shown at its beginning, and at its end.
  private static let chainEnds = 3

  /// Lines of 80 columns. A function that has all the memory of the function above it stands below it without numbers;
  /// others are indented. Of a long chain of such functions the middle is left out.
  public var text: String {
    let total = nodes[0].total
    var lines: [String] = Look.heading(look, processID, command, total)
    lines += marks?.lines ?? []
    guard total.blocks > 0 else { return TextLayout.text(of: lines + losses.lines) }
    let order = shown
    // bounded: digits of numbers, columns of a line, and counts of what is in memory
    let bytesWidth = max(5, Units.grouped(total.bytes).count)
    let blocksWidth = max(6, Units.grouped(total.blocks).count)
    // bounded: columns of a line
    let numbersWidth = bytesWidth + blocksWidth + 12
    // Of a deep tree the names stay, and the indentation ends.
    func spaces(_ indent: Int) -> Int { min(indent &* 2, max(0, TextLayout.columns &- numbersWidth &- 40)) }
    func line(_ sum: (bytes: String, share: String, blocks: String), _ indent: Int, _ rest: String) -> String {
      TextLayout.padded(sum.bytes, left: bytesWidth) + TextLayout.padded(sum.share, left: 8)
        + TextLayout.padded(sum.blocks, left: blocksWidth + 2) + "  "
        + String(repeating: " ", count: max(0, spaces(indent))) + rest
    }
    lines.append(
      line(("BYTES", "SHARE", "BLOCKS"), 0, isInverted ? "ALLOCATED BY, CALLED BY" : "CALLERS, ALLOCATED BY"))
    var indents = [0: -1]
    for place in order.dropFirst() {
      indents[place] = (indents[nodes[place].parent] ?? 0) &+ (isChained(nodes[place]) ? 0 : 1)
    }
    let names = names(of: order) { TextLayout.columns &- numbersWidth &- spaces(indents[$0] ?? 0) }
    var meter = BudgetMeter(interval: 16)
    var next = 1
    while next < order.count, meter.goesOn() {
      let place = order[next]
      let node = nodes[place]
      let isChain = isChained(node)
      let indent = indents[place] ?? 0
      if isChain {
        var end = next + 1
        while end < order.count, nodes[order[end]].parent == order[end - 1], isChained(nodes[order[end]]) { end += 1 }
        let (first, last) = (next + Self.chainEnds, end - Self.chainEnds)
        for index in next..<max(next, end) {
          if last - first > 1, index == first {
            lines.append(line(("", "", ""), indent, "… \(Units.count(UInt64(last - first), "call"))"))
          }
          if last - first > 1, index >= first, index < last { continue }
          lines.append(line(("", "", ""), indent, names[order[index]] ?? ""))
        }
        next = end
        continue
      }
      let sum = (
        Units.grouped(node.total.bytes), Units.share(node.total.bytes, of: total.bytes),
        Units.grouped(node.total.blocks)
      )
      lines.append(line(sum, indent, names[place] ?? ""))
      next += 1
    }
    let hidden = nodes.count - order.count
    if hidden > 0 {
      lines.append("  \(Units.countOf(UInt64(clamping: hidden), "smaller call is", "smaller calls are")) not shown")
    }
    return TextLayout.text(of: lines + losses.lines)
  }

  /// The names of nodes, in so many columns each; below one node no two of them look alike.
  private func names(of order: [Int], columns: (Int) -> Int) -> [Int: String] {
    var siblings: [Int: [Int]] = [:]
    for place in order.dropFirst() { siblings[nodes[place].parent, default: []].append(place) }
    var names: [Int: String] = [:]
    var meter = BudgetMeter(interval: 16)
    for parent in order {
      guard let places = siblings[parent] else { continue }
      guard meter.goesOn() else { break }
      let rows = places.map { place in
        DistinctRows.Row(
          text: { name(of: nodes[place], columns: $0) },
          least: { frame(of: nodes[place]).map { Answer.leastColumns(of: $0) } ?? 0 },
          whole: frame(of: nodes[place]).map(Answer.wholeText) ?? "", tags: [])
      }
      // A node that has all of its parent's memory stands alone below it: others are indented alike.
      let room = places.map(columns).min() ?? 0
      for (place, text) in zip(places, DistinctRows.texts(rows, columns: room)) { names[place] = text }
    }
    return names
  }

  private func name(of node: Node, columns: Int) -> String {
    frame(of: node).map { Answer.describe($0, columns: columns) }
      ?? TextLayout.fit(isInverted ? "callers not known" : "called by what is not known", columns: columns)
  }

  /// One JSON object, without a newline: the nodes that are shown, each before the nodes below it.
  public var json: String {
    var writer = ByteWriter(capacity: 4096)
    writer.append("{\"pid\":")
    writer.append(decimal: UInt64(clamping: processID))
    writer.append(",\"command\":")
    writer.appendArray(command)
    look.appendJSONField(to: &writer)
    writer.append(",\"total\":{\"bytes\":", decimal: nodes[0].total.bytes)
    writer.append(",\"blocks\":", decimal: nodes[0].total.blocks)
    writer.append("},\"inverted\":")
    writer.append(text: isInverted ? "true" : "false")
    writer.append(",\"node_count\":", decimal: UInt64(clamping: nodes.count &- 1))
    writer.append(",\"nodes\":[")
    var isFirst = true
    for place in shown where place != 0 {
      let node = nodes[place]
      writer.append(text: isFirst ? "{" : ",{")
      isFirst = false
      writer.append("\"depth\":", decimal: UInt64(clamping: node.depth))
      writer.append(",\"bytes\":", decimal: node.total.bytes)
      writer.append(",\"blocks\":", decimal: node.total.blocks)
      writer.append(",\"own_bytes\":", decimal: node.own.bytes)
      writer.append(",\"own_blocks\":", decimal: node.own.blocks)
      if let frame = frame(of: node) {
        writer.append(",\"frame\":")
        frame.appendJSON(to: &writer)
      }
      writer.append("}")
    }
    writer.append("]")
    marks?.appendJSONField(to: &writer)
    look.appendEnding(to: &writer)
    losses.appendJSONFields(to: &writer)
    writer.append("}")
    return writer.takeString()
  }
}
