// SPDX-License-Identifier: Apache-2.0
// Ever shorter forms of a function's name, for a line that is too narrow for it. What matters least goes first:
// parameters, the result's type, arguments of templates. What it is declared in, and its own name, stay.
//
//   void* shop::Shelf<int>::put<char>(int const&)   →  void* shop::Shelf<int>::put<char>(…)
//     →  shop::Shelf<int>::put<char>(…)             →  shop::Shelf<…>::put<…>(…)             →  shop::Shelf::put

import Provenance

extension FunctionName {
  private enum Groups { case kept, marked, dropped }

  /// The forms, from the longest to the shortest; `name` itself is not among them.
  static func shorterForms(of name: String) -> [String] {
    let bytes = Array(name.utf8)
    guard bytes.count <= limit else { return [] }
    // Names of Swift say what a function is before its name, and Objective-C's have blanks in them. A result stands
    // only where parameters do: other blanks are the name's own.
    let hasResult =
      name.contains("(") && ![" -> ", " of ", " in "].contains { name.contains($0) } && !name.hasPrefix("-[")
      && !name.hasPrefix("+[")
    let forms: [(parameters: Groups, templates: Groups, result: Bool)] = [
      (.marked, .kept, true), (.marked, .kept, !hasResult), (.marked, .marked, !hasResult),
      (.dropped, .dropped, !hasResult),
    ]
    var results: [String] = []
    for form in forms {
      var shortening = Shortening(bytes[...], form.parameters, form.templates, depth: 0)
      let start = shortening.run()
      let short = String(decoding: form.result ? shortening.result : Array(shortening.result[start...]), as: UTF8.self)
      if short != results.last ?? name, !short.isEmpty { results.append(short) }
    }
    return results
  }

  /// The part of a name behind what the function is declared in: put of shop::Shelf::put. Of a closure, that is the
  /// function that it stands in as well. The whole name where there is no such part.
  static func ownName(of name: String) -> Substring {
    let bytes = Array(name.utf8)
    let (colon, dot) = (UInt8(ascii: ":"), UInt8(ascii: "."))
    func isOpening(_ byte: UInt8) -> Bool { byte == UInt8(ascii: "(") || byte == UInt8(ascii: "{") }
    // Arguments of templates are dropped from short forms; < and > that are left belong to operators.
    func isClosing(_ byte: UInt8) -> Bool { byte == UInt8(ascii: ")") || byte == UInt8(ascii: "}") }
    let hasColons = zip(bytes, bytes.dropFirst()).contains { $0 == colon && $1 == colon }
    var level = 0
    // bounded: places in a text in memory, downwards
    for place in stride(from: bytes.count - 1, to: 0, by: -1) {
      if isClosing(bytes[place]) { level += 1 }
      if isOpening(bytes[place]) { level -= 1 }
      let isScope = hasColons ? bytes[place] == colon && bytes[place - 1] == colon : bytes[place] == dot
      guard level <= 0, isScope, place + 1 < bytes.count else { continue }
      let own = bytes[place...].dropFirst()
      let isClosure = own.first.map(isOpening) ?? false
      let isClone = !hasColons && (own.first.map { $0 < UInt8(ascii: "A") } ?? true || isCloneSuffix(own))
      if !isClosure, !isClone {
        return name[name.utf8.index(name.endIndex, offsetBy: -own.count)...]
      }
    }
    return name[...]
  }

  /// Copies a name, with what is in brackets as wanted.
  private struct Shortening {
    private static let deepest = 32
    private static let mark = Array("…".utf8)

    private let name: ArraySlice<UInt8>
    private var index: Int
    private let parameters: Groups
    private let templates: Groups
    private let depth: Int
    private(set) var result: [UInt8] = []

    init(_ name: ArraySlice<UInt8>, _ parameters: Groups, _ templates: Groups, depth: Int) {
      self.name = name
      index = name.startIndex
      self.parameters = parameters
      self.templates = templates
      self.depth = depth
    }

