// SPDX-License-Identifier: Apache-2.0
// An answer as one line of JSON. docs/json.md describes every field; a field that isn't known is left out.

import ByteText
import Provenance
import Symbols
import SystemAccess

extension Answer {
  /// One JSON object, without a newline.
  public var json: String {
    var writer = ByteWriter(capacity: 1024)
    appendJSON(to: &writer)
    return writer.takeString()
  }

  /// Appends the JSON object, without a newline.
  public func appendJSON(to writer: inout ByteWriter) {
    writer.appendHead(address, kind)
    if let block { writer.append(block: block, offset: address &- block.base) }
    if let alignment { writer.append(",\"alignment\":", decimal: alignment) }
    writer.appendOrigin(allocator: allocator, module: allocatorModule, function: function)
    if let symbol {
      writer.append(",\"symbol\":", string: symbol.name)
      if let size = symbol.size { writer.append(",\"size\":", decimal: size) }
      writer.append(",\"offset\":", decimal: symbol.offset)
    }
    if let variable { writer.append(variable: variable) }
    if let source {
      writer.append(",\"file\":", string: source.file)
      if let line = source.line { writer.append(",\"line\":", decimal: UInt64(clamping: line)) }
    }
    if isThreadLocal { writer.append(",\"thread_local\":true") }
    if let section { writer.append(",\"section\":", string: section) }
    if let module { writer.append(",\"module\":", string: module) }
    if let unnamed { writer.append(",\"unnamed\":", string: unnamed.rawValue) }
    if let part { writer.append(part: part) }
    if let thread { writer.append(thread: thread) }
    if let frame { writer.append(stackFrame: frame) }
    if let frameFailure { writer.append(",\"frame_error\":", string: frameFailure) }
    if let age { writer.append(age: age) }
    if let stack { writer.append(stack: stack) }
    writer.append(",\"containers\":", containers, of: address)
    writer.append(",\"contents\":", contents, of: address)
    if let previous { writer.append(neighbour: previous, opening: ",\"previous\":{\"base\":\"") }
    if let next { writer.append(neighbour: next, opening: ",\"next\":{\"base\":\"") }
    if let arena { writer.append(arena: arena) }
    if let mappedBy { writer.append(mappedBy: mappedBy) }
    if let mapping { writer.append(mapping: mapping) }
    if let mappingBelow { writer.append(mapping: mappingBelow, named: ",\"below\":") }
    if let mappingAbove { writer.append(mapping: mappingAbove, named: ",\"above\":") }
    if let variableProblem, stack == nil { writer.append(namesMissing: [variableProblem]) }
    if let note { writer.append(",\"note\":", string: note.text) }
    losses.appendJSONFields(to: &writer)
    writer.append("}")
  }
}

extension Answer.Container {
  func appendJSON(of address: UInt64, to writer: inout ByteWriter) {
    switch kind {
    case .suballocation: writer.append("{\"kind\":\"suballocation\"")
    case .chunk: writer.append("{\"kind\":\"chunk\"")
    }
    writer.append(block: block, offset: address &- block.base)
    writer.appendOrigin(allocator: allocator, module: allocatorModule, function: function)
    if let thread { writer.append(thread: thread) }
    if let age { writer.append(age: age) }
    if let stack { writer.append(stack: stack) }
    writer.append("}")
  }
}

extension ByteWriter {
  /// Appends `,"NAME":[…]`, nothing if there are none.
  mutating func append(_ name: StaticString, _ containers: [Answer.Container], of address: UInt64) {
    guard !containers.isEmpty else { return }
    append(name)
    append("[")
    for (index, container) in containers.enumerated() {
      if index > 0 { append(",") }
      container.appendJSON(of: address, to: &self)
    }
    append("]")
  }
}

extension Frame {
  package func appendJSON(isInterrupted: Bool = false, to writer: inout ByteWriter) {
    writer.append("{")
    appendFields(to: &writer)
    if inlined { writer.append(",\"inlined\":true") } else { writer.append(",\"inlined\":false") }
    if isInterrupted { writer.append(",\"interrupted\":true}") } else { writer.append("}") }
  }

  /// Appends the fields that a site and a frame of a stack have in common.
  private func appendFields(to writer: inout ByteWriter) {
    writer.append("\"pc\":\"")
    writer.append(address: pc)
    writer.append("\"")
    if let module { writer.append(",\"module\":", string: module) }
    if module != nil, let place {
      writer.append(",\"offset\":", decimal: place.address)
      if !place.buildID.isEmpty {
        writer.append(",\"build_id\":", string: place.buildID.map(\.hexadecimal).joined())
      }
    }
    if let function { writer.append(",\"function\":", string: function) }
    if let unnamed { writer.append(",\"unnamed\":", string: unnamed.rawValue) }
    if let file { writer.append(",\"file\":", string: file) }
    if let line { writer.append(",\"line\":", decimal: UInt64(max(0, line))) }
  }

  /// Appends `,"site":{…}`.
  package func appendSite(to writer: inout ByteWriter) {
    writer.append(",\"site\":{")
    appendFields(to: &writer)
    writer.append("}")
  }
}

