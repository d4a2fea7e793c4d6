// SPDX-License-Identifier: Apache-2.0
// An answer for people: its first line says what the address is; then come who, when and where; all on one screen of 80
// columns.

import Provenance
import Symbols

extension Answer {
  /// The number of frames that are printed at most, so that an answer fits a screen of 24 lines; JSON has all frames.
  static let printedFrames = 12

  /// Several lines of at most 80 columns, each with a newline.
  public var text: String {
    var lines: [String] = []
    let start = "\(hex(address)): \(kind.rawValue)"
    if kind == .free, let reservation = losses.reservation {
      // The address may still be in a block that the index lacks.
      lines.append(TextLayout.fit("\(start), or \(reservation)", columns: TextLayout.columns))
      lines.append(TextLayout.fit("  \(headline)", columns: TextLayout.columns))
    } else {
      lines.append(TextLayout.fit("\(start) — \(headline)", columns: TextLayout.columns))
    }
    switch kind {
    case .heap:
      lines += TextLayout.wrap(origin, indent: "  ")
      lines += stackLines
      lines += namesMissing.flatMap { Self.wrapped("  names    ", TextLayout.printable($0)) }
      lines += chainLines
      lines += neighbourLines
    case .free: lines += neighbourLines
    case .static, .stack, .mapping, .unmapped:
      lines += placeLines
      lines += namesMissing.flatMap { Self.wrapped("  names    ", TextLayout.printable($0)) }
    }
    lines += containerLines
    if let mapping { lines.append(Self.line(of: mapping)) }
    lines += losses.lines
    return TextLayout.text(of: lines)
  }

  // MARK: the first line

  private var headline: String {
    if let partHeadline { return partHeadline }
    return switch kind {
    case .heap: heapHeadline
    case .free: freeHeadline
    case .static: staticHeadline
    case .stack: stackHeadline
    case .mapping: mappingHeadline
    case .unmapped: note?.text ?? "no mapping of the process holds it"
    }
  }

  private var heapHeadline: String {
    guard let block else { return "in a live block" }
    let offset = address &- block.base
    let size = Units.bytes(block.size)
    if offset == 0 { return "the start of a block of \(size)" }
    let start = "\(Units.count(offset, "byte")) into a block of "
    return fitting([
      "\(start)\(size) at \(hex(block.base))", "\(start)\(Units.grouped(block.size)) at \(hex(block.base))",
      "\(Units.grouped(offset)) into \(Units.grouped(block.size)) bytes at \(hex(block.base))",
    ])
  }

  private var freeHeadline: String {
    // An address right behind a block is usually an end pointer, or an overflow by one.
    if let previous, previous.end == address, previous.size > 0 {
      let start = "one past the end of a block of "
      return fitting([
        "\(start)\(Units.bytes(previous.size)) at \(hex(previous.base))",
        "\(start)\(Units.grouped(previous.size)) at \(hex(previous.base))",
      ])
    }
    if let note { return note.text }
    // Blocks in other mappings say nothing about the gaps of this mapping.
    let below = previous.flatMap { previous in mapping.map { previous.end > $0.start } ?? true ? previous : nil }
    let above = next.flatMap { next in mapping.map { next.base < $0.end } ?? true ? next : nil }
    let place = mapping.map { $0.path.map { TextLayout.printable($0) } ?? "its mapping" } ?? "the heap"
    let known = losses.isEmpty ? "live block" : "known live block"
    switch (below, above) {
    case (let below?, let above?) where above.base >= below.end:
      return "in a gap of \(Units.distance(above.base &- below.end)) between two \(known)s"
    case (_?, _?): return "between two \(known)s"
    case (_?, nil): return "above the last \(known) of \(place)"
    case (nil, _?): return "below the first \(known) of \(place)"
    case (nil, nil): return "\(place) was heap, and holds no \(known)"
    }
  }

  /// Columns behind the address and the kind.
  private var headlineRoom: Int {
    TextLayout.columns &- TextLayout.width("\(hex(address)): \(kind.rawValue) — ")
  }

  /// The first of `texts` that fits into the first line; the last if none does.
  private func fitting(_ texts: [String]) -> String {
    texts.first { TextLayout.width($0) <= headlineRoom } ?? texts.last ?? ""
  }

