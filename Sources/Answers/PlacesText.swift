// SPDX-License-Identifier: Apache-2.0
// The lines of an answer about places: variables, parts, frames, arenas, who mapped.

import Bounds
import Symbols

extension Answer {
  /// The lines between the first line and the mapping's.
  var placeLines: [String] {
    var lines: [String] = []
    if let variable { lines += Self.lines(of: variable, label: "  type     ") }
    if let symbol, let variable, symbol.name != Self.root(of: variable.path) {
      lines.append(Self.line("  symbol   ", "\(TextLayout.printable(symbol.name))\(Self.plus(symbol.offset))"))
    }
    if let source { lines.append(Self.line("  source   ", Self.place(source.file, source.line))) }
    if isThreadLocal || part?.kind == .guardPages || part?.kind == .threadDescriptor, let thread {
      lines.append(Self.line("  thread   ", Self.name(of: thread)))
    }
    if let text = part?.text {
      lines.append(Self.line("  text     ", "\"\(TextLayout.printable(text))\""))
    }
    if let frame { lines += Self.lines(of: frame) }
    if let frameFailure { lines += Self.wrapped("  frame    ", "not known: \(TextLayout.printable(frameFailure))") }
    return lines
  }

  /// The lines below, outermost last: arena, who mapped, the neighbours of an address that is not mapped.
  var containerLines: [String] {
    var lines: [String] = []
    if let arena { lines.append(Self.line("  arena    ", Self.text(of: arena))) }
    if let mappedBy { lines += self.lines(of: mappedBy) }
    for (label, mapping) in [("  below    ", mappingBelow), ("  above    ", mappingAbove)] {
      guard let mapping else { continue }
      let distance = mapping.end <= address ? address &- mapping.end : mapping.start &- address
      let name = mapping.path.map { $0.fileName.escaped } ?? "anonymous"
      let away = distance == 0 ? "directly" : Units.distance(distance)
      lines.append(Self.line(label, "\(hex(mapping.start))-\(hex(mapping.end)) \(name), \(away)"))
    }
    return lines
  }

  private static func line(_ label: String, _ text: String) -> String {
    label + TextLayout.fit(text, columns: TextLayout.columns &- label.count)
  }

  static func wrapped(_ label: String, _ text: String) -> [String] {
    let indent = String(repeating: " ", count: label.count)
    var lines = TextLayout.fill(text, indent: indent)
    if let first = lines.first { lines[0] = "\(label)\(first.dropFirst(label.count))" }
    return lines
  }

  private static func plus(_ offset: UInt64) -> String { offset == 0 ? "" : "+\(hex(offset))" }

  private static func place(_ file: ForeignText, _ line: Int?) -> String {
    "\(TextLayout.printable(file))\(line.map { ":\($0)" } ?? "")"
  }

  /// The variable's own name: the part before the first member or subscript.
  private static func root(of path: ForeignText) -> ForeignText {
    ForeignText(path.unescaped.prefix { $0 != "." && $0 != "[" })  // raw: cut, and foreign again
  }

  // MARK: variables

  /// The headline's words: `4 bytes into server.clients[3].len`.
  static func phrase(_ variable: Variable) -> String {
    let path = TextLayout.printable(variable.path)
    if variable.isPadding { return "padding in \(path), at byte \(Units.grouped(variable.offset))" }
    return variable.offset == 0 ? path : "\(Units.count(variable.offset, "byte")) into \(path)"
  }

  private static func lines(of variable: Variable, label: String) -> [String] {
    var parts: [String] = []
    if let type = variable.type { parts.append(TextLayout.printable(type)) }
    if let size = variable.size { parts.append(Units.bytes(size)) }
    if let file = variable.file { parts.append("declared at \(place(file.fileName, variable.line))") }
    var lines: [String] = []
    if !parts.isEmpty {
      lines = TextLayout.wrap(parts, indent: String(repeating: " ", count: label.count))
      if let first = lines.first { lines[0] = "\(label)\(first.dropFirst(label.count))" }
    }
    if !variable.alternatives.isEmpty {
      let names = variable.alternatives.map { TextLayout.printable($0) }.joined(separator: ", ")
      lines.append(line("  also     ", names))
    }
    return lines
  }

