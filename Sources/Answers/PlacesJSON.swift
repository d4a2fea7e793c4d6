// SPDX-License-Identifier: Apache-2.0
// The parts of an answer about places as JSON: variables, parts, frames, arenas, who mapped. docs/json.md lists the
// fields.

import Provenance
import Symbols

extension ByteWriter {
  mutating func append(mappedBy mapped: Answer.MappedBy) {
    append(",\"mapped_by\":{\"start\":\"")
    append(address: mapped.range.lowerBound)
    append("\",\"end\":\"")
    append(address: mapped.range.upperBound)
    append("\"")
    if let function = mapped.function { append(",\"function\":", string: function) }
    if let permissions = mapped.permissions { append(",\"permissions\":", string: permissions) }
    if let path = mapped.path { append(",\"path\":", string: path) }
    if let offset = mapped.fileOffset { append(",\"file_offset\":", decimal: offset) }
    if let thread = mapped.thread { append(thread: thread) }
    append(age: mapped.age)
    if let stack = mapped.stack { append(stack: stack) }
    append("}")
  }

  mutating func append(arena: Answer.Arena) {
    append(",\"arena\":{\"kind\":", string: arena.kind.rawValue)
    append(",\"start\":\"")
    append(address: arena.range.lowerBound)
    append("\",\"end\":\"")
    append(address: arena.range.upperBound)
    append("\"}")
  }

  mutating func append(part: Answer.Part) {
    append(",\"part\":{\"kind\":", string: part.kind.rawValue)
    if let name = part.name { append(",\"name\":", string: name) }
    if let text = part.text { append(",\"text\":", string: text) }
    if let offset = part.offset { append(",\"offset\":", decimal: offset) }
    if let size = part.size { append(",\"size\":", decimal: size) }
    append("}")
  }

  mutating func append(variable: Variable) {
    append(",\"variable\":{\"path\":", string: variable.path)
    if let type = variable.type { append(",\"type\":", string: type) }
    append(",\"offset\":", decimal: variable.offset)
    if let size = variable.size { append(",\"size\":", decimal: size) }
    if variable.isPadding { append(",\"padding\":true") }
    if !variable.alternatives.isEmpty {
      append(",\"alternatives\":[")
      for (index, name) in variable.alternatives.enumerated() {
        if index > 0 { append(",") }
        appendJSONString(name)
      }
      append("]")
    }
    if let file = variable.file { append(",\"file\":", string: file) }
    if let line = variable.line { append(",\"line\":", decimal: UInt64(clamping: line)) }
    append("}")
  }

  mutating func append(stackFrame frame: Answer.StackFrame) {
    append(",\"frame\":{\"index\":", decimal: UInt64(clamping: frame.index))
    append(",\"role\":", string: frame.role.rawValue)
    if let cfa = frame.cfa {
      append(",\"cfa\":\"")
      append(address: cfa)
      append("\"")
    }
    append(",\"functions\":[")
    for (index, function) in frame.functions.enumerated() {
      if index > 0 { append(",") }
      function.appendJSON(to: &self)
    }
    append("]")
    if let variable = frame.variable { append(variable: variable) }
    append(",\"stopped_seconds\":")
    append(decimal: frame.stopped, places: 6)
    append("}")
  }
}