  /// `name`, cut so that it fits into the first line with all of `suffix`, unless hardly anything would be left of it.
  private func fitting(_ name: String, suffix: String) -> String {
    TextLayout.fit(name, columns: max(16, headlineRoom &- TextLayout.width(suffix))) + suffix
  }

  private var staticHeadline: String {
    let file = module.map { $0.fileName.escaped }
    let section = section.map { TextLayout.printable($0) }
    let place =
      switch (section, file) {
      case (let section?, let file?): "\(section) of \(file)"
      case (let section?, nil): section
      case (nil, let file?): file
      case (nil, nil): "a module"
      }
    if let variable {
      let phrase = Self.phrase(variable)
      return fitting([
        "\(phrase), in \(place)", "\(phrase), \(place)", fitting(phrase, suffix: ", in \(place)"),
      ])
    }
    guard let symbol else {
      return unnamed.map { fitting(["in \(place): \($0.rawValue)", $0.rawValue]) }
        ?? "in \(place), where no symbol is known"
    }
    let name = TextLayout.printable(symbol.name)
    if symbol.offset == 0 { return fitting(name, suffix: ", in \(place)") }
    let long = "\(Units.count(symbol.offset, "byte")) into \(name), in \(place)"
    return TextLayout.width(long) <= headlineRoom
      ? long : fitting(name, suffix: "+\(hex(symbol.offset)), in \(place)")
  }

  private var stackHeadline: String {
    guard let thread else { return "the stack of a thread" }
    return "of thread \(Self.name(of: thread))"
  }

  private var mappingHeadline: String {
    guard let mapping else {
      return mappedBy.map { "\(Units.distance(address &- $0.range.lowerBound)) into what was mapped" } ?? "in a mapping"
    }
    let offset = Units.distance(address &- mapping.start)
    guard let path = mapping.path else {
      return mapping.isInaccessible
        ? "\(offset) into reserved address space"
        : "\(offset) into anonymous memory\(mappedBy == nil ? ", never used as heap" : "")"
    }
    // The file's name alone: the line below has the path.
    if mapping.isFile {
      let place = Units.grouped(mapping.offset &+ (address &- mapping.start))
      return "byte \(place) of the file \(path.fileName.escaped)"
    }
    return "\(offset) into a mapping of \(path.fileName.escaped)"
  }

  // MARK: who and when

  private var allocatorWords: String? { Self.words(of: allocator, module: allocatorModule, function: function) }

  /// The name of an allocator beside its function: an allocator that has no other name is called by its module.
  static func words(of allocator: ForeignText?, module: ForeignText?, function: ForeignText?) -> String? {
    let name = allocator == function ? module.map { $0.fileName } ?? allocator : allocator
    return name.map { TextLayout.printable($0) }
  }

  /// Who allocated the block, by which function, when, on which thread: phrases, the weightiest first.
  private var origin: [String] {
    var phrases: [String] = []
    let with =
      switch (function.map { TextLayout.printable($0) }, allocatorWords) {
      case (let function?, let allocator?): "with \(function) of \(allocator)"
      case (let function?, nil): "with \(function)"
      case (nil, let allocator?): "by \(allocator)"
      case (nil, nil): ""
      }
    if let site = stack?.site {
      let room = TextLayout.columns &- 3 &- TextLayout.width("allocated by ")
      phrases.append("allocated by \(Self.describe(site, columns: room))")
      if !with.isEmpty { phrases.append(with) }
    } else if !with.isEmpty {
      phrases.append("allocated \(with)")
    }
    if let alignment { phrases.append("aligned to \(Units.grouped(alignment))") }
    if let age { phrases.append("\(Units.duration(age)) ago") }
    if let thread { phrases.append("on thread \(Self.name(of: thread))") }
    return phrases
  }

  /// The frames, with an arrow at the site, if they say more than the line above.
  private var stackLines: [String] {
    guard let stack else { return [] }
    return Self.stackLines(of: stack, title: hasFullStack ? "  stack " : "  site  ")
  }

