// An answer as one line of JSON. Every field is described in docs/json.md; one that isn't known is left out.

import Symbols

extension Answer {
  /// One JSON object, without a newline.
  public var json: String {
    var writer = ByteWriter(capacity: 1024)
    appendJSON(to: &writer)
    return writer.takeString()
  }

  /// Appends the JSON object, without a newline.
  public func appendJSON(to writer: inout ByteWriter) {
    writer.append("{\"address\":\"")
    writer.append(address: address)
    switch kind {
    case .heap: writer.append("\",\"kind\":\"heap\"")
    case .free: writer.append("\",\"kind\":\"free\"")
    case .static: writer.append("\",\"kind\":\"static\"")
    case .stack: writer.append("\",\"kind\":\"stack\"")
    case .mapping: writer.append("\",\"kind\":\"mapping\"")
    case .unmapped: writer.append("\",\"kind\":\"unmapped\"")
    }
    if let block {
      writer.append(",\"base\":\"")
      writer.append(address: block.base)
      writer.append("\",\"size\":")
      writer.append(decimal: block.size)
      writer.append(",\"offset\":")
      writer.append(decimal: address - block.base)
    }
    if let alignment { writer.append(",\"alignment\":", decimal: alignment) }
    if let allocator { writer.append(",\"allocator\":", string: allocator) }
    if let function { writer.append(",\"function\":", string: function) }
    if let symbol {
      writer.append(",\"symbol\":", string: symbol.name)
      if let size = symbol.size { writer.append(",\"size\":", decimal: size) }
      writer.append(",\"offset\":", decimal: symbol.offset)
    }
    if let section { writer.append(",\"section\":", string: section) }
    if let module { writer.append(",\"module\":", string: module) }
    if let thread {
      writer.append(",\"thread\":{\"id\":", decimal: UInt64(thread.id))
      if let name = thread.name { writer.append(",\"name\":", string: name) }
      writer.append("}")
    }
    if let age {
      writer.append(",\"age_seconds\":")
      // A tick is about 10 ms: further digits would be made up.
      writer.append(decimal: age, places: 2)
    }
    if let stack {
      writer.append(",\"stack\":[")
      for (index, frame) in stack.enumerated() {
        if index > 0 { writer.append(",") }
        frame.appendJSON(to: &writer)
      }
      writer.append("]")
      if isStackTruncated { writer.append(",\"stack_truncated\":true") }
    }
    if let previous { previous.appendJSON(named: ",\"previous\":{\"base\":\"", to: &writer) }
    if let next { next.appendJSON(named: ",\"next\":{\"base\":\"", to: &writer) }
    if let mapping {
      writer.append(",\"mapping\":{\"start\":\"")
      writer.append(address: mapping.start)
      writer.append("\",\"end\":\"")
      writer.append(address: mapping.end)
      writer.append("\",\"permissions\":", string: mapping.permissions)
      if let path = mapping.path { writer.append(",\"path\":", string: path) }
      if mapping.isDeleted { writer.append(",\"deleted\":true") }
      writer.append("}")
    }
    if let note { writer.append(",\"note\":", string: note.text) }
    writer.append("}")
  }
}

extension Answer.Block {
  @inline(__always)
  fileprivate func appendJSON(named opening: StaticString, to writer: inout ByteWriter) {
    writer.append(opening)
    writer.append(address: base)
    writer.append("\",\"size\":")
    writer.append(decimal: size)
    writer.append("}")
  }
}

extension Frame {
  func appendJSON(to writer: inout ByteWriter) {
    writer.append("{\"pc\":\"")
    writer.append(address: pc)
    writer.append("\"")
    if let module { writer.append(",\"module\":", string: module) }
    if let function { writer.append(",\"function\":", string: function) }
    if let file { writer.append(",\"file\":", string: file) }
    if let line { writer.append(",\"line\":", decimal: UInt64(max(line, 0))) }
    if inlined { writer.append(",\"inlined\":true}") } else { writer.append(",\"inlined\":false}") }
  }
}

extension ByteWriter {
  @inline(__always)
  mutating func append(_ name: StaticString, string: String) {
    append(name)
    appendJSONString(string)
  }

  @inline(__always)
  mutating func append(_ name: StaticString, decimal: UInt64) {
    append(name)
    append(decimal: decimal)
  }
}
