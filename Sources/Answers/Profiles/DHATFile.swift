// SPDX-License-Identifier: Apache-2.0
// A file of Valgrind's DHAT, version 2, for dh_view.html: a program point a stack, with the bytes and blocks that live.
// Lifetimes and accesses are not known, which the file says ("bklt", "bkacc"). What the index lacks stands behind the
// command, which the viewer shows.

import Bounds
import ByteText
import Provenance
import Symbols

enum DHATFile {
  static func render(_ sums: StackSums) -> [UInt8] {
    // Frame 0 is the viewer's root.
    var frames = Numbering(["[root]"])
    var points = ByteWriter()
    var meter = BudgetMeter(interval: 16)
    let share = MemoryShare()
    for (index, row) in sums.rows.enumerated() {
      guard meter.goesOn() else { break }
      points.append(text: index > 0 ? ",{\"tb\":" : "{\"tb\":")
      points.append(decimal: row.total.bytes)
      points.append(",\"tbk\":", decimal: row.total.blocks)
      points.append(",\"fs\":[")
      // Innermost first.
      var stack = row.stack.frames.map(text)
      if let function = row.function, row.stack.frames.first?.function != function {
        stack.insert(TextLayout.printable(function), at: 0)
      }
      if row.stack.truncation != nil || row.stack.frames.isEmpty { stack.append("[callers not known]") }
      for (depth, frame) in stack.enumerated() {
        if depth > 0 { points.append(byte: UInt8(ascii: ",")) }
        points.append(decimal: UInt64(clamping: frames.number(of: frame)))
      }
      points.append("]}")
      // The points stand in a writer that grows by doubling, and in the file, which does so, too.
      share.hold(points.count &* 4 &+ frames.items.count &* 512)
    }
    var writer = ByteWriter()
    writer.append("{\"dhatFileVersion\":2,\"mode\":\"heap\",\"verb\":\"Live\",\"bklt\":false,\"bkacc\":false,")
    writer.append("\"bu\":\"byte\",\"bsu\":\"bytes\",\"bksu\":\"blocks\",\"tu\":\"s\",\"Mtu\":\"s\",\"cmd\":")
    let missing = sums.lossSentence.map { " — \($0)" } ?? ""
    writer.appendJSONString("\(sums.command.joined(separator: " ").escaped)\(missing)")
    writer.append(",\"pid\":", decimal: UInt64(clamping: sums.processID))
    writer.append(",\"te\":0,\"pps\":[")
    writer.append(bytes: points.take())
    writer.append("],\"ftbl\":[")
    for (index, frame) in frames.items.enumerated() {
      if index > 0 { writer.append(byte: UInt8(ascii: ",")) }
      writer.appendJSONString(frame)
    }
    writer.append("]}\n")
    return writer.take()
  }

  /// As Valgrind writes a frame: `0x109A: main (server.c:12)`, or `(in /usr/bin/prog)` where no line is known.
  private static func text(_ frame: Frame) -> String {
    let name = frame.profileName
    let place =
      if let file = frame.file {
        " (\(file.fileName)\(frame.line.map { ":\($0)" } ?? ""))"
      } else {
        frame.module.map { " (in \($0))" } ?? ""
      }
    return "0x\(String(frame.pc, radix: 16, uppercase: true)): \(name)\(place)"
  }
}
