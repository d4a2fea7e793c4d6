// SPDX-License-Identifier: Apache-2.0
// Collapsed stacks, as flamegraph.pl reads them: a line a stack, its functions from the outermost to the innermost with
// `;` between them, a blank, and the bytes. What the index lacks is the last line, a stack of 0 bytes.

import Bounds

enum CollapsedStacks {
  static func render(_ sums: StackSums) -> [UInt8] {
    var meter = BudgetMeter(interval: 16)
    // Stacks that differ in lines alone are one here.
    var places: [String: Int] = [:]
    var lines: [(stack: String, bytes: UInt64)] = []
    let share = MemoryShare()
    var size = 0
    for row in sums.rows {
      guard meter.goesOn() else { break }
      let stack = row.profileNames.map { String($0.map { $0 == ";" ? ":" : $0 }) }.joined(separator: ";")
      if let place = places[stack] {
        lines[place].bytes &+= row.total.bytes
      } else {
        // The text, its copy in the answer, which grows by doubling, and its two places here.
        size &+= stack.utf8.count &* 4 &+ 128
        share.hold(size)
        places[stack] = lines.count
        lines.append((stack, row.total.bytes))
      }
    }
    var writer = ByteWriter()
    for line in lines {
      writer.append(text: line.stack)
      writer.append(byte: UInt8(ascii: " "))
      writer.append(decimal: line.bytes)
      writer.append(byte: UInt8(ascii: "\n"))
    }
    // The format has no comments: a stack without bytes says what is missing.
    if let words = sums.lossSentence {
      writer.append(text: "[\(String(words.map { $0 == ";" ? ":" : $0 }))] 0\n")
    }
    return writer.take()
  }
}