  static func stackLines(of named: NamedStack, title: String) -> [String] {
    let (stack, siteIndex, interruptedFrames) = (named.frames, named.siteIndex, named.interrupted)
    let losses = lossLines(of: stack)
    guard stack.count > 1 || named.truncation != nil || !losses.isEmpty else { return [] }
    let blank = String(repeating: " ", count: title.count)
    var lines: [String] = []
    for part in printedParts(of: stack.count, siteIndex) {
      switch part {
      case .frame(let index):
        let head = (lines.isEmpty ? title : blank) + (index == siteIndex ? "→" : " ")
        let number = TextLayout.padded("#\(index)", right: 4)
        let mark =
          (stack[index].inlined ? " inlined" : "") + (interruptedFrames.contains(index) ? " interrupted" : "")
        let room = TextLayout.columns &- head.count &- number.count &- mark.count
        lines.append("\(head)\(number)\(Self.describe(stack[index], columns: room))\(mark)")
      case .wrappers(let count):
        lines.append("\(blank) … \(Units.count(UInt64(clamping: count), "frame")) of the same kind")
      }
    }
    let hidden = stack.count &- 1 &- (lastPrintedFrame(of: stack.count, siteIndex) ?? -1)
    if hidden > 0 {
      lines.append("\(blank) … and \(Units.count(UInt64(clamping: hidden), "more frame")): --json shows all")
    }
    switch named.truncation {
    case nil: break
    case .depthLimit:
      let count = named.framesCut.map { ": at least \(Units.count(UInt64(clamping: $0), "frame")) beyond" } ?? ""
      lines.append("\(blank) … cut at the depth limit\(count)")
    case .unwinder: lines.append("\(blank) … the unwinder could go no further")
    case .damaged: lines.append("\(blank) … the index is damaged beyond here")
    }
    return lines + losses.flatMap { TextLayout.wrap($0, indent: "\(blank) ") }
  }

  /// For each module of the frames that has no names though its file may have some: which module, and why. In phrases.
  private static func lossLines(of frames: [Frame]) -> [[String]] {
    var told: Set<ForeignText> = []
    return frames.compactMap { frame in
      guard let why = frame.unnamed else { return nil }
      let module = frame.module.map { $0.fileName.escaped } ?? "the module at \(hex(frame.pc))"
      guard told.insert(frame.module ?? ForeignText(why.rawValue)).inserted else { return nil }
      return ["… no names of \(module): \(why.rawValue)"]
    }
  }

  private enum StackPart {
    case frame(Int)
    /// The number of frames that are left out, all of them wrappers.
    case wrappers(Int)
  }

  /// The printed part of `count` frames: the innermost frames; or, if the site lies deeper, the first two frames and
  /// those from the site's callee on.
  private static func printedParts(of count: Int, _ siteIndex: Int?) -> [StackPart] {
    guard let siteIndex, siteIndex > Self.printedFrames / 2, siteIndex < count else {
      return stride(from: 0, to: min(count, Self.printedFrames), by: 1).map { .frame($0) }
    }
    let start = siteIndex &- 1
    let end = min(count, start &+ Self.printedFrames &- 3)
    var parts: [StackPart] = [.frame(0), .frame(1), .wrappers(start &- 2)]
    parts += stride(from: start, to: end, by: 1).map { .frame($0) }
    return parts
  }

  private static func lastPrintedFrame(of count: Int, _ siteIndex: Int?) -> Int? {
    guard case .frame(let index) = printedParts(of: count, siteIndex).last else { return nil }
    return index
  }

  /// `function (file:line)`, else `function in module`, in at most `columns`. A function without a name is
  /// `module+0x1234`, or its address if it is in no module. A text that is too long loses its least important part: of
  /// the function the parameters and the like, then of the file the middle of its name, then the file (`function:line`)
  /// or the module, then the scope that the function is declared in, and its own name last. The line number stays.
  package static func describe(_ frame: Frame, columns: Int) -> String {
    if let whole = whole(frame, columns: columns) { return whole }
    let shortest = shortestName(of: frame)
    let line = shortLine(of: frame)
    let room = columns &- TextLayout.width(line)
    // Less than three characters of a name tell nothing.
    guard room > 3 || line.isEmpty else { return TextLayout.fit(shortest, columns: columns) }
    return "\(fitName(shortest, columns: room))\(line)"
  }