    /// Returns where in the result the name begins, behind the type of what the function returns.
    mutating func run() -> Int {
      var start = 0
      var hasParameters = false
      while index < name.endIndex {
        switch name[index] {
        case UInt8(ascii: "<"):
          // In the place of a scope: Rust's <T as Trait>::f, <T>::f.
          if isAtScope {
            copyInner(UInt8(ascii: "<"), UInt8(ascii: ">"))
          } else {
            // Rust's f::<T>.
            if templates == .dropped, result.suffix(2).elementsEqual("::".utf8) { result.removeLast(2) }
            group("<", ">", templates)
          }
        case UInt8(ascii: "("):
          if hasPrefix("(anonymous") || hasPrefix("(extension") || result.last == UInt8(ascii: ".") {
            copyGroup(UInt8(ascii: "("), UInt8(ascii: ")"))
          } else if result.last == UInt8(ascii: "!") {
            // The arguments of a template of D.
            if templates == .dropped { result.removeLast() }
            group("(", ")", templates)
          } else {
            group("(", ")", parameters)
            hasParameters = true
          }
        case UInt8(ascii: "{"): copyInner(UInt8(ascii: "{"), UInt8(ascii: "}"))
        case UInt8(ascii: " "):
          // What comes behind the parameters: const, [clone .cold].
          if hasParameters, parameters == .dropped { return start }
          copy()
          if !hasParameters { start = result.count }
        case UInt8(ascii: "o") where isAtWord && hasPrefix("operator") && !isIdentifier(at: index &+ 8): copyOperator()
        default: copy()
        }
      }
      return start < result.count ? start : 0
    }

    private mutating func copy() {
      result.append(name[index])
      index &+= 1
    }

    /// One past the bracket that closes the one at `index`.
    private func end(_ open: UInt8, _ close: UInt8) -> Int {
      var level = 0
      for position in name[index...].indices {
        if name[position] == open {
          level += 1
        } else if name[position] == close, position == index || name[position &- 1] != UInt8(ascii: "-") {
          level &-= 1
        }
        if level == 0 { return position &+ 1 }
      }
      return name.endIndex
    }

    private mutating func copyGroup(_ open: UInt8, _ close: UInt8) {
      let end = end(open, close)
      result.append(contentsOf: name[..<end][index...])
      index = end
    }

    /// A group that is a part of the scope: what is in it is shortened in the same way.
    private mutating func copyInner(_ open: UInt8, _ close: UInt8) {
      let end = end(open, close)
      guard depth < Self.deepest, end &- index > 2, name[end &- 1] == close else {
        copyGroup(open, close)
        return
      }
      var inner = Shortening(name[..<end][index...].dropFirst().dropLast(), parameters, templates, depth: depth &+ 1)
      _ = inner.run()
      // A type alone needs no brackets around it.
      let isBare =
        open == UInt8(ascii: "<") && templates == .dropped && name[end...].starts(with: "::".utf8)
        && !inner.result.contains(UInt8(ascii: " "))
        && !inner.result.contains { $0 == UInt8(ascii: "&") || $0 == UInt8(ascii: "*") || $0 == UInt8(ascii: "[") }
      if !isBare { result.append(open) }
      result.append(contentsOf: inner.result)
      if !isBare { result.append(close) }
      index = end
    }

    private mutating func group(_ open: Unicode.Scalar, _ close: Unicode.Scalar, _ groups: Groups) {
      let end = end(UInt8(ascii: open), UInt8(ascii: close))
      switch groups {
      case .kept: result.append(contentsOf: name[..<end][index...])
      case .marked:
        // No shorter than what is in there.
        if end &- index <= 3 {
          result.append(contentsOf: name[..<end][index...])
        } else {
          result.append(UInt8(ascii: open))
          result.append(contentsOf: Self.mark)
          result.append(UInt8(ascii: close))
        }
      case .dropped: break
      }
      index = end
    }

    private mutating func copyOperator() {
      for _ in 0..<8 { copy() }
      for sign in ["()", "[]"] where hasPrefix(sign) {
        copy()
        copy()
        return
      }
      if index < name.endIndex, name[index] == UInt8(ascii: " ") {
        // new, delete, or the type of a conversion.
        while index < name.endIndex, name[index] != UInt8(ascii: "("), name[index] != UInt8(ascii: "<") { copy() }
        return
      }
      let signs = index < name.endIndex && name[index] == UInt8(ascii: "<") ? "<=>" : ">=-+*/%^&|~!,"
      while index < name.endIndex, signs.utf8.contains(name[index]) { copy() }
      // Arguments of a template, kept apart from an operator that ends in <.
      if hasPrefix(" <") {
        if templates == .dropped { index &+= 1 } else { copy() }
        group("<", ">", templates)
      }
    }

    private var isAtScope: Bool {
      guard let last = result.last else { return true }
      return depth > 0 && last == UInt8(ascii: " ")
    }

    private var isAtWord: Bool { index == name.startIndex || !isIdentifier(at: index &- 1) }

    private func isIdentifier(at position: Int) -> Bool {
      guard name.indices.contains(position) else { return false }
      let byte = name[position]
      return byte &- UInt8(ascii: "0") < 10 || (byte | 0x20) &- UInt8(ascii: "a") < 26 || byte == UInt8(ascii: "_")
        || byte == UInt8(ascii: "$") || byte >= 0x80
    }

    private func hasPrefix(_ text: String) -> Bool { name[index...].starts(with: text.utf8) }
  }
}
