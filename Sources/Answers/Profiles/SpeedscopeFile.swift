// SPDX-License-Identifier: Apache-2.0
// A file of speedscope (https://www.speedscope.app/file-format-schema.json): two sampled profiles over one list of
// frames, of bytes and of blocks; each stack is a sample, outermost frame first.

import Bounds
import ByteText
import Provenance
import Symbols

enum SpeedscopeFile {
  private struct Key: Hashable {
    var name: String
    var file: ForeignText?
    var line: Int?
  }

  static func render(_ sums: StackSums) -> [UInt8] {
    var frames = Numbering<Key>()
    var samples = ByteWriter()
    var meter = BudgetMeter(interval: 16)
    let share = MemoryShare()
    for (index, row) in sums.rows.enumerated() {
      guard meter.goesOn() else { break }
      var stack = row.stack.truncation != nil || row.stack.frames.isEmpty ? [Key(name: "[callers not known]")] : []
      stack.append(
        contentsOf: row.stack.frames.reversed().map { Key(name: $0.profileName, file: $0.file, line: $0.line) })
      if let function = row.function, row.stack.frames.first?.function != .some(function) {
        stack.append(Key(name: function.escaped))
      }
      samples.append(text: index > 0 ? ",[" : "[")
      for (depth, key) in stack.enumerated() {
        if depth > 0 { samples.append(byte: UInt8(ascii: ",")) }
        samples.append(decimal: UInt64(clamping: frames.number(of: key)))
      }
      samples.append("]")
      // The samples stand in the file twice, and in a writer that grows by doubling.
      share.hold(samples.count &* 6 &+ frames.items.count &* 512)
    }
    let sampleText = samples.take()

    let missing = sums.lossSentence.map { " — \($0)" } ?? ""
    var writer = ByteWriter()
    writer.append("{\"$schema\":\"https://www.speedscope.app/file-format-schema.json\",\"shared\":{\"frames\":[")
    for (index, frame) in frames.items.enumerated() {
      writer.append(text: index > 0 ? ",{\"name\":" : "{\"name\":")
      writer.appendJSONString(frame.name)
      if let file = frame.file { writer.append(",\"file\":", string: file) }
      if let line = frame.line { writer.append(",\"line\":", decimal: UInt64(clamping: line)) }
      writer.append("}")
    }
    writer.append("]},\"profiles\":[")
    let profiles: [(name: String, unit: String, value: (SiteTable.Total) -> UInt64)] = [
      ("bytes", "bytes", { $0.bytes }), ("blocks", "none", { $0.blocks }),
    ]
    for (index, profile) in profiles.enumerated() {
      writer.append(text: index > 0 ? ",{\"type\":\"sampled\",\"name\":" : "{\"type\":\"sampled\",\"name\":")
      writer.appendJSONString("\(sums.profileTitle): \(profile.name)\(missing)")
      writer.append(text: ",\"unit\":\"\(profile.unit)\",\"startValue\":0")
      writer.append(",\"endValue\":", decimal: sums.rows.entries.reduce(0) { $0 &+ profile.value($1.total) })
      writer.append(",\"samples\":[")
      writer.append(bytes: sampleText)
      writer.append("],\"weights\":[")
      for (index, row) in sums.rows.entries.enumerated() {
        if index > 0 { writer.append(byte: UInt8(ascii: ",")) }
        writer.append(decimal: profile.value(row.total))
      }
      writer.append("]}")
    }
    writer.append("],\"name\":")
    writer.appendJSONString(sums.profileTitle)
    writer.append(",\"activeProfileIndex\":0,\"exporter\":\"allocsctl\"}\n")
    return writer.take()
  }
}