  /// The columns in which the function's own name and the line are whole.
  static func leastColumns(of frame: Frame) -> Int {
    TextLayout.width(FunctionName.ownName(of: shortestName(of: frame))) &+ TextLayout.width(shortLine(of: frame))
  }

  private static func shortestName(of frame: Frame) -> String {
    let function = name(of: frame)
    return FunctionName.shorterForms(of: function).last ?? function
  }

  /// The line alone, without its file.
  private static func shortLine(of frame: Frame) -> String {
    frame.file == nil ? "" : frame.line.map { ":\($0)" } ?? ""
  }

  /// The name of a function in at most `columns`: its own name before what it is declared in.
  private static func fitName(_ name: String, columns: Int) -> String {
    guard TextLayout.width(name) > columns else { return name }
    let own = String(FunctionName.ownName(of: name))
    let scope = String(name.dropLast(own.count))
    let ownWidth = TextLayout.width(own)
    if scope.isEmpty { return TextLayout.fit(own, columns: columns) }
    if ownWidth &+ 1 > columns { return "…\(TextLayout.fit(own, columns: columns &- 1))" }
    return "\(TextLayout.fit(scope, columns: columns &- ownWidth))\(own)"
  }

  /// All that a frame's text may say, in one line: what tells it from others.
  static func wholeText(_ frame: Frame) -> String {
    let line = frame.line.map { "\($0)" } ?? ""
    return [frame.nameOrPlace.escaped, frame.file?.escaped ?? "", line, frame.module?.escaped ?? ""]
      .joined(separator: " ")
  }

  /// As `describe`, but nil if there is no room without a cut through the function's name or scope.
  static func whole(_ frame: Frame, columns: Int) -> String? {
    let function = name(of: frame)
    guard let (before, name, after) = place(of: frame) else {
      return ([function] + FunctionName.shorterForms(of: function)).first { TextLayout.width($0) <= columns }
    }
    let whole = TextLayout.width(name)
    if TextLayout.width(function) &+ before.count &+ whole &+ after.count <= columns {
      return "\(function)\(before)\(name)\(after)"
    }
    let forms = [function] + FunctionName.shorterForms(of: function)
    // First the whole name of the file, then enough to know it by, then no more than a sign that there is one.
    for least in [whole, min(whole, 6), min(whole, 1)] {
      for form in forms {
        let room = columns &- TextLayout.width(form) &- before.count &- after.count
        if room >= least { return "\(form)\(before)\(TextLayout.fit(name, columns: room))\(after)" }
      }
    }
    return nil
  }

  private static func name(of frame: Frame) -> String {
    if let name = frame.function ?? frame.placeName { return TextLayout.printable(name) }
    let module = frame.module.map { $0.fileName.escaped }
    return "\(hex(frame.pc)) in \(module ?? "no module")"
  }

  /// The text behind a function's name: the file with the line, or the module.
  private static func place(of frame: Frame) -> (before: String, name: String, after: String)? {
    if let file = frame.file {
      return (" (", file.fileName.escaped, frame.line.map { ":\($0))" } ?? ")")
    }
    guard frame.function != nil, let module = frame.module else { return nil }
    return (" in ", module.fileName.escaped, "")
  }

  static func name(of thread: Thread) -> String {
    guard let name = thread.name, !name.isEmpty else { return "\(thread.id)" }
    return "\(thread.id) \"\(TextLayout.printable(name))\""
  }

  /// Why names are incomplete, each reason once.
  private var namesMissing: [ForeignText] {
    let stacks = [[stack], [contents, containers].joined().map(\.stack), [mappedBy?.stack]].joined()
    let frames = [stacks.flatMap { $0?.frames ?? [] }, frame?.functions ?? []].flatMap { $0 }
    return frames.problems(and: variableProblem)
  }

  // MARK: where

  /// The containers, from the inside to the outside, each in a line or two.
  private var chainLines: [String] {
    func lines(_ title: String, _ links: [Container]) -> [String] {
      links.flatMap { link in
        let indent = String(repeating: " ", count: title.count)
        var lines = TextLayout.wrap(link.phrases(columns: TextLayout.columns &- title.count), indent: indent)
        if !lines.isEmpty { lines[0] = title + lines[0].dropFirst(title.count) }
        return lines
      }
    }
    return [lines("  holds    ", contents.reversed()), lines("  in       ", containers)].flatMap { $0 }
  }