  // MARK: frames

  private static func lines(of frame: StackFrame) -> [String] {
    var lines: [String] = []
    let name = frame.functions.last.map { describe($0, columns: 50) } ?? "a function that is not known"
    switch frame.role {
    case .frame: lines.append(line("  frame    ", "#\(frame.index) \(name)"))
    case .returnAddress: lines.append(line("  frame    ", "#\(frame.index) \(name): its return address"))
    case .redZone: lines.append(line("  frame    ", "red zone below the innermost frame, \(name)"))
    case .unused: lines.append(line("  frame    ", "none: below the stack pointer, left by calls that returned"))
    }
    if let variable = frame.variable {
      lines.append(line("  variable ", phrase(variable)))
      lines += Self.lines(of: variable, label: "  type     ")
    }
    let microseconds = Foreign<UInt64>(wholePartOf: (max(0, min(frame.stopped, 1e6)) * 1e6).rounded()).saturated()
    lines.append(line("  stopped  ", "for \(Units.grouped(microseconds)) microseconds to look"))
    return lines
  }

  // MARK: containers

  private static func text(of arena: Arena) -> String {
    let place = "\(hex(arena.range.lowerBound))-\(hex(arena.range.upperBound))"
    switch arena.kind {
    case .main: return "\(place), libc's main one"
    case .thread: return "\(place), libc's for threads"
    case .single: return "\(place), for this block alone"
    case .mapped: return "\(place), of its allocator"
    }
  }

  private func lines(of mapped: MappedBy) -> [String] {
    var phrases: [String] = []
    if let site = mapped.stack?.site {
      phrases.append("mapped by \(Self.describe(site, columns: 55))")
      if let function = mapped.function { phrases.append("with \(TextLayout.printable(function))") }
    } else {
      phrases.append(mapped.function.map { "mapped with \(TextLayout.printable($0))" } ?? "mapped by a call unknown")
    }
    phrases.append("\(Units.duration(mapped.age)) ago")
    if let thread = mapped.thread { phrases.append("on thread \(Self.name(of: thread))") }
    var lines = TextLayout.wrap(phrases, indent: "  ")
    if let stack = mapped.stack {
      lines += Self.stackLines(of: stack, title: hasFullStack ? "  stack " : "  site  ")
    }
    if let path = mapped.path, mapping == nil {
      lines.append(
        Self.line("  file     ", "\(TextLayout.printable(path)), from byte \(Units.grouped(mapped.fileOffset ?? 0))"))
    }
    if mapping.map({ $0.start != mapped.range.lowerBound || $0.end != mapped.range.upperBound }) ?? true {
      let permissions = mapped.permissions.map { " \($0)" } ?? ""
      let size = Units.rounded(mapped.range.upperBound &- mapped.range.lowerBound)
      lines.append(
        Self.line(
          "  part     ", "\(hex(mapped.range.lowerBound))-\(hex(mapped.range.upperBound))\(permissions), \(size)"))
    }
    return lines
  }

  /// The first line for a part.
  var partHeadline: String? {
    guard let part else { return nil }
    let offset = part.offset ?? 0
    let into = offset == 0 ? "" : "\(Units.count(offset, "byte")) into "
    let name = part.name.map { TextLayout.printable($0) }
    switch part.kind {
    case .argument: return "\(into)\(name ?? "the arguments"), an argument of the program"
    case .environment: return "\(into)the environment variable \(name ?? "")"
    case .pointers: return "\(into)the pointer \(name ?? ""), where the program began"
    case .auxiliaryVector: return "\(into)\(name ?? "an entry") of the auxiliary vector"
    case .kernelStrings: return "\(into)what \(name ?? "the kernel") points to"
    case .vdso: return "\(Units.count(offset, "byte")) into the vdso, the kernel's code"
    case .vvar: return "\(Units.count(offset, "byte")) into the kernel's data for the vdso"
    case .guardPages: return "\(Units.count(offset, "byte")) into the guard pages of a stack"
    case .threadDescriptor: return "\(Units.count(offset, "byte")) into libc's descriptor of a thread"
    case .agent: return "\(name ?? "memory") (allocs agent)"
    }
  }
}