extension Complaint {
  /// `{"error":"<what> — <advice>"}`, without a newline; with `"no_such":"group"` where a group has no block, as that
  /// may be a row whose blocks are gone meanwhile; and with `"no_such":"totals"` where the process keeps none, as all
  /// else can be asked about it.
  public var json: String {
    var writer = ByteWriter(capacity: 256)
    writer.append("{\"error\":")
    writer.appendJSONString(description)
    if kind == .noSuchGroup { writer.append(",\"no_such\":\"group\"") }
    if kind == .noTotals { writer.append(",\"no_such\":\"totals\"") }
    writer.append("}")
    return writer.takeString()
  }
}

// The parts of an answer, each with the comma before it. A batch keeps some of them rendered.
extension ByteWriter {
  @inline(__always)
  mutating func appendHead(_ address: UInt64, _ kind: Answer.Kind) {
    append("{\"address\":\"")
    append(address: address)
    switch kind {
    case .heap: append("\",\"kind\":\"heap\"")
    case .free: append("\",\"kind\":\"free\"")
    case .static: append("\",\"kind\":\"static\"")
    case .stack: append("\",\"kind\":\"stack\"")
    case .mapping: append("\",\"kind\":\"mapping\"")
    case .unmapped: append("\",\"kind\":\"unmapped\"")
    }
  }

  @inline(__always)
  mutating func append(block: Answer.Block, offset: UInt64) {
    append(",\"base\":\"")
    append(address: block.base)
    append("\",\"size\":", decimal: block.size)
    append(",\"offset\":", decimal: offset)
  }

  mutating func appendOrigin(allocator: ForeignText?, module: ForeignText?, function: ForeignText?) {
    if let allocator { append(",\"allocator\":", string: allocator) }
    if let module { append(",\"allocator_module\":", string: module) }
    if let function { append(",\"function\":", string: function) }
  }

  package mutating func append(stack: NamedStack) {
    if let site = stack.site { site.appendSite(to: &self) }
    append(",\"stack\":[")
    for (index, frame) in stack.frames.enumerated() {
      if index > 0 { append(",") }
      frame.appendJSON(isInterrupted: stack.interrupted.contains(index), to: &self)
    }
    append("]")
    append(namesMissing: stack.frames.problems)
    switch stack.truncation {
    case nil: break
    case .depthLimit: append(",\"stack_truncated\":true,\"stack_truncated_by\":\"depth limit\"")
    case .unwinder: append(",\"stack_truncated\":true,\"stack_truncated_by\":\"unwinder\"")
    case .damaged: append(",\"stack_truncated\":true,\"stack_truncated_by\":\"damage\"")
    }
    if let framesCut = stack.framesCut { append(",\"stack_frames_cut\":", decimal: UInt64(clamping: framesCut)) }
  }

  /// Appends `,"names_missing":[…]`, nothing if there are no reasons.
  mutating func append(namesMissing reasons: [ForeignText]) {
    guard !reasons.isEmpty else { return }
    append(",\"names_missing\":")
    appendArray(reasons)
  }

  mutating func append(thread: Answer.Thread) {
    append(",\"thread\":{\"id\":", decimal: UInt64(truncatingIfNeeded: thread.id))
    if let name = thread.name { append(",\"name\":", string: name) }
    append("}")
  }

  @inline(__always)
  mutating func append(age: Double) {
    append(",\"age_seconds\":")
    // A tick is 1/64 s, so a third digit would say nothing.
    append(decimal: age, places: 2)
  }

  @inline(__always)
  mutating func append(neighbour block: Answer.Block, opening: StaticString) {
    append(opening)
    append(address: block.base)
    append("\",\"size\":", decimal: block.size)
    append("}")
  }

  mutating func append(neighbour: Answer.Neighbour, opening: StaticString) {
    append(opening)
    append(address: neighbour.base)
    append("\",\"size\":", decimal: neighbour.size)
    if let age = neighbour.age { append(age: age) }
    if let function = neighbour.function { append(",\"function\":", string: function) }
    if let site = neighbour.site { site.appendSite(to: &self) }
    append("}")
  }

  mutating func append(mapping: Mapping, named name: StaticString = ",\"mapping\":") {
    append(name)
    append("{\"start\":\"")
    append(address: mapping.start)
    append("\",\"end\":\"")
    append(address: mapping.end)
    append("\",\"permissions\":", string: mapping.permissions)
    if let path = mapping.path { append(",\"path\":", string: path) }
    if mapping.isDeleted { append(",\"deleted\":true") }
    if mapping.isFile { append(",\"file_offset\":", decimal: mapping.offset) }
    append("}")
  }

  @inline(__always)
  package mutating func append(_ name: StaticString, string: String) {
    append(name)
    appendJSONString(string)
  }

  @inline(__always)
  package mutating func append(_ name: StaticString, string: ForeignText) {
    append(name)
    appendJSONString(string)
  }

  @inline(__always)
  package mutating func append(_ name: StaticString, decimal: UInt64) {
    append(name)
    append(decimal: decimal)
  }
}
