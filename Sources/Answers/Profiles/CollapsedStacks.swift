// SPDX-License-Identifier: Apache-2.0
// Collapsed stacks, as flamegraph.pl reads them: a line a stack, its functions from the outermost to the innermost with
// `;` between them, a blank, and the bytes.

import Bounds

enum CollapsedStacks {
  static func render(_ sums: StackSums) -> [UInt8] {
    var writer = ByteWriter()
    var meter = BudgetMeter(interval: 16)
    for row in sums.rows {
      guard meter.goesOn() else { break }
      for (index, name) in row.profileNames.enumerated() {
        if index > 0 { writer.append(byte: UInt8(ascii: ";")) }
        writer.append(text: String(name.map { $0 == ";" ? ":" : $0 }))
      }
      writer.append(byte: UInt8(ascii: " "))
      writer.append(decimal: row.total.bytes)
      writer.append(byte: UInt8(ascii: "\n"))
    }
    return writer.take()
  }
}