  /// The nearest live blocks, with their distance from this block, or from the address if it is free, and who allocated
  /// them.
  private var neighbourLines: [String] {
    let low = block?.base ?? address
    let high = block?.end ?? address
    var lines: [String] = []
    if let previous {
      let distance = previous.end <= low ? low &- previous.end : 0
      lines += Self.lines(of: previous, title: "  previous ", Self.distance(distance, "below"))
    }
    if let next {
      let distance = next.base >= high ? next.base &- high : 0
      lines += Self.lines(of: next, title: "  next     ", Self.distance(distance, "above"))
    }
    return lines
  }

  private static func lines(of neighbour: Neighbour, title: String, _ distance: String) -> [String] {
    var phrases = [hex(neighbour.base), Units.bytes(neighbour.size), distance]
    if let site = neighbour.site {
      phrases.append("by \(describe(site, columns: TextLayout.columns &- title.count &- 4))")
    } else if let function = neighbour.function {
      phrases.append("with \(TextLayout.printable(function))")
    }
    if let age = neighbour.age { phrases.append("\(Units.duration(age)) ago") }
    var lines = TextLayout.wrap(phrases, indent: String(repeating: " ", count: title.count))
    lines[0] = title + lines[0].dropFirst(title.count)
    return lines
  }

  private static func distance(_ bytes: UInt64, _ direction: String) -> String {
    bytes == 0 ? "directly \(direction)" : "\(Units.distance(bytes)) \(direction)"
  }

  static func line(of mapping: Mapping) -> String {
    let place = "  mapping  \(hex(mapping.start))-\(hex(mapping.end)) \(mapping.permissions)"
    let name = mapping.path.map { TextLayout.printable($0) } ?? "anonymous"
    let mark = mapping.isDeleted ? " (deleted)" : ""
    let size = ", \(Units.rounded(mapping.end &- mapping.start))"
    let room = TextLayout.columns &- TextLayout.width(place) &- mark.count &- 1
    // The reader can work out the size, but not the name.
    if TextLayout.width(name) &+ size.count <= room { return "\(place) \(name)\(mark)\(size)" }
    if TextLayout.width(name) <= room { return "\(place) \(name)\(mark)" }
    if let short = TextLayout.fitPath(name, columns: room &- size.count) { return "\(place) \(short)\(mark)\(size)" }
    return "\(place) \(TextLayout.fit(name, columns: max(8, room), head: 1))\(mark)"
  }
}

extension Answer.Container {
  /// The block and its origin, in phrases.
  func phrases(columns: Int) -> [String] {
    let what = kind == .chunk ? "a chunk" : "a block"
    let start = "\(what) of \(Units.bytes(block.size)) at \(hex(block.base))"
    var phrases = [start]
    let whose = Answer.words(of: allocator, module: allocatorModule, function: function)
    switch (function.map { TextLayout.printable($0) }, whose) {
    case (let function?, let allocator?): phrases.append("with \(function) of \(allocator)")
    case (let function?, nil): phrases.append("with \(function)")
    case (nil, let allocator?): phrases.append("of \(allocator)")
    case (nil, nil): break
    }
    if let site = stack?.site { phrases.append("by \(Answer.describe(site, columns: columns &- 4))") }
    if let age { phrases.append("\(Units.duration(age)) ago") }
    return phrases
  }
}

extension [Frame] {
  /// Why names of these frames are incomplete, each reason once, with its module.
  package var problems: [ForeignText] { problems(and: nil) }

  func problems(and further: ForeignText?) -> [ForeignText] {
    var found: [ForeignText] = []
    var told: Set<ForeignText> = []
    for frame in self {
      guard let problem = frame.problem, let module = frame.module else { continue }
      let words: ForeignText = "\(module.fileName): \(problem)"
      if told.insert(words).inserted { found.append(words) }
    }
    if let further, told.insert(further).inserted { found.append(further) }
    return found
  }
}

/// `0x` and the digits, in lower case.
package func hex(_ value: UInt64) -> String { "0x" + String(value, radix: 16) }
